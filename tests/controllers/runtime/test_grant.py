"""A plant of another make grants its MVs a scan after it was asked, and its loops turn to us only then."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from controllers.runtime.config import LoopConfig, QualityConfig
from controllers.runtime.partial import PartialService
from controllers.runtime.plant_access import PlantAccess
from controllers.runtime.quality import Inputs
from plant.clock import ScaledClock
from plant.link import PlantMode, Quality, Receipt, Sample, Value
from plant.spec import PlantSpec
from tests.controllers.runtime.conftest import heater_spec

HANDSHAKE = {
    "permit": {"node": "ns=2;s=Permit"},
    "granted": {"node": "ns=2;s=Granted"},
}


@pytest.fixture
def spec() -> PlantSpec:
    raw = heater_spec(handshake=HANDSHAKE).model_dump()
    next(t for t in raw["tags"] if t["name"] == "U")["move"]["mode"] = {"node": "ns=2;s=U.Mode", "accepts": (5,)}
    return PlantSpec.model_validate(raw)


def sample(spec: PlantSpec, mode: PlantMode, takes: bool) -> Sample:
    values = {t.name: Value(t.nominal, Quality.GOOD, 1e6) for t in spec.online}
    return Sample(1e6, values, mode, loops={"U": takes})


def test_a_loop_in_its_own_mode_bars_nothing_before_the_plant_is_granted(spec: PlantSpec) -> None:
    partial, inputs = PartialService(spec, QualityConfig(), 2), Inputs({t.name: t.nominal for t in spec.online}, ())
    for mode, takes, barred in (
        (PlantMode.LOCAL, False, set()), (PlantMode.REMOTE, False, {"U"}), (PlantMode.REMOTE, True, set()),
    ):  # fmt: skip
        partial.follow(sample(spec, mode, takes), inputs, {})
        assert set(partial.unable) == barred


class SlowToGrant:
    """Answers at once and grants after so many looks, or never."""

    def __init__(self, spec: PlantSpec, looks: int) -> None:
        self.spec, self.left, self.asked = spec, looks, []

    async def read(self) -> Sample:
        self.left -= 1
        return sample(self.spec, PlantMode.REMOTE if self.left < 0 else PlantMode.LOCAL, True)

    async def request_mode(self, mode: PlantMode) -> Receipt:
        self.asked.append(mode)
        return Receipt()


@pytest.mark.parametrize(("looks", "asked"), [(2, [PlantMode.REMOTE]), (10**9, [PlantMode.REMOTE, PlantMode.LOCAL])])
async def test_the_plants_own_word_is_waited_for_and_without_it_the_plant_is_given_back(
    spec: PlantSpec, looks: int, asked: list[PlantMode]
) -> None:
    link = SlowToGrant(spec, looks)
    config = LoopConfig(read_timeout_s=0.5)
    supervisor = SimpleNamespace(holds_plant=False, owes_plant=False, mode="ADVISORY")
    access = PlantAccess(spec, config, link, ScaledClock(), supervisor, lambda: 0.0, lambda: None)  # pyright: ignore
    refusal = await access.request(PlantMode.REMOTE)
    assert link.asked == asked
    assert ("handshake.granted" in refusal) == (looks > 2)


def test_an_mv_that_the_model_never_saw_move_stays_dropped(make_spec):
    spec = make_spec()
    partial = PartialService(spec, QualityConfig(), 2, {"U": "it stood at one value"})
    inputs = Inputs({t.name: t.nominal for t in spec.online}, ())
    partial.rearm()
    assert partial.dropped == {"U": "it stood at one value"}
    assert partial.words(inputs, {"U": (0.0, 80.0)})["U"] == "DROPPED"
