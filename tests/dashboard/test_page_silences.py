"""A real Chromium, and a site of real processes of which each in turn is killed, paused, or has its clock set."""

from __future__ import annotations

import pytest

from benchmarks.foreign.page import SCENARIOS, chromium, measure, opened
from benchmarks.foreign.page_site import Site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if chromium() is None:
        pytest.skip("no Chromium is installed")
    with Site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def page(site):
    with opened(site.url) as shown:
        yield shown


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_old_is_said_within_five_seconds_and_comes_back_by_itself(site, page, name):
    row = measure(name, site, page)
    assert row["seconds_to_veil"] <= 5.0, row
    assert not row["healthy_look_on_old"], row
    assert row["back"], row


@pytest.mark.parametrize(("width", "height"), [(1024, 768), (1440, 900), (1920, 1080)])
def test_the_mode_is_never_cut(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    mode = page.locator(".strip .mode b")
    box = mode.bounding_box()
    assert mode.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    name = page.locator(".strip .name").bounding_box()
    assert name["x"] + name["width"] <= box["x"], "nothing lies over it"
