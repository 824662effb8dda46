"""The operator page: its layout and its 1 Hz tick; the browser itself sees when ticks stay away (`veil`). What it shows is made in `view`, `faceplates` and `figures`."""

from __future__ import annotations

import streamlit as st

from dashboard import faceplates
from dashboard.commands import acknowledge, controls
from dashboard.data import HistoryReader, observe
from dashboard.figures import trend_option
from dashboard.launch import Settings
from dashboard.live import LiveSource
from dashboard.live_html import live_html
from dashboard.veil import pulse
from dashboard.view import trend_tags
from plant.spec import PlantSpec

_TICK_S = 1.0
_TREND_SAMPLES = 92  # control samples of history: 40 minutes of the reactor
_FIRST_ANSWER_S = 2.0


def operator_page(spec: PlantSpec, settings: Settings) -> None:
    """Draw the page and keep it live."""
    live, history = _sources(spec.name, str(settings.historian), settings.controller, settings.plant_endpoint, spec)
    live.wait_for_answer(_FIRST_ANSWER_S)
    _tick(spec, live, history)


@st.cache_resource(show_spinner=False)
def _sources(
    _name: str, historian: str, controller: str, plant: str | None, _spec: PlantSpec
) -> tuple[LiveSource, HistoryReader]:
    """One connection to each source for every session of this process."""
    return LiveSource(_spec, controller, plant), HistoryReader(historian, _spec)


@st.fragment(run_every=_TICK_S)
def _tick(spec: PlantSpec, live: LiveSource, history: HistoryReader) -> None:
    span_s = _TREND_SAMPLES * spec.sample_time_s
    tags = trend_tags(spec)
    view = observe(spec, live, history, tags, span_s)
    live_html(
        faceplates.header(view) + faceplates.notices(view) + faceplates.sayings(view),
        key="header",
        height_as="--header",
    )
    left, middle, right = st.columns([23, 50, 27])
    with left:
        live_html(faceplates.measurements(view) + faceplates.guardrails(view), key="plates")
    with middle, st.container(key="trends"):
        live_html(faceplates.trend_key(view, span_s), key="trend_key")
        st.echarts_chart(trend_option(view, tags, span_s), key="trend", theme=None, height=720)
    with right:
        if key := live_html(faceplates.alarms(view), key="alarms"):
            acknowledge(live, key)
        with st.container(key="controls"):
            controls(view, live)
        live_html(faceplates.entries(view), key="entries")
    pulse()  # last: the browser may take the whole page for new
