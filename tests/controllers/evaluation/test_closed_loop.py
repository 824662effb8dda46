"""The evaluator shows every controller the same plant: what is seen when, what is kept, what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.contracts import Decision, Observation, Status, Targets
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from plant.spec import PlantSpec, load_spec
from simulators.conditions import Schedule
from simulators.plant import SimulatedPlant

LOW, HIGH = np.array([290.0]), np.array([310.0])


class Fixed:
    """Holds given moves (n x batch), and keeps everything it was shown."""

    def __init__(self, moves: np.ndarray, horizon: int = 4) -> None:
        self.horizon, self._moves = horizon, moves
        self.seen: list[tuple[Observation, Targets]] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        moves = self._moves[len(self.seen)][:, None].astype(float)
        self.seen.append((observation, targets))
        batch = len(moves)
        nothing = np.zeros((batch, 1, 0))
        return Decision(
            moves, moves[:, None], nothing, nothing, np.zeros((1, 0)), (), (Status.FEASIBLE,) * batch,
            np.zeros(batch), np.zeros((batch, 0)), 0.25,
        )  # fmt: skip


@pytest.fixture(scope="module")
def bare() -> PlantSpec:
    return load_spec("reactor_bare")


def loop(spec: PlantSpec, controller: Fixed, targets: np.ndarray, **options) -> Trajectories:
    batch = controller._moves.shape[1]
    plant = options.pop("plant", None) or SimulatedPlant(spec, 0, batch, noise=0.0)
    fixed = {"preview": False, "move_low": LOW, "move_high": HIGH, "first_move": np.array([300.0])}
    return close_loop(controller, plant, targets, **{**fixed, **options})


def test_the_loop_is_the_plant_advanced_by_hand(bare: PlantSpec) -> None:
    moves = np.array([[300.0, 295.0], [302.0, 296.0], [301.0, 297.0]])
    runs = loop(bare, Fixed(moves), np.full((3, 1), 0.87))
    plant = SimulatedPlant(bare, 0, 2, noise=0.0)
    for k in range(3):
        for name, value in plant.true_outputs().items():
            np.testing.assert_array_equal(runs.true[name][:, k], value)
        for _ in range(13):
            plant.advance(moves[k][:, None], bare.sample_time_s / 13)
    np.testing.assert_array_equal(runs.true["Ca"][:, 3], plant.true_outputs()["Ca"])
    np.testing.assert_array_equal(runs.moves[..., 0], moves.T)
    assert runs.true["T"].shape == (2, 4)
    assert (runs.solve_s == 0.25).all()
    assert runs.status == [(Status.FEASIBLE,) * 2] * 3


def test_applied_is_the_move_of_the_sample_before(bare: PlantSpec) -> None:
    controller = Fixed(np.array([[301.0], [302.0], [303.0]]))
    runs = loop(bare, controller, np.full((3, 1), 0.87), first_move=np.array([299.0]))
    np.testing.assert_array_equal(runs.applied[0, :, 0], [299.0, 301.0, 302.0])
    assert [o.applied[0, 0] for o, _ in controller.seen] == [299.0, 301.0, 302.0]
    assert [o.time_s for o, _ in controller.seen] == [0.0, 26.0, 52.0]
    assert controller.resets == 1


@pytest.mark.parametrize("preview", [False, True])
def test_preview_shows_what_is_ahead_and_only_then(bare: PlantSpec, preview: bool) -> None:
    controller = Fixed(np.full((4, 1), 300.0), horizon=3)
    loop(bare, controller, np.array([[0.85], [0.86], [0.87], [0.88]]), preview=preview)
    seen = [t.values[0, :, 0].tolist() for _, t in controller.seen]
    if preview:
        assert seen == [[0.85, 0.86, 0.87], [0.86, 0.87, 0.88], [0.87, 0.88, 0.88], [0.88, 0.88, 0.88]]
    else:
        assert seen == [[v] * 3 for v in (0.85, 0.86, 0.87, 0.88)]


def test_each_plant_may_have_its_own_targets(bare: PlantSpec) -> None:
    controller = Fixed(np.full((2, 2), 300.0))
    targets = np.array([[[0.85], [0.86]], [[0.90], [0.91]]])
    runs = loop(bare, controller, targets)
    np.testing.assert_array_equal(runs.targets, targets)
    assert controller.seen[1][1].values[:, 0, 0].tolist() == [0.86, 0.91]


def test_disturbance_is_seen_in_the_reading_of_its_sample_unless_hidden(bare: PlantSpec) -> None:
    levels = np.tile([350.0, 1.0, 100.0], (3, 1, 1))
    levels[1:, 0, 0] = 365.0
    shown, hidden = [], []
    for hide, seen in ((False, shown), (True, hidden)):
        controller = Fixed(np.full((3, 1), 295.0))
        plant = SimulatedPlant(bare, 0, 1, Schedule(np.array([0.0, 26.0, 52.0]), levels), noise=0.0)
        runs = loop(bare, controller, np.full((3, 1), 0.87), plant=plant, hide_dvs=hide)
        seen += [o.dvs[0, 0] for o, _ in controller.seen]
        np.testing.assert_array_equal(runs.dvs[0, :, 0], seen)
    assert shown == [350.0, 365.0, 365.0]
    assert hidden == [350.0, 350.0, 350.0]


def test_peak_sees_between_the_samples(bare: PlantSpec) -> None:
    """A runaway that flares up and burns out inside one interval of a coarse loop."""
    plant = SimulatedPlant(bare, 0, 1, noise=0.0, x0=np.array([[0.85, 345.0]]))
    runs = loop(bare, Fixed(np.full((6, 1), 310.0)), np.full((6, 1), 0.87), plant=plant)
    ends = np.maximum(runs.true["T"][:, :-1], runs.true["T"][:, 1:])
    assert (runs.worst["high_temperature"] >= ends).all()
    assert runs.worst["high_temperature"].max() > ends.max() + 1.0


def test_fallback_is_labelled_on_request(bare: PlantSpec) -> None:
    moves = np.full((2, 1), 300.0)
    assert np.isnan(loop(bare, Fixed(moves), np.full((2, 1), 0.87)).fallback).all()
    labelled = loop(bare, Fixed(moves), np.full((2, 1), 0.87), label_fallback=True)
    plant = SimulatedPlant(bare, 0, 1, noise=0.0)
    expected = plant.fallback_worst(bare.guardrails[:1])[:, 0]
    np.testing.assert_allclose(labelled.fallback[:, 0, 0], expected)


def test_runs_are_cut_where_the_plant_trips(bare: PlantSpec) -> None:
    plant = SimulatedPlant(bare, 0, 2, noise=0.0, x0=np.array([[0.877, 324.5], [0.85, 340.0]]))
    runs = loop(bare, Fixed(np.full((8, 2), 300.0)), np.full((8, 1), 0.87), plant=plant, label_fallback=True)
    calm, lost = runs.runs(bare)
    over = runs.worst["high_temperature"][1] > 350.0
    assert over.any()
    assert len(calm) == 8
    assert len(lost) == over.argmax() + 1
    np.testing.assert_array_equal(lost.measured, runs.measured[1, : len(lost)])
    np.testing.assert_array_equal(lost.labels, runs.fallback[1, : len(lost)])
    assert calm.kind == "control"


def test_limits_of_are_the_engineers(bare: PlantSpec) -> None:
    low, high = limits_of(bare)
    assert (low.tolist(), high.tolist()) == ([290.0], [310.0])


def test_a_run_keeps_the_truth_of_what_no_sensor_shows() -> None:
    """Else the margins of a guardrail on a hidden quantity would be calibrated on nothing."""
    spec = load_spec("turbofan")
    low, high = limits_of(spec)
    plant = SimulatedPlant(spec, 0, 2, noise=0.0)
    moves = np.full((3, 2), 2.8)
    runs = close_loop(
        Fixed(moves), plant, np.full((3, 1), 3060.0), preview=False, move_low=low, move_high=high,
        first_move=plant.moves, label_fallback=True,
    )  # fmt: skip
    assert plant.time_s == pytest.approx(3 * spec.sample_time_s)
    labelled = [g.fallback_tag is not None for g in spec.guardrails]
    for i, run in enumerate(runs.runs(spec)):
        assert run.hidden is not None
        for j, g in enumerate(spec.guardrails):
            np.testing.assert_array_equal(run.hidden[:, j], runs.true[g.tag][i, :3])
        np.testing.assert_array_equal(np.isfinite(run.labels).all(0), labelled)


def test_what_a_slow_instrument_holds_is_no_news(bare: PlantSpec) -> None:
    class Held(SimulatedPlant):
        """Its first measurement is new at every third reading of a sample."""

        def measure(self) -> dict[str, np.ndarray]:
            return super().measure() | {first: np.full(self.batch, self.time_s // (3 * bare.sample_time_s))}

    first = bare.measured[0].name
    tags = tuple(t.model_copy(update={"period_s": 3 * bare.sample_time_s}) if t.name == first else t for t in bare.tags)
    plant = Held(bare.model_copy(update={"tags": tags}), batch=2)
    done = loop(bare, Fixed(np.full((7, 2), 300.0)), np.zeros((7, len(bare.targets))), plant=plant)
    assert np.isfinite(done.measured[0, :, 0]).tolist() == [True, False, False, True, False, False, True]
    assert np.isfinite(done.measured[..., 1:]).all()
