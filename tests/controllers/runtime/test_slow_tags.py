"""What a controller is shown of slow tags, of constants and of what is expected of disturbances."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controllers.contracts import Observation
from controllers.runtime.quality import Inputs
from controllers.runtime.slow_tags import SlowTags
from plant.link import PlantMode, Quality, Sample, Value


def changed(spec: Any, tag: str, **changes: Any) -> Any:
    tags = tuple(t.model_copy(update=changes) if t.name == tag else t for t in spec.tags)
    return spec.model_copy(update={"tags": tags})


def sample(time_s: float, value: float, stamped_s: float) -> tuple[Sample, Inputs]:
    reading = {"F": Value(value, Quality.GOOD, stamped_s), "T": Value(50.0, Quality.GOOD, time_s)}
    return Sample(time_s, reading, PlantMode.LOCAL, 0), Inputs({n: v.value for n, v in reading.items()}, ())


@pytest.mark.parametrize(
    ("readings", "seen"),
    [  # (value, source time) at samples 4 s apart; F has a new value every 12 s
        ([(1.0, 0), (1.0, 0), (1.0, 0), (2.0, 12), (2.0, 12)], [1.0, None, None, 2.0, None]),
        ([(1.0, 0), (1.0, 4), (1.0, 8), (1.0, 12), (1.0, 16)], [1.0, None, None, 1.0, None]),  # stamped at each scan
        ([(1.0, 0), (1.5, 4), (1.5, 8), (1.5, 12), (1.5, 16)], [1.0, 1.5, None, None, 1.5]),  # early
        ([(math.nan, 0), (1.0, 4), (1.0, 8)], [None, 1.0, None]),
    ],
)
def test_a_slow_tag_is_seen_when_it_is_new(make_spec, readings: list[tuple[float, float]], seen: list[float | None]):
    tags = SlowTags(changed(make_spec(), "F", period_s=12.0))
    for k, ((value, stamped_s), wanted) in enumerate(zip(readings, seen, strict=True)):
        values = tags.seen(*sample(4.0 * k, value, stamped_s))
        assert values["T"] == 50.0
        assert values["F"] == wanted if wanted is not None else math.isnan(values["F"])


def test_a_tag_as_fast_as_the_samples_is_not_slow(make_spec):
    tags = SlowTags(changed(make_spec(), "F", period_s=4.0))
    for k in range(3):
        assert tags.seen(*sample(4.0 * k, 1.0, 0.0))["F"] == 1.0


async def test_the_controller_sees_slow_tags_constants_and_what_is_expected(make_rig, make_spec, scripted, answer_with):
    shown: list[Observation] = []

    def answer(observation: Observation) -> Any:
        shown.append(observation)
        return answer_with(30.0)

    spec = changed(make_spec(), "F", period_s=12.0)
    rig = await make_rig(scripted(answer), spec=spec, forecast=lambda now_s: np.array([[[now_s + 4.0]]]))
    await rig.cycle(6)
    fresh = [math.isfinite(o.measured[0, 1]) for o in shown[:6]]
    assert fresh == [True, False, False, True, False, False]
    assert all(np.isfinite(o.measured[0, 0]) for o in shown)
    assert [o.forecast[0, 0, 0] - o.time_s for o in shown if o.forecast is not None] == [4.0] * len(shown)


async def test_a_constant_stamped_long_ago_still_holds(make_rig, make_spec, scripted, answer_with):
    shown: list[Observation] = []

    def answer(observation: Observation) -> Any:
        shown.append(observation)
        return answer_with(30.0, predicted=np.full((1, 4, 1), 50.0), bias=np.zeros((1, 1)))

    spec = make_spec()
    tags = [t.model_dump() | ({"role": "COND"} if t.name == "F" else {}) for t in spec.tags]
    rig = await make_rig(scripted(answer), spec=make_spec(tags=tags))
    rig.link.faults["F"] = lambda v: replace(v, time_s=v.time_s - 300 * 86400.0)
    await rig.cycle(30)
    assert all(o.constants is not None and o.constants.tolist() == [[1.0]] for o in shown)
    assert shown[-1].measured.shape == (1, 1)
    assert not any(text.startswith("F ") for _, _, text in rig.journal.events)
