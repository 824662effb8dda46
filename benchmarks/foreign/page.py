"""The operator page in a real browser while what it depends on dies: is it said within 5 s, does nothing old look healthy,
and does it all come back by itself?

    python -m benchmarks.foreign.page [--shots FOLDER] [--only NAME...]
"""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.foreign.bench import Bench
from benchmarks.foreign.page_site import SPEED, STEPS_S, Site
from benchmarks.outcomes import Cases, Outcome, none, not_run, yes

LIMIT_S = 5.0
_HOLD_S = 9.0  # how long a state is kept before it is mended
_BACK_S = 120.0  # a controller takes a while to start on a busy machine
_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
          "--disable-component-update", "--disable-sync", "--disable-quic"]  # fmt: skip

# What an operator sees, read off the page at once. The parts live in shadow roots.
_LOOK = """() => {
    const roots = [document, ...[...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)];
    const all = s => roots.flatMap(r => [...r.querySelectorAll(s)]);
    const veil = document.getElementById('homeostat-veil');
    const mode = all('.strip .mode')[0], clock = all('.strip > div:last-child')[0];
    return {
        veil: !!veil && !veil.hidden && veil.getBoundingClientRect().height >= innerHeight,
        banners: all('.notice[data-source]').map(e => e.dataset.source),
        mode: mode ? mode.querySelector('b').textContent : '',
        modeCut: mode ? mode.querySelector('b').scrollWidth > mode.clientWidth : true,
        values: all('.plate[data-tag] .value').map(e => e.classList.contains('old') || e.textContent === '–'),
        margins: all('.plate[data-guardrail] .figures b').map(e => e.textContent),
        usable: !document.getElementById('root').inert && !document.querySelector('[role=dialog]'),
        trendsOld: all('h2 b.amber').length > 0,
        clock: clock ? clock.querySelector('b').textContent : '',
    };
}"""
_MODES = {"OFF", "MANUAL", "ADVISORY", "AUTO", "SHED"}
_ALL_SILENT = ("plant", "recorder", "controller")

Look = Mapping[str, Any]


@dataclass(frozen=True)
class Scenario:
    """`told`: who must be named, `veil` for the browser's own. `hurt` and `mend` do it to the site; `old` says of a look
    whether something in it passes an old value for a present one."""

    told: str
    hurt: Callable[[Site], None]
    mend: Callable[[Site], None]
    old: Callable[[Look, Site], bool]


def _fresh_values(look: Look, _site: Site) -> bool:
    return not look["veil"] and not all(look["values"])


def _fresh_mode(look: Look, _site: Site) -> bool:
    return not look["veil"] and (look["mode"] in _MODES or any(m != "–" for m in look["margins"]))


def _fresh_trends(look: Look, _site: Site) -> bool:
    return not look["veil"] and not look["trendsOld"]


def _any_fresh(look: Look, site: Site) -> bool:
    return _fresh_values(look, site) or _fresh_mode(look, site) or _fresh_trends(look, site)


def _other_time(look: Look, site: Site) -> bool:
    """The page's plant clock is more than 10 wall seconds from the plant's: it shows another time, not a late scan."""
    if look["veil"] or all(look["values"]) or not re.fullmatch(r"\d\d:\d\d:\d\d", look["clock"]):
        return False
    shown = sum(int(part) * unit for part, unit in zip(look["clock"].split(":"), (3600, 60, 1), strict=True))
    at = datetime.fromtimestamp(site.plant_time())
    off = abs(shown - (at.hour * 3600 + at.minute * 60 + at.second))
    return min(off, 86_400 - off) > 10 * SPEED


def _killed(*names: str) -> tuple[Callable[[Site], None], Callable[[Site], None]]:
    def mend(site: Site) -> None:
        for name in names:
            site.start(name)

    return lambda site: site.kill(*names), mend


def _paused(name: str) -> tuple[Callable[[Site], None], Callable[[Site], None]]:
    return lambda site: site.signal(name, signal.SIGSTOP), lambda site: site.signal(name, signal.SIGCONT)


def _set(number: int) -> tuple[Callable[[Site], None], Callable[[Site], None]]:
    return lambda site: site.signal("plant", number), lambda site: None


SCENARIOS: dict[str, Scenario] = {
    "plant killed": Scenario("plant", *_killed("plant"), _fresh_values),
    "plant paused": Scenario("plant", *_paused("plant"), _fresh_values),
    "controller killed": Scenario("controller", *_killed("controller"), _fresh_mode),
    "controller paused": Scenario("controller", *_paused("controller"), _fresh_mode),
    "recorder killed": Scenario("recorder", *_killed("recorder"), _fresh_trends),
    "recorder paused": Scenario("recorder", *_paused("recorder"), _fresh_trends),
    "plant, recorder and controller killed": Scenario("plant", *_killed(*_ALL_SILENT), _any_fresh),
    "page server killed": Scenario("veil", *_killed("page"), _any_fresh),
    "page server paused": Scenario("veil", *_paused("page"), _any_fresh),
    "clock - 5 h": Scenario("clock", *_set(signal.SIGUSR1), _other_time),
    "clock + 1 h": Scenario("clock", *_set(signal.SIGUSR2), _other_time),
}
assert {signal.SIGUSR1, signal.SIGUSR2} == set(STEPS_S)


def healthy(look: Look, site: Site) -> bool:
    """Nothing is wrong, and the page says so."""
    return (
        not look["veil"] and look["usable"] and not look["banners"] and look["mode"] in _MODES and not any(look["values"])
        and not look["trendsOld"] and not _other_time(look, site)
    )  # fmt: skip


def measure(name: str, site: Site, page: Any, shots: Path | None = None) -> dict[str, Any]:
    """Live through one scenario on a healthy site with `page` open: seconds until it was told (inf: never), whether anything
    old looked healthy later than `LIMIT_S`, and whether all came back by itself."""
    scenario = SCENARIOS[name]
    if not _until(page, lambda look: healthy(look, site), _BACK_S):
        raise TimeoutError(f"the site is not healthy before '{name}': {page.evaluate(_LOOK)}")
    scenario.hurt(site)
    began, told, old, last = time.monotonic(), float("inf"), [], {}
    while (at := time.monotonic() - began) < _HOLD_S:
        last = page.evaluate(_LOOK)
        if told == float("inf") and (last["veil"] if scenario.told == "veil" else scenario.told in last["banners"]):
            told = time.monotonic() - began
        if at > LIMIT_S and scenario.old(last, site):
            old.append(last)
        time.sleep(0.05)
    if shots is not None:
        _shoot(page, shots / f"{re.sub(r'[^a-z0-9]+', '_', name)}.png")
    scenario.mend(site)
    began = time.monotonic()
    back = _until(page, lambda look: healthy(look, site), _BACK_S)
    return {
        "scenario": name, "seconds_to_veil": round(told, 2), "healthy_look_on_old": bool(old), "back": back,
        "seconds_to_back": round(time.monotonic() - began, 1), "seen": old[0] if old else last,
    }  # fmt: skip


def _until(page: Any, wanted: Callable[[Look], bool], patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while not wanted(page.evaluate(_LOOK)):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _shoot(page: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    was = page.viewport_size
    for width, height in ((1440, 900), (1024, 768), (1920, 1080)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(300)
        page.screenshot(path=path.with_stem(f"{path.stem}_{width}"))
    page.set_viewport_size(was)


def chromium() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """A page of a Chromium of its own, at `url`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=_FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(url)
        page.wait_for_selector("canvas")
        yield page
        browser.close()


def rows(
    only: Sequence[str] = tuple(SCENARIOS), shots: Path | None = None, folder: Path | None = None,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A dictionary a scenario, given to `each` as soon as it is known: scenario, seconds_to_veil, healthy_look_on_old, back,
    seconds_to_back, seen (the look at fault, else the last one). One site and one browser live through all, in order."""
    with tempfile.TemporaryDirectory() as made, Site(folder or Path(made)) as site, opened(site.url) as page:
        if shots is not None and _until(page, lambda look: healthy(look, site) and look["mode"] == "AUTO", _BACK_S):
            _shoot(page, shots / "healthy.png")
        found = []
        for name in only:
            found.append(measure(name, site, page, shots))
            each(found[-1])
        return found


def cases(bench: Bench) -> Cases:
    """The row of `python -m benchmarks.foreign`."""

    @functools.cache
    def found() -> dict[str, dict[str, Any]] | TimeoutError:
        known: dict[str, dict[str, Any]] = {}
        try:
            rows(folder=bench.folder / "page", each=lambda row: known.update({row["scenario"]: row}))
        except TimeoutError as e:  # what was measured before it stands; the rest is not waited for once more each
            return known or e
        return known

    def of(name: str) -> list[Outcome]:
        if chromium() is None:
            return [not_run("told within 5 s", "no Chromium: apt install chromium")]
        measured = found()
        if isinstance(measured, TimeoutError):
            raise measured
        if (row := measured.get(name)) is None:
            raise TimeoutError("an earlier case did not come back")
        return [
            Outcome("seconds until veil or banner", row["seconds_to_veil"], LIMIT_S),
            none("healthy look on old values", row["healthy_look_on_old"]),
            yes("back by itself", row["back"], f"after {row['seconds_to_back']} s"),
        ]

    return {name: functools.partial(of, name) for name in SCENARIOS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=Path, help="a folder for screenshots of each state")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--folder", type=Path, help="where the site's files and logs stay; default: nowhere")
    args = parser.parse_args()
    found = rows(args.only, args.shots, args.folder, _say)
    return int(not all(map(_good, found)))


def _good(row: Mapping[str, Any]) -> bool:
    return row["seconds_to_veil"] <= LIMIT_S and not row["healthy_look_on_old"] and row["back"]


def _say(row: Mapping[str, Any]) -> None:
    told, back = (
        f"told {row['seconds_to_veil']:5.2f} s",
        f"back {row['back']!s:5} after {row['seconds_to_back']:4.1f} s",
    )
    missed = "" if _good(row) else f"  MISSED {row['seen']}"
    print(
        f"{row['scenario']:38} {told}  old looks healthy {row['healthy_look_on_old']!s:5}  {back}{missed}", flush=True
    )


if __name__ == "__main__":
    raise SystemExit(main())
