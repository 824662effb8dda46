"""Markup of the page's parts."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from dashboard import faceplates
from dashboard.live import PlantState
from dashboard.view import Entry, History, Reading
from plant.link import PlantMode, Quality
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
    shown = text(faceplates.header(make_view(plant=PlantState(PlantMode.REMOTE, 99, False))))
    for part in ("heater", "AUTO", "OPTIMAL", "12.3 ms", "2.0 s", "0.40", "REMOTE", "7 · 99"):
        assert part in shown
    waiting = make_view(controller=make_snapshot(mode_target="AUTO", mode_actual="ADVISORY"))
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
        make_view(controller=make_snapshot(**change), plant=PlantState(PlantMode.REMOTE, 1, False))
    )
    assert set(re.findall(r'class="(amber|red)"', html)) == ({state} if state else set())


def test_plant_in_local_while_the_controller_thinks_it_controls_is_amber(make_view):
    assert 'class="amber"' in faceplates.header(make_view(plant=PlantState(PlantMode.LOCAL, 1, False)))
    assert "INTERLOCK" in faceplates.header(make_view(plant=PlantState(PlantMode.LOCAL, 1, True)))


def test_shed_says_why_and_how_to_return(make_view, make_snapshot):
    reason = "Shed from AUTO: T is bad. The plant's own loops have the MVs. To return: repair it, then select AUTO."
    shown = text(faceplates.notices(make_view(controller=make_snapshot(mode_actual="SHED", mode_reason=reason))))
    assert "SHED" in shown
    assert shown.count("To return:") == 1
    assert shown.index("T is bad") < shown.index("To return: repair it, then select AUTO.")
    bare = text(faceplates.notices(make_view(controller=make_snapshot(mode_actual="SHED", mode_reason=""))))
    assert "To return: remove the cause" in bare


def test_what_cannot_be_reached_is_said_with_the_reason(make_view):
    view = make_view(
        controller=None, controller_error="opc.tcp://x: cannot connect. Start it.", history_error="h.db: there is no historian",
        plant=PlantState(PlantMode.LOCAL, 5, False, "heartbeat lost"),
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
        return faceplates.guardrails(make_view(controller=make_snapshot(margins={"burns": margin})))

    assert "red" not in shown(Margin(45.0, 40.0, 2.0))
    assert "amber" not in shown(Margin(45.0, 40.0, 2.0))
    assert 'class="now amber"' in shown(Margin(45.0, -1.0, 2.0))
    assert 'class="now red"' in shown(Margin(-1.0, 40.0, 2.0))
    for part in ("45.0", "40.0", "2.0", "T ≤ 95 degC", "rank 1"):
        assert part in text(shown(Margin(45.0, 40.0, 2.0)))


def test_guardrails_that_only_the_controller_knows_are_shown_too(make_view, make_snapshot):
    margins = {"burns_fallback": Margin(float("nan"), 3.0, 1.5), "odd_one": Margin(float("nan"), -9.0, 1.5)}
    html = faceplates.guardrails(make_view(controller=make_snapshot(margins=margins)))
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
    html = faceplates.alarms(make_view(controller=make_snapshot(alarms=found)))
    assert re.findall(r'data-key="(\w)"', html) == ["a", "c"]
    assert "2 active · 2 unacknowledged" in text(html)
    assert "cause gone" in text(html)
    assert "No alarms" in text(faceplates.alarms(make_view()))
    assert "no controller" in text(faceplates.alarms(make_view(controller=None)))


def test_every_string_from_outside_is_escaped(make_view, make_snapshot, make_alarm, now_s):
    evil = make_snapshot(
        mode_actual="SHED", mode_target=EVIL, mode_reason=f"{EVIL} To return: {EVIL}", plan_status=EVIL,
        alarms=(make_alarm(key=EVIL, message=EVIL, severity=EVIL),), margins={EVIL: Margin(1.0, 1.0, 1.0)},
    )  # fmt: skip
    view = make_view(controller=evil, history_error=EVIL, plant_error=EVIL, controller_error=EVIL)
    tags = tuple(t.model_copy(update={"description": EVIL, "unit": EVIL}) for t in view.spec.tags)
    spec = view.spec.model_copy(update={"description": EVIL, "tags": tags})
    history = dataclasses.replace(view.history, entries=(Entry(now_s, EVIL, EVIL, EVIL, EVIL),))
    view = dataclasses.replace(view, spec=spec, history=history)
    parts = [faceplates.header, faceplates.notices, faceplates.measurements, faceplates.guardrails, faceplates.alarms]
    html = "".join(part(view) for part in [*parts, faceplates.entries]) + faceplates.answer(EVIL, False)
    assert EVIL in text(html)
    assert "img" not in Names(html).tags
    assert "onerror" not in Names(html).attributes
