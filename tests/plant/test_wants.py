"""Zones, prices and resting values in a plant file: what is a mistake, and what is only told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from plant.errors import SpecError
from plant.fights import fights
from plant.spec import load_spec

TAGS: list[dict[str, Any]] = [
    {"name": "T", "role": "CV", "description": "t", "unit": "K", "range": [0, 200], "nominal": 50, "node_id": "ns=2;s=tank.T"},
    {"name": "F", "role": "DV", "description": "f", "unit": "L", "range": [0, 10], "nominal": 5, "node_id": "ns=2;s=tank.F"},
    {"name": "U", "role": "MV", "description": "u", "unit": "K", "range": [0, 100], "nominal": 30, "node_id": "ns=2;s=tank.U",
     "move": {"limits": [10, 90], "rate_per_s": 5.0, "safe": 10}},
]  # fmt: skip
ZONE = {"tag": "T", "low": 40.0, "high": 60.0, "limits": [20.0, 80.0]}
PRICE = {"tag": "U", "per_unit": 2.0, "currency": "EUR"}


@pytest.fixture
def load(tmp_path: Path):
    def load(**changes: Any):
        content = {
            "name": "tank", "description": "a tank", "endpoint": "opc.tcp://127.0.0.1:4840/tank", "sample_time_s": 5.0,
            "scan_time_s": 1.0, "tags": TAGS, "guardrails": [{"name": "hot", "tag": "T", "max": 90.0}],
            "targets": [{"tag": "T", "value": 50.0, "limits": [20, 100], "scale": 1.0}], "zones": [ZONE], "prices": [PRICE],
        }  # fmt: skip
        path = tmp_path / "tank.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return load_spec(path)

    return load


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"zones": [{**ZONE, "low": 70.0}]}, "zones.0: the zone of T has low 70 and high 60: low must be below high"),
        ({"zones": [{**ZONE, "low": None, "high": None}]}, "the zone of T needs low, high or both"),
        ({"zones": [{**ZONE, "high": 90.0}]}, "high 90 of the zone of T is outside [20, 80]"),
        ({"zones": [{**ZONE, "limits": [80.0, 20.0]}]}, "limits must be [low, high] with low < high"),
        ({"zones": [{**ZONE, "limits": [20.0, 300.0]}]}, "zones[0].limits [20.0, 300.0] must lie inside the range [0.0, 200.0] of T"),
        ({"zones": [{**ZONE, "tag": "U"}]}, "zones[0].tag names 'U', a MV; expected CV or AUX"),
        ({"zones": [ZONE, ZONE]}, "zones name T twice"),
        ({"zones": [{**ZONE, "scale": 0}]}, "zones.0.scale: Input should be greater than 0"),
        ({"prices": [{**PRICE, "tag": "F"}]}, "prices[0].tag names 'F', a DV; expected CV or AUX or MV"),
        ({"prices": [{**PRICE, "tag": "X"}]}, "prices[0].tag names 'X', which is not one of the tags"),
        ({"prices": [PRICE, {"tag": "T", "per_unit": 1.0, "currency": "USD"}]}, "must share one currency: U in EUR, T in USD"),
        ({"prices": [{**PRICE, "per_unit": float("nan")}]}, "prices.0.per_unit: Input should be a finite number"),
        ({"prices": [PRICE, PRICE]}, "prices name U twice"),
        ({"targets": [{"tag": "T", "value": 50.0, "limits": [20, 100], "scale": 1.0}] * 2}, "targets name T twice"),
    ],
)  # fmt: skip
def test_a_want_that_is_none_is_an_error_that_names_it(load, change, told):
    with pytest.raises(SpecError) as error:
        load(**change)
    assert told in str(error.value)


def test_what_agrees_is_not_told(load):
    assert fights(load()) == []
    assert fights(load(zones=[], prices=[], targets=[])) == []


@pytest.mark.parametrize(
    ("ranks", "kept"),
    [((1, 2), "the target is kept first"), ((2, 1), "the zone is kept first"), ((1, 1), "share a rank")],
)
def test_a_target_outside_its_zone_is_told_with_what_goes_first(load, ranks, kept):
    target = {"tag": "T", "value": 65.0, "limits": [20, 100], "scale": 1.0, "rank": ranks[0]}
    (fight,) = fights(load(targets=[target], zones=[{**ZONE, "rank": ranks[1]}]))
    assert "the target 65 K of T is outside its zone [40, 60]" in fight.what
    assert kept in fight.what


def test_what_lies_past_a_guardrail_is_told(load):
    target = {"tag": "T", "value": 95.0, "limits": [20, 100], "scale": 1.0}
    rails = [{"name": "hot", "tag": "T", "max": 90.0}, {"name": "cold", "tag": "T", "min": 60.0}]
    told = [f.what for f in fights(load(targets=[target], guardrails=rails, zones=[{**ZONE, "low": None}]))]
    assert told == [
        "the target 95 K of T is outside its zone [open, 60]; neither, for they share a rank, is kept first",
        "the target 95 K of T is past its guardrail hot (90 K)",
        "the whole zone [open, 60] of T is past its guardrail cold (60 K)",
    ]


def test_a_resting_value_and_a_price_on_one_mv_are_told(load):
    move = {**TAGS[2]["move"], "rest": 30.0}
    (fight,) = fights(load(tags=[*TAGS[:2], {**TAGS[2], "move": move}]))
    assert fight.what == "U has a resting value (30 K) and a price that pulls it away from there"
