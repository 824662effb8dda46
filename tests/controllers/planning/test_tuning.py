"""Zones, resting values, ranks and tuning by meaning: the same wants for every planner."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from controllers.baselines.linear_mpc import LinearMpc
from controllers.contracts import Controller, Decision, Observation, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from controllers.planning.tuning import Tuning
from homeostat.lockstep import excitation_run
from models.rivals.contract import Forecaster
from models.rivals.registry import train_rival
from models.world_model import WorldModel
from plant.errors import ControlError
from plant.spec import NOISE, PlantSpec, load_spec
from plant.wants import Zone

from .conftest import QUICK, TINY, one_thread, runs_of

FORMS = ("scp", "icem", "mppi", "goalless tensors", "linear")
Maker = Callable[..., Controller]


@pytest.fixture(scope="module")
def arx(bare: PlantSpec) -> Forecaster:
    runs = runs_of(bare, excitation_run(bare, 64, 60, seed=1))
    with one_thread():
        return train_rival("arx", bare, runs[8:], runs[:8], TINY, QUICK)


@pytest.fixture
def make(trained: WorldModel, arx: Forecaster) -> Maker:
    """make(form, spec, options): that controller of a plant that wants what `spec` says."""

    def made(form: str, spec: PlantSpec, **options: Any) -> Controller:
        model = copy.copy(arx if form == "linear" else trained)
        model.spec = spec
        name = {"linear": "scp", "goalless tensors": "scp"}.get(form, form)
        config = PlannerConfig(**{"name": name, "horizon": 12, "candidates": 128, "guardrails": False, **options})
        if form == "linear":
            return LinearMpc(model, config)  # type: ignore[arg-type]
        controller = JepaMpc(model, config)  # type: ignore[arg-type]
        if form == "goalless tensors":
            controller.planner.__class__ = controller.planner.__class__.__mro__[1]
        return controller

    return made


def wanting(
    bare: PlantSpec, zone: dict[str, Any] | None = None, rest: float | None = None, targets: bool = False, **more: Any
) -> PlantSpec:
    tags = tuple(
        t.model_copy(update={"move": t.move.model_copy(update={"rest": rest})}) if t.move else t for t in bare.tags
    )
    zones = () if zone is None else (Zone(**{"limits": (300.0, 360.0), **zone}),)
    return bare.model_copy(update={"tags": tags, "zones": zones, "targets": bare.targets if targets else (), **more})


def decided(controller: Controller, spec: PlantSpec, target: float = 0.87, times: int = 4, **asked: Any) -> Decision:
    """The answer after a few samples at rest."""
    low, high = limits_of(spec)
    values = np.full((1, 1, len(spec.targets)), target)
    for k in range(times):
        seen = Observation(26.0 * k, np.array([[0.87, 324.5]]), np.array([[350.0]]), np.array([[300.0]]))
        answer = controller.decide(seen, dataclasses.replace(Targets(values, low, high), **asked))
    return answer


@pytest.mark.parametrize("form", FORMS)
def test_a_zone_costs_nothing_inside_and_draws_back_what_is_outside(form: str, make: Maker, bare: PlantSpec) -> None:
    """Without targets: inside nothing moves, above it cools, below it heats."""
    still = decided(make(form, spec := wanting(bare, {"tag": "T", "low": 321.0, "high": 328.0})), spec)
    np.testing.assert_allclose(still.plan, 300.0, atol=0.1 if form in ("icem", "mppi") else 0.02)
    colder = decided(make(form, spec := wanting(bare, {"tag": "T", "high": 322.0}), suppression=0.0), spec)
    assert colder.plan[0, 0, 0] < 299.5
    assert colder.predicted[0, -1, 1] < 322.3
    hotter = decided(make(form, spec := wanting(bare, {"tag": "T", "low": 326.0}), suppression=0.0), spec)
    assert hotter.plan[0, 0, 0] > 300.5
    assert hotter.predicted[0, -1, 1] > 325.7
    if form != "linear":
        assert still.energy["zones"][0] == pytest.approx(0.0, abs=1e-6)
        far = decided(make(form, spec := wanting(bare, {"tag": "T", "high": 301.0}), suppression=0.0), spec)
        past = (far.predicted[0, :, 1] - 301.0).clip(min=0).sum()
        assert far.energy["zones"][0] == pytest.approx(past / (bare.tag("T").span / 100))


@pytest.mark.parametrize("form", FORMS)
def test_an_operators_zone_stands_in_place_of_the_plants_and_an_open_one_asks_nothing(
    form: str, make: Maker, bare: PlantSpec
) -> None:
    spec = wanting(bare, {"tag": "T", "low": 321.0, "high": 328.0})
    moved = decided(make(form, spec, suppression=0.0), spec, zones=np.array([[np.nan, 322.0]]))
    assert moved.plan[0, 0, 0] < 299.5
    none = decided(make(form, spec), spec, zones=np.array([[np.nan, np.nan]]))
    np.testing.assert_allclose(none.plan, 300.0, atol=0.1 if form in ("icem", "mppi") else 0.02)


@pytest.mark.parametrize("form", FORMS)
def test_effort_pulls_to_the_resting_value_and_to_nowhere_without_one(form: str, make: Maker, bare: PlantSpec) -> None:
    free = decided(make(form, spec := wanting(bare), effort=1.0), spec)
    np.testing.assert_allclose(free.plan, 300.0, atol=0.1 if form in ("icem", "mppi") else 0.02)
    atol = 0.6 if form in ("icem", "mppi") else 0.1
    rests = decided(make(form, spec := wanting(bare, rest=304.0), effort=1.0, suppression=0.0), spec)
    np.testing.assert_allclose(rests.plan[0, -1], 304.0, atol=atol)
    clipped = decided(make(form, spec, effort=1.0, suppression=0.0), spec, move_high=np.array([302.0]))
    np.testing.assert_allclose(clipped.plan[0, -1], 302.0, atol=atol)
    asked = decided(make(form, spec, effort=1.0, suppression=0.0), spec, rest=np.array([[297.0]]))
    np.testing.assert_allclose(asked.plan[0, -1], 297.0, atol=atol)
    none = decided(make(form, spec, effort=1.0), spec, rest=np.array([[np.nan]]))
    np.testing.assert_allclose(none.plan, 300.0, atol=0.1 if form in ("icem", "mppi") else 0.02)


@pytest.mark.parametrize("form", ["scp", "goalless tensors", "linear"])
def test_what_cannot_both_be_had_goes_by_rank(form: str, make: Maker, bare: PlantSpec) -> None:
    """A target that is hotter than the zone allows: the better rank is kept, whichever it is."""
    ends = []
    for target_rank, zone_rank in ((1, 2), (2, 1)):
        target = bare.targets[0].model_copy(update={"rank": target_rank, "scale": 0.01})
        zone = {"tag": "T", "high": 318.0, "rank": zone_rank, "scale": 2.0}
        spec = wanting(bare, zone, targets=True).model_copy(update={"targets": (target,)})
        answer = decided(make(form, spec, suppression=0.0, effort=0.0), spec, target=0.85)
        ends.append(answer.predicted[0, -1])
    assert ends[0][0] == pytest.approx(0.85, abs=0.003)
    assert ends[0][1] > 320.0
    assert ends[1][1] < 318.3
    assert ends[1][0] > 0.86


@pytest.mark.parametrize("form", ["scp", "goalless tensors", "linear"])
def test_a_lower_rank_is_not_given_up_where_nothing_fights(form: str, make: Maker, bare: PlantSpec) -> None:
    """Beside a zone that is kept anyway, one of the second rank is worth the moves that one of the first is."""
    plans = []
    for rank in (1, 2):
        zones = (
            Zone(tag="Ca", low=0.2, high=2.0, limits=(0.0, 6.0), rank=1),
            Zone(tag="T", high=322.0, limits=(300.0, 360.0), rank=rank, scale=2.0),
        )
        spec = wanting(bare).model_copy(update={"zones": zones})
        plans.append(decided(make(form, spec, suppression=100.0), spec).plan[0, :, 0])
    assert plans[0][-1] < 299.0
    np.testing.assert_allclose(plans[1], plans[0], atol=0.05)


@pytest.mark.parametrize("form", ["scp", "goalless tensors", "linear"])
def test_what_is_not_asked_for_has_no_funnel(form: str, make: Maker, bare: PlantSpec) -> None:
    """A target of the first rank that is left out leaves all to the zone of the second."""
    target = bare.targets[0].model_copy(update={"rank": 1, "scale": 0.01})
    spec = wanting(bare, {"tag": "T", "high": 322.0, "rank": 2}, targets=True).model_copy(update={"targets": (target,)})
    answer = decided(make(form, spec, suppression=0.0), spec, target=0.85, left_out=np.array([True]))
    assert answer.predicted[0, -1, 1] < 322.3


@pytest.mark.parametrize("form", ["scp", "goalless tensors", "linear"])
def test_a_response_time_is_the_time_the_reading_takes(form: str, make: Maker, bare: PlantSpec) -> None:
    """63 % of a target step after `response_s`, with hardly any suppression; without it much sooner."""
    spec = wanting(bare, targets=True)
    reached = {}
    for seconds in (None, 104.0, 208.0):
        options = {} if seconds is None else {"response_s": {"Ca": seconds}}
        with_step, without = (
            decided(make(form, spec, suppression=1e-4, effort=0.0, **options), spec, target=target).predicted[0, :, 0]
            for target in (0.875, 0.87)
        )
        reached[seconds] = (
            with_step - without
        ) / 0.005  # of the step alone: where the plant was going anyway is in both
    assert reached[104.0][3] == pytest.approx(0.63, abs=0.1)
    assert reached[208.0][7] == pytest.approx(0.63, abs=0.1)
    assert reached[None][3] > 0.9


def test_the_course_starts_when_the_reading_can_answer_and_follows_what_is_scheduled(bare: PlantSpec) -> None:
    spec = load_spec("reactor")  # its analyser is a sample late
    tuning = Tuning(spec, PlannerConfig(response_s={"AI101": spec.sample_time_s / np.log(2)}))
    wanted = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0]).double().view(1, -1, 1)
    now, free = torch.zeros(1, 1).double(), torch.zeros_like(wanted)
    course = tuning.reference(now, free, wanted)[0, :, 0]
    assert course.tolist() == pytest.approx([0.0, 0.5, 0.75, 0.875, 1.4375])
    left_out = torch.full_like(wanted, torch.nan)
    assert tuning.reference(now, free, left_out).isnan().all()


def test_a_course_goes_on_the_way_the_reading_goes_and_bends(bare: PlantSpec) -> None:
    """Past its target it is not stopped at once, and ends there all the same."""
    tuning = Tuning(bare, PlannerConfig(response_s={"Ca": bare.sample_time_s / np.log(2)}))
    rising = torch.tensor([1.0, 2.0, 3.0, 4.0]).double().view(1, -1, 1)
    course = tuning.reference(torch.zeros(1, 1).double(), rising, torch.zeros_like(rising))[0, :, 0]
    assert course.tolist() == pytest.approx([1 / 4, 2 / 16, 3 / 64, 4 / 256])


def test_work_is_the_move_that_costs_as_much_as_a_target_missed_by_a_scale(make: Maker, bare: PlantSpec) -> None:
    spec = wanting(bare, targets=True)
    steps = [
        abs(decided(make("scp", spec, work={"Tc": w}), spec, target=0.9).moves[0, 0] - 300.0) for w in (0.05, 0.2, 1.0)
    ]
    assert steps[0] < 0.6 * steps[1] < 0.6 * steps[2]
    same = [
        decided(make("scp", spec, **o), spec, target=0.9).moves for o in ({"work": {"Tc": 0.2}}, {"suppression": 25.0})
    ]
    np.testing.assert_allclose(same[0], same[1])


@pytest.mark.parametrize(
    ("options", "text"),
    [({"response_s": {"T": 60.0}}, "response_s of T"), ({"work": {"Ca": 0.5, "Tx": 0.5}}, "work of Ca, Tx")],
)
@pytest.mark.parametrize("form", ["scp", "linear"])
def test_tuning_that_names_what_is_not_there_is_one_clear_error(
    form: str, options: dict[str, Any], text: str, make: Maker, bare: PlantSpec
) -> None:
    with pytest.raises(ControlError, match=text):
        make(form, wanting(bare, targets=True), **options)


@pytest.mark.parametrize(
    "bad", [{"work": {"Tc": 1.5}}, {"work": {"Tc": 0.0}}, {"response_s": {"Ca": 0.0}}, {"response_s": {"Ca": np.inf}}]
)
def test_tuning_out_of_its_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"work|response_s"):
        PlannerConfig(**bad)


def test_no_scale_is_finer_than_noise(bare: PlantSpec) -> None:
    noisy = bare.model_copy(
        update={"tags": tuple(t.model_copy(update={"noise": 0.5}) if t.name in ("Ca", "T") else t for t in bare.tags)}
    )
    fine = bare.targets[0].model_copy(update={"scale": 0.01})
    assert noisy.target_scale(fine) == NOISE * 0.5
    assert (
        bare.model_copy(update={"tags": tuple(t.model_copy(update={"noise": 0.0}) for t in bare.tags)}).target_scale(
            fine
        )
        == 0.01
    )
    zone = Zone(tag="T", high=330.0, limits=(300.0, 360.0), scale=0.1)
    assert noisy.zone_scale(zone) == NOISE * 0.5
    tuned = Tuning(noisy.model_copy(update={"targets": (fine,), "zones": (zone,)}), PlannerConfig())
    assert tuned.scale.tolist() == tuned.zone_scale.tolist() == [NOISE * 0.5]
