"""AUTO on endpoints that nobody here wrote: a quadruple tank served from node-opcua, and attacks on every part.

    python -m benchmarks.foreign [--rows NAME...] [--quick] [--seed N] [--cases DIR] [--fresh] [--data-dir DIR]
                                 [--json benchmarks/results/foreign.json] [--check]

The plant is `server.js`: Johansson's quadruple tank with level controllers, a handshake and faults of its own, and nothing of
ours in it; Homeostat knows it from `tanks.yaml` alone. node-opcua is installed by npm into the user's cache (node and npm must
be there: `apt install nodejs npm`); without them the rows that need it say so. What was measured is kept in the data folder
case by case: a run that was cut short goes on where it stopped, `--fresh` measures the rows again.

Bars are stated beside what they judge, in each row's module: almost all are "not even once".
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks.foreign.bench import QUICK, Bench, Settings
from benchmarks.foreign.node import NoNode
from benchmarks.outcomes import Cases, Outcome, Store, failed, not_run, tabulate
from benchmarks.report import Report

ROWS = {
    "commission": "Check, record, excite and train, with YAML only",
    "auto": "AUTO held for two plant-hours while targets step",
    "field_bus": "Field bus dead behind a live server",
    "strangers": "Strangers: heartbeat, move, second controller, paused controller",
    "limits": "Hostile operator limits in AUTO, RECOVERY and SHED",
    "partial": "Partial service: one MV dropped, one CV lost",
    "guest": "Excitation toward a stated guardrail",
    "tampered": "Models that do not deserve AUTO",
    "page": "The page in a real browser while parts of the plant die",
    "restart": "Restart of the controller in each mode",
    "units": "Units of 1e-9 to 1e9 on three plants",
    "shared_cases": "Small inputs that went wrong",
    "demos": "The four demos, left alone",
}
LONG = {"demos"}  # forty minutes by itself: only when it is named


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.foreign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="default: all but the demos")
    parser.add_argument("--quick", action="store_true", help="short runs and few seeds: a look, not a result")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=Path, help="a folder of small inputs that went wrong, each with its README")
    parser.add_argument("--fresh", action="store_true", help="measure the rows again, whatever is known of them")
    parser.add_argument("--data-dir", type=Path, default=Path(".homeostat/foreign"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # connections are cut here on purpose
    folder = (args.data_dir / f"{'quick' if args.quick else 'full'}_{args.seed}").resolve()
    bench = Bench(folder, QUICK if args.quick else Settings(), args.seed, args.cases)
    store = Store(folder / "outcomes.json")
    report = Report("foreign: AUTO on endpoints that nobody here wrote")
    for name in args.rows or [n for n in ROWS if n not in LONG]:
        if args.fresh:
            store.forget(name)
        cases: Callable[[Bench], Cases] = import_module(f"benchmarks.foreign.{name}").cases
        found = {case: measured(store, name, case, work) for case, work in cases(bench).items()}
        tabulate(report, ROWS[name], found, store.seconds(name))
    return report.finish(args.json, args.check)


def measured(store: Store, row: str, case: str, work: Callable[[], list[Outcome]]) -> list[Outcome]:
    """A case's outcomes. One that cannot run here says why; one that fails counts as missed, and is tried again next time."""
    began = time.monotonic()
    try:
        found = store.of(row, case, work)
    except NoNode as e:
        return [not_run("could not run", str(e))]
    except Exception as e:  # noqa: BLE001  # one case must not take the others with it
        traceback.print_exc()
        found = [failed(e)]
    missed = [o.what for o in found if o.value == o.value and not o.met]
    word = f"MISSED {', '.join(missed)}" if missed else "met"
    print(f"{row}, {case}: {word} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
