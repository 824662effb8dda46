"""`benchmarks.data_efficiency` gives each cell the hours it says, no moves to passive runs, and no run twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.data_efficiency import ROWS, Cell, Grid, cells_of, divided, first, measured, pool, samples_in
from benchmarks.world_model_rows import Job, Sizes
from plant.spec import load_spec

TINY = Grid((1.5,), (0.0, 2.0), 4, 4)


def cell(row: int, passive: float, seed: int = 0) -> Cell:
    return Cell(Job("vandevusse", ROWS[row], seed, Sizes(0, 0, TINY.asked, TINY.steps)), TINY, 1.5, passive)


def test_a_cell_has_the_hours_it_says_and_no_run_twice() -> None:
    data, _ = pool("vandevusse", TINY)
    spec = data.spec
    training, validation, passive = divided(spec, data.training, cell(0, 2.0))
    labelled = sum(map(len, training)) + sum(map(len, validation))
    assert labelled == samples_in(spec, 1.5) == round(1.5 * 3600 / spec.sample_time_s)
    assert sum(map(len, passive)) == samples_in(spec, 2.0)
    assert all(np.isnan(r.applied).all() and np.isnan(r.labels).all() and r.hidden is None for r in passive)
    firsts = [tuple(r.measured[0]) for r in (*training, *validation, *passive)]
    assert len(set(firsts)) == len(firsts)
    held = {tuple(r.measured[0]) for r in data.asked["held-out"].runs}
    assert not held & set(firsts)


def test_every_row_of_a_seed_sees_the_same_runs_and_another_seed_others() -> None:
    data, _ = pool("vandevusse", TINY)
    one, same, other = (divided(data.spec, data.training, c)[0] for c in (cell(0, 0), cell(2, 0), cell(0, 0, 1)))
    assert all(np.array_equal(a.measured, b.measured) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].measured, other[0].measured)


def test_too_few_runs_are_an_error() -> None:
    data, _ = pool("vandevusse", TINY)
    with pytest.raises(ValueError, match="samples short"):
        first(data.training, 10**9)


def test_rivals_are_asked_once_and_the_world_model_for_each_passive_amount() -> None:
    cells = cells_of(["vandevusse"], 1, TINY)
    assert [c.job.row.name for c in cells if c.passive] == ["decoupled", "joint"]
    assert len(cells) == len(ROWS) + 2


def test_a_cell_is_measured_and_kept(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    facts = measured(cell(1, 2.0), tmp_path)
    assert np.isfinite(facts["nrmse"]).all()
    assert set(facts["control"]["error"]) == {t.tag for t in load_spec("vandevusse").targets}
    assert len(list(tmp_path.iterdir())) == 1
    assert measured(cell(1, 2.0), tmp_path) == facts
