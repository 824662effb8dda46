"""The reactor when reality has drifted: fouling, catalyst, a feed step and noise that no model was told of.

Every controller meets the same runs, in batches of a seed each, Tc in 290..310. The error is of the true concentration, over
the whole run. An offset is judged on the same runs without noise: under noise x 3 the mean of a reading over the last ten
samples alone is off by more than the bar. NMPC solves one by one: fewer batches, and it is compared on those alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from benchmarks.control_reactor_controllers import (
    CLONE,
    ESTIMATED,
    GRU,
    JEPA,
    LINEAR,
    NOMINAL,
    PID,
    PLANT,
    TRUE,
    make,
)  # fmt: skip
from benchmarks.control_rivals import kept_result
from benchmarks.report import Report, interval
from controllers.baselines import nmpc
from controllers.evaluation.reactor import SafetyScenario, safety, violations
from plant.spec import load_spec

FIRST_SEED = 8100  # training, calibration and tuning draw from other scenarios and seeds
BAR_PAIRS, BAR_OFFSET, NOISE, SPAN = 0.8, 1e-3, 3.0, 1.2  # of the pairs; of the span of Ca, mol/L
COLUMNS = [
    "controller", "runs", "error of Ca, median of a batch, mol/L x min", "JEPA-MPC's is lower in", "above 350 K",
    "of them avoidable (95 % bound)", "offset / span, median", "99 %", "largest", "within 0.1 %",
]  # fmt: skip
SETTLED = 10  # samples at the end that an offset is the mean of


@dataclass(frozen=True)
class Kind:
    """A kind of shift, and how many batches of it each controller meets with noise and, for its offset, without."""

    title: str
    drift: float
    bias: tuple[float, float]
    batches: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Job:
    """One batch of `runs` runs of one kind under one controller."""

    kind: Kind
    controller: str
    seed: int
    runs: int
    noise: float
    quick: bool

    def __hash__(self) -> int:
        return hash((self.kind.title, self.controller, self.seed, self.noise))


Found = dict[str, NDArray[Any]]


def kinds(quick: bool) -> list[Kind]:
    if quick:
        few: dict[str, tuple[int, int]] = dict.fromkeys((JEPA, NOMINAL, TRUE, LINEAR, PID), (1, 1))
        return [Kind("within 15 %", 0.15, (0.0, 0.0), few)]
    many, some = (20, 20), (4, 2)
    usual = {
        JEPA: many, NOMINAL: (3, 1), ESTIMATED: (1, 1), TRUE: (1, 1), LINEAR: (6, 2), GRU: (1, 0), PID: many, CLONE: many,
    }  # fmt: skip
    beyond = {JEPA: some, NOMINAL: (1, 0), LINEAR: (2, 1), PID: some, CLONE: some}
    return [
        Kind("UA and k0 within 15 %", 0.15, (0.0, 0.0), usual),
        Kind("UA and k0 within 30 %", 0.3, (0.0, 0.0), beyond),
        Kind("within 15 %, Ca reads wrong by up to 0.01 mol/L and T by up to 1 K", 0.15, (0.01, 1.0), beyond),
    ]


def play(job: Job) -> Found:
    """Per run (runs,): `error` mol/L x min, `offset` mol/L, `reachable`, `broke`, `avoidable`."""
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # a run that ends is a result
    spec = load_spec(PLANT)
    scenario = SafetyScenario.shifted(job.runs, job.seed, job.kind.drift, job.kind.bias)
    controller = make(job.controller, job.runs, scored=False, quick=job.quick, parameters=scenario.parameters)
    runs = safety(spec, controller, scenario, noise=job.noise)
    error = np.nan_to_num(runs.true["Ca"][:, 1:] - scenario.targets.T, nan=1.0)  # all that is left of a run that ended
    broke, avoidable = violations(spec, runs, scenario)
    return {
        "error": np.abs(error).sum(1) * spec.sample_time_s / 60, "offset": np.abs(error[:, -SETTLED:].mean(1)),
        "reachable": scenario.reachable(spec), "broke": broke, "avoidable": avoidable,
    }  # fmt: skip


def kept(job: Job) -> Found:
    """`play`, or what an earlier run with the same job and the same code has left on disk."""
    settings = [v for k, v in asdict(job).items() if k != "kind"] + [
        job.kind.drift,
        job.kind.bias,
        code(job.controller),
    ]
    return kept_result(settings, lambda: play(job))


def code(controller: str) -> str:
    """A hash of the code that `controller`'s numbers depend on."""
    here = Path(nmpc.__file__).parents[2]
    files = [here / "controllers/evaluation" / f for f in ("closed_loop.py", "reactor.py")]
    files += [here / "controllers/baselines" / f for f in ("nmpc.py", "ekf.py", "pid.py")]
    files += [here / "simulators" / f for f in ("reactor.py", "plant.py", "kernel.c", "integrators.py", "compiled.py")]
    if controller in (JEPA, LINEAR, GRU, CLONE):
        files += [*sorted((here / "controllers/planning").glob("*.py")), *sorted((here / "models").rglob("*.py"))]
        files += [here / "controllers/baselines" / f for f in ("linear_mpc.py", "clone.py")]
        files += [here / "models/library" / PLANT / "model.safetensors"]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def played(jobs: Sequence[Job], processes: int) -> dict[Job, Found]:
    if processes == 1:
        return {job: play(job) for job in jobs}
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return dict(zip(jobs, pool.map(kept, jobs), strict=True))


def shifted(report: Report, *, quick: bool) -> None:
    """The tables and bars of all kinds of shift."""
    runs = 10 if quick else 50
    all_kinds = kinds(quick)
    jobs = [
        Job(kind, name, FIRST_SEED + i, runs, noise, quick)
        for kind in all_kinds
        for name, counts in kind.batches.items()
        for noise, count in zip((NOISE, 0.0), counts, strict=True)
        for i in range(count)
    ]
    found = played(jobs, 1 if quick else 2)
    for kind in all_kinds:
        table(report, kind, found, barred=kind is all_kinds[0])


def table(report: Report, kind: Kind, found: dict[Job, Found], *, barred: bool) -> None:
    """One row a controller; JEPA-MPC is paired with each on the batches both have met."""

    def of(name: str, noise: float) -> dict[int, Found]:
        mine = {j: f for j, f in found.items() if j.kind.title == kind.title and j.controller == name}
        return {j.seed: f for j, f in mine.items() if j.noise == noise}

    rows: list[list[object]] = []
    jepa = of(JEPA, NOISE)
    for name in kind.batches:
        noisy, still = of(name, NOISE), of(name, 0.0)
        broke, avoidable = (int(joined(noisy.values(), k).sum()) for k in ("broke", "avoidable"))
        shared = sorted(set(noisy) & set(jepa))
        lower = np.concatenate([jepa[s]["error"] < noisy[s]["error"] for s in shared])
        n = len(joined(noisy.values(), "error"))
        row: list[object] = [
            name, n, interval([float(np.median(f["error"])) for f in noisy.values()], 4),
            "" if name == JEPA else f"{lower.mean():.1%} of {len(lower)}", broke,
            f"{avoidable} (<= {upper(avoidable, n):.1%})",
        ]  # fmt: skip
        if still:
            whole = joined(still.values(), "reachable").astype(bool) & ~joined(still.values(), "broke").astype(bool)
            offset = joined(still.values(), "offset")[whole] / SPAN
            row += [f"{v:.3%}" for v in (*np.percentile(offset, [50, 99]), offset.max())]
            row.append(f"{(offset <= BAR_OFFSET).mean():.1%} of {len(offset)}")
            if barred and name == JEPA:
                what = "shifted runs: largest offset where reachable, of the span"
                report.bar(what, float(offset.max()), BAR_OFFSET, at_least=False)
        rows.append(row + [""] * (len(COLUMNS) - len(row)))
        if barred and name == JEPA:
            report.bar("shifted runs: avoidable runs above 350 K", avoidable, 0, at_least=False)
        if barred and name == NOMINAL:
            what = "shifted runs: pairs with a lower error than NMPC, nominal parameters"
            report.bar(what, float(lower.mean()), BAR_PAIRS, at_least=True)
    title = f"Shifted reactors: {kind.title}; a feed step within 5 K and 5 %; noise x {NOISE:g}"
    report.table(title, COLUMNS, rows)


def joined(batches: Iterable[Found], what: str) -> NDArray[Any]:
    return np.concatenate([f[what] for f in batches])


def upper(count: int, n: int) -> float:
    """95 % upper bound (one-sided, exact) of a rate seen `count` times in `n`."""
    return float(beta.ppf(0.95, count + 1, n - count)) if count < n else 1.0
