"""Folds over time: each holds out a contiguous stretch of it. Neighbouring samples are alike; drawn at random, held-out ones
would be foretold by those beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.windows import Run, WindowSet

FOLDS = 4


def in_time(runs: Sequence[Run]) -> list[Run]:
    """Runs in the order they began; those that began together as they came."""
    return sorted(runs, key=lambda r: r.start_s)


def fold_of(data: WindowSet) -> Tensor:
    """Which fold each sample of `data` belongs to (n_samples,), 0 .. FOLDS - 1, for `data` made of runs in the order of time."""
    return torch.arange(len(data.rows)) * FOLDS // max(1, len(data.rows))


def held_out(runs: Sequence[Run], sample_time_s: float, fold: int) -> tuple[list[Run], list[Run]]:
    """`runs` without the stretch of time that `fold` holds out, and that stretch; runs that reach over its edge are cut. Raises
    nothing: a fold of few runs may be empty."""
    ordered = in_time(runs)
    size = sum(len(r) for r in ordered)
    first, last = size * fold // FOLDS, size * (fold + 1) // FOLDS
    kept, held, at = [], [], 0
    for run in ordered:
        inside = slice(max(first - at, 0), max(min(last - at, len(run)), 0))
        for some, part in ((kept, slice(0, inside.start)), (held, inside), (kept, slice(inside.stop, len(run)))):
            piece = _piece(run, part, sample_time_s) if inside.start < inside.stop else None
            if piece is not None:
                some.append(piece)
        if inside.start >= inside.stop:
            kept.append(run)
        at += len(run)
    return kept, held


def _piece(run: Run, part: slice, sample_time_s: float) -> Run | None:
    part = slice(part.start, min(part.stop, len(run)))
    if part.stop - part.start < 2:
        return None
    arrays = {n: getattr(run, n)[part] for n in ("measured", "dvs", "applied", "labels")}
    hidden = None if run.hidden is None else run.hidden[part]
    return replace(run, start_s=run.start_s + part.start * sample_time_s, hidden=hidden, **arrays)
