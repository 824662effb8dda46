"""Every plant against its public reference, in one run.

    python -m benchmarks.plants --data DIR [--only PLANT] [--quick] [--no-peers]
                                [--json benchmarks/results/plants.json] [--check]

DIR holds the reference data that is not committed (jt9d_npss_points.csv). Peers (pc-gym, do-mpc, simglucose) run in
environments of their own, made through pip the first time. The bars are at the top of each plant's file in
`benchmarks/validation/`. Glucose: research and education only; not a medical device; not for dosing anyone; never
connected to a pump or CGM.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.report import Report
from plant.errors import SpecError

PLANTS = ("reactor", "vandevusse", "turbofan", "glucose")
_NEEDS = {"turbofan": ("jt9d_npss_points.csv",)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the reference data")
    parser.add_argument("--only", choices=PLANTS, help="one plant")
    parser.add_argument("--quick", action="store_true", help="fewer cases, default step only: a look, not a result")
    parser.add_argument("--no-peers", action="store_true", help="leave out what needs another simulator installed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args(arguments)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # steps that are too long end members; the tables say so
    report = Report("plants: validation" + (f", {args.only}" if args.only else ""))
    chosen = (args.only,) if args.only else PLANTS
    try:
        data = _checked(args.data, chosen)
        for plant in chosen:
            _validate(plant, report, data, args.quick, not args.no_peers)
    except SpecError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if args.no_peers:
        report.note("Peers were left out (--no-peers).")
    return report.finish(args.json, args.check)


def _checked(data: Path | None, chosen: tuple[str, ...]) -> Path:
    """The data folder, with what the chosen plants need in it; else `SpecError`."""
    needed = [name for plant in chosen for name in _NEEDS.get(plant, ())]
    if data is None:
        if needed:
            raise SpecError("no folder of reference data", "--data", f"Give the one that holds {', '.join(needed)}.")
        return Path()
    if not data.is_dir():
        raise SpecError("no such folder", f"--data {data}", "Give the folder of the reference data.")
    if missing := [name for name in needed if not (data / name).is_file()]:
        raise SpecError(f"no {', '.join(missing)} in it", f"--data {data}", "Give the folder of the reference data.")
    return data


def _validate(plant: str, report: Report, data: Path, quick: bool, peers: bool) -> None:
    validate = import_module(f"benchmarks.validation.{plant}").validate
    if plant == "turbofan":
        validate(report, data, quick)
    elif plant == "glucose":
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        validate(report, data, quick, cache / "homeostat" / "traces" if peers else None)
    else:
        validate(report, data, quick, peers)


if __name__ == "__main__":
    raise SystemExit(main())
