"""The filter finds what no tag shows: a hidden state, a drifted parameter, a disturbance; and NMPC plans with it."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.baselines.ekf import Ekf
from controllers.baselines.nmpc import NmpcController
from controllers.contracts import Observation, Status
from plant.errors import ControlError
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant
from simulators.registry import simulator_of


@pytest.fixture(scope="module")
def dressed() -> PlantSpec:
    return load_spec("reactor")


@pytest.fixture(scope="module")
def vandevusse() -> PlantSpec:
    return load_spec("vandevusse")


def without(spec: PlantSpec, tag: str) -> PlantSpec:
    """The same plant with one tag fewer, and nothing that speaks of it."""
    return spec.model_copy(
        update={
            "tags": tuple(t for t in spec.tags if t.name != tag),
            "targets": tuple(t for t in spec.targets if t.tag != tag),
        }
    )


def watched(spec: PlantSpec, ekf: Ekf, parameters: list[float], samples: int = 80) -> tuple[SimulatedPlant, list]:
    """`ekf` beside two excited plants with noise; the plants and every estimate."""
    plant = SimulatedPlant(spec, 3, 2, Schedule(parameters=np.tile(parameters, (2, 1))))
    rng, found = np.random.default_rng(0), []
    span = np.array([0.1 * (t.move.limits[1] - t.move.limits[0]) for t in spec.mvs if t.move])
    usual = plant.moves.copy()
    for k in range(samples):
        seen = plant.measure()
        y, d = (np.stack([seen[t.name] for t in tags], 1) for tags in (spec.measured, spec.dvs))
        if 20 <= k < 23:
            y[0] = np.nan
        found.append(ekf.update(Observation(0.0, y, d, plant.moves)))
        plant.advance(usual + span * rng.uniform(-1, 1, usual.shape), spec.sample_time_s)
    seen = plant.measure()
    y, d = (np.stack([seen[t.name] for t in tags], 1) for tags in (spec.measured, spec.dvs))
    found.append(ekf.update(Observation(0.0, y, d, plant.moves)))
    return plant, found


def test_finds_a_state_that_no_tag_reads(vandevusse: PlantSpec):
    spec = without(vandevusse, "Ca")
    plant, found = watched(spec, Ekf(spec, simulator_of(spec), substeps=4), [1.0, 1.0])
    assert np.abs(found[-1].x[:, 0] - plant.x[:, 0]).max() < 0.02
    assert np.abs(found[-1].x - plant.x).max() < 0.2


def test_finds_parameters(vandevusse: PlantSpec):
    ekf = Ekf(vandevusse, simulator_of(vandevusse), estimate=("alpha", "beta"), substeps=4)
    _, found = watched(vandevusse, ekf, [1.02, 0.9])
    np.testing.assert_allclose(found[-1].p, np.tile([1.02, 0.9], (2, 1)), atol=0.015)
    assert np.abs(found[0].p - 1.0).max() < 0.2


def test_sees_through_dead_time(dressed: PlantSpec):
    """The analyser shows what was in the reactor a sample ago; the estimate is of now."""
    ekf = Ekf(dressed, simulator_of(dressed), substeps=10)
    assert ekf.equations.delay == [1, 0, 0]
    plant, found = watched(dressed, ekf, [1.0, 1.0])
    late = plant.measure()["AI101"] - plant.x[:, 0]
    assert np.abs(found[-1].x[:, 0] - plant.x[:, 0]).max() < 0.004
    assert np.abs(late).max() > 0.001


@pytest.mark.parametrize(
    ("name", "step", "target"),
    [("reactor", {"Caf": 1.03}, ("AI101", 0.88)), ("vandevusse", {"Ca_in": 5.4}, ("Cb", 0.8))],
)
def test_nmpc_with_wrong_parameters_ends_without_offset(name: str, step: dict, target: tuple, stepped):
    spec, (cv, goal) = load_spec(name), target
    wrong = np.array([[0.9, 1.1]] if name == "reactor" else [[1.03, 0.95]])
    ekf = Ekf(spec, simulator_of(spec), parameters=wrong, substeps=4)
    nmpc = NmpcController(spec, simulator_of(spec), estimator=ekf, horizon=8, suppression=0.5)
    runs = stepped(spec, nmpc, step, {cv: goal}, samples=45, at=18)
    scale = 1e-3 * (spec.tag(cv).range[1] - spec.tag(cv).range[0])
    assert np.abs(runs.true[cv][0, 15:19] - goal).max() < 2 * scale
    assert np.abs(runs.true[cv][0, 20:22] - goal).max() > 4 * scale
    assert np.abs(runs.true[cv][0, -3:] - goal).max() < scale
    assert {s for at in runs.status for s in at} == {Status.OPTIMAL}


def test_nmpc_keeps_the_limit_and_tracks_with_noise_and_a_hidden_state(vandevusse: PlantSpec, stepped):
    spec = without(vandevusse, "T_K")
    ekf = Ekf(spec, simulator_of(spec), substeps=4)
    nmpc = NmpcController(spec, simulator_of(spec), estimator=ekf, horizon=8, suppression=0.5)
    runs = stepped(spec, nmpc, {"Ca_in": 5.4}, {"Cb": 0.8, "T_R": 138.0}, samples=45, at=18, noise=1.0)
    assert runs.worst["high_temperature"].max() < 140.0
    assert np.abs(runs.true["Cb"][0, -15:] - 0.8).mean() < 0.005
    assert np.abs(runs.true["T_R"][0, -15:].mean() - 138.0) < 0.5


def test_without_measurement_or_read_back_there_is_no_answer(dressed: PlantSpec, asked):
    nmpc = NmpcController(dressed, simulator_of(dressed), estimator=Ekf(dressed, simulator_of(dressed), substeps=4))
    assert nmpc.decide(*asked(dressed, [0.87, 324.5, 300.0], [300.0], 0.87)).status == (Status.OPTIMAL,)
    part = nmpc.decide(*asked(dressed, [np.nan, 324.5, 300.0], [300.0], 0.87))
    assert part.status == (Status.OPTIMAL,)
    for measured, applied in (([np.nan] * 3, [300.0]), ([0.87, 324.5, 300.0], [np.nan])):
        lost = nmpc.decide(*asked(dressed, measured, applied, 0.87))
        assert lost.status == (Status.INFEASIBLE,)
        assert lost.moves[0, 0] == 290.0
    assert nmpc.decide(*asked(dressed, [0.87, 324.5, 300.0], [300.0], 0.87)).status == (Status.OPTIMAL,)


def test_what_cannot_be_told_apart_is_refused(dressed: PlantSpec, bare: PlantSpec):
    for estimate in (("nothing",), ("Ti",), ("UA", "k0", "Caf")):
        with pytest.raises(ControlError, match="cannot estimate"):
            Ekf(bare, simulator_of(bare), estimate=estimate, substeps=1)
    with pytest.raises(ControlError, match="no tag reads Ca as it is now"):
        NmpcController(dressed, simulator_of(dressed), substeps=1)
    ekf = Ekf(bare, simulator_of(bare), substeps=1)
    with pytest.raises(ControlError, match="parameters beside an estimator"):
        NmpcController(bare, simulator_of(bare), estimator=ekf, parameters=np.ones((1, 2)))
