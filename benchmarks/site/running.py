"""The cases of all rows on a few processes, each kept as soon as it is known."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from multiprocessing import get_context
from types import ModuleType

import torch

from benchmarks.outcomes import Outcome, Store, failed
from benchmarks.site.bench import Bench


def row_of(name: str) -> ModuleType:
    """The module of a row: `TITLE`, `cases(bench)`, and `overall(found)` where cases are also judged together."""
    return import_module(f"benchmarks.site.{name}")


def measured(bench: Bench, store: Store, rows: list[str], workers: int) -> dict[str, dict[str, list[Outcome]]]:
    """The outcomes of all cases by row, known ones or measured now, on so many processes."""
    listed = [(row, case) for row in rows for case in row_of(row).cases(bench)]
    found: dict[tuple[str, str], list[Outcome]] = {}
    began = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(worked, bench, *key): key for key in listed if not store.knows(*key)}
        found |= {key: store.outcomes(*key) for key in listed if store.knows(*key)}
        for n, future in enumerate(as_completed(waiting), 1):
            row, case = waiting[future]
            outcomes, seconds = future.result()
            found[row, case] = outcomes
            store.keep(row, case, outcomes, seconds)
            missed = "; ".join(o.what for o in outcomes if o.value == o.value and not o.met)
            place = f"[{n}/{len(waiting)}, {time.monotonic() - began:.0f} s]"
            said = f"MISSED {missed}" if missed else "met"
            print(f"{place} {row}, {case}: {said} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return {row: {case: found[row, case] for r, case in listed if r == row} for row in rows}


def worked(bench: Bench, row: str, case: str) -> tuple[list[Outcome], float]:
    """A case's outcomes and the seconds they took; one that fails counts as missed, and is tried again next time."""
    torch.set_num_threads(1)
    began = time.monotonic()
    cases: Mapping = row_of(row).cases(bench)
    try:
        outcomes = cases[case]()
    except Exception as e:  # noqa: BLE001  # one case must not take the others with it
        traceback.print_exc()
        outcomes = [failed(e)]
    return outcomes, time.monotonic() - began
