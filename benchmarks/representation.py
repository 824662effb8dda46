"""Surprise on the Tennessee Eastman process and remaining life on C-MAPSS FD001, with the yardsticks recomputed.

    python -m benchmarks.representation --data DIR [--quick] [--json benchmarks/results/representation.json] [--check]

Bars: mean detection over 21 faults at matched false-alarm rate >= .90 at 5 % and >= .86 at 1 %, measured rate at most 1.5 x
nominal; remaining-life RMSE of a frozen encoder <= 12.6, mean over seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.eastman import eastman
from benchmarks.engines import remaining_life
from benchmarks.report import Report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.representation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with tep/ and cmapss/")
    parser.add_argument("--seed", type=int, default=0, help="first of the seeds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed and short training: a look, not a result")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.seed, args.seed + (1 if args.quick else args.seeds))
    report = Report("representation: Tennessee Eastman, C-MAPSS FD001")
    eastman(report, args.data / "tep", seeds, args.quick)
    remaining_life(report, args.data / "cmapss", seeds, args.quick)
    return report.finish(args.json, args.check)


if __name__ == "__main__":
    raise SystemExit(main())
