"""Zones, prices, what is scheduled and what holds the plant, as the page shows them and as its operator changes them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from html.parser import HTMLParser

import pytest

from controllers.contracts import Status
from dashboard import faceplates
from dashboard.figures import trend_option
from dashboard.style import AMBER, RED, ZONE
from dashboard.view import Reading, display_range, trend_tags
from plant.link import Quality
from plant.opcua.controller_client import Scheduled
from plant.spec import Role

WAIT_MS = 45_000


class Text(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.text, self.classes = "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.classes += [value for name, value in attrs if name == "class"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def view(make_view, make_spec, make_snapshot, wants):
    spec = make_spec(**wants)
    return make_view(spec=spec, said_controller=make_snapshot(zones={"T": (45.0, 60.0)}, prices={"U": 2.0}))


def said(view, **changes):
    return dataclasses.replace(view, said_controller=dataclasses.replace(view.said_controller, **changes))


def reading(view, value, now_s):
    readings = {**view.history.readings, "T": Reading(value, Quality.GOOD, now_s)}
    return dataclasses.replace(view, history=dataclasses.replace(view.history, readings=readings))


def areas(view):
    (measured,) = [s for s in trend_option(view, ("T",), 200.0)["series"] if s["name"] == "T"]
    return [pair for pair in measured["markArea"]["data"] if "yAxis" in pair[0]]


@pytest.mark.parametrize(
    ("zone", "words", "open_ends"),
    [((45.0, 60.0), "zone 45 – 60", ""), ((math.nan, 60.0), "zone ≤ 60", " open-low"), ((45.0, math.nan), "zone ≥ 45", " open-high")],
)  # fmt: skip
def test_a_faceplate_has_the_zone_in_force(view, zone, words, open_ends):
    plate = Text(faceplates.measurements(said(view, zones={"T": zone})))
    assert f"target 50.00 · {words}" in plate.text.replace("target 50.0 ", "target 50.00 ")
    assert f"zone{open_ends}" in plate.classes


def test_a_reading_outside_its_zone_is_a_calm_word(view, now_s):
    for value, word in ((44.0, "BELOW ZONE"), (61.0, "ABOVE ZONE")):
        plate = Text(faceplates.measurements(reading(view, value, now_s)))
        assert word in plate.text
        assert not {"value amber", "value red", "status amber"} & set(plate.classes)
    inside = Text(faceplates.measurements(view)).text
    assert "BELOW" not in inside
    assert "ABOVE" not in inside


def test_a_plant_without_zones_looks_as_before(make_view, make_snapshot):
    view = make_view()
    shown = (
        faceplates.header(view) + faceplates.notices(view) + faceplates.sayings(view) + faceplates.measurements(view)
    )
    assert "zone" not in shown
    assert faceplates.sayings(view) == ""
    assert areas(view) == []


def test_a_zone_is_a_band_on_its_trend_with_its_ends_named(view):
    option = trend_option(view, ("T",), 200.0)
    json.dumps(option, allow_nan=False)
    ((low, high),) = areas(view)
    assert low["itemStyle"]["color"] == ZONE
    axis = option["yAxis"][0]
    assert max(45.0, axis["min"]) == low["yAxis"] < high["yAxis"] == min(60.0, axis["max"])
    ((low, high),) = areas(said(view, zones={"T": (math.nan, 60.0)}))
    assert low["yAxis"] == axis["min"]
    assert math.isfinite(high["yAxis"])


def test_a_controller_that_is_away_tells_no_zone(view):
    assert areas(dataclasses.replace(view, said_controller=None)) == []


def test_the_bar_reaches_over_what_a_zone_may_be_set_to(view, make_spec, wants):
    zoned = make_spec(**{**wants, "targets": [], "guardrails": []})
    low, high = display_range(dataclasses.replace(view, spec=zoned), zoned.tag("T"))
    assert low <= 30.0 < 80.0 <= high


def test_what_has_a_zone_is_trended(make_spec):
    spec = make_spec()
    extra = spec.tag("D").model_copy(update={"name": "A", "role": Role.AUX, "node_id": "ns=2;s=heater.A"})
    zone = {"tag": "A", "high": 5.0, "limits": (0.0, 10.0)}
    zoned = make_spec(tags=[t.model_dump() for t in (*spec.tags, extra)], zones=[zone])
    assert trend_tags(zoned, limit=3) == ("T", "U", "A")


def test_scheduled_targets_are_drawn_where_they_come(view, now_s):
    view = said(
        view,
        schedule=(
            Scheduled(now_s + 5, "T", 55.0),
            Scheduled(now_s + 6, "T", (45.0, 50.0)),
            Scheduled(now_s + 900, "T", 60.0),
        ),
    )
    (target,) = [s["data"] for s in trend_option(view, ("T",), 200.0)["series"] if s["name"] == "target"]
    assert [v for _, v in target] == [50.0, 50.0, 55.0, 55.0]


def test_tight_is_a_calm_word_and_recovery_is_not(view):
    tight = faceplates.header(said(view, plan_status="TIGHT"))
    assert re.search(r'<div class=""><b>TIGHT</b><span[^>]*>plan · limits kept<', tight)
    assert '<div class="red"><b>RECOVERY</b>' in faceplates.header(said(view, plan_status="RECOVERY"))


def test_what_holds_the_plant_is_a_sentence_and_escaped(view):
    shown = faceplates.sayings(
        said(view, active="production is held by <T>; 1 degC more gives .4 EUR/h", why="T ends short")
    )
    assert "Economy" in shown
    assert "held by &lt;T&gt;; 1 degC more gives .4 EUR/h" in shown
    assert "T ends short" in shown
    assert faceplates.sayings(dataclasses.replace(view, said_controller=None)) == ""


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoned(tmp_path_factory, make_site, wants):
    running = make_site(tmp_path_factory.mktemp("site"), **wants)
    yield running
    running.close()


@pytest.fixture(scope="module")
def page(zoned, run_dashboard, browser):
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    with run_dashboard(zoned.plant_file, zoned.folder / "historian.db", zoned.controller_endpoint) as url:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(WAIT_MS)
        page.goto(url)
        page.wait_for_selector("canvas")
        page.locator(".st-key-who input").fill("ann")
        page.locator(".st-key-who input").press("Enter")
        yield page
        page.close()


@pytest.fixture
def shows(page):
    from playwright.sync_api import expect

    def wait(selector: str, text) -> None:
        expect(page.locator(selector).first).to_contain_text(text)

    return wait


def until(condition, what: str, deadline_s: float = 45.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.05)


def enter(page, key: str, value: str) -> None:
    page.locator(f".st-key-{key} input").fill(value)
    page.locator(f".st-key-{key} input").press("Enter")


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_an_operator_sets_a_zone_opens_a_side_and_reads_the_refusal(page, shows, zoned):
    shows("[data-tag=T]", "zone 45 – 60")
    page.get_by_role("tab", name="Zone").click()
    enter(page, "zone_low_T", "48")
    page.locator(".st-key-set_zone button").click()
    until(lambda: zoned.loop.targets.zones == {"T": (48.0, 60.0)}, "the zone arrives")
    shows("[role=status]", "Accepted: zone T = 48 to 60")
    shows("[data-tag=T]", "zone 48 – 60")
    enter(page, "zone_low_T", "70")
    page.locator(".st-key-set_zone button").click()
    shows("[role=status]", re.compile("Refused: zone T = 70 to 60.*low must be below high"))
    enter(page, "zone_low_T", "warm")
    page.locator(".st-key-set_zone button").click()
    shows("[role=status]", "Not sent: a zone has numbers, not warm to 60")
    enter(page, "zone_low_T", "")
    page.locator(".st-key-set_zone button").click()
    until(lambda: zoned.loop.targets.zones == {"T": (None, 60.0)}, "the side is open")
    shows("[data-tag=T]", "zone ≤ 60")
    shows("tr:has-text('SetZone')", "ann")


@pytest.mark.browser
@pytest.mark.timeout(240)
def test_an_operator_sets_a_price(page, shows, zoned):
    page.get_by_role("tab", name="Price").click()
    enter(page, "price_U", "3.5")
    page.locator(".st-key-set_cost button").click()
    until(lambda: zoned.loop.targets.prices == {"U": 3.5}, "the price arrives")
    shows("[role=status]", "Accepted: price U = 3.5")
    shows("tr:has-text('SetCost')", "ann")


@pytest.mark.browser
@pytest.mark.timeout(240)
@pytest.mark.parametrize("width", [1440, 1024])
def test_what_holds_it_and_tight_are_calm_and_fit(page, shows, zoned, width, tmp_path):
    zoned.controller.says = {
        "status": (Status.TIGHT,),
        "active": ("heating is held by T; 1 degC more gives 0.4 EUR/h",),
    }
    page.set_viewport_size({"width": width, "height": 900})
    shows(".strip", "TIGHT")
    shows("[data-source=plan]", "heating is held by T; 1 degC more gives 0.4 EUR/h")
    cell = page.locator(".strip > div:has-text('TIGHT')").first
    colour = cell.evaluate("e => getComputedStyle(e).backgroundColor")
    assert colour not in [f"rgb({int(c[1:3], 16)}, {int(c[3:5], 16)}, {int(c[5:], 16)})" for c in (AMBER, RED)]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
