"""Closed-loop scores of JEPA-MPC beside what engineers use, a plant at a time.

    python -m benchmarks.control --plant reactor|vandevusse|turbofan|glucose
                                 [--quick] [--json benchmarks/results/control_reactor.json] [--check]

All controllers in a row meet the same plants, noise, limits and start states. What each plant is scored by, and its bars, are
told in `benchmarks/control_PLANT.py`. Glucose: research and education only; not a medical device; not for dosing anyone;
never connected to a pump or CGM.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.report import Report

PLANTS = ("reactor", "vandevusse", "turbofan", "glucose")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.control", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plant", choices=PLANTS, default=PLANTS[0])
    parser.add_argument("--quick", action="store_true", help="few runs: a look, not a result")
    parser.add_argument("--json", type=Path, help="write the tables here, and as Markdown beside it")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = Report(f"control: {args.plant}")
    import_module(f"benchmarks.control_{args.plant}").measure(report, quick=args.quick)
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
