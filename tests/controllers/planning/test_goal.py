"""The goal energy: goals read from history, its convex model, and the same steady state as the decoded energy where it must."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from controllers.contracts import Array, Observation, Targets
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.goal import Goal, RestingHistory, whitening
from controllers.planning.mpc import JepaMpc
from homeostat.lockstep import excitation_run
from models.config import ModelConfig
from models.windows import Run, Scale
from models.world_model import Mlp, WorldModel
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.plant import SimulatedPlant

from .conftest import runs_of

GOAL = PlannerConfig(horizon=12, effort=0.0, iterations=2, energy="goal")
# Around Ca .87, T 324.5 under a feed at 350 and a jacket at 300: y+ = A y + B (move, feed), in deviations.
A = np.array([[0.8, -0.002], [20.0, 0.5]])
B = np.array([[-0.008, -0.001], [0.6, 0.2]])
REST = np.array([0.87, 324.5])


def stepped(y: Array, move: Array, feed: Array) -> Array:
    """One sample of the linear plant (n x 2)."""
    return REST + (y - REST) @ A.T + np.column_stack([move - 300.0, feed - 350.0]) @ B.T


def linear_runs(spec: PlantSpec, count: int = 20, n: int = 60) -> list[Run]:
    """Runs of the linear plant under moves and feeds held for a few samples; it never rests."""
    rng = np.random.default_rng(0)
    u, d = (np.repeat(rng.normal(c, s, (n // 4, count)), 4, 0) for c, s in ((300.0, 1.5), (350.0, 2.0)))
    y = [np.tile(REST, (count, 1))]
    for k in range(1, n):
        y.append(stepped(y[-1], u[k], d[k - 1]))
    full = np.stack(y, 1)
    nothing = np.full((n, len(spec.guardrails)), np.nan)
    return [Run("excitation", 0.0, full[i], d[:, i, None], u[:, i, None], nothing) for i in range(count)]


@pytest.fixture(scope="module")
def linear(bare: PlantSpec) -> WorldModel:
    """The linear plant's own equations as a world model, its latent a mixture of the two measurements."""
    mean, std = np.array([*REST, 350.0, 300.0]), np.array([0.02, 2.0, 2.0, 1.5])
    model = WorldModel(bare, ModelConfig(window=2, latent=2, horizon=12), Scale(mean, std))
    mix = np.array([[1.0, 0.5], [-0.3, 0.8]])
    back, y, other = np.linalg.inv(mix), np.diag(std[:2]), np.diag(std[[3, 2]])
    a, b = np.linalg.inv(y) @ A @ y, np.linalg.inv(y) @ B @ other

    def only_linear(net: Mlp, weight: Array) -> None:
        net.last.weight.zero_()
        net.last.bias.zero_()
        net.linear.weight.copy_(torch.tensor(weight))

    with torch.no_grad():
        encoder = np.zeros((2, 16))
        encoder[:, 4:6] = mix  # values of the window's last sample; the masks come behind
        only_linear(model.encoder, encoder)
        only_linear(model.predictor, np.concatenate([mix @ a @ back - np.eye(2), mix @ b], 1))
        model.read_out_head.weight.copy_(torch.tensor(back))
        model.read_out_head.bias.zero_()
        for heads in (model.limit_heads, model.fallback_heads):
            only_linear(heads, np.zeros((1, 2)))
            heads.last.bias.fill_(1.0)  # all is safe
    return model.eval()


def closed(controller: JepaMpc, target: float, feed: float = 350.0, load: float = 0.0, samples: int = 40) -> Array:
    """The linear plant's measurements (samples x 2) under `controller`; `load` K a sample are added by nobody knows what."""
    low, high = limits_of(controller.spec)
    targets, y, move, seen = Targets(np.full((1, 1, 1), target), low, high), REST[None], np.array([[300.0]]), []
    controller.reset()
    for _ in range(samples):
        move = controller.decide(Observation(0.0, y, np.array([[feed]]), move), targets).moves
        y = stepped(y, move[:, 0], np.array([feed])) + np.array([0.0, load])
        seen.append(y[0])
    return np.array(seen)


@pytest.mark.parametrize(("target", "feed"), [(0.88, 350.0), (0.86, 351.0)])
def test_both_energies_rest_where_a_linear_plant_meets_its_target(
    bare: PlantSpec, linear: WorldModel, target: float, feed: float
) -> None:
    goal = Goal.from_runs(linear, linear_runs(bare))
    ends = [
        closed(JepaMpc(linear, GOAL.model_copy(update={"energy": energy}), goal=goal), target, feed)[-1]
        for energy in ("decoded", "goal")
    ]
    assert ends[0][0] == pytest.approx(target, abs=1e-4)
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)


def test_a_goal_is_read_from_a_history_without_rest(bare: PlantSpec, linear: WorldModel) -> None:
    """What holds the linear plant at a target, from its equations and from its history."""
    history = RestingHistory(linear, linear_runs(bare))
    found = history(torch.tensor([[0.875], [0.865]]).double(), torch.tensor([[350.0], [351.0]]).double()).numpy()
    for row, (ca, feed) in zip(found, [(0.875, 350.0), (0.865, 351.0)], strict=True):
        assert row[[0, 2]] == pytest.approx([ca, feed])
        assert stepped(row[None, :2], row[3:], row[2:3])[0] == pytest.approx(row[:2], abs=2e-3)


def test_a_history_of_nothing_is_refused(bare: PlantSpec, linear: WorldModel) -> None:
    with pytest.raises(ControlError, match=r"whole samples of history.*goal window"):
        RestingHistory(linear, linear_runs(bare, count=1, n=8))


def test_whitened_latents_have_unit_covariance(bare: PlantSpec, linear: WorldModel) -> None:
    runs = linear_runs(bare)
    windows = torch.from_numpy(np.concatenate([np.concatenate([r.measured, r.dvs, r.applied], 1)[1:] for r in runs]))
    z = linear.encode(windows.float()[:, None].expand(-1, 2, -1)).detach().double() @ whitening(linear, runs).T
    torch.testing.assert_close(torch.cov(z.T), torch.eye(2).double(), rtol=1e-4, atol=1e-4)


def test_a_model_wrong_by_a_constant_still_ends_at_the_goal(bare: PlantSpec, linear: WorldModel) -> None:
    wrong = copy.deepcopy(linear)
    with torch.no_grad():
        wrong.predictor.last.bias += 0.05
    goal = Goal.from_runs(wrong, linear_runs(bare))
    blind, correcting = (
        JepaMpc(wrong, GOAL.model_copy(update={"bias_filter": share}), goal=goal) for share in (0.0, 0.2)
    )
    assert abs(closed(blind, 0.88)[-1, 0] - 0.88) > 1e-3
    assert abs(closed(correcting, 0.88, samples=60)[-1, 0] - 0.88) < 1e-4


def test_an_unknown_load_keeps_an_offset_that_the_decoded_energy_removes(bare: PlantSpec, linear: WorldModel) -> None:
    """What the docstring says it cannot do: under the load no move leads to the latent that history shows."""
    goal = Goal.from_runs(linear, linear_runs(bare))
    offset = [
        abs(
            closed(JepaMpc(linear, GOAL.model_copy(update={"energy": energy}), goal=goal), 0.88, load=0.3)[-1, 0] - 0.88
        )
        for energy in ("decoded", "goal")
    ]
    assert offset[0] < 1e-3
    assert offset[1] > 2e-3


def test_the_convex_model_is_the_energy_of_a_linear_plant(bare: PlantSpec, linear: WorldModel) -> None:
    """Gauss-Newton of a quadratic in a linear roll-out is exact: energy before and after any change of the moves."""
    controller = JepaMpc(linear, GOAL, goal=Goal.from_runs(linear, linear_runs(bare)))
    low, high = limits_of(bare)
    z = controller.model.encode(controller.model.channel_mean.expand(1, 2, -1))
    problem = controller._problem(
        z, torch.full((1, 1), 300.0).double(), Targets(np.full((1, 1, 1), 0.88), low, high), None
    )
    planner, rng = controller.planner, torch.Generator().manual_seed(0)
    moves, change = (torch.rand(1, 12, 1, generator=rng).double() for _ in range(2))
    before, inputs = planner.roll(problem, moves)
    after, _ = planner.roll(problem, moves + change)
    found = planner.energy.convex(before, problem, planner.sensitivity(inputs), torch.zeros(2, 2))
    x = change.flatten()
    step = 0.5 * x @ found.p[0] @ x + found.q[0] @ x
    torch.testing.assert_close(
        planner.energy.tracking(after, problem) - planner.energy.tracking(before, problem), step[None]
    )


@pytest.mark.parametrize("target", [0.86, 0.89])
def test_the_reactor_reaches_its_target_with_the_goal_energy(
    bare: PlantSpec, trained: WorldModel, target: float
) -> None:
    runs = runs_of(bare, excitation_run(bare, 64, 60, seed=1))
    controller = JepaMpc(trained, GOAL, goal=Goal.from_runs(trained, runs))
    low, high = limits_of(bare)
    seen = close_loop(
        controller, SimulatedPlant(bare, 0, 1, noise=0.0), np.full((70, 1), target), preview=False, move_low=low,
        move_high=high, first_move=np.array([300.0]), scans=1,
    ).true["Ca"][0, -20:]  # fmt: skip
    assert np.abs(seen - target).max() < 0.012


def test_a_goal_window_may_be_given(bare: PlantSpec, linear: WorldModel) -> None:
    """One of the caller's own, latents as they are: the linear plant rests at the state it shows."""
    rest = np.linalg.solve(np.eye(2) - A, B[:, 0])  # by one kelvin of the jacket
    sample = torch.tensor([[*(REST + rest), 350.0, 301.0]]).double()
    goal = Goal(lambda targets, dvs: sample.expand(len(targets), -1))
    assert closed(JepaMpc(linear, GOAL, goal=goal), 0.5)[-1] == pytest.approx(REST + rest, rel=1e-4)


def test_a_goal_is_asked_for(linear: WorldModel) -> None:
    with pytest.raises(ControlError, match=r"energy: goal without a goal.*Give the controller a Goal"):
        JepaMpc(linear, GOAL)
