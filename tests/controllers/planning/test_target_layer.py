"""The target layer: the optimum that the zones allow, ranks, unknown gains left alone, who fights and what holds the cost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from controllers.baselines.linear_mpc import LinearMpc
from controllers.contracts import Observation, Targets
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from controllers.planning.target_layer import Resting, TargetLayer
from models.config import ModelConfig
from models.gains import Gains, Point
from models.rivals.contract import Forecaster
from models.windows import Scale
from models.world_model import WorldModel
from plant.spec import Guardrail, Move, PlantSpec, Role, Tag, Target
from plant.wants import Price, Zone

GAIN = np.array([[1.0, -0.5, 0.3], [0.4, 0.8, -0.6]])
START = np.array([5.0, 5.0, 5.0])
BASE = np.array([50.0, 50.0])  # readings at START


def spec_of(**wants: object) -> PlantSpec:
    tags = [
        Tag(name=n, role=Role.CV, description=n, unit="kPa", range=(0, 100), nominal=50, node_id=f"ns=2;s={n}", noise=0.1)
        for n in ("P", "Q")
    ]  # fmt: skip
    tags += [
        Tag(name=n, role=Role.MV, description=n, unit="t/h", range=(0, 10), nominal=5, node_id=f"ns=2;s={n}",
            move=Move(limits=(0, 10), rate_per_s=1.0, safe=5, rest=rest))
        for n, rest in (("A", None), ("B", None), ("C", wants.pop("rest", None)))
    ]  # fmt: skip
    return PlantSpec(
        name="small", description="small", endpoint="opc.tcp://localhost:4840", sample_time_s=10, scan_time_s=10,
        tags=tuple(tags), **wants,  # type: ignore[arg-type]
    )  # fmt: skip


def gains_for(gain: np.ndarray = GAIN, width: float = 0.1) -> Gains:
    g = gain[None]
    shape = gain.shape
    return Gains(
        ("A", "B", "C"), ("P", "Q"), (Point("usual", 1.0, BASE, np.empty(0), START),), g, g - width * np.abs(g),
        g + width * np.abs(g), np.full_like(g, np.nan), np.zeros(2, bool), np.full(shape, 10.0), np.full(shape, 100.0),
        np.zeros((*shape, 4)), np.full(2, 100.0), np.full(2, 100.0), np.full(3, 10.0), np.ones(2, bool),
    )  # fmt: skip


def targets_of(spec: PlantSpec, **more: object) -> Targets:
    values = np.array([[[t.value for t in spec.targets]]])
    return Targets(values, np.zeros(3), np.full(3, 10.0), **more)  # type: ignore[arg-type]


def zone(tag: str, low: float | None, high: float | None, rank: int = 1) -> Zone:
    return Zone(tag=tag, low=low, high=high, limits=(0, 100), rank=rank)


PRICES = (Price(tag="A", per_unit=-3.0, currency="EUR"), Price(tag="B", per_unit=1.0, currency="EUR"),
          Price(tag="C", per_unit=0.2, currency="EUR"))  # fmt: skip


class Plant:
    """Each pair a first-order lag of 30 s, after `late` samples."""

    def __init__(self, gain: np.ndarray = GAIN, late: int = 1) -> None:
        self.gain, self.state, self.past = gain, np.tile(START, (2, 1)), [START] * (late + 1)

    def read(self) -> np.ndarray:
        return BASE + (self.gain * (self.state - START)).sum(1)

    def move(self, u: np.ndarray) -> None:
        self.past = [*self.past[1:], u]
        self.state = self.state + (1 - math.exp(-1 / 3)) * (self.past[0] - self.state)


def driven(
    spec: PlantSpec, gains: Gains, plant: Plant, samples: int = 700, every: int = 1, **more: object
) -> tuple[np.ndarray, Resting, np.ndarray]:
    """The moves go where they are to rest at once; answers them, the last resting values and the readings on the way."""
    layer, u, seen = TargetLayer(spec, gains), START.copy(), []
    rng = np.random.default_rng(0)
    for n in range(samples):
        y = plant.read() + 0.1 * rng.standard_normal(2)
        y[1] = y[1] if n % every == 0 else np.nan
        found = layer.rest(y, u, targets_of(spec, **more))
        u = np.where(np.isfinite(found.rest), found.rest, u)
        plant.move(u)
        seen.append(plant.read())
    return u, found, np.array(seen)


def best(price: np.ndarray, gain: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """The true optimum's cost against START's."""
    found = linprog(
        price, np.concatenate([gain, -gain]), np.concatenate([high - BASE, BASE - low]), bounds=[(-5, 5)] * 3
    )
    return float(found.fun)


@pytest.mark.parametrize("every", [1, 6])
def test_the_optimum_that_the_zones_allow_is_reached_with_gains_that_are_only_nearly_right(every: int) -> None:
    spec = spec_of(zones=(zone("P", 48, 52), zone("Q", 47, 53)), prices=PRICES)
    rng = np.random.default_rng(1)
    wrong = GAIN * (1 + 0.15 * rng.uniform(-1, 1, GAIN.shape))
    u, found, seen = driven(spec, gains_for(wrong, 0.25), Plant(), every=every)
    price = np.array([-3.0, 1.0, 0.2])
    true = best(price, GAIN, np.array([48.0, 47.0]), np.array([52.0, 53.0]))
    assert float(price @ (u - START)) <= 0.98 * true < 0
    assert (seen >= [47.6, 46.6]).all()
    assert (seen <= [52.4, 53.4]).all()
    assert found.feasible


def test_a_gain_that_nobody_knows_costs_nothing_because_its_mv_stays() -> None:
    spec = spec_of(zones=(zone("P", 48, 52), zone("Q", 47, 53)), prices=PRICES)
    known = gains_for()
    lost = replace(known, low=known.low.copy(), high=known.high.copy())
    lost.low[0, :, 0], lost.high[0, :, 0] = -2.0, 2.0
    believed = known.gain.copy()
    believed[0, 1, 1] *= -1
    against = replace(known, model=believed)
    for gains, still in ((lost, 0), (against, 1)):
        u, found, seen = driven(spec, gains, Plant())
        assert u[still] == START[still]
        assert math.isnan(found.rest[still])
        assert float(np.array([-3.0, 1.0, 0.2]) @ (u - START)) <= 1e-6, "and nothing is paid for it"
        assert (seen >= [47.6, 46.6]).all()
        assert (seen <= [52.4, 53.4]).all()


def test_a_price_on_a_reading_is_followed_only_where_every_gain_pays() -> None:
    spec = spec_of(zones=(zone("P", 40, 60),), prices=(Price(tag="Q", per_unit=-1.0, currency="EUR"), Price(tag="B", per_unit=0.5, currency="EUR")))  # fmt: skip
    wide, sure = gains_for(width=0.6), gains_for(width=0.1)  # B's .8 pays .3 a unit, but .32 may lose .18
    assert TargetLayer(spec, wide).rest(BASE, START, targets_of(spec)).goal[1] == pytest.approx(5.0)
    assert TargetLayer(spec, sure).rest(BASE, START, targets_of(spec)).goal[1] > 6.0


def test_the_zone_of_the_lower_rank_is_kept_and_the_fight_is_told_by_name() -> None:
    apart = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    gains = gains_for(apart)
    for kept, given_up in (("P", "Q"), ("Q", "P")):
        zones = (zone("P", 52, 54, 1 if kept == "P" else 2), zone("Q", 46, 48, 1 if kept == "Q" else 2))
        spec = spec_of(zones=zones)
        found = TargetLayer(spec, gains).rest(BASE, START, targets_of(spec))
        assert not found.feasible
        assert found.fights[0].startswith(f"the zone of {given_up} cannot be kept by ")
        assert f"beside the zone of {kept}" in found.fights[0]
        i = ("P", "Q").index(kept)
        assert zones[i].low <= found.readings[i] <= zones[i].high  # type: ignore[operator]


def test_guardrails_come_before_zones_whatever_their_ranks() -> None:
    rail = Guardrail(name="high_pressure", tag="P", max=53, rank=3)
    spec = spec_of(zones=(zone("P", 54, 56),), guardrails=(rail,))
    found = TargetLayer(spec, gains_for(), np.array([1.0])).rest(BASE, START, targets_of(spec))
    assert found.readings[0] == pytest.approx(52.0, abs=1e-3), "the calibrated margin is kept from the limit"
    assert "beside guardrail high_pressure" in found.fights[0]


def test_a_zone_beyond_what_the_moves_reach_names_their_limits() -> None:
    spec = spec_of(zones=(zone("P", 80, 90),))
    found = TargetLayer(spec, gains_for()).rest(BASE, START, targets_of(spec))
    assert "beside the high limit of A and the low limit of B and the high limit of C" in found.fights[0]


def test_targets_give_way_by_rank() -> None:
    apart = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    two = [Target(tag=t, value=v, limits=(0, 100), scale=1.0, rank=r) for t, v, r in (("P", 53, 2), ("Q", 48, 1))]
    spec = spec_of(targets=tuple(two), zones=(zone("P", 0, 100, 3),))
    found = TargetLayer(spec, gains_for(apart)).rest(BASE, START, targets_of(spec))
    assert found.readings[1] == pytest.approx(48, abs=1e-3)
    assert "the target of P cannot be kept by 5 kPa" in found.fights[0]


def test_what_holds_the_cost_is_said_with_its_price() -> None:
    spec = spec_of(zones=(zone("P", None, 52),), prices=(Price(tag="A", per_unit=-3.0, currency="EUR"),))
    one = gains_for(np.array([[1.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    found = TargetLayer(spec, one).rest(BASE, START, targets_of(spec))
    assert [s.what for s in found.shadows] == ["the high of the zone of P"]
    assert found.shadows[0].per_unit == pytest.approx(2.0, rel=0.01)
    assert found.active == ("the cost is held by the high of the zone of P: 1 kPa more gives 2 EUR/h",)
    assert found.saving == pytest.approx(3.0 * (2 - 1) / 1.5, rel=0.01)
    wide = spec_of(zones=(zone("P", None, 90),), prices=spec.prices)
    assert "the high limit of A" in TargetLayer(wide, one).rest(BASE, START, targets_of(wide)).active[0]


def test_operators_zones_prices_and_dropped_mvs_count() -> None:
    spec = spec_of(zones=(zone("P", None, 52),), prices=(Price(tag="A", per_unit=-3.0, currency="EUR"),))
    layer = lambda **more: TargetLayer(spec, gains_for()).rest(BASE, START, targets_of(spec, **more))  # noqa: E731
    usual = layer().goal[0]
    assert layer(zones=np.array([[np.nan, 51.0]])).goal[0] < usual
    assert layer(prices=np.array([0.0])).goal[0] == pytest.approx(5.0)
    assert layer(prices=np.array([3.0])).goal[0] == pytest.approx(0.0, abs=1e-4)
    assert math.isnan(layer(dropped=np.array([True, False, False])).goal[0])


def test_what_integrates_has_to_balance() -> None:
    spec = spec_of(
        zones=(zone("P", 48, 52), zone("Q", 20, 80)), prices=(Price(tag="A", per_unit=-3.0, currency="EUR"),)
    )
    gains = replace(
        gains_for(np.array([[0.5, 0.0, 0.0], [40.0, -40.0, 0.0]])), integrating=np.array([False, True]),
        settling_s=np.array([[100.0] * 3, [np.inf] * 3]),
    )  # fmt: skip
    found = TargetLayer(spec, gains).rest(BASE, START, targets_of(spec))
    assert found.goal[0] > 6
    assert found.goal[0] - START[0] == pytest.approx(found.goal[1] - START[1], abs=1e-3)


def test_resting_values_go_slowly_and_never_run_away_from_the_plant() -> None:
    spec = spec_of(zones=(zone("P", 48, 52),), prices=PRICES)
    layer = TargetLayer(spec, gains_for())
    rests = np.array([layer.rest(BASE, START, targets_of(spec)).rest for _ in range(300)])
    fastest = 10.0 * spec.sample_time_s / (5 * layer.settling_s)
    assert np.abs(np.diff(rests, axis=0)).max() <= fastest * (1 + 1e-9)
    assert np.abs(rests - START).max() <= 10.0 / 5 + fastest


def test_without_prices_an_mv_rests_where_the_spec_says_if_the_zones_let_it() -> None:
    spec = spec_of(zones=(zone("P", 48, 52), zone("Q", 0, 100)), rest=9.0)
    goal = TargetLayer(spec, gains_for()).rest(BASE, START, targets_of(spec)).goal
    assert np.isnan(goal[:2]).all()
    assert goal[2] == pytest.approx(9.0, abs=1e-4)


def test_a_lost_reading_and_a_lost_move_are_lived_with() -> None:
    spec = spec_of(zones=(zone("P", 48, 52), zone("Q", 47, 53)), prices=PRICES)
    layer = TargetLayer(spec, gains_for())
    layer.rest(BASE, START, targets_of(spec))
    assert np.isfinite(layer.rest(np.array([np.nan, 50.0]), START, targets_of(spec)).rest).all()
    unknown = layer.rest(BASE, np.array([np.nan, 5.0, 5.0]), targets_of(spec))
    assert np.isfinite(unknown.rest[1:]).all()
    blind = TargetLayer(spec, gains_for()).rest(np.full(2, np.nan), START, targets_of(spec))
    assert np.isfinite(blind.goal).all()


def test_it_is_needed_only_where_something_asks_for_it() -> None:
    assert not TargetLayer.needed(spec_of())
    assert TargetLayer.needed(spec_of(zones=(zone("P", 48, 52),)))
    assert TargetLayer.needed(spec_of(prices=PRICES))


def test_the_planner_goes_where_the_layer_says_and_tells_what_holds_the_cost() -> None:
    spec = spec_of(
        zones=(zone("P", None, 52), zone("Q", None, 99)), prices=(Price(tag="A", per_unit=-3.0, currency="EUR"),)
    )
    torch.manual_seed(0)
    model = WorldModel(spec, ModelConfig(window=2, latent=4, horizon=6), Scale(np.array([*BASE, *START]), np.ones(5)))
    seen = Observation(0.0, BASE[None] - 40, np.empty((1, 0)), START[None])
    config = PlannerConfig(horizon=6)
    moved = JepaMpc(model, config, gains=gains_for())
    for _ in range(12):
        answer = moved.decide(seen, targets_of(spec))
    plain = JepaMpc(model, config).decide(seen, targets_of(spec))
    assert answer.moves[0, 0] > plain.moves[0, 0] + 1e-3
    assert answer.active[0].startswith("the cost is held by the high limit of A: 1 t/h more gives 3 EUR/h")
    assert answer.why == ("",), "an active set is the ordinary case, and no alarm"
    np.testing.assert_array_equal(answer.rest, [moved.layers.found[0].rest])
    given = replace(targets_of(spec), rest=np.array([[5.0, np.nan, np.nan]]))
    moved.decide(seen, given)
    assert not moved.layers.found, "resting values from elsewhere pass through"
    assert not JepaMpc(model, config).layers.found


class Exact(Forecaster):
    """The plant of `test_a_closed_loop...` itself: every reading a lag of 30 s behind where the moves send it."""

    def __init__(self, spec: PlantSpec) -> None:
        config = ModelConfig(window=2, horizon=12)
        super().__init__(spec, config, Scale(np.array([*BASE, *START]), np.ones(5)))

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        y, steps, left = values[:, -1, :2], [], math.exp(-1 / 3)
        for k in range(u.shape[1]):
            y = left * y + (1 - left) * u[:, k] @ torch.tensor(GAIN, dtype=u.dtype).T
            steps.append(y)
        return torch.stack(steps, 1)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_a_closed_loop_pays_no_more_than_the_optimum_and_nothing_for_a_wrong_sign(wrong: bool) -> None:
    spec = spec_of(zones=(zone("P", 48, 52), zone("Q", 47, 53)), prices=PRICES)
    known = gains_for()
    believed = known.gain.copy()
    believed[0, 0, 0] *= -1
    gains = replace(known, model=believed) if wrong else known
    mpc = LinearMpc(Exact(spec), PlannerConfig(horizon=12), gains=gains)
    plant, u, paid, seen, rng = Plant(late=0), START.copy(), [], [], np.random.default_rng(2)
    for n in range(800):
        y = plant.read() + 0.05 * rng.standard_normal(2)
        u = mpc.decide(Observation(10.0 * n, y[None], np.empty((1, 0)), u[None]), targets_of(spec)).moves[0]
        plant.move(u)
        paid.append(float(np.array([-3.0, 1.0, 0.2]) @ (u - START)))
        seen.append(plant.read())
    true = best(np.array([-3.0, 1.0, 0.2]), GAIN, np.array([48.0, 47.0]), np.array([52.0, 53.0]))
    end, usual = float(np.mean(paid[-50:])), float(np.array([-3.0, 1.0, 0.2]) @ START)
    assert usual + end <= (usual + 1e-3 if wrong else 0.98 * (usual + true))
    assert (np.array(seen) >= [47.7, 46.7]).all()
    assert (np.array(seen) <= [52.3, 53.3]).all()
