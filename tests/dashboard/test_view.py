"""What of a moment is abnormal."""

from __future__ import annotations

import dataclasses
import math

import pytest

from dashboard.live import PlantState
from dashboard.news import News
from dashboard.view import (
    History,
    Reading,
    State,
    display_range,
    expected_margin,
    margin_state,
    normal_band,
    number,
    trend_tags,
)
from plant.link import Quality, Value
from plant.opcua.controller_client import Margin, Prediction
from plant.spec import load_spec


def with_reading(view, tag, value, quality=Quality.GOOD, age=0.0):
    readings = {**view.history.readings, tag: Reading(value, quality, view.now_s - age)}
    return dataclasses.replace(view, history=dataclasses.replace(view.history, readings=readings))


@pytest.mark.parametrize(
    ("value", "quality", "age", "fault", "state"),
    [
        (50.0, Quality.GOOD, 0.0, "", State.NORMAL),
        (90.0, Quality.GOOD, 0.0, "", State.WARNING),
        (96.0, Quality.GOOD, 0.0, "", State.ALARM),
        (50.0, Quality.UNCERTAIN, 0.0, "uncertain", State.WARNING),
        (math.nan, Quality.BAD, 0.0, "bad", State.WARNING),
        (50.0, Quality.GOOD, 61.0, "stale, 61 s", State.WARNING),
    ],
)
def test_a_reading_is_judged(make_view, value, quality, age, fault, state):
    view = with_reading(make_view(), "T", value, quality, age)
    tag = view.spec.tag("T")
    assert (view.fault(tag), view.state(tag)) == (fault, state)


def test_a_tag_without_its_own_limit_is_stale_after_three_samples(make_view):
    view = make_view()
    assert view.fault(view.spec.tag("D")) == ""
    assert "stale" in with_reading(view, "D", 0.0, age=15.1).fault(view.spec.tag("D"))


def test_values_are_old_by_reception_whatever_their_stamps_say(make_view):
    silent = News(12.0)
    assert make_view(plant_news=silent).old == "", "the recorder stores new ones"
    assert make_view(stored_news=silent).old == "old, 12 s"
    assert make_view(stored_news=News(0.5, ever=False)).old == "from before, waiting"
    view = make_view(stored_news=silent, plant_news=silent)
    tag = view.spec.tag("T")
    assert (view.fault(tag), view.state(tag), view.trends_old) == ("old, 12 s", State.NORMAL, True)
    assert view.plan.time_s == (), "no plan starts from an old value"


def test_the_plant_itself_is_shown_before_what_is_stored_of_it(make_view, now_s):
    said = PlantState(time_s=now_s - 18_000, values={"T": Value(61.0, Quality.GOOD, now_s - 18_000)})
    view = make_view(said_plant=said)
    assert (view.readings["T"].value, view.now_s) == (61.0, now_s - 18_000)
    assert view.plan.time_s == (), "a plan made five hours ahead is of another time"
    gone = dataclasses.replace(view, plant_news=News(9.0))
    assert (gone.plant, gone.readings["T"].value, gone.now_s) == (None, 50.0, now_s)
    both = dataclasses.replace(gone, stored_news=News(11.0))
    assert (both.readings["T"].value, both.old) == (61.0, "old, 9 s"), "whoever had news last"


def test_a_silent_controller_says_nothing_of_the_present(make_view):
    view = make_view(controller_news=News(4.0))
    assert view.controller is None
    assert view.plan.time_s == ()
    assert view.target("T") is None
    assert view.margins == {}


def test_margins_of_a_controller_without_a_young_sample_are_unknown(make_view, make_snapshot):
    assert make_view(said_controller=make_snapshot(sample_age_s=16.0)).margins == {}
    assert make_view().margins


@pytest.mark.parametrize(("age", "fault"), [(16.0, "stale, 16 s"), (-16.0, "stamped 16 s ahead"), (-14.0, "")])
def test_an_odd_stamp_is_judged_both_ways(make_view, now_s, age, fault):
    values = {n: Value(1.0, Quality.GOOD, now_s) for n in ("T", "U")} | {"D": Value(1.0, Quality.GOOD, now_s - age)}
    view = make_view(said_plant=PlantState(time_s=now_s, values=values))
    assert view.fault(view.spec.tag("D")) == fault


def test_a_missing_historian_is_told_once_and_not_by_every_tag(make_view):
    view = make_view(history=History(), history_error="gone")
    assert {view.state(t) for t in view.spec.online} == {State.NORMAL}
    assert make_view(history=History()).state(view.spec.tag("T")) is State.WARNING


@pytest.mark.parametrize(
    ("margin", "expected", "state"),
    [
        (Margin(10.0, 5.0, 2.0), 7.0, State.NORMAL),
        (Margin(10.0, 0.0, 2.0), 2.0, State.NORMAL),  # riding on the calibrated margin is what it is for
        (Margin(10.0, -0.5, 2.0), 1.5, State.WARNING),
        (Margin(10.0, -0.5, math.nan), 0.1, State.WARNING),
        (Margin(10.0, -3.0, 2.0), -1.0, State.ALARM),
        (Margin(-0.1, 5.0, 2.0), 7.0, State.ALARM),
        (Margin(math.nan, math.nan, math.nan), math.nan, State.NORMAL),
    ],
)
def test_margins_turn_amber_in_the_allowance_and_red_past_the_limit(margin, expected, state):
    assert margin_state(margin, expected) is state


def test_the_expected_margin_comes_from_the_plan_itself(make_view, make_snapshot, now_s):
    burns = make_view().spec.guardrails[0]
    margin = Margin(45.0, 10.0, 2.0)
    plan = Prediction((now_s + 5, now_s + 10), {"T": (60.0, 90.0)}, {})
    assert expected_margin(make_view(said_controller=make_snapshot(prediction=plan)), burns, margin) == 5.0
    assert expected_margin(make_view(said_controller=make_snapshot(prediction=Prediction())), burns, margin) == 12.0


def test_bands_and_bars_stand_where_the_plant_lives(make_view):
    view = make_view()
    T, D, U = view.spec.tags
    assert normal_band(view, T) == (30.0, 80.0)
    assert normal_band(view, D) is None
    assert normal_band(view, U) == (10.0, 70.0)
    assert normal_band(make_view(said_controller=None), U) == (0.0, 80.0)
    assert display_range(view, D) == D.range
    low, high = display_range(view, T)
    assert 0.0 <= low < 30.0
    assert 95.0 < high <= 150.0


def test_trends_show_what_matters_first(spec):
    assert trend_tags(spec) == ("T", "U")
    assert trend_tags(load_spec("reactor")) == ("AI101", "TI101", "TI102", "TC101")
    assert trend_tags(load_spec("reactor"), limit=3) == ("AI101", "TI101", "TC101")


def test_numbers_have_the_digits_that_mean_something(spec):
    T, _, U = spec.tags
    assert (number(50.12345, T), number(30.0, U), number(None, T), number(math.nan, T)) == ("50.12", "30.00", "–", "–")
    assert number(0.87, load_spec("reactor").tag("AI101")) == "0.870"
