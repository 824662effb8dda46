"""A history under the plant's own PID teaches moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.site.moves import BAR, known_share, pid_history
from models.windows import Run
from plant.spec import load_spec


@pytest.mark.parametrize("plant", ["reactor", "vandevusse"])
def test_roll_outs_of_a_pid_history_have_known_moves(plant: str, tmp_path: Path):
    spec = load_spec(plant)
    runs = pid_history(spec, tmp_path, samples=200, seed=3)
    assert known_share(runs) >= BAR
    assert all(np.nanstd(r.applied, 0).max() > 0 for r in runs), "the PID moved something"


def test_a_roll_out_counts_only_with_all_its_moves():
    applied = np.zeros((31, 1))
    applied[20] = np.nan
    run = Run("recorded", 0.0, applied, applied[:, :0], applied, applied[:, :0])
    assert known_share([run]) == 5 / 16
