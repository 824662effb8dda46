"""Markup of the page's parts."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from dashboard import faceplates
from dashboard.live import ClockStep, PlantState
from dashboard.news import News
from dashboard.view import Entry, History, Reading
from plant.link import PlantMode, Quality, Value
from plant.opcua.controller_client import Margin
from plant.spec import load_spec

EVIL = '<img src=x onerror="alert(1)">'


class Names(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def text(html):
    return Names(html).text


def test_header_tells_mode_plan_and_who_has_the_moves(make_view, make_snapshot):
    shown = text(faceplates.header(make_view(said_plant=PlantState(PlantMode.REMOTE, 99, False))))
    for part in ("heater", "AUTO", "OPTIMAL", "12.3 ms", "2.0 s", "0.40", "REMOTE", "0 s · 0 s · 0 s"):
        assert part in shown
    waiting = make_view(said_controller=make_snapshot(mode_target="AUTO", mode_actual="ADVISORY"))
    assert "asked for AUTO" in text(faceplates.header(waiting))


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"mode_actual": "SHED"}, "red"),
        ({"plan_status": "RECOVERY"}, "red"),
        ({"plan_status": "DEADLINE"}, "amber"),
        ({"sample_age_s": 11.0}, "amber"),
        ({"surprise": 1.2}, "amber"),
        ({"missed_deadlines": 5}, "amber"),
        ({}, ""),
    ],
)
def test_header_is_grey_unless_something_is_abnormal(make_view, make_snapshot, change, state):
    html = faceplates.header(
        make_view(said_controller=make_snapshot(**change), said_plant=PlantState(PlantMode.REMOTE, 1, False))
    )
    assert set(re.findall(r'class="(amber|red)\b', html)) == ({state} if state else set())


def test_plant_in_local_while_the_controller_thinks_it_controls_is_amber(make_view):
    assert 'class="amber"' in faceplates.header(make_view(said_plant=PlantState(PlantMode.LOCAL, 1, False)))
    assert "INTERLOCK" in faceplates.header(make_view(said_plant=PlantState(PlantMode.LOCAL, 1, True)))


def test_shed_says_why_and_how_to_return(make_view, make_snapshot):
    reason = "Shed from AUTO: T is bad. The plant's own loops have the MVs. To return: repair it, then select AUTO."
    shown = text(faceplates.notices(make_view(said_controller=make_snapshot(mode_actual="SHED", mode_reason=reason))))
    assert "SHED" in shown
    assert shown.count("To return:") == 1
    assert shown.index("T is bad") < shown.index("To return: repair it, then select AUTO.")
    bare = text(faceplates.notices(make_view(said_controller=make_snapshot(mode_actual="SHED", mode_reason=""))))
    assert "To return: remove the cause" in bare


def test_what_cannot_be_reached_is_said_with_the_reason(make_view):
    view = make_view(
        said_controller=None, controller_error="opc.tcp://x: cannot connect. Start it.", history_error="h.db: there is no historian",
        said_plant=PlantState(PlantMode.LOCAL, 5, False, "heartbeat lost"),
    )  # fmt: skip
    shown = text(faceplates.notices(view))
    for part in (
        "controller cannot be reached",
        "opc.tcp://x",
        "historian cannot be read",
        "h.db",
        "heartbeat lost",
        "keeps trying",
    ):
        assert part in shown
    assert faceplates.notices(make_view()) == ""


def test_a_plant_s_disclaimer_stands_on_its_page(make_view, make_spec):
    line = load_spec("glucose").disclaimer
    assert line.startswith("Research and education only")
    assert line in faceplates.notices(make_view(spec=make_spec(disclaimer=line)))
    assert faceplates.notices(make_view()) == ""


def test_faceplates_show_value_target_and_limits(make_view):
    html = faceplates.measurements(make_view())
    plates = dict(re.findall(r'data-tag="(\w+)">(.*?)(?=<div class="plate"|$)', html))
    assert plates.keys() == {"T", "D", "U"}
    assert "50.0" in plates["T"]
    assert "target 50.0" in plates["T"]
    assert plates["T"].count('class="limit"') == 2
    assert plates["T"].count('class="target"') == 1
    assert plates["D"].count('class="band"') == 0
    assert plates["U"].count('class="limit"') == 2
    assert 'class="now "' in plates["T"]


def test_a_value_off_the_scale_stands_at_its_end(make_view, now_s):
    view = make_view(history=History({"T": Reading(149.0, Quality.GOOD, now_s)}))
    assert re.search(r'class="now red" style="left:100.0%"', faceplates.measurements(view))


def test_guardrail_bars_turn_with_their_margins(make_view, make_snapshot):
    def shown(margin):
        return faceplates.guardrails(make_view(said_controller=make_snapshot(margins={"burns": margin})))

    assert "red" not in shown(Margin(45.0, 40.0, 2.0))
    assert "amber" not in shown(Margin(45.0, 40.0, 2.0))
    assert 'class="now amber"' in shown(Margin(45.0, -1.0, 2.0))
    assert 'class="now red"' in shown(Margin(-1.0, 40.0, 2.0))
    for part in ("45.0", "40.0", "2.0", "T ≤ 95 degC", "rank 1"):
        assert part in text(shown(Margin(45.0, 40.0, 2.0)))


def test_guardrails_that_only_the_controller_knows_are_shown_too(make_view, make_snapshot):
    margins = {"burns_fallback": Margin(float("nan"), 3.0, 1.5), "odd_one": Margin(float("nan"), -9.0, 1.5)}
    html = faceplates.guardrails(make_view(said_controller=make_snapshot(margins=margins)))
    plates = dict(re.findall(r'data-guardrail="(\w+)">(.*?)(?=<div class="plate"|$)', html))
    assert "on fallback" in plates["burns_fallback"]
    assert "T ≤ 95 degC" in plates["burns_fallback"]
    assert "3.0" in plates["burns_fallback"]
    assert "odd one" in plates["odd_one"]
    assert 'class="red">-9' in plates["odd_one"]


def test_alarms_offer_acknowledgement_once(make_view, make_snapshot, make_alarm):
    found = (
        make_alarm(key="a", severity="critical"),
        make_alarm(key="b", acknowledged=True),
        make_alarm(key="c", active=False),
    )
    html = faceplates.alarms(make_view(said_controller=make_snapshot(alarms=found)))
    assert re.findall(r'data-key="(\w)"', html) == ["a", "c"]
    assert "2 active · 2 unacknowledged" in text(html)
    assert "cause gone" in text(html)
    assert "No alarms" in text(faceplates.alarms(make_view()))
    assert "No controller" in text(faceplates.alarms(make_view(said_controller=None)))


def test_every_string_from_outside_is_escaped(make_view, make_snapshot, make_alarm, now_s):
    evil = make_snapshot(
        mode_actual="SHED", mode_target=EVIL, mode_reason=f"{EVIL} To return: {EVIL}", plan_status=EVIL,
        alarms=(make_alarm(key=EVIL, message=EVIL, severity=EVIL),), margins={EVIL: Margin(1.0, 1.0, 1.0)},
    )  # fmt: skip
    view = make_view(said_controller=evil, history_error=EVIL, plant_error=EVIL, controller_error=EVIL)
    tags = tuple(t.model_copy(update={"description": EVIL, "unit": EVIL}) for t in view.spec.tags)
    spec = view.spec.model_copy(update={"description": EVIL, "tags": tags})
    history = dataclasses.replace(view.history, entries=(Entry(now_s, EVIL, EVIL, EVIL, EVIL),))
    view = dataclasses.replace(view, spec=spec, history=history)
    parts = [faceplates.header, faceplates.notices, faceplates.measurements, faceplates.guardrails, faceplates.alarms]
    html = "".join(part(view) for part in [*parts, faceplates.entries]) + faceplates.answer(EVIL, False)
    assert EVIL in text(html)
    assert "img" not in Names(html).tags
    assert "onerror" not in Names(html).attributes


def test_who_is_silent_is_named_with_the_time_and_nothing_old_is_shown_as_present(make_view):
    gone = make_view(
        said_plant=PlantState(PlantMode.REMOTE, 9, time_s=1.0), controller_news=News(7.0), plant_news=News(8.0),
        stored_news=News(9.0), plant_error="opc.tcp://p: refused", controller_error="opc.tcp://c: refused",
    )  # fmt: skip
    shown = text(faceplates.notices(gone))
    for part in ("controller cannot be reached: nothing new for 7 s", "It last said AUTO", "plant cannot be reached",
                 "nothing new for 8 s", "opc.tcp://p", "Nothing new is stored either"):  # fmt: skip
        assert part in shown
    strip = text(faceplates.header(gone))
    assert "AUTO" not in strip
    assert "REMOTE" not in strip
    assert "8 s · 9 s · 7 s" in strip
    plates = faceplates.measurements(gone)
    assert plates.count('class="value old"') == 3
    assert "old, 9 s" in text(plates)
    assert "old, 9 s" in text(faceplates.trend_key(gone, 100.0))
    assert set(re.findall(r"<b[^>]*>([^<]*)</b></span>", faceplates.guardrails(gone))) == {"–"}


def test_a_recorder_that_stores_nothing_makes_the_trends_old_and_not_the_values(make_view, now_s):
    values = {"T": Value(50.0, Quality.GOOD, now_s)}
    view = make_view(said_plant=PlantState(PlantMode.REMOTE, 9, time_s=now_s, values=values), stored_news=News(6.0))
    assert 'data-source="recorder"' in faceplates.notices(view)
    assert "value old" not in faceplates.measurements(view)
    assert "old, 6 s" in text(faceplates.trend_key(view, 100.0))


def test_the_controllers_word_on_a_tag_stands_beside_its_value(make_view, make_snapshot):
    words = {"T": "PREDICTED", "D": "ON", "U": "AT HIGH"}
    plates = faceplates.measurements(make_view(said_controller=make_snapshot(tag_status=words)))
    assert re.findall(r'class="status (\w*)">([A-Z ]+)<', plates) == [("amber", "PREDICTED"), ("", "AT HIGH")]
    assert "AT HIGH" not in faceplates.measurements(
        make_view(said_controller=make_snapshot(tag_status=words), controller_news=News(9.0))
    )


def test_a_step_of_the_plants_clock_is_told_for_a_while(make_view):
    assert "set back by 5 h" in text(faceplates.notices(make_view(clock_step=ClockStep(-18_000.0, 3.0))))
    assert "set ahead by 60 min" in text(faceplates.notices(make_view(clock_step=ClockStep(3600.0, 3.0))))
    assert faceplates.notices(make_view(clock_step=ClockStep(3600.0, 99.0))) == ""
