"""The scoring of `benchmarks.world_model`: known predictors, known matrices. Nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import world_model_rows as rows_module
from benchmarks.report import Report
from benchmarks.world_model import compare, jobs_of, overall
from benchmarks.world_model_data import SHIFTS, _merged, missing, witnessed
from benchmarks.world_model_rows import DEFAULT, Job, Row, Sizes, measured, rows_of
from benchmarks.world_model_scores import (
    STEPS,
    Questions,
    action_gain,
    mode_error,
    nrmse,
    plain,
    plant_modes,
    probe_r2,
    response_modes,
    window_at_rest,
)
from models.config import ModelConfig
from models.rivals.contract import Forecaster
from models.rivals.persistence import Persistence
from models.windows import Run, Scale
from plant.spec import PlantSpec, load_spec
from simulators.registry import simulator_of
from simulators.scenario import load_scenario, scenario_of


class Known(Forecaster):
    """Answers what a function says, in normalised units."""

    def __init__(self, spec: PlantSpec, answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        n = len(spec.measured) + len(spec.dvs) + len(spec.mvs)
        super().__init__(spec, ModelConfig(), Scale(np.zeros(n), np.ones(n)))
        self._answer = answer

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        return self._answer(values, u, d)


@pytest.fixture(scope="module")
def spec() -> PlantSpec:
    return load_spec("reactor_bare")


def ramps(spec: PlantSpec, length: int = 50, count: int = 4) -> list[Run]:
    """Runs in which measurements climb by the move of each step, 1 or 2, and the feed counts the samples."""
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(count):
        u = rng.integers(1, 3, (length, 1)).astype(float)
        y = np.cumsum(u, axis=0) @ np.ones((1, len(spec.measured)))
        d = np.arange(length, dtype=float)[:, None] @ np.ones((1, len(spec.dvs)))
        runs.append(Run("excitation", 0.0, y, d, u, np.full((length, 1), np.nan)))
    return runs


def test_a_perfect_predictor_has_no_error(spec: PlantSpec) -> None:
    questions = Questions.of(plain(ramps(spec)), window=8)
    # The indices with it: the first move is the next sample's, the first disturbance is the window's last.
    model = Known(spec, lambda values, u, d: values[:, -1:, :2] + u.cumsum(1))
    assert np.abs(nrmse(model, questions, np.ones(2))).max() < 1e-5
    assert torch.equal(questions.d[:, 0], questions.window[:, -1, 2:3])
    assert action_gain(model, questions, np.ones(2)) > 1e3


def test_persistence_is_wrong_by_what_happened(spec: PlantSpec) -> None:
    runs = ramps(spec)
    scale = Scale(np.zeros(4), np.ones(4))
    questions = Questions.of(plain(runs), window=8)
    found = nrmse(Persistence(spec, ModelConfig(), scale), questions, np.full(2, 2.0))
    for row, k in zip(found, STEPS, strict=True):
        moved = np.concatenate([r.measured[7 + k :, 0] - r.measured[7 : len(r) - k, 0] for r in runs])
        assert row == pytest.approx([np.sqrt((moved**2).mean()) / 2.0] * 2, rel=1e-5)
    assert action_gain(Persistence(spec, ModelConfig(), scale), questions, np.ones(2)) == pytest.approx(1.0)


def test_nothing_counts_past_an_unknown_move_or_the_end(spec: PlantSpec) -> None:
    run = ramps(spec, count=1)[0]
    run.applied[20] = np.nan
    questions = Questions.of(plain([run]), window=8)
    counted = questions.counted.numpy()
    assert counted[0].sum() == 12  # from sample 7: 8 to 19
    assert counted[20 - 7].sum() == 29  # 21 to 49, the last one there is
    assert counted[-1].sum() == 1
    assert bool(torch.isfinite(questions.u).all())


def test_the_probe_finds_what_is_linear_and_only_that() -> None:
    rng = np.random.default_rng(0)
    z, z_test = rng.standard_normal((500, 3)), rng.standard_normal((500, 3))

    def states(z: np.ndarray) -> np.ndarray:
        return np.column_stack([z @ [1.0, -2.0, 0.5] + 300.0, z[:, 0] ** 2, np.full(len(z), 5.0)])

    r2 = probe_r2(z, states(z), z_test, states(z_test))
    assert r2[0] > 0.999
    assert r2[1] < 0.1
    assert np.isnan(r2[2])


@pytest.mark.parametrize("matrix", [[[0.9, 0.2], [-0.2, 0.7]], [[0.6, 0.3], [-0.3, 0.6]]])
def test_the_impulse_response_of_a_known_matrix_tells_its_eigenvalues(spec: PlantSpec, matrix: list) -> None:
    a, b = torch.tensor(matrix), torch.tensor([[1.0, 0.5], [0.3, -1.0]])  # inputs: the move, the feed

    def answer(values: Tensor, u: Tensor, d: Tensor) -> Tensor:
        x, out = values[:, -1, :2], []
        for i in range(u.shape[1]):
            x = x @ a.T + torch.cat([u[:, i], d[:, i]], 1) @ b.T
            out.append(x)
        return torch.stack(out, 1)

    window = window_at_rest(np.zeros(3), [0.0], 8)
    true = np.linalg.eigvals(np.array(matrix)).astype(complex)
    assert mode_error(response_modes(Known(spec, answer), window, 2), true) < 1e-3


def test_eigenvalues_are_paired_one_to_one_and_fast_ones_left_out() -> None:
    true = np.array([0.9, 0.8, 0.01], complex)
    assert mode_error(np.array([0.8, 0.3, 0.9], complex), true) == pytest.approx(0.0)
    assert mode_error(np.array([0.9, 0.9], complex), true) == pytest.approx(0.125)
    assert mode_error(np.array([0.9], complex), true) == np.inf


def test_a_stable_point_of_the_plant(spec: PlantSpec) -> None:
    outputs, eigenvalues = plant_modes(spec, simulator_of(spec), (300.0,))
    assert outputs == pytest.approx([0.87725, 324.475, 350.0], abs=1e-3)
    assert sorted(eigenvalues.imag) == pytest.approx([-0.14687, 0.14687], abs=1e-4)


@pytest.mark.parametrize("plant", [p for p in SHIFTS if not missing(p)])
def test_every_shift_is_a_scenario_of_its_plant(plant: str) -> None:
    spec = load_spec(plant)
    usual = load_scenario("excitation", spec)
    for changes in _merged(usual, SHIFTS[plant]).values():
        scenario_of(usual.model_dump(exclude_defaults=True) | changes).check(spec)


def test_the_truth_stands_beside_the_readings(spec: PlantSpec) -> None:
    asked = witnessed(spec, load_scenario("excitation", spec), 6, seed=1, noise=3.0)
    assert asked.states is not None
    noise = np.concatenate([r.measured - t for r, t in zip(asked.runs, asked.truth, strict=True)])
    assert noise.std(0) == pytest.approx([3 * t.noise for t in spec.measured], rel=0.25)
    assert np.concatenate(asked.states)[:, :2] == pytest.approx(np.concatenate(asked.truth))


def test_finished_rows_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(rows_module, "measure", lambda job, data: calls.append(job) or {"nrmse": 1.0})
    job = Job("reactor_bare", Row("persistence", "persistence"), 0, Sizes(4, 4, 2, 1))
    first, again = measured(job, tmp_path), measured(job, tmp_path)
    other = measured(Job("reactor_bare", Row("persistence", "persistence"), 1, Sizes(4, 4, 2, 1)), tmp_path)
    assert first == again == other
    assert len(calls) == 2
    assert all(json.loads(p.read_text()) == first for p in tmp_path.glob("*.json"))


def test_the_best_rival_is_the_one_to_beat() -> None:
    def facts(error: float) -> list[dict]:
        return [{"nrmse": {"held-out": [[error, error]] * len(STEPS)}}]

    report = Report("test")
    rows = {DEFAULT: facts(0.104), "arx": facts(0.2), "gru": facts(0.1), "random encoder": facts(0.01)}
    compare(report, {"reactor_bare": rows})
    assert overall(rows["gru"], "held-out").tolist() == [[0.1] * 4]
    assert [met for _, met, _ in report.bars] == [True, False]
    assert report.tables[0][2][0][4] == "gru"


def test_full_holds_every_order_and_way_against_collapse_once() -> None:
    names = [r.name for r in rows_of("full", ablations=True)]
    assert len(names) == len(set(names))
    pairs = [f"{o} {a}" for o in ("joint", "decoupled") for a in ("sigreg", "vicreg", "ema")]
    assert all(any(n.startswith(p) for n in names) for p in pairs)
    jobs = jobs_of(["reactor", "glucose"], rows_of("core", ablations=False), 3, Sizes(1, 1, 1, 1))
    assert sum(j.row.name == "arx" for j in jobs) == 2
    assert sum(j.row.name == "gru" for j in jobs) == 6
