"""Plant-steps a second: the compiled kernel against the same equations in plain numpy and torch, and against peers.

    python -m benchmarks.simulation_speed [--quick] [--no-peers] [--json benchmarks/results/simulation_speed.json] [--check]

A plant-step is one control sample of one plant, the plant time the table states, the same for a peer. The kernel uses all
cores. Plain numpy is RK4 of the same equations, vectorised over the batch, at the kernel's step and without its envelope
checks; where the kernel controls its error, also Dormand-Prince in numpy at the same tolerance, and the faster of the two
counts. Contenders take turns; figures are medians.

Glucose: research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.environment import run_peer
from benchmarks.report import Report
from benchmarks.validation.glucose import REQUIREMENTS as SIMGLUCOSE
from benchmarks.validation.reactor import REQUIREMENTS as PCGYM
from benchmarks.validation.vandevusse import REQUIREMENTS as DOMPC
from plant.errors import SpecError
from plant.spec import load_spec
from simulators.compiled import Kernel, schedule
from simulators.contract import Simulator
from simulators.integrators import rk4
from simulators.namespaces import NumpyNamespace
from simulators.registry import simulator_of
from simulators.stepping import ErrorControlled
from simulators.tensors import TensorStepper

BAR_SIMGLUCOSE, BAR_ERROR_MG_DL, BAR_TURBOFAN, BAR_NUMPY = 10_000.0, 0.2, 5.0, 1.0
BATCHES = (1, 64, 1024, 16384)
PLANTS = ("reactor", "reactor_bare", "vandevusse", "turbofan", "glucose")
PEERS = {
    "glucose": ("simglucose", SIMGLUCOSE, "simglucose_speed.py", 60.0),
    "reactor_bare": ("pcgym", PCGYM, "pcgym_reactor.py", 26.0),
    "vandevusse": ("dompc", DOMPC, "dompc_vandevusse.py", 18.0),
}
_XP = NumpyNamespace()

Array = NDArray[np.float64]
Work = tuple[Array, Array, Array, Array]
Advance = Callable[[], object]


class NumpySteps:
    """The plain way: jumps and RK4 on the components of x, one numpy call an operation, nothing watched."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def advance(self, x: Array, u: Array, d: Array, p: Array, dt_s: float) -> Array:
        simulator, held = self._simulator, (u.T.copy(), d.T.copy(), p.T.copy(), _XP)
        ticks, steps = schedule(simulator, dt_s)
        parts = tuple(x.T.copy())
        for _ in range(ticks):
            parts = simulator.on_sample(parts, *held)
            span = dt_s / ticks / simulator.time_unit_s
            parts = rk4(lambda s: simulator.derivative(s, *held), parts, span, steps)
        return np.stack([np.broadcast_to(c, len(x)) for c in parts], 1)


def work(simulator: Simulator, batch: int) -> Work:
    """x, u, d, p of a batch in normal operation; what differs between its members is drawn from one seed."""
    rng = np.random.default_rng(7)
    d, p = np.tile(np.array(simulator.d0, float), (batch, 1)), np.tile(np.array(simulator.p0, float), (batch, 1))
    u = simulator.usual_moves(d, p)
    x = simulator.initial(u, d, p)
    names = simulator.names
    if "Tc" in names.u or "TC101" in names.u:
        u = rng.uniform(295.0, 302.0, u.shape)
    else:
        u = u * rng.uniform(0.97, 1.03, u.shape)
    if "CHO" in names.d:
        d[:, names.d.index("CHO")] = np.where(rng.random(batch) < 0.5, 5.0, 0.0)
    return x, u, d, p


def steps_per_s(contenders: Mapping[str, Advance], batch: int, budget_s: float, repeats: int) -> dict[str, float]:
    """Median plant-steps a second of each, taking turns; each turn lasts `budget_s` at least, or one call."""
    calls = {}
    for name, advance in contenders.items():
        advance()
        began = perf_counter()
        advance()
        calls[name] = max(1, int(budget_s / max(perf_counter() - began, 1e-7)))
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, advance in contenders.items():
            began = perf_counter()
            for _ in range(calls[name]):
                advance()
            rates[name].append(calls[name] * batch / (perf_counter() - began))
    return {name: float(np.median(values)) for name, values in rates.items()}


def contenders(simulator: Simulator, kernel: Kernel, dt_s: float, load: Work) -> dict[str, Advance]:
    """name -> a call that advances the batch by one plant-step."""
    plain = NumpySteps(simulator)
    made: dict[str, Advance] = {
        "kernel": partial(kernel.advance, *load, dt_s),
        "numpy RK4": partial(plain.advance, *load, dt_s),
    }
    if simulator.rtol is not None:
        controlled = ErrorControlled(simulator, simulator.rtol, 0.01 * simulator.rtol)
        made["numpy error-controlled"] = partial(controlled.advance, *load, dt_s)
    eager = TensorStepper(simulator)
    tensors = tuple(torch.from_numpy(v) for v in load)
    made["torch eager"] = partial(_torch, eager, tensors, dt_s)
    if torch.cuda.is_available():
        on_device, fused = tuple(t.cuda() for t in tensors), TensorStepper(simulator, fused=True)
        made["torch eager, CUDA"] = partial(_torch, eager, on_device, dt_s)
        made["torch fused, CUDA"] = partial(_torch, fused, on_device, dt_s)
    return made


def _torch(stepper: TensorStepper, load: tuple[torch.Tensor, ...], dt_s: float) -> None:
    x, u, d, p = load
    with torch.no_grad():
        stepper.advance(x, u, d, p, dt_s)
    if x.is_cuda:
        torch.cuda.synchronize()


def peak_bytes(advance: Advance, batch: int) -> float:
    """What one plant-step allocates at its peak, a plant (what Python and numpy allocate; torch keeps its own books)."""
    gc.collect()
    tracemalloc.start()
    advance()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / batch


def compare(report: Report, quick: bool) -> None:
    """Kernel, numpy and torch at every batch; memory at the largest."""
    shown = ["kernel", "numpy RK4", "numpy error-controlled", "torch eager"]
    shown += ["torch eager, CUDA", "torch fused, CUDA"] if torch.cuda.is_available() else []
    rows, memory, worst, turbofan = [], [], {}, np.inf
    for plant in PLANTS:
        spec = load_spec(plant)
        simulator, dt_s = simulator_of(spec), spec.sample_time_s
        kernel = Kernel(simulator)
        step = f"rtol {simulator.rtol:g}" if simulator.rtol else f"RK4 {simulator.step_s:g} s"
        for batch in BATCHES:
            load = work(simulator, batch)
            made = contenders(simulator, kernel, dt_s, load)
            rates = steps_per_s(made, batch, 0.02 if quick else 0.2, 1 if quick else 5)
            ratio = rates["kernel"] / max(v for k, v in rates.items() if k.startswith("numpy"))
            worst[plant] = min(worst.get(plant, np.inf), ratio)
            if plant == "turbofan":
                turbofan = min(turbofan, ratio)
            rows.append([plant, dt_s, step, batch, *(_count(rates.get(k)) for k in shown), ratio])
            if batch == BATCHES[-1]:
                held = 8 * (sum(v.shape[1] for v in load) + 1)
                used = [peak_bytes(made[k], batch) for k in ("kernel", "numpy RK4")]
                memory.append([plant, 8 * load[0].shape[1], held, *(round(v) for v in used)])
    columns = ["plant", "plant-step, s", "kernel's step", "batch", *shown, "kernel / fastest numpy"]
    report.table("Plant-steps a second", columns, rows)
    columns = ["plant", "its state", "held: x, u, d, p, code", "kernel, peak in a step", "numpy RK4, peak in a step"]
    report.table(f"Memory, bytes a plant, batch {BATCHES[-1]}", columns, memory)
    report.bar("turbofan: kernel over plain numpy, worst batch", turbofan, BAR_TURBOFAN, at_least=True)
    for plant, ratio in worst.items():
        report.bar(f"{plant}: kernel over the fastest numpy, worst batch", ratio, BAR_NUMPY, at_least=True)


def against_peers(report: Report, quick: bool) -> None:
    """The same equations by the peers, in turns with ours. Raises `SpecError` when an environment cannot be made."""
    rows = []
    for plant, (name, requirements, script, dt_s) in PEERS.items():
        simulator = simulator_of(load_spec(plant))
        kernel = Kernel(simulator)
        ours: dict[int, list[float]] = {BATCHES[0]: [], BATCHES[-1]: []}
        theirs: dict[str, list[float]] = {}
        for _ in range(1 if quick else 3):
            for batch, rates in ours.items():
                call = {"kernel": partial(kernel.advance, *work(simulator, batch), dt_s)}
                rates.append(steps_per_s(call, batch, 0.1 if quick else 0.5, 3)["kernel"])
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "speed.json"
                run_peer(name, requirements, script, "speed", out, 0.5 if quick else 3.0)
                found = json.loads(out.read_text())
            assert found["plant_step_s"] == dt_s
            for what, rate in found["plant_steps_per_s"].items():
                theirs.setdefault(what, []).append(rate)
        one, many = (float(np.median(v)) for v in ours.values())
        for what, rates in theirs.items():
            rate = float(np.median(rates))
            rows.append(
                [plant, f"{requirements[0]}, {what}", dt_s, *map(_count, (rate, one, many)), one / rate, many / rate]
            )
        if plant == "glucose":
            environments = [float(np.median(v)) for k, v in theirs.items() if "attributes" not in k]
            ratio = many / max(environments)
            report.bar(f"glucose: over simglucose at batch {BATCHES[-1]}", ratio, BAR_SIMGLUCOSE, at_least=True)
    columns = ["plant", "peer", "plant-step, s", "peer", "ours, batch 1", f"ours, batch {BATCHES[-1]}", "ratio at 1"]
    report.table("Plant-steps a second beside peers", [*columns, f"ratio at {BATCHES[-1]}"], rows)
    report.note(
        "simglucose's bar counts the faster of its environment and its patient as they ship; the row with plain attributes "
        "is its patient without the data frame its parameters come in, a change to it that we made."
    )


def glucose_error(report: Report) -> None:
    """What the timed step costs in accuracy: generated adults, a day with three meals, against 1 s steps."""
    from simulators.glucose import Glucose
    from simulators.glucose.patients import PARAMETERS, Cohort, Split, draw

    patients = draw(Cohort.ADULT, Split.HELD_OUT, 64)
    basal, p = patients.therapy.basal_U_per_h[:, None], patients.p
    d = np.tile(Glucose.d0, (len(p), 1))
    kernels = [Kernel(Glucose()), Kernel(type("Fine", (Glucose,), {"step_s": 1.0})())]
    states = [Glucose().initial(basal, d, p) for _ in kernels]
    worst, volume = 0.0, p[:, PARAMETERS.index("Vg")]
    for minute in range(1440):
        d[:, 0] = 5.0 if minute % 360 in range(60, 72) else 0.0
        states = [k.advance(x, basal, d, p, 60.0)[0] for k, x in zip(kernels, states, strict=True)]
        worst = max(worst, float(np.abs((states[0] - states[1])[:, 12] / volume).max()))
    report.bar("glucose: error of the timed step, mg/dL", worst, BAR_ERROR_MG_DL, at_least=False)
    report.note(
        "The error of the timed glucose step is against steps of 1 s; `benchmarks.plants` has it against simglucose."
    )


def _count(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation_speed", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one short turn each: a look, not a result")
    parser.add_argument("--no-peers", action="store_true", help="leave out what needs another simulator installed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args(arguments)
    report = Report("simulation speed")
    try:
        compare(report, args.quick)
        glucose_error(report)
        if not args.no_peers:
            against_peers(report, args.quick)
    except SpecError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
