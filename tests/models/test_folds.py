"""Folds hold out contiguous stretches of time, all of it once."""

from __future__ import annotations

import numpy as np
import torch

from models.folds import FOLDS, fold_of, held_out, in_time
from models.windows import Run, Scale, WindowSet


def runs_of(lengths: list[int]) -> list[Run]:
    """Runs one after another, out of order, whose only reading is the time in samples."""
    runs, at = [], 0
    for n in lengths:
        time = np.arange(at, at + n, dtype=float)[:, None]
        runs.append(Run("recorded", 10.0 * at, time, np.empty((n, 0)), time.copy(), np.empty((n, 0))))
        at += n + 5
    return runs[::-1]


def test_every_sample_is_held_out_once_and_in_one_stretch() -> None:
    runs = runs_of([40, 7, 90, 33])
    times = np.concatenate([r.measured[:, 0] for r in in_time(runs)])
    seen = []
    for fold in range(FOLDS):
        kept, held = held_out(runs, 10.0, fold)
        inside = np.concatenate([r.measured[:, 0] for r in held])
        outside = np.concatenate([r.measured[:, 0] for r in kept])
        assert sorted([*inside, *outside]) == sorted(times)
        assert all(r.start_s == 10.0 * r.measured[0, 0] for r in [*kept, *held]), "a piece knows when it began"
        assert set(times[(times >= inside.min()) & (times <= inside.max())]) == set(inside)
        seen += list(inside)
    assert sorted(seen) == sorted(times)


def test_samples_know_their_fold() -> None:
    data = WindowSet(in_time(runs_of([40, 60])), Scale(np.zeros(2), np.ones(2)), 4, 3)
    assert fold_of(data).tolist() == [0] * 25 + [1] * 25 + [2] * 25 + [3] * 25
    assert bool((data.rows[:, 0].diff() > 0).all()), "in the order of time"
    assert torch.equal(fold_of(data).unique(), torch.arange(FOLDS))
