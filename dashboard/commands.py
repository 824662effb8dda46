"""What an operator can ask of the controller. The controller alone decides: its refusals are shown as it words them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime

import streamlit as st

from dashboard.faceplates import answer, zone_text
from dashboard.live import LiveSource
from dashboard.live_html import live_html
from dashboard.view import OperatorView, number
from plant.errors import LinkError

_MODES = ("OFF", "MANUAL", "ADVISORY", "AUTO")
_ANSWER = "command_answer"


def acknowledge(live: LiveSource, key: str) -> None:
    """Acknowledge an alarm."""
    _ask(live, f"acknowledge {key}", lambda who: live.client.acknowledge(key, who))


def controls(view: OperatorView, live: LiveSource) -> None:
    """Operator's name, mode, targets, zones and prices where the plant has them, operator limits and moves by hand, and the answer
    to the last of these."""
    st.text_input("Operator (recorded with every action)", key="who", max_chars=40, placeholder="your name")
    forms = {"Mode": _mode, "Target": _target}
    forms |= {"Zone": _zone} if view.spec.zones else {}
    forms |= {"Price": _price} if view.spec.prices else {}
    forms |= {"Limits": _limits, "Manual move": _move}
    for tab, form in zip(st.tabs(list(forms)), forms.values(), strict=True):
        with tab:
            form(view, live)
    live_html(answer(*st.session_state.get(_ANSWER, ("", True))), key="answer")


def _mode(view: OperatorView, live: LiveSource) -> None:
    st.segmented_control("Mode", _MODES, key="mode", required=True, label_visibility="collapsed", width="stretch")
    reason, button = st.columns([2, 1], vertical_alignment="bottom")
    reason.text_input("Reason", key="reason", max_chars=120, placeholder="reason", label_visibility="collapsed")

    def ask() -> None:
        wanted, why = st.session_state.mode, st.session_state.reason
        if wanted:
            if _ask(live, f"mode {wanted}", lambda who: live.client.set_mode(wanted, who, why)):
                st.session_state.reason = ""  # it was the reason of that change, not of the next
        else:
            _tell("Choose a mode first.", False)

    button.button("Request", key="set_mode", on_click=ask, width="stretch")
    if view.controller is not None and view.controller.doubts:
        _doubts(view.controller.doubts, live)


def _doubts(doubts: Sequence[str], live: LiveSource) -> None:
    """Why the model does not deserve AUTO, and the way for a person to answer for it all the same."""
    st.caption("The model does not deserve AUTO: " + "; ".join(_plain(d) for d in doubts))

    def ask() -> None:
        _ask(live, "override", lambda who: live.client.override(who, st.session_state.reason))

    st.button("Override in my name, for the reason above", key="override", on_click=ask, width="stretch")


def _target(view: OperatorView, live: LiveSource) -> None:
    targets = {t.tag: t for t in view.spec.targets}
    if not targets:
        st.caption("This plant has no targets.")
        return
    which, value, button = st.columns([1.1, 1.2, 0.9], vertical_alignment="bottom")
    name = which.selectbox("CV", list(targets), key="target_tag")
    tag, chosen = view.spec.tag(name), targets[name]
    now = view.target(name)
    wanted = value.number_input(
        f"Target, {tag.unit}",
        value=float(now if now is not None else chosen.value),
        step=(chosen.limits[1] - chosen.limits[0]) / 100,
        format=f"%.{_digits(number(chosen.value, tag))}f",
        key=f"target_{name}",
    )

    def ask() -> None:
        _ask(live, f"target {name} = {wanted:g}", lambda who: live.client.set_target(name, wanted, who))

    button.button("Set", key="set_target", on_click=ask, width="stretch")
    coming = [c for c in (view.controller.schedule if view.controller is not None else ()) if c.tag == name]
    ahead = [c for c in coming if isinstance(c.asked, float)][:1]
    then = "".join(f" {c.asked:g} from {datetime.fromtimestamp(c.time_s):%H:%M:%S} on is scheduled." for c in ahead)
    st.caption(f"Now {number(now, tag)}. From {chosen.limits[0]:g} to {chosen.limits[1]:g} {tag.unit}.{then}")


def _zone(view: OperatorView, live: LiveSource) -> None:
    zones = {z.tag: z for z in view.spec.zones}
    which, low_place, high_place, button = st.columns([1.1, 1, 1, 0.8], vertical_alignment="bottom")
    name = which.selectbox("CV", list(zones), key="zone_tag")
    tag, zone = view.spec.tag(name), zones[name]
    now = view.zone(name)
    usual = (zone.low, zone.high) if now is None else tuple(v if math.isfinite(v) else None for v in now)
    # Text: a field for numbers cannot be emptied again, and an empty side is an open one.
    sides = [
        place.text_input(
            f"{side}, {tag.unit}",
            value="" if v is None else f"{v:g}",
            key=f"zone_{side.lower()}_{name}",
            placeholder="open",
            max_chars=20,
        )
        for place, side, v in zip((low_place, high_place), ("Low", "High"), usual, strict=True)
    ]

    def ask() -> None:
        try:
            low, high = (float(side) if side.strip() else math.nan for side in sides)
        except ValueError:
            _tell(f"Not sent: a zone has numbers, not {' to '.join(sides)}.", False)
            return
        said = " to ".join("open" if math.isnan(v) else f"{v:g}" for v in (low, high))
        _ask(live, f"zone {name} = {said}", lambda who: live.client.set_zone(name, low, high, who))

    button.button("Set", key="set_zone", on_click=ask, width="stretch")
    st.caption(
        f"Now {zone_text(now) if now else '–'}. Inside {zone.limits[0]:g} to {zone.limits[1]:g} {tag.unit}; an empty side is open."
    )


def _price(view: OperatorView, live: LiveSource) -> None:
    prices = {p.tag: p for p in view.spec.prices}
    which, value, button = st.columns([1.1, 1.2, 0.9], vertical_alignment="bottom")
    name = which.selectbox("Of", list(prices), key="price_tag")
    tag, price = view.spec.tag(name), prices[name]
    now = view.controller.prices.get(name) if view.controller is not None else None
    wanted = value.number_input(
        f"{price.currency} an hour a {tag.unit}",
        value=float(price.per_unit if now is None else now),
        format="%g",
        key=f"price_{name}",
    )

    def ask() -> None:
        _ask(live, f"price {name} = {wanted:g}", lambda who: live.client.set_cost(name, wanted, who))

    button.button("Set", key="set_cost", on_click=ask, width="stretch")
    shown = "–" if now is None else f"{now:g}"
    st.caption(f"Now {shown}. Above 0 it costs, below 0 it earns.")


def _limits(view: OperatorView, live: LiveSource) -> None:
    which, low_place, high_place, button = st.columns([1.1, 1, 1, 0.8], vertical_alignment="bottom")
    name = which.selectbox("MV", [t.name for t in view.spec.mvs], key="limit_mv")
    tag = view.spec.tag(name)
    assert tag.move is not None
    now = view.operator_limits(tag) or tag.move.limits
    step = (tag.move.limits[1] - tag.move.limits[0]) / 40
    low = low_place.number_input(f"Low, {tag.unit}", value=float(now[0]), step=step, key=f"low_{name}")
    high = high_place.number_input(f"High, {tag.unit}", value=float(now[1]), step=step, key=f"high_{name}")

    def ask() -> None:
        _ask(live, f"limits {name} = {low:g} to {high:g}", lambda who: live.client.set_limit(name, low, high, who))

    button.button("Set", key="set_limit", on_click=ask, width="stretch")
    st.caption(f"Now {now[0]:g} to {now[1]:g}. Inside {tag.move.limits[0]:g} to {tag.move.limits[1]:g} {tag.unit}.")


def _move(view: OperatorView, live: LiveSource) -> None:
    mode = view.controller.mode_actual if view.controller is not None else "unknown"
    which, place, button = st.columns([1.1, 1.2, 0.9], vertical_alignment="bottom")
    name = which.selectbox("MV", [t.name for t in view.spec.mvs], key="move_mv")
    tag = view.spec.tag(name)
    assert tag.move is not None
    reading, key = view.readings.get(name), f"move_{name}"
    if mode != "MANUAL" or key not in st.session_state:
        # Whoever takes over by hand starts from the move in force, not from what it was when the page was opened.
        st.session_state[key] = round(reading.value if reading and math.isfinite(reading.value) else tag.nominal, 6)
    value = place.number_input(
        f"Move, {tag.unit}",
        step=(tag.move.limits[1] - tag.move.limits[0]) / 100,
        key=key,
        disabled=mode != "MANUAL",
    )

    def ask() -> None:
        _ask(live, f"move {name} = {value:g}", lambda who: live.client.set_move(name, value, who))

    button.button("Send", key="set_move", on_click=ask, width="stretch", disabled=mode != "MANUAL")
    limits = view.operator_limits(tag) or tag.move.limits
    within = f"Inside {limits[0]:g} to {limits[1]:g} {tag.unit}."
    st.caption(within if mode == "MANUAL" else f"Moves by hand need MANUAL; the mode is {mode}.")


def _ask(live: LiveSource, what: str, call: Callable[[str], str]) -> bool:
    """Send a command in the operator's name and keep the answer for the page. True when it was accepted."""
    who = str(st.session_state.get("who", "")).strip()
    if not who:
        _tell(f"Not sent: {what}. Enter your name under Operator first.", False)
        return False
    try:
        refusal = call(who)
        live.refresh()
    except LinkError as e:
        _tell(f"No answer: {what}. {e}", False)
        return False
    at = datetime.now().strftime("%H:%M:%S")
    _tell(f"{at} Refused: {what}. {refusal}" if refusal else f"{at} Accepted: {what}.", not refusal)
    return not refusal


def _tell(text: str, good: bool) -> None:
    st.session_state[_ANSWER] = (text, good)


def _plain(text: str) -> str:
    """Text without what Markdown would read as more."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:])", r"\\\1", text)


def _digits(text: str) -> int:
    return len(text.partition(".")[2])
