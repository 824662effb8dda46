"""How honest the guardrail heads are: coverage of their margins step by step, before and after online adaptation, and how
few laboratory labels a hidden quantity takes.

    python -m benchmarks.guardrails [--quick] [--plants reactor,vandevusse,turbofan,glucose] [--seeds 3]
                                    [--json benchmarks/results/guardrails.json] [--check] [--cache DIR]

Bars: coverage within 1 point of nominal (90 and 99 %) at every step on held-out runs; at least nominal - 3 points at every
step on each shift once margins have adapted; a head on the frozen latent reaches 95 % of its full-label R2 with 100 labels.

Margins are calibrated on runs recorded for that alone; those reported are others. A prediction counts where it comes near
its guardrail; steps at which too few do are shown and not judged. A margin is never negative: where it is 0, covering more
than nominal is no miss. Coverage is of what the guardrail watches: a measured tag as its instrument shows it, a hidden
quantity as it is. Of a hidden quantity nothing is observed online, so its margins
cannot adapt; beside them stands what a label every 20 samples would do. The label curve's latents come from a model trained
without any label, wherever the usual one has seen them.

Glucose: research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.guardrail_scores import (
    EVERY,
    LABELS,
    LEVELS,
    Amounts,
    Coverage,
    features,
    held_out,
    hidden_values,
    in_the_loop,
    label_curve,
    runs_in,
    watched,
)
from benchmarks.report import Report
from benchmarks.trained import trained
from benchmarks.world_model_data import missing, shifted
from benchmarks.world_model_rows import CORE, Sizes
from benchmarks.world_model_rows import QUICK as QUICK_SIZES
from models.calibration import errors_on
from models.config import TrainingConfig
from models.label_heads import Basis
from models.windows import channel_scale
from models.world_model import WorldModel
from plant.spec import PlantSpec, load_spec
from simulators.scenario import load_scenario

PLANTS = ("reactor", "vandevusse", "turbofan", "glucose")
POINTS, LOSS, SHARE = 1.0, -3.0, 0.95
USUAL, QUICK = Amounts(3600, 48, 400, 300, 5), Amounts(100, 6, 100, 60, 2)
# Fewer predictions a step, or from fewer runs, cannot tell a point from chance.
ENOUGH, ENOUGH_RUNS, ENOUGH_LOOPS = 2000, 200, 10
SOURCES = ("latent", "random encoder", "raw window")
# No label may have shaped the latent: neither through the heads' losses nor by choosing what is trained on.
UNLABELLED = TrainingConfig(guardrail=0.0, danger_share=0.0)
Train = Callable[..., tuple[WorldModel, Any]]


@dataclass
class Found:
    """Of one plant, one entry a seed: coverage by level; by shift and level before and after adaptation (that of hidden
    quantities with labels); R2 by quantity and source."""

    spec: PlantSpec
    held: dict[float, list[Coverage]] = field(default_factory=dict)
    loops: dict[tuple[str, float], list[tuple[Coverage, Coverage]]] = field(default_factory=dict)
    curves: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)


def measure(found: Found, seed: int, sizes: Sizes, amounts: Amounts, train: Train = trained) -> None:
    """Everything asked of one plant's world model from one `seed`, added to `found`. Runs differ from seed to seed."""
    spec = found.spec
    model, data = train(spec.name, seed, sizes)
    usual = load_scenario("excitation", spec)
    horizon = model.config.horizon
    calibration, reported = (
        errors_on(model, runs_in(spec, usual, amounts.runs, 500 + 10 * seed + i).runs, horizon) for i in range(2)
    )
    for level in LEVELS:
        found.held.setdefault(level, []).append(held_out(model, calibration, reported, level))
    hidden = any(not w.measured for w in watched(spec))
    for i, (name, (scenario, noise)) in enumerate({"no shift": (usual, 1.0), **shifted(spec)}.items()):
        asked = runs_in(spec, scenario, amounts.loops, 700 + 10 * seed + i, noise, amounts.samples)
        for level, pair in in_the_loop(model, calibration, asked, LEVELS, EVERY).items():
            found.loops.setdefault((name, level), []).append(pair)
    learn, test = (runs_in(spec, usual, amounts.labelled, 900 + 10 * seed + i) for i in range(2))
    values, values_test = hidden_values(spec, learn), hidden_values(spec, test)
    if not values:
        return
    blind = train(spec.name, seed, sizes, training=UNLABELLED)[0] if hidden else model
    torch.manual_seed(seed)
    random = WorldModel(spec, model.config, channel_scale(spec, data.training)).eval()
    for source in SOURCES:
        encoder, raw = random if source == "random encoder" else blind, source == "raw window"
        basis = Basis.of(features(encoder, data.training, raw)[0])
        (x, full), (x_test, full_test) = (features(encoder, a.runs, raw) for a in (learn, test))
        for tag, y in values.items():
            pairs = (x, y[full]), (x_test, values_test[tag][full_test])
            curve = label_curve(*pairs, basis, amounts.draws, seed)
            found.curves.setdefault((tag, source), []).append(curve)


def _mean(of: Sequence[Coverage], what: str) -> np.ndarray:
    """Mean over the seeds (horizon x n_constraint), NaN where there is none."""
    return np.ma.masked_invalid([getattr(c, what).double().numpy() for c in of]).mean(0).filled(np.nan)


def _median(margins: np.ndarray) -> str:
    known = margins[np.isfinite(margins)]
    return f"{np.median(known):.3g}" if known.size else ""


def _enough(of: Sequence[Coverage], predictions: float, runs: float) -> np.ndarray:
    """Which steps (horizon x n_constraint) have that many predictions and runs a seed to be judged by."""
    return (_mean(of, "count") >= predictions) & (_mean(of, "runs") >= runs)


def _span(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{100 * known.min():.1f} .. {100 * known.max():.1f}" if known.size else ""


def held_out_table(report: Report, all_found: Sequence[Found], enough: int = ENOUGH) -> None:
    body = []
    for found in all_found:
        worst = []
        for level, of in found.held.items():
            share, margin, judged = _mean(of, "share"), _mean(of, "margin"), _enough(of, enough, ENOUGH_RUNS)
            half = np.sqrt(np.mean([c.half.double().numpy() ** 2 for c in of], axis=0) / len(of))
            for j, head in enumerate(watched(found.spec)):
                off = 100 * (share[:, j] - level)
                off = np.where(margin[:, j] > 0, off, np.minimum(off, 0.0))
                k = int(np.argmax(np.where(judged[:, j], np.abs(off), -np.inf)))
                if judged[:, j].any():
                    worst.append(float(np.abs(off[k])))
                unit = found.spec.tag(found.spec.guardrails[j].tag).unit if j < len(found.spec.guardrails) else ""
                body.append(
                    [
                        found.spec.name, head.name, f"{100 * level:g} %", _span(share[:, j]),
                        f"{off[k]:+.2f} ± {100 * half[k, j]:.2f} at step {k + 1}" if judged[:, j].any() else "",
                        f"{_median(margin[:, j])} {unit}".strip(),
                        int(_mean(of, "count")[:, j].min()), int(judged[:, j].sum()),
                    ]
                )  # fmt: skip
        if worst:
            report.bar(
                f"{found.spec.name}: points off nominal, worst step, held-out", max(worst), POINTS, at_least=False
            )
    columns = [
        "plant", "head", "nominal", "coverage over the steps, %", "worst step, points", "median margin",
        "least predictions a step, a seed", "steps judged",
    ]  # fmt: skip
    report.table("Held-out runs: coverage at each step, mean of the seeds ± 95 % by run", columns, body)


def shift_table(report: Report, all_found: Sequence[Found], enough: int = ENOUGH) -> None:
    for found in all_found:
        body = []
        least: dict[str, list[float]] = {}
        for (name, level), of in found.loops.items():
            before, after = [o[0] for o in of], [o[1] for o in of]
            judged = _enough(before, enough / len(of), ENOUGH_LOOPS / len(of))
            for j, head in enumerate(watched(found.spec)):
                steps = judged[:, j] if judged[:, j].any() else np.ones(len(judged), bool)
                if not _mean(before, "count")[:, j].any():
                    continue  # nothing came near it
                shares = [_mean(c, "share")[steps, j] for c in (before, after)]
                widths = "/".join(_median(_mean(c, "margin")[:, j]) for c in (before, after))
                adapted = _span(shares[1])
                body.append(
                    [
                        name, f"{100 * level:g} %", head.name, "measured" if head.measured else "hidden",
                        _span(shares[0]), adapted if head.measured else "does not adapt",
                        "" if head.measured else adapted, widths, int(judged[:, j].sum()),
                    ]
                )  # fmt: skip
                if not judged[:, j].any() or name == "no shift":
                    continue
                points = [100 * float(s.min() - level) for s in shares]
                if head.measured:
                    least.setdefault("measured, adapted", []).append(points[1])
                else:
                    least.setdefault("hidden, margins as calibrated offline", []).append(points[0])
                    least.setdefault(f"hidden, a label every {EVERY} samples", []).append(points[1])
        columns = [
            "shift", "nominal", "head", "quantity", "as calibrated, %", "adapted, %", f"label every {EVERY}, %",
            "median margin before/after", "steps judged",
        ]  # fmt: skip
        report.table(f"{found.spec.name}: lowest and highest coverage of a step in running loops", columns, body)
        for kind, values in least.items():
            what = f"{found.spec.name}: points from nominal, worst step and shift ({kind})"
            report.bar(what, min(values), LOSS, at_least=True)


def label_table(report: Report, all_found: Sequence[Found]) -> None:
    body, columns = [], ["plant", "quantity", "features", *map(str, LABELS), "all", "100 over all"]
    for found in all_found:
        shares = []
        for (tag, source), curves in found.curves.items():
            r2 = np.array(curves)
            share = float(r2[:, LABELS.index(100)].mean() / r2[:, -1].mean())
            spread = 4.303 * r2.std(0, ddof=1) / np.sqrt(3) if len(r2) == 3 else np.full(r2.shape[1], np.nan)
            cells = [
                f"{m:.3f}" + (f" ± {s:.3f}" if np.isfinite(s) else "") for m, s in zip(r2.mean(0), spread, strict=True)
            ]
            body.append([found.spec.name, tag, source, *cells, share])
            if source == "latent":
                shares.append(share)
        if shares:
            report.bar(
                f"{found.spec.name}: R2 of 100 labels over that of all, least", min(shares), SHARE, at_least=True
            )
        else:
            report.note(f"{found.spec.name} has no hidden quantity: no label curve.")
    if body:
        report.table("Label curve: R2 on held-out runs, mean of the seeds (± 95 % interval over three)", columns, body)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guardrails", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plants", default=",".join(PLANTS), help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="little data, 200 steps, one seed: a look, not a result")
    parser.add_argument("--cache", type=Path, default=Path(".homeostat/benchmarks/trained"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    sizes, amounts, seeds = (QUICK_SIZES, QUICK, 1) if args.quick else (CORE, USUAL, args.seeds)
    report, all_found = Report(f"guardrails{': quick' if args.quick else ''}"), []

    def train(*settings: Any, **more: Any) -> tuple[WorldModel, Any]:
        return trained(*settings, folder=args.cache, **more)

    for plant in args.plants.split(","):
        if why := missing(plant):
            report.note(f"{plant} is left out: {why}")
            print(report.notes[-1])
            continue
        all_found.append(Found(load_spec(plant)))
        for seed in range(seeds):
            began = time.perf_counter()
            measure(all_found[-1], seed, sizes, amounts, train)
            print(f"{plant}, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    held_out_table(report, all_found)
    shift_table(report, all_found)
    label_table(report, all_found)
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
