"""Whether a slow layer above the planner pays: two-rate planning, its oracle-sub-goal test, and flat planning at equal time.

    python -m benchmarks.two_rate [--plant PLANT] [--quick] [--json benchmarks/results/two_rate.json] [--check]
    python -m benchmarks.two_rate --longer [--json benchmarks/results/two_rate_longer.json]

Every 5 samples the slow layer plans 60 samples ahead in strides of 5; the control layer plans 5 samples ahead towards its first
waypoints. Flat planning looks 15 samples ahead, as far as the shipped models were validated. Two tasks a plant, random
levels held 15 to 45 samples, previewed as far as a planner looks: `usual` moves as the planner prices them by default, and
`dear` ones, priced so high that they must begin long before the change they are for (what that is worth to NMPC with the true
equations is shown beside it).

How the control layer follows its sub-goals, and what flat planning pays for an end without rest, are chosen on other seeds
than those reported, each task by itself. The gate, for dear moves on every plant: oracle sub-goals beat flat planning, and so
does the slow layer at equal processor time, 95 % intervals of the paired differences above 0; for usual moves two-rate
planning is not provably worse than flat. It did not pass, so no product code plans at two rates. `--longer` asks what the
long horizon alone is worth: flat planning that looks as far beats two rates, in less time.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import t as student

from benchmarks.report import Report, interval
from benchmarks.two_rate_bench import (
    FLAT,
    HELD_SEED,
    QUICK,
    STRIDE,
    STRIDES,
    TASKS,
    TEST_SEED,
    VALIDATION_SEED,
    Bench,
    Sizes,
    Task,
    excitation,
)  # fmt: skip
from benchmarks.two_rate_planning import Macro, Uncompiled
from controllers.contracts import Array, Controller

T = TypeVar("T")
log = logging.getLogger(__name__)
TESTED = ("reactor_bare", "vandevusse")
ITERATIONS = (4, 6, 8, 12)
FOLLOWING = [("decoded", None), *((space, weight) for space in ("latent", "decoded") for weight in (1.0, 10.0, 100.0))]
FOLLOWED = (("latent", 100.0), ("decoded", 10.0))  # the oracle's sub-goals are slow to come by: fewer are tried
STEADY = (0.0, 0.3, 3.0)


def ahead(bench: Bench, report: Report) -> None:
    """How well the macro predictor sees ahead where moves are held, beside the shipped model played past its horizon."""
    runs = excitation(bench.spec, max(8, bench.sizes.runs // 20), HELD_SEED, held=True)
    rows = []
    for name, model, n in (("macro predictor", bench.macro, STRIDE), ("predictor, sample by sample", bench.model, 1)):
        data = Macro(bench.model, runs, n, STRIDE * STRIDES // n)
        with torch.no_grad():
            missed = (model.read_out_head(data.rolled(model)) - data.y[:, 1:]) / data.y.flatten(0, 1).std(0)
        errors = ((data.sure * missed.square()).sum(0) / data.sure.sum(0)).mean(-1).sqrt()
        rows.append([name, *(float(errors[k // n - 1]) for k in (STRIDE, FLAT, 30, STRIDE * STRIDES))])
    report.table(f"{bench.spec.name}: NRMSE of the measurements, samples ahead", ["", "5", "15", "30", "60"], rows)


def chosen(options: Sequence[T], score: Callable[[T], float]) -> T:
    """The one that scores best, on validation seeds."""
    scores = [score(option) for option in options]
    log.info("%s", list(zip(options, scores, strict=True)))
    return options[int(np.argmax(scores))]


def measure(bench: Bench, task: Task, report: Report) -> None:
    """All rows of one task, and its part of the gate."""
    sizes, where = bench.sizes, f"{bench.spec.name}, {task.name} moves"

    def validated(make: Callable[[int], Controller], seeds: int = sizes.validation) -> float:
        return float(bench.run(task, make(seeds), VALIDATION_SEED, seeds)[0].mean())

    dear = task.name == "dear"
    steady = chosen(STEADY, lambda s: validated(lambda b: bench.flat(task, b, steady=s)))
    way = chosen(FOLLOWING, lambda w: validated(lambda b: bench.two_rate(task, w, False, b)))
    ways = list(dict.fromkeys((way, *FOLLOWED))) if dear else [way]
    best = chosen(ways, lambda w: validated(lambda b: bench.two_rate(task, w, True, b), 2)) if dear else way
    spent = bench.time_ms(task, bench.two_rate(task, way, False))
    times = {k: bench.time_ms(task, bench.flat(task, 1, Uncompiled, iterations=k, steady=steady)) for k in ITERATIONS}
    equal = next((k for k in ITERATIONS if times[k][0] >= spent[0]), ITERATIONS[-1])
    long = {"horizon": STRIDE * STRIDES, "blocks": (1,) * STRIDE + (STRIDE,) * (STRIDES - 1)}
    makers: dict[str, tuple[Callable[[int], Controller], tuple[float, float]]] = {
        "flat, 15 samples": (lambda b: bench.flat(task, b), times[4]),
        f"flat, 15 samples, {equal} iterations, tuned": (
            lambda b: bench.flat(task, b, iterations=equal, steady=steady), times[equal]
        ),
        "flat, 5 samples: the control layer alone": (
            lambda b: bench.flat(task, b, horizon=STRIDE),
            bench.time_ms(task, bench.flat(task, 1, Uncompiled, horizon=STRIDE)),
        ),
        "two-rate": (lambda b: bench.two_rate(task, way, False, b), spent),
        "two-rate, oracle sub-goals": (
            lambda b: bench.two_rate(task, best, True, b), bench.time_ms(task, bench.two_rate(task, best, True))
        ),
        "flat, 60 samples in blocks, past its validation": (
            lambda b: bench.flat(task, b, **long), bench.time_ms(task, bench.flat(task, 1, Uncompiled, **long))
        ),
    }  # fmt: skip
    found = {name: bench.run(task, make(sizes.seeds), TEST_SEED, sizes.seeds) for name, (make, _) in makers.items()}
    flat, at_equal, _, two_rate, oracle, _ = (scores for scores, _, _ in found.values())
    rows = [
        [name, interval(list(scores)), *("–" if scores is other else interval(list(scores - other)) for other in (flat, at_equal)),
         float(worst.max()), int(samples.sum()), *(f"{v:.1f}" for v in makers[name][1])]
        for name, (scores, worst, samples) in found.items()
    ]  # fmt: skip
    columns = [
        "",
        "score",
        "less flat",
        "less flat at equal time",
        "past rank 1, worst",
        "samples past it",
        "ms a plan",
        "p99",
    ]
    report.table(f"{where}: {sizes.seeds} paired seeds of {sizes.samples} samples", columns, rows)
    shown = [f"{s} {'alone' if w is None else f'x {w:g} at the end, beside the task'}" for s, w in (way, best)]
    report.note(
        f"{where}: distance to sub-goals {shown[0]}; to the oracle's {shown[1]}; flat's price of unrest {steady:g}."
    )
    if dear:
        report.bar(f"{where}: oracle sub-goals less flat, lower end", bounds(oracle - flat)[0], 0.0, at_least=True)
        report.bar(
            f"{where}: two-rate less flat at equal time, lower end", bounds(two_rate - at_equal)[0], 0.0, at_least=True
        )
    else:
        report.bar(
            f"{where}: two-rate less flat at equal time, upper end", bounds(two_rate - at_equal)[1], 0.0, at_least=True
        )


def longer(bench: Bench, task: Task, report: Report) -> None:
    """Two-rate planning beside flat planning that looks as far: with the shipped predictor, sample by sample, past what its card
    speaks of, but no further than the table of `ahead` shows for it and for the macro predictor alike."""
    sizes, where = bench.sizes, f"{bench.spec.name}, {task.name} moves"

    def scores(make: Callable[[int], Controller], seed: int, seeds: int) -> Array:
        return bench.run(task, make(seeds), seed, seeds)[0]

    ways = [("latent", 1.0), *FOLLOWED]
    way = chosen(
        ways,
        lambda w: float(scores(lambda b: bench.two_rate(task, w, False, b), VALIDATION_SEED, sizes.validation).mean()),
    )
    far = STRIDE * STRIDES
    makers: dict[str, Callable[[int], Controller]] = {
        "flat, 15 samples, compiled": lambda b: bench.flat(task, b),
        "two-rate": lambda b: bench.two_rate(task, way, False, b),
        f"flat, {far} samples, compiled": lambda b: bench.flat(task, b, horizon=far),
    }
    found = {name: scores(make, TEST_SEED, sizes.seeds) for name, make in makers.items()}
    flat, two_rate, long = found.values()
    rows = [
        [name, interval(list(v)), *("–" if v is o else interval(list(v - o)) for o in (flat, long)),
         *(f"{t:.1f}" for t in bench.time_ms(task, makers[name](1)))]
        for name, v in found.items()
    ]  # fmt: skip
    columns = ["", "score", "less flat, 15", f"less flat, {far}", "processor ms a plan", "p99"]
    report.table(f"{where}: {sizes.seeds} paired seeds of {sizes.samples} samples", columns, rows)
    report.bar(
        f"{where}: two-rate less flat that looks as far, lower end", bounds(two_rate - long)[0], 0.0, at_least=True
    )


def ceiling(bench: Bench, task: Task, report: Report, seeds: int = 2) -> None:
    """What looking further ahead is worth to NMPC with the true equations, the margins kept by all."""
    samples = min(60, bench.sizes.samples)
    scores = [
        [float(bench.run(task, bench.nmpc(task, h), VALIDATION_SEED + i, 1, samples)[0][0]) for i in range(seeds)]
        for h in (FLAT, STRIDE * STRIDES)
    ]
    rows = [[f"{h} samples", *s] for h, s in zip((FLAT, STRIDE * STRIDES), scores, strict=True)]
    title = f"{bench.spec.name}, {task.name} moves: NMPC with the true equations, {seeds} validation seeds of {samples} samples"
    report.table(title, ["looks ahead", *(f"score {i + 1}" for i in range(seeds))], rows)


def bounds(difference: Array) -> tuple[float, float]:
    """The 95 % interval of the mean (Student's t)."""
    half = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
    return float(difference.mean() - half), float(difference.mean() + half)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_rate", description=__doc__)
    parser.add_argument("--plant", choices=TESTED, action="append")
    parser.add_argument("--quick", action="store_true", help="hardly trained, two short runs: a look, not a result")
    parser.add_argument("--longer", action="store_true", help="dear moves only, beside flat planning that looks as far")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # members that end are part of the data
    report = Report("two_rate_longer" if args.longer else "two_rate")
    for plant in args.plant or TESTED:
        bench = Bench(plant, QUICK if args.quick else Sizes())
        ahead(bench, report)
        if args.longer:
            longer(bench, TASKS[plant][-1], report)
            continue
        for task in TASKS[plant]:
            if task.name == "dear":
                ceiling(bench, task, report)
            measure(bench, task, report)
    report.note(
        "Score: -sum of |target error| / scale, effort and priced moves, on the true plant. Planners see targets as far ahead "
        "as they look. Guardrails on, with the shipped margins, past sample 15 those of sample 15. Times are processor time of "
        "one plant's decisions on one thread, in torch unless a row says compiled: flat planning has a compiled planner, "
        "sub-goals have none."
    )
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
