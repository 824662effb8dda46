"""A model never worse than the engineer's own, and a planner that wants what APC wants: five plants with the data that a site has.

    python -m benchmarks.site [--rows NAME...] [--quick|--long] [--seed N] [--fresh] [--data DIR] [--workers 2] [--work DIR]
                              [--json benchmarks/results/site.json] [--check]

The plants are the reactor and the van de Vusse reactor of the library, and two that come with this benchmark as plug-ins: Johansson's
quadruple tank in both settings, and Skogestad's distillation column A with late analysers. Each is recorded into a historian under
its own loops, for 10, 100 and 200 hours of which at most 10 are step tests; models learn from that alone, by what `homeostat train` runs.
Recordings, models and outcomes are kept in the work folder case by case, each with the revision: a run that was cut short goes on
where it stopped, `--fresh` measures the rows again with recordings and models as they are.

Bars stand beside what they judge, in each row's module.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.outcomes import Store, tabulate
from benchmarks.report import Report
from benchmarks.site.bench import LONG, QUICK, Bench, Settings
from benchmarks.site.running import measured, row_of

ROWS = ("errors", "scratch", "rollouts", "known_moves", "drift", "gains", "loops", "economics", "cascaded")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.site", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--quick", action="store_true", help="little data and short runs: a look, not a result")
    parser.add_argument("--long", action="store_true", help="four folds of 200 h too, and 48 h of tanks: hours of work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="measure the rows again, whatever is known of them")
    parser.add_argument("--data", type=Path, help="the folder with cascaded_tanks.csv")
    parser.add_argument("--work", type=Path, default=Path(".homeostat/site"), help="where everything made is kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    tier, settings = ("quick", QUICK) if args.quick else ("long", LONG) if args.long else ("core", Settings())
    folder = (args.work / f"{tier}_{args.seed}").resolve()
    bench = Bench(folder, settings, args.seed, args.data)
    store, report = Store(folder / "outcomes.json"), Report("site: commissioned on what a site has")
    if args.fresh:
        for row in args.rows:
            store.forget(row)
    found = measured(bench, store, args.rows, args.workers)
    for row in args.rows:
        module = row_of(row)
        outcomes = found[row]
        if hasattr(module, "overall"):
            outcomes = {**outcomes, "all": module.overall(outcomes)}
        tabulate(report, module.TITLE, outcomes, store.seconds(row))
        report.note(f"{module.TITLE}: revision {', '.join(store.revisions(row))}.")
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
