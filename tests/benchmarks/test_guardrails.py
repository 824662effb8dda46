"""The scoring of `benchmarks.guardrails`: known coverages, known bars, and one pass over a plant with a model of seconds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import guardrail_scores, guardrails
from benchmarks.guardrail_scores import (
    LABELS,
    Amounts,
    Coverage,
    Watched,
    coverage,
    features,
    hidden_values,
    in_the_loop,
    label_curve,
    margins_of,
    runs_in,
    watched,
)
from benchmarks.guardrails import Found, held_out_table, label_table, measure, shift_table
from benchmarks.report import Report
from benchmarks.world_model_rows import Sizes
from models.calibration import errors_on
from models.config import ModelConfig, TrainingConfig
from models.label_heads import Basis
from models.training import train
from models.windows import Run, channel_scale
from models.world_model import WorldModel
from plant.errors import SpecError
from plant.spec import PlantSpec, load_spec
from simulators.scenario import load_scenario

SMALL = ModelConfig(window=4, latent=8, encoder_width=32, predictor_width=32, head_width=16, horizon=5)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reactor() -> PlantSpec:
    return load_spec("reactor")


@pytest.fixture(scope="module")
def runs(reactor: PlantSpec):
    return runs_in(reactor, load_scenario("excitation", reactor), 24, seed=1, samples=40)


def fitted(plant: str, seed: int, sizes: Sizes, training: TrainingConfig | None = None) -> tuple[WorldModel, Any]:
    """As `benchmarks.trained.trained`, in a second."""
    spec = load_spec(plant)
    asked = runs_in(spec, load_scenario("excitation", spec), sizes.runs, seed=2)
    settings = (training or TrainingConfig()).model_copy(update={"steps": sizes.steps, "batch": 32, "seed": seed})

    class Data:
        training = asked.runs

    return train(spec, asked.runs, asked.runs[:4], SMALL, settings), Data


def test_coverage_counts_what_is_known_and_its_interval_is_by_run() -> None:
    """Every run agrees with itself: twenty runs of fifty samples say as much as twenty samples."""
    run = torch.arange(20).repeat_interleave(50)
    covered = (run < 18)[:, None, None].expand(-1, 2, 1).clone()
    known = torch.ones_like(covered)
    known[:, 1] = (run >= 10)[:, None]
    got = coverage(covered, known, run, torch.ones(2, 1))
    torch.testing.assert_close(got.share[:, 0], torch.tensor([0.9, 0.8]))
    assert got.count[:, 0].tolist() == [1000, 500]
    assert got.runs[:, 0].tolist() == [20, 10]
    assert got.half[0, 0] == pytest.approx(1.96 * math.sqrt(0.09 / 20), rel=1e-4)


def test_margins_are_those_of_the_instruments_and_of_the_labels(reactor: PlantSpec) -> None:
    at = [t.name for t in reactor.measured].index("TI101")
    measured = np.full((3, 3), 1.0)
    measured[:, at] = [320.0, 340.0, 355.0]
    run = Run("excitation", 0.0, measured, np.zeros((3, 2)), np.zeros((3, 1)), np.array([[330.0, np.nan]] * 3))
    got = margins_of(reactor, run)
    assert got[:, 0].tolist() == [30.0, 10.0, -5.0]
    assert got[:, 1].tolist() == [10.5, -9.5, -24.5]
    assert got[:, 2].tolist() == [20.0] * 3
    assert [w.measured for w in watched(reactor)] == [True, True, False]
    assert not any(w.measured for w in watched(load_spec("turbofan")))


def test_batches_are_of_different_plants_and_hold_the_hidden_truth() -> None:
    turbofan = load_spec("turbofan")
    asked = runs_in(turbofan, load_scenario("excitation", turbofan), 60, seed=3, samples=8)
    assert 50 < len(asked.runs) == len(asked.hidden or []) <= 60, "one that surges at once leaves no run"
    assert len({float(r.measured[0, 0]) for r in asked.runs}) == len(asked.runs)
    values = hidden_values(turbofan, asked)
    assert {"FN", "T4", "SM_HPC", "T45_true"} <= set(values)
    at = [t.name for t in turbofan.measured].index("N1")
    shown = torch.tensor(np.concatenate([r.measured[:, at] for r in asked.runs]))
    assert (shown - values["N1_true"]).abs().median() < 30
    rail = [g.tag for g in turbofan.guardrails].index("SM_HPC")
    kept = torch.tensor(np.concatenate([r.hidden[:, rail] for r in asked.runs if r.hidden is not None]))
    torch.testing.assert_close(kept, values["SM_HPC"])


def test_a_scenario_nothing_can_start_in_is_an_error(reactor: PlantSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise SpecError("no steady state", "here", "there")

    monkeypatch.setattr("benchmarks.guardrail_scores.witnessed", refuse)
    with pytest.raises(SpecError, match="no steady state"):
        runs_in(reactor, load_scenario("excitation", reactor), 10, seed=1)


def test_a_loop_adapts_what_it_observes_and_labels_adapt_the_rest(
    reactor: PlantSpec, runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once calibrated, every head turns optimistic by 10 K: margins left alone cover little, adapting ones come back."""
    model, _ = fitted("reactor", 0, Sizes(16, 0, 0, 100))
    errors = errors_on(model, runs.runs, SMALL.horizon)
    with torch.no_grad():
        for heads in (model.limit_heads, model.fallback_heads):
            heads.last.bias.add_(10 / model.margin_scale)
    long = runs_in(reactor, load_scenario("excitation", reactor), 6, seed=4, samples=200)
    before, after = in_the_loop(model, errors, long, [0.9, 0.99], 1000)[0.9]
    seen = before.count[:, 1] > 200
    assert seen.any()
    assert (before.share[seen, 1] < 0.8).all()
    assert (after.share[seen, 1] > 0.85).all()
    monkeypatch.setattr(guardrail_scores, "watched", lambda spec: [Watched("hidden", False)] * 3)
    before, after = in_the_loop(model, errors, long, [0.9], 1000)[0.9]
    assert torch.equal(before.share[seen, 1], after.share[seen, 1]), "nothing is observed, nothing adapts"
    _, told = in_the_loop(model, errors, long, [0.9], 2)[0.9]
    assert (told.share[seen, 1] > before.share[seen, 1] + 0.05).all()


def test_a_label_curve_rises_to_what_can_be_known() -> None:
    g = torch.Generator().manual_seed(0)
    x, x_test = torch.randn(3000, 4, generator=g), torch.randn(1000, 4, generator=g)

    def y(x: torch.Tensor) -> torch.Tensor:
        return 3 * x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * torch.randn(len(x), generator=g)

    curve = label_curve((x, y(x)), (x_test, y(x_test)), Basis.of(x), 3, seed=0)
    assert len(curve) == len(LABELS) + 1
    assert curve[0] < curve[-1]
    assert curve[-1] == pytest.approx(10 / 10.25, abs=0.02)


def known(share: float, count: float = 1e5, margin: float = 1.0, heads: int = 3) -> Coverage:
    full = torch.full((5, heads), share)
    return Coverage(full, full * 0.001, full * 0 + count, full * 0 + 500, full * 0 + margin)


def test_bars_count_what_can_be_judged(reactor: PlantSpec) -> None:
    report, found = Report("test"), Found(reactor)
    found.held = {0.9: [known(0.905), known(0.899)], 0.99: [known(0.97)]}
    held_out_table(report, [found])
    assert report.bars[-1][1:] == (False, "2 (bar <= 1)")
    found.held = {0.9: [known(0.95, margin=0.0)], 0.99: [known(0.5, count=10)]}
    held_out_table(report, [found])
    assert report.bars[-1][1:] == (True, "0 (bar <= 1)"), "a margin of 0 cannot be smaller; too few are not judged"
    found.loops = {
        ("no shift", 0.9): [(known(0.2), known(0.2))],
        ("drift", 0.9): [(known(0.5), known(0.86))],
        ("feed", 0.9): [(known(0.1, count=10), known(0.1, count=10))],
    }
    shift_table(report, [found])
    assert {what.partition("(")[2]: shown.split()[0] for what, _, shown in report.bars[-3:]} == {
        "measured, adapted)": "-4",
        "hidden, margins as calibrated offline)": "-40",
        "hidden, a label every 20 samples)": "-4",
    }
    found.curves = {("TX101", s): [[0.1, 0.5, 0.9, 0.95, 0.99, 1.0]] for s in guardrails.SOURCES}
    label_table(report, [found])
    assert report.bars[-1][1:] == (False, "0.9 (bar >= 0.95)")


def test_one_plant_is_measured_from_end_to_end(tmp_path: Path) -> None:
    asked: list[TrainingConfig | None] = []

    def spy(plant: str, seed: int, sizes: Sizes, training: TrainingConfig | None = None) -> tuple[WorldModel, Any]:
        asked.append(training)
        return fitted(plant, seed, sizes, training)

    found, report = Found(load_spec("reactor")), Report("test")
    measure(found, 0, Sizes(16, 0, 0, 20), Amounts(12, 2, 20, 8, 2), spy)
    held_out_table(report, [found], enough=10)
    shift_table(report, [found], enough=10)
    label_table(report, [found])
    assert {name for name, _ in found.loops} == {"no shift", "drift", "feed", "noise x 3"}
    assert set(found.curves) == {("TX101", s) for s in guardrails.SOURCES}
    assert report.finish(tmp_path / "made.json", check=False) == 0
    assert (tmp_path / "made.md").read_text().count("TX101") == 3
    trained_for = [t and (t.guardrail, t.danger_share) for t in asked]
    assert trained_for == [None, (0.0, 0.0)], "the label curve stands on a latent that no label shaped"


def test_latents_are_of_full_windows_only(reactor: PlantSpec, runs) -> None:
    model = WorldModel(reactor, SMALL, channel_scale(reactor, runs.runs))
    z, full = features(model, runs.runs)
    assert z.shape == (sum(len(r) - SMALL.window + 1 for r in runs.runs), SMALL.latent)
    assert int(full.sum()) == len(z)
    raw, _ = features(model, runs.runs, raw=True)
    assert raw.shape[1] == SMALL.window * 6
