"""Two-rate planning: strides of the macro predictor, the sub-goals handed down, and what the control layer makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.two_rate import bounds, chosen
from benchmarks.two_rate_bench import QUICK, TASKS, Bench, excitation
from benchmarks.two_rate_planning import Macro, OracleLayer, SlowLayer, TwoRateMpc
from controllers.contracts import Observation, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.problem import Problem
from models.windows import Run
from plant.errors import ControlError, ModelError

N = 5


@pytest.fixture(scope="module")
def bench() -> Bench:
    torch.set_num_threads(1)
    return Bench("reactor_bare", QUICK)


@pytest.fixture(scope="module")
def runs(bench: Bench) -> list[Run]:
    return excitation(bench.spec, 8, 1, held=True)


def seen(bench: Bench, level: float) -> tuple[Observation, Targets]:
    low, high = limits_of(bench.spec)
    now = Observation(0.0, np.array([[0.87, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
    return now, Targets(np.full((1, 60, 1), level), low, high)


def test_a_stride_of_one_sample_is_the_models_own(bench: Bench, runs: list[Run]) -> None:
    data = Macro(bench.model, runs, 1, 15)
    sure = data.sure[:, -1, 0] > 0
    assert sure.any()
    with torch.no_grad():
        rolled = bench.model.read_out_head(data.rolled(bench.model))
    missed = (rolled - data.y[:, 1:])[sure].square().mean() / data.y.var()
    assert missed < 0.05


def test_held_moves_are_constant_within_a_stride(runs: list[Run]) -> None:
    run = max(runs, key=len)
    strides = run.applied[1 : 1 + len(run.applied[1:]) // N * N].reshape(-1, N)
    whole = np.isfinite(strides).all(1)
    assert (np.ptp(strides[whole], axis=1) < 1e-9).mean() > 0.7  # interlocks and rate limits see to the rest


def test_runs_too_short_for_the_strides_are_refused(bench: Bench, runs: list[Run]) -> None:
    with pytest.raises(ModelError, match="no run of 501 samples"):
        Macro(bench.model, runs, N, 100)


def test_sub_goals_are_asked_for_every_n_samples_and_slide(bench: Bench) -> None:
    task = TASKS["reactor_bare"][0]
    controller = bench.two_rate(task, ("latent", 1.0), oracle=False)
    now, targets = seen(bench, 0.9)
    goals, paths, goal_of = [], [], controller._goal

    def noted(problem: Problem) -> torch.Tensor:
        goals.append(goal_of(problem) + controller._missed)
        return goal_of(problem)

    controller._goal = noted  # type: ignore[method-assign]
    for _ in range(N + 1):
        controller.decide(now, targets)
        paths.append(controller._path)
    assert all(path is paths[0] for path in paths[:N])
    assert paths[N] is not paths[0]
    assert paths[0].shape == (1, 2 * N, bench.model.config.latent)
    torch.testing.assert_close(goals[1][:, :-1], goals[0][:, 1:])


def test_oracle_sub_goals_are_where_the_true_plant_will_be(bench: Bench) -> None:
    task = TASKS["reactor_bare"][0]
    layer = OracleLayer(bench.model, bench.nmpc(task, 20), N)
    now, targets = seen(bench, 0.9)
    window = torch.from_numpy(np.hstack([now.measured, now.dvs, now.applied]))[:, None]
    window = window.expand(-1, bench.model.config.window, -1)
    path = layer.path(layer.model.encode(window), window, now, targets)
    read = layer.model.read_out(path)[0]
    assert read[-1, 0].item() == pytest.approx(0.9, abs=0.005)
    assert read[0, 0].item() < 0.895


@pytest.mark.parametrize("weight", [None, 100.0])
def test_the_control_layer_goes_where_the_sub_goal_lies(bench: Bench, weight: float | None) -> None:
    """Sub-goals of an oracle that was asked for another level than the control layer win when they weigh enough."""
    task = TASKS["reactor_bare"][0]
    now, up = seen(bench, 0.9)
    _, down = seen(bench, 0.84)
    moves = []
    for asked in (up, down):
        controller = bench.two_rate(task, ("decoded", weight), oracle=True)
        layer = controller.layer
        assert isinstance(layer, OracleLayer)
        path = layer.path

        def instead(z, window, observation, targets, path=path, asked=asked):
            return path(z, window, observation, asked)

        layer.path = instead  # type: ignore[method-assign]
        moves.append(controller.decide(now, up).plan[0, :, 0].mean())
    assert moves[0] < moves[1] - 0.3  # colder for more Ca


def test_a_control_horizon_past_the_sub_goals_is_refused(bench: Bench) -> None:
    task = TASKS["reactor_bare"][0]
    layer = SlowLayer(bench.macro, N, bench.config(task), bench.calibration.margins)
    with pytest.raises(ControlError, match="sub-goals 5 apart"):
        TwoRateMpc(
            bench.model, layer, bench.config(task, horizon=15), bench.calibration, bench.metric["latent"], None
        )  # fmt: skip


def test_seeds_decide_the_levels_and_runs_are_scored(bench: Bench) -> None:
    task = TASKS["reactor_bare"][1]
    one, other = (task.targets(bench.spec, s, 60) for s in (1, 2))
    assert (one == task.targets(bench.spec, 1, 60)).all()
    assert (one != other).any()
    scores, worst, samples = bench.run(task, bench.flat(task, batch=2), 5, 2, 40)
    assert scores.shape == worst.shape == samples.shape == (2,)
    assert (scores < 0).all()
    assert (worst == 0).all()
    lazy = bench.run(task, bench.flat(task, horizon=1, batch=2), 5, 2, 40)[0]
    assert scores.mean() > lazy.mean()


def test_bounds_hold_the_mean() -> None:
    low, high = bounds(np.array([1.0, 2.0, 3.0]))
    assert low == pytest.approx(2 - 4.303 / 3**0.5, abs=1e-3)
    assert high == pytest.approx(4 - low)


def test_the_best_on_validation_is_chosen() -> None:
    assert chosen([1, 2, 3], lambda v: -abs(v - 2.0)) == 2


def test_flat_planning_past_its_validation_keeps_the_last_margins(bench: Bench) -> None:
    task = TASKS["reactor_bare"][0]
    controller = bench.flat(task, horizon=20, blocks=(1, 19))
    assert controller.calibration.margins.shape[0] == 20
    torch.testing.assert_close(controller.calibration.margins[19], bench.calibration.margins[14])
    assert bench.model.config.horizon == 15
