"""A policy cloned from a PID's recorded moves does what the PID did, and refuses what it cannot answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controllers.baselines.clone import ClonedPolicy, Policy, load_policy, save_policy, train_policy
from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from models.config import TrainingConfig
from models.windows import Run
from plant.errors import ModelError
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant

LOOP = PidLoop(mv="Tc", pv="Ca", gain=-120.0, integral_s=90.0)
QUICK = TrainingConfig(steps=200, batch=96)


@pytest.fixture(scope="module")
def recorded(bare: PlantSpec) -> Trajectories:
    """Two dozen plants under PID: target steps, and feed steps that nobody measures."""
    batch, samples = 24, 80
    rng = np.random.default_rng(5)
    goals = np.repeat(rng.uniform(0.84, 0.90, (batch, samples // 20, 1)), 20, 1)
    levels = np.tile([350.0, 1.0, 100.0], (samples, batch, 1))
    levels[..., 1] = np.repeat(rng.uniform(0.97, 1.03, (samples // 20, batch)), 20, 0)
    x0 = np.stack([rng.uniform(0.85, 0.89, batch), rng.uniform(322.0, 327.0, batch)], 1)
    schedule = Schedule(np.arange(samples, dtype=np.float64) * bare.sample_time_s, levels)
    plant = SimulatedPlant(bare, 5, batch, schedule, 1.0, x0)
    low, high = limits_of(bare)
    return close_loop(
        PidController(bare, (LOOP,)), plant, goals, preview=False, move_low=low, move_high=high,
        first_move=np.array([300.0]), scans=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def policy(bare: PlantSpec, recorded: Trajectories) -> Policy:
    runs = recorded.runs(bare)
    return train_policy(bare, runs, [recorded.targets[i, : len(r)] for i, r in enumerate(runs)], QUICK)


def test_does_what_the_pid_did(policy: Policy, bare: PlantSpec, stepped):
    """Tracks, and takes out an unmeasured feed step it has seen the like of: all that is asked of a clone."""
    options = {"samples": 90, "at": 40, "batch": 2}
    clone = stepped(bare, ClonedPolicy(policy, 2), {"Caf": 1.03}, {"Ca": 0.88}, **options).true["Ca"]
    pid = stepped(bare, PidController(bare, (LOOP,)), {"Caf": 1.03}, {"Ca": 0.88}, **options).true["Ca"]
    assert np.abs(clone[:, 30:41] - 0.88).max() < 2e-3
    assert np.abs(clone[:, 41] - 0.88).max() > 5e-3
    assert np.abs(clone[:, -5:] - 0.88).max() < 2e-3
    assert np.abs(clone - pid).max() < 6e-3


def test_the_same_seed_gives_the_same_policy(bare: PlantSpec, recorded: Trajectories):
    runs = recorded.runs(bare)[:6]
    goals = [recorded.targets[i, : len(r)] for i, r in enumerate(runs)]
    first, again, other = (
        train_policy(bare, runs, goals, QUICK.model_copy(update={"steps": 5, "seed": seed})) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.net.last.weight.detach(), again.net.last.weight.detach())
    assert (first.net.last.weight != other.net.last.weight).any()


def test_limits_and_rate_hold(policy: Policy):
    controller = ClonedPolicy(policy, 3)
    measured, applied = np.tile([[0.95, 320.0]], (3, 1)), np.array([[300.0], [309.0], [295.0]])
    low, high = np.array([296.0]), np.array([300.5])
    question = Observation(0.0, measured, np.full((3, 1), 350.0), applied), Targets(np.full((3, 1, 1), 0.82), low, high)
    moves = controller.decide(*question).moves
    assert moves[0, 0] == 300.5
    assert moves[1, 0] == 300.5
    assert moves[2, 0] >= 296.0


def test_missing_measurements(policy: Policy, bare: PlantSpec, asked):
    controller = ClonedPolicy(policy)
    assert controller.decide(*asked(bare, [0.87, 324.5], [300.0], 0.87)).status == (Status.FEASIBLE,)
    part = controller.decide(*asked(bare, [0.87, np.nan], [300.0], 0.87))
    assert part.status == (Status.FEASIBLE,)
    for measured, applied in (([np.nan, np.nan], [300.0]), ([0.87, 324.5], [np.nan])):
        lost = controller.decide(*asked(bare, measured, applied, 0.87))
        assert lost.status == (Status.INFEASIBLE,)
        assert lost.moves[0, 0] == 290.0
    assert controller.decide(*asked(bare, [0.87, 324.5], [300.0], 0.87)).status == (Status.FEASIBLE,)


def test_comes_back_from_its_folder(policy: Policy, bare: PlantSpec, tmp_path: Path, asked):
    save_policy(tmp_path, policy)
    question = asked(bare, [0.86, 325.0], [299.0], 0.88)
    moves = [ClonedPolicy(p).decide(*question).moves for p in (policy, load_policy(tmp_path, bare))]
    np.testing.assert_array_equal(moves[0], moves[1])
    with pytest.raises(ModelError, match="another plant"):
        load_policy(tmp_path, load_spec("reactor"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="damaged"):
        load_policy(tmp_path, bare)


def test_records_that_teach_nothing_are_refused(bare: PlantSpec):
    run = Run(
        "control", 0.0, np.full((9, 2), 1.0), np.full((9, 1), 350.0), np.full((9, 1), 300.0), np.full((9, 1), np.nan)
    )
    with pytest.raises(ModelError, match="run 0 has 9 samples"):
        train_policy(bare, [run], [np.ones((8, 1))], QUICK)
    with pytest.raises(ModelError, match="1 runs, 0 targets"):
        train_policy(bare, [run], [], QUICK)
    with pytest.raises(ModelError, match="no sample is followed"):
        train_policy(bare, [run], [np.full((9, 1), np.nan)], QUICK)
