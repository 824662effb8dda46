"""Runs that need not fit into memory: kept in one file, and read from it as they are used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from models.windows import Run


def keep_runs(runs: Iterable[Run], folder: Path) -> list[Run]:
    """Write `runs`, one after another, into a file of `folder` and give them back with arrays that lie there: the operating
    system keeps in memory what is used of them. Bit for bit what they were; the folder must outlive them."""
    folder.mkdir(parents=True, exist_ok=True)
    path, shapes = folder / "runs", []
    with path.open("wb") as file:
        for run in runs:
            parts = {"measured": run.measured, "dvs": run.dvs, "applied": run.applied, "labels": run.labels}
            if run.hidden is not None:
                parts["hidden"] = run.hidden
            for part in parts.values():
                file.write(np.ascontiguousarray(part, np.float64).data)
            shapes.append((run.kind, run.start_s, {n: p.shape for n, p in parts.items()}, run.constants))
    kept = np.asarray(np.memmap(path, np.float64, "r")) if path.stat().st_size else np.empty(0)
    out, at = [], 0
    for kind, start_s, parts, constants in shapes:
        views = {}
        for name, shape in parts.items():
            views[name] = kept[at : at + int(np.prod(shape))].reshape(shape)
            at += int(np.prod(shape))
        out.append(Run(kind, start_s, **views, constants=constants))
    return out


def some_of(runs: Sequence[Run], samples: int) -> list[Run]:
    """As many of `runs`, spread evenly over them, as have `samples` samples together at most; one at least."""
    size = sum(len(r) for r in runs)
    if size <= samples:
        return list(runs)
    count = max(1, int(len(runs) * samples / size))
    return [runs[i] for i in np.unique(np.linspace(0, len(runs) - 1, count).round().astype(int))]
