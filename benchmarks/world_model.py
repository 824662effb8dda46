"""k-step prediction, probes and eigenvalues of the world model beside its rivals, on every plant, nominal and shifted.

    python -m benchmarks.world_model [--quick] [--tier core|full] [--plants reactor,vandevusse] [--seeds 3] [--ablations]
                                     [--json benchmarks/results/world_model.json] [--check] [--cache DIR] [--jobs 2]

Bars, for the default: error at k = 15 and 30 within 5 % of the best rival's or better on every plant and set of runs, and
better than it in the majority; trained in 5 minutes; a linear probe of the latent recovers (R2 >= .98) every state that a
linear observer of the same window recovers; the plant's dominant eigenvalues at three operating points within 10 %.

`core` trains everything for fewer steps, the same number for all; `full` trains the default's own number and adds the other
training orders and ways against collapse. Errors are against what perfect instruments would have shown (of simulated
incidents, against their readings), over the held-out runs' standard deviation, from every sample with 8 before it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report
from benchmarks.world_model_data import PLANTS, missing
from benchmarks.world_model_rows import (
    CORE,
    DEFAULT,
    FULL,
    QUICK,
    SEEDLESS,
    WORLD_MODEL,
    Facts,
    Job,
    Row,
    Sizes,
    rows_of,
    run,
)
from benchmarks.world_model_scores import STEPS
from models.config import TrainingConfig
from models.rivals.registry import RIVALS
from plant.spec import load_spec

RATIO, MAJORITY, SECONDS, PROBE, MODES = 1.05, 0.5, 300.0, 0.98, 0.10
JUDGED = (15, 30)
Results = dict[str, dict[str, list[Facts]]]  # plant -> row -> one entry a seed


def overall(facts: list[Facts], asked: str) -> np.ndarray:
    """Error over all tags (seeds x len(STEPS)) of one row on one set of runs."""
    return np.array([np.mean(f["nrmse"][asked], axis=1) for f in facts])


def error_tables(report: Report, results: Results) -> None:
    for plant, rows in results.items():
        tags = [t.name for t in load_spec(plant).measured]
        body: list[list[Any]] = []
        for asked in next(iter(rows.values()))[0]["nrmse"]:
            for i, tag in enumerate(tags):
                cells = [np.mean([np.array(f["nrmse"][asked])[:, i] for f in facts], axis=0) for facts in rows.values()]
                body.append([asked, tag, *("/".join(f"{v:.3g}" for v in cell) for cell in cells)])
            body.append([asked, "all", *(_with_spread(overall(facts, asked)) for facts in rows.values())])
        steps = "/".join(map(str, STEPS))
        report.table(f"{plant}: NRMSE at k = {steps}, mean of the seeds", ["runs", "tag", *rows], body)


def _with_spread(errors: np.ndarray) -> str:
    """Means at each step and, where there are seeds, the half-width of their 95 % interval at the last one."""
    shown = "/".join(f"{v:.3g}" for v in errors.mean(0))
    if len(errors) < 2:
        return shown
    student = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(errors), 2.0)  # two-sided 95 %
    return f"{shown} ± {student * errors[:, -1].std(ddof=1) / np.sqrt(len(errors)):.2g}"


def compare(report: Report, results: Results) -> None:
    """The default against the best rival, plant by plant and set by set."""
    body, better = [], []
    for plant, rows in results.items():
        rivals = [name for name in rows if name.replace(" ", "_") in RIVALS and name != "random encoder"]
        worst = 0.0
        for asked in rows[DEFAULT][0]["nrmse"]:
            for k in JUDGED:
                at = STEPS.index(k)
                errors = {name: overall(rows[name], asked)[:, at] for name in (DEFAULT, *rivals)}
                best = min(rivals, key=lambda name: errors[name].mean())
                ratio = errors[DEFAULT].mean() / errors[best].mean()
                low, high = errors[DEFAULT].min() / errors[best].mean(), errors[DEFAULT].max() / errors[best].mean()
                worst = max(worst, float(ratio))
                better.append(ratio < 1.0)
                body.append(
                    [
                        plant, asked, k, float(errors[DEFAULT].mean()), best, float(errors[best].mean()), float(ratio),
                        f"{low:.3f} .. {high:.3f}",
                    ]
                )  # fmt: skip
        report.bar(f"{plant}: worst error over the best rival's, k = 15 and 30", worst, RATIO, at_least=False)
    columns = ["plant", "runs", "k", "default", "best rival", "its error", "ratio", "over the seeds"]
    report.table("The default against the best rival", columns, body)
    report.bar("share of cases in which the default is better", float(np.mean(better)), MAJORITY, at_least=True)


def costs(report: Report, results: Results, steps: int) -> None:
    body, slowest = [], 0.0
    for plant, rows in results.items():
        for name, facts in rows.items():
            seconds = max(f["seconds"] for f in facts)
            body.append(
                [
                    plant, name, round(seconds, 1), facts[0]["parameters"], round(facts[0]["hours"], 2),
                    *(
                        float(np.mean([f[what] for f in facts])) if what in facts[0] else ""
                        for what in ("effective_rank", "action_gain")
                    ),
                ]
            )  # fmt: skip
            if name == DEFAULT:
                slowest = max(slowest, seconds * TrainingConfig().steps / steps)
    columns = [
        "plant",
        "row",
        f"seconds for {steps} steps",
        "parameters",
        "plant-hours",
        "effective rank",
        "action gain",
    ]
    report.table("Cost, rank and action gain (one thread each)", columns, body)
    report.bar(f"seconds to train the default for its {TrainingConfig().steps} steps", slowest, SECONDS, at_least=False)


def probes(report: Report, results: Results) -> None:
    for plant, rows in results.items():
        observer = rows["persistence"][0]["observer"]
        shown = {name: facts for name, facts in rows.items() if "probe" in facts[0]}
        body, least = [], []
        for state, known in observer.items():
            if not np.isfinite(known):
                continue
            r2 = {name: float(np.mean([f["probe"][state] for f in facts])) for name, facts in shown.items()}
            body.append([state, known, *r2.values()])
            if known >= PROBE:
                least.append(r2[DEFAULT])
        report.table(f"{plant}: linear probe R2 of true states, held-out runs", ["state", "observer", *shown], body)
        if least:
            report.bar(f"{plant}: least probe R2 of a state the observer recovers", min(least), PROBE, at_least=True)
        else:
            report.note(f"{plant}: the observer recovers no state to R2 {PROBE}, so there is no bar for the probe.")


def modes(report: Report, results: Results) -> None:
    body = []
    for plant, rows in results.items():
        worst = 0.0
        for name, facts in rows.items():
            for i, point in enumerate(facts[0].get("modes", [])):
                if "response_error" not in point:
                    continue
                points = [f["modes"][i] for f in facts]
                own = [p["error"] for p in points if "error" in p]
                if name == DEFAULT:
                    worst = max(worst, float(np.mean(own)))
                true = ", ".join(f"{re:.3f}{im:+.3f}i" if im else f"{re:.3f}" for re, im in point["plant"])
                body.append(
                    [
                        plant, ", ".join(f"{m:g}" for m in point["moves"]), true, name,
                        float(np.mean(own)) if own else "",
                        float(np.mean([p["response_error"] for p in points])),
                        float(np.max([p["radius"] for p in points if "radius" in p], initial=0.0)) or "",
                    ]
                )  # fmt: skip
        if worst:
            report.bar(f"{plant}: dominant eigenvalues, worst operating point", worst, MODES, at_least=False)
    columns = [
        "plant",
        "moves",
        "plant's eigenvalues",
        "row",
        "predictor, error",
        "response, error",
        "predictor, radius",
    ]
    if body:
        report.table("Eigenvalues over one sample at operating points", columns, body)
        report.note(
            "Predictor: each dominant eigenvalue (magnitude >= .1) paired with one of its linearisation's; response: with those "
            "of the impulse response from moves and disturbances to measurements, of the plant's order. Error: the worst "
            "pair's distance over the magnitude; mean of the seeds."
        )


def jobs_of(plants: list[str], rows: list[Row], seeds: int, sizes: Sizes) -> list[Job]:
    """The world model first: it takes longest."""
    jobs = [
        Job(plant, row, seed, sizes)
        for plant in plants
        for row in rows
        for seed in range(1 if row.kind in SEEDLESS else seeds)
    ]
    return sorted(jobs, key=lambda j: (j.plant, j.row.kind != WORLD_MODEL, j.row.kind in SEEDLESS))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.world_model", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plants", default=",".join(PLANTS), help="names, separated by commas")
    parser.add_argument("--tier", choices=["core", "full"], default="core")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps of every row, in place of the tier's")
    parser.add_argument("--ablations", action="store_true", help="rows with one choice of the default changed")
    parser.add_argument("--quick", action="store_true", help="little data, 200 steps, one seed: a look, not a result")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--cache", type=Path, default=Path(".homeostat/benchmarks/world_model"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    sizes = QUICK if args.quick else {"core": CORE, "full": FULL}[args.tier]
    if args.steps:
        sizes = Sizes(sizes.runs, sizes.incidents, sizes.asked, args.steps)
    report, plants = Report(f"world model: {'quick' if args.quick else args.tier}"), []
    for plant in args.plants.split(","):
        if why := missing(plant):
            report.note(f"{plant} is left out: {why}")
            print(report.notes[-1])
        else:
            plants.append(plant)
    rows = rows_of(args.tier, args.ablations)
    jobs = jobs_of(plants, rows, 1 if args.quick else args.seeds, sizes)
    results: Results = {plant: {row.name: [] for row in rows} for plant in plants}
    began = time.perf_counter()
    found = {}
    for n, (job, facts) in enumerate(run(jobs, args.cache, args.jobs), start=1):
        found[job] = facts
        print(
            f"[{n}/{len(jobs)}, {time.perf_counter() - began:.0f} s] {job.plant}, {job.row.name}, seed {job.seed}: "
            f"{facts['seconds']:.0f} s",
            file=sys.stderr,
        )
    for job in jobs:
        results[job.plant][job.row.name].append(found[job])
    error_tables(report, results)
    compare(report, results)
    costs(report, results, sizes.steps or TrainingConfig().steps)
    probes(report, results)
    modes(report, results)
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
