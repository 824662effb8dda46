"""Frames in, ECharts options out."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from dashboard.figures import scale, trend_option
from dashboard.view import History, Reading, Series
from plant.link import Quality
from plant.opcua.controller_client import Prediction


def series(option, panel, name):
    found = [s for s in option["series"] if s["xAxisIndex"] == panel and s["name"] == name]
    return found[0]["data"] if found else []


def test_the_plan_goes_on_from_the_measurement_past_now(make_view):
    option = trend_option(make_view(), ("T", "U"), 200.0)
    measured, expected = series(option, 0, "T"), series(option, 0, "expected")
    assert expected[0] == measured[-1]
    assert [v for _, v in expected[1:]] == [51.0, 50.5]
    assert expected[-1][0] == option["xAxis"][0]["max"]
    now = next(m["xAxis"] for m in option["series"][0]["markLine"]["data"] if "xAxis" in m)
    assert now == measured[-1][0]
    assert expected[1][0] - now == 5000


def test_a_move_of_the_plan_is_held_until_its_time(make_view):
    option = trend_option(make_view(), ("U",), 200.0)
    steps = {s["name"]: s.get("step") for s in option["series"]}
    assert steps == {"U": "end", "expected": "start"}
    assert [v for _, v in series(option, 0, "expected")] == [30.0, 31.0, 32.0]


def test_panels_share_one_time_axis(make_view):
    option = trend_option(make_view(), ("T", "U", "D"), 200.0)
    assert len(option["grid"]) == len(option["yAxis"]) == len(option["title"]) == 3
    assert len({(axis["min"], axis["max"]) for axis in option["xAxis"]}) == 1
    assert [axis["axisLabel"]["show"] for axis in option["xAxis"]] == [False, False, True]
    assert len({(grid["left"], grid["right"]) for grid in option["grid"]}) == 1


def test_targets_step_in_the_past_and_go_on_into_the_future(make_view, now_s):
    past = {"T": Series((now_s - 300, now_s - 50), (45.0, 50.0))}
    view = make_view()
    view = dataclasses.replace(view, history=dataclasses.replace(view.history, targets=past))
    option = trend_option(view, ("T",), 200.0)
    target = series(option, 0, "target")
    assert [v for _, v in target] == [45.0, 50.0, 50.0, 50.0]
    assert target[0][0] == option["xAxis"][0]["min"]
    assert target[-1][0] == option["xAxis"][0]["max"]


def test_gaps_bad_values_and_nan_are_null_and_the_option_is_json(make_view, make_snapshot, now_s):
    history = History(
        {"T": Reading(math.nan, Quality.BAD, now_s)},
        {"T": Series((now_s - 2, now_s - 1, now_s), (50.0, None, math.inf))},
    )
    plan = Prediction((now_s + 5, now_s + 10), {"T": (math.nan, 51.0)}, {})
    option = trend_option(make_view(history=history, said_controller=make_snapshot(prediction=plan)), ("T",), 100.0)
    json.dumps(option, allow_nan=False)
    assert [v for _, v in series(option, 0, "T")] == [50.0, None, None]
    assert [v for _, v in series(option, 0, "expected")] == [None, 51.0], "no line from a value nobody believes"


def test_a_stretch_without_values_breaks_the_line(make_view, now_s):
    past = Series((now_s - 90, now_s - 80, now_s - 30, now_s - 20), (50.0, 51.0, 52.0, 53.0))
    view = make_view(history=History({"T": Reading(54.0, Quality.GOOD, now_s - 10)}, {"T": past}))
    assert [v for _, v in series(trend_option(view, ("T",), 100.0), 0, "T")] == [50.0, 51.0, None, 52.0, 53.0, 54.0]


@pytest.mark.parametrize("known", [True, False])
def test_nothing_known_yet_is_empty_panels(make_view, known):
    view = make_view(history=History(), said_controller=None)
    option = trend_option(view, ("T", "U") if known else (), 100.0)
    json.dumps(option, allow_nan=False)
    assert all(s["data"] == [] for s in option["series"])


def test_limits_near_the_values_are_drawn_and_red_when_passed(make_view, now_s):
    def marks(value):
        history = History({"T": Reading(value, Quality.GOOD, now_s)}, {"T": Series((now_s - 50, now_s), (70.0, value))})
        (line,) = [
            s["markLine"]
            for s in trend_option(make_view(history=history, said_controller=None), ("T",), 100.0)["series"]
            if "markLine" in s
        ]
        return {m["yAxis"]: m for m in line["data"] if "yAxis" in m}

    assert marks(71.0).keys() == set()
    calm, hot = marks(84.0), marks(90.0)
    assert calm[85.0]["label"]["formatter"] == "max 85"
    assert calm[85.0]["lineStyle"]["color"] != hot[85.0]["lineStyle"]["color"]
    moves = [
        m["label"]["formatter"]
        for s in trend_option(make_view(), ("U",), 100.0)["series"]
        for m in s.get("markLine", {"data": []})["data"]
    ]
    assert moves == ["now", "low 10", "high 70"]


def test_scales_hold_the_values_in_round_steps(spec):
    T = spec.tag("T")
    low, high, step = scale(T, [49.0, 52.0, None], [95.0])
    assert low <= 49.0 < 52.0 <= high < 95.0
    assert (low / step) % 1 == (high / step) % 1 == 0
    assert scale(T, [80.0, 84.0], [85.0])[1] >= 85.0
    low, high, _ = scale(T, [50.0, 50.0], [])
    assert high - low >= 20 * T.noise, "noise must not fill the panel"


def test_names_cannot_write_rich_text(make_view, make_spec):
    spec = make_spec()
    tags = (spec.tags[0].model_copy(update={"description": "{name|boo}"}), *spec.tags[1:])
    option = trend_option(make_view(spec=spec.model_copy(update={"tags": tags})), ("T",), 100.0)
    assert "(name/boo)" in option["title"][0]["text"]
