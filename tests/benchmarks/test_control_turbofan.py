"""The turbofan's part of the control benchmark: a small run says what a large one would, and can miss its bars."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.control_turbofan import Bench, Safe, hostile, strange
from benchmarks.report import Report
from controllers.evaluation.supervised import Supervised
from controllers.evaluation.turbofan import accelerate, worn_core
from homeostat.checkpoints import shipped
from models.checkpoint import load
from plant.spec import PlantSpec, load_spec


@pytest.fixture(scope="module")
def bench() -> Bench:
    spec = load_spec("turbofan")
    return Bench(spec, load(shipped("turbofan"), spec), Report("control: turbofan"), 0.004)


def test_guardrails_hold_against_a_hostile_target_that_breaks_engines_without_them(bench: Bench) -> None:
    hostile(bench)
    (_, _, rows) = bench.report.tables[-1]
    assert [row[0] for row in rows] == ["guardrails on", "guardrails off", "fallback from the start"]
    assert [row[-2] for row in rows] == [0, 2, 0]
    assert rows[1][-1] == 2, "the fallback would have kept both"
    assert all(met for _, met, _ in bench.report.bars)


def test_a_surprised_model_loses_the_plant_for_good(bench: Bench) -> None:
    known = bench.checkpoint
    assert known.surprise
    touchy = dataclasses.replace(known.surprise, limits=(-9.0, 1e9))
    jumpy = Supervised(bench.jepa(2, watched=False), known.model, touchy, 2)
    r = accelerate(bench.spec, jumpy, worn_core(np.ones(2)), seed=1, seconds=1.6)
    assert jumpy.shed.all()
    assert (r.runs.moves[:, -1, 0] == 0.9).all(), "the safe value"
    assert not r.broken.any()


def test_the_fallback_moves_at_its_rate(bench: Bench) -> None:
    moves = accelerate(bench.spec, Safe(bench.spec), worn_core(1.0), seed=1, start=0.6, seconds=0.8).runs.moves[0, :, 0]
    assert np.allclose(np.diff(moves)[:3], -0.4)
    assert moves[-1] == 0.9


def test_a_run_that_passes_a_limit_misses_its_bar(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "jepa", lambda self, batch, *_, **__: _Full(self.spec))
    fresh = dataclasses.replace(bench, report=Report("control: turbofan"))
    strange(fresh, healthy=False)
    (_, columns, rows) = fresh.report.tables[-1]
    assert [row[1] for row in rows] == ["yes", "no"] * 3, "with surprise heeded and without"
    assert all(len(row) == len(columns) and row[-1] == 2 for row in rows)
    assert [met for _, met, _ in fresh.report.bars] == [False] * 3


class _Full(Safe):
    """All the fuel there is."""

    def __init__(self, spec: PlantSpec) -> None:
        tags = [
            t.model_copy(update={"move": t.move.model_copy(update={"safe": 5.5})}) if t.move else t for t in spec.tags
        ]
        super().__init__(spec.model_copy(update={"tags": tuple(tags)}))
