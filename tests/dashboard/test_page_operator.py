"""The page as an operator has it: a real Chromium, a real Streamlit, and a real plant with its historian and controller."""

from __future__ import annotations

import re
import time

import pytest

from controllers.contracts import Mode
from plant.link import Quality

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
WAIT_MS = 45_000  # a shared machine may be busy; only a failure waits that long


@pytest.fixture(scope="module")
def url(site, run_dashboard):
    with run_dashboard(site.plant_file, site.folder / "historian.db", site.controller_endpoint) as address:
        yield address


@pytest.fixture(scope="module")
def page(url, browser):
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.wait_for_selector("canvas")
    yield page
    page.close()


@pytest.fixture
def shows(page):
    """Wait until some part of the page has a text."""
    from playwright.sync_api import expect

    def wait(selector: str, text: str | re.Pattern[str]) -> None:
        expect(page.locator(selector).first).to_contain_text(text)

    return wait


def until(condition, what: str, deadline_s: float = 45.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.05)


def test_shows_mode_plan_values_and_margins(page, shows):
    shows(".strip", "heater")
    shows(".strip", "ADVISORY")
    shows(".strip", "OPTIMAL")
    shows(".strip", "LOCAL")
    shows("[data-tag=T] .value", re.compile(r"^(49|50)\.\d+$"))
    shows("[data-tag=T]", "target 50")
    shows("[data-guardrail=burns]", re.compile(r"now\s*4[45]\.\d+.*worst\s*4[34]\.\d+.*kept\s*1\.5"))
    shows("[data-guardrail=warm]", "T ≤ 85 degC")
    assert page.locator("canvas").first.bounding_box()["height"] > 400
    assert page.locator("text=Not a medical device").count() == 0


def test_a_tick_changes_values_in_place(page):
    """Same nodes before and after, and nothing fades in between."""
    page.evaluate("""() => {
        const roots = [document, ...[...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)];
        const find = s => roots.map(r => r.querySelector(s)).find(Boolean);
        window.kept = [find('[data-tag=T] .value'), find('.strip b'), find('canvas'), find('.st-key-who input')];
        window.before = kept[0].textContent;
        window.faintest = 1;
        const look = () => {
            document.querySelectorAll('.stElementContainer').forEach(
                e => { window.faintest = Math.min(window.faintest, +getComputedStyle(e).opacity); });
            requestAnimationFrame(look);
        };
        look();
    }""")
    page.wait_for_function("kept[0].textContent !== before")
    clock = page.locator(".strip b").last.text_content()
    page.wait_for_function(
        "c => kept[1].getRootNode().querySelector('.strip > div:last-child b').textContent !== c", arg=clock
    )
    assert page.evaluate("kept.every(node => node.isConnected)")
    assert page.evaluate("faintest") == 1


def test_nothing_is_sent_without_a_name(page, shows, site):
    page.get_by_role("tab", name="Target").click()
    page.locator(".st-key-set_target button").click()
    shows("[role=status]", "Enter your name")
    assert site.loop.targets.values == {"T": 50.0}


def test_a_target_set_on_the_page_reaches_the_controller_and_is_recorded(page, shows, site):
    page.locator(".st-key-who input").fill("ann")
    page.locator(".st-key-who input").press("Enter")
    page.get_by_role("tab", name="Target").click()
    page.locator(".st-key-target_T input").fill("55")
    page.locator(".st-key-target_T input").press("Enter")
    page.locator(".st-key-set_target button").click()
    until(lambda: site.loop.targets.values == {"T": 55.0}, "the target arrives")
    shows("[role=status]", "Accepted: target T = 55")
    shows("[data-tag=T]", "target 55")
    shows("tr:has-text('SetTarget')", "ann")


def test_a_refusal_is_shown_as_the_controller_words_it(page, shows, site):
    page.locator(".st-key-target_T input").fill("500")
    page.locator(".st-key-target_T input").press("Enter")
    page.locator(".st-key-set_target button").click()
    shows("[role=status]", re.compile(r"Refused: target T = 500.*outside \[30, 80\] degC"))
    assert site.loop.targets.values == {"T": 55.0}


def test_operator_limits_and_manual_moves(page, shows, site):
    page.get_by_role("tab", name="Limits").click()
    page.locator(".st-key-high_U input").fill("60")
    page.locator(".st-key-high_U input").press("Enter")
    page.locator(".st-key-set_limit button").click()
    until(lambda: site.loop.supervisor.clamp.asked["U"] == (0.0, 60.0), "the limits arrive")
    page.get_by_role("tab", name="Manual move").click()
    assert page.locator(".st-key-set_move button").is_disabled()
    select_mode(page, "MANUAL", "by hand for a while")
    shows(".strip", "MANUAL")
    page.get_by_role("tab", name="Manual move").click()
    in_force = site.server.regulatory.outputs[0, 0]
    assert abs(float(page.locator(".st-key-move_U input").input_value()) - in_force) < 6.0, "it starts where the MV is"
    page.locator(".st-key-move_U input").fill("42")
    page.locator(".st-key-move_U input").press("Enter")
    page.locator(".st-key-set_move button").click()
    shows("[role=status]", "Accepted: move U = 42")
    until(lambda: abs(site.server.regulatory.outputs[0, 0] - 42.0) < 0.01, "the plant is moved")


def select_mode(page, mode: str, reason: str) -> None:
    page.get_by_role("tab", name="Mode").click()
    page.locator(".st-key-reason input").fill(reason)
    page.locator(".st-key-reason input").press("Enter")
    page.locator(".st-key-mode button", has_text=mode).click()
    page.locator(".st-key-set_mode button").click()


def test_a_shed_says_why_and_how_to_return_and_its_alarm_is_acknowledged(page, shows, site):
    select_mode(page, "AUTO", "start")
    shows(".strip", "REMOTE")
    site.server.override("T", quality=Quality.BAD)
    shows(".notice.shed", "SHED")
    shows(".notice.shed", "T is bad")
    shows(".notice.shed", re.compile("To return: repair the measurement, then select AUTO"))
    shows(".strip", "LOCAL")
    shows("[data-tag=T]", "bad")
    page.locator("tr[data-alarm=shed] button").click()
    shows("tr[data-alarm=shed]", "acknowledged")
    site.server.release("T")
    until(lambda: not site.loop.supervisor.blockers(Mode.AUTO), "AUTO is possible again")
    select_mode(page, "AUTO", "repaired")
    page.wait_for_selector(".notice.shed", state="detached")


def test_a_lost_controller_is_one_clear_message_until_it_is_back(page, shows, site):
    site.run(site.silence())
    shows(".notice.bad", "The controller cannot be reached")
    shows(".notice.bad", site.controller_endpoint)
    shows(".strip", "No controller")
    site.run(site.serve())
    page.wait_for_selector(".notice.bad", state="detached")
    shows(".strip", "OPTIMAL")


def test_nothing_there_yet_and_the_disclaimer(browser, run_dashboard, make_spec, tmp_path):
    """No controller, no plant, no historian: the page says so and stands. The plant's disclaimer stands there."""
    plant = tmp_path / "plant.yaml"
    said = {"disclaimer": "Not a medical device.", "endpoint": "opc.tcp://127.0.0.1:9/plant"}
    plant.write_text(make_spec(**said).model_dump_json())
    with run_dashboard(plant, tmp_path / "none.db", "opc.tcp://127.0.0.1:9/controller") as url:
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(url)
        page.wait_for_selector("text=Not a medical device.")
        page.wait_for_selector("text=there is no historian yet")
        page.wait_for_selector("text=The controller cannot be reached.")
        page.wait_for_selector("canvas")
        assert page.locator("[data-testid=stException]").count() == 0
        page.close()
