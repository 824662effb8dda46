"""The parts of the page that are not trends, as HTML from an `OperatorView`. Pure; every string from outside is escaped."""

from __future__ import annotations

import math
from datetime import datetime
from html import escape

from dashboard.news import News, duration
from dashboard.style import SEVERITIES
from dashboard.view import OperatorView, State, display_range, expected_margin, margin_state, normal_band, number
from plant.link import PlantMode
from plant.opcua.controller_client import ControllerAlarm, ControllerSnapshot, Margin
from plant.spec import Guardrail, Role, Tag

_GOOD_PLANS = {"OPTIMAL", "FEASIBLE", "TIGHT", ""}  # under TIGHT every limit is kept: no alarm
_PLAN_LABELS = {"TIGHT": "plan · limits kept"}
_BAD_PLANS = {"RECOVERY", "INFEASIBLE", "FALLBACK", "UNUSABLE"}
_LATE_SAMPLES = 2.0  # a sample older than this many control samples is worth an eye
_ABNORMAL = {"DROPPED", "PREDICTED", "BAD"}  # of the controller's words on a tag; the others are ordinary
_TO_RETURN = "To return:"
_FALLBACK = "_fallback"  # how a controller names the margin of a guardrail's `fallback_tag`


def header(view: OperatorView) -> str:
    """The strip every operator reads first: mode, plant, who has the MVs, plan, surprise, how old the news are, plant time."""
    c = view.controller
    cells = [_cell(view.spec.name, view.spec.description, kind="name"), _mode(view), _cell(*_plant(view))]
    if c is not None:
        grave = State.ALARM if c.plan_status in _BAD_PLANS else State.WARNING
        cells += [
            _cell(
                c.plan_status or "–",
                _PLAN_LABELS.get(c.plan_status, "plan"),
                State.NORMAL if c.plan_status in _GOOD_PLANS else grave,
            ),
            _cell(f"{_tenths(c.solve_time_ms)} ms", "solve time", kind="spare"),
            _cell(
                f"{_tenths(c.sample_age_s)} s",
                "sample age",
                State.WARNING if c.sample_age_s > _LATE_SAMPLES * view.spec.sample_time_s else State.NORMAL,
            ),
            _cell(
                f"{c.surprise:.2f}" if math.isfinite(c.surprise) else "–",
                _surprise_label(c),
                State.WARNING if c.surprise > 1 else State.NORMAL,
            ),
            _cell(
                f"{c.missed_deadlines} / {c.cycles}",
                "missed / cycles",
                State.WARNING if c.missed_deadlines > 0.01 * max(c.cycles, 100) else State.NORMAL,
                kind="spare",
            ),
        ]
    sources = (view.plant_news, view.stored_news, view.controller_news)
    silent = State.WARNING if any(n.silent for n in sources) else State.NORMAL
    cells.append(_cell(" · ".join(map(_age, sources)), "news of plant · recorder · controller", silent))
    now = view.now_s
    clock = State.WARNING if now and view.old else State.NORMAL
    cells.append(
        _cell(_clock(now) if now else "–", f"{_day(now)}, {view.old}" if now and view.old else _day(now), clock)
    )
    return f'<div class="strip">{"".join(cells)}</div>'


def notices(view: OperatorView) -> str:
    """Banners, gravest first: why control was shed and how to return, who is silent, the disclaimer."""
    c, out = view.controller, []
    if c is not None and c.mode_actual == "SHED":
        why, _, back = c.mode_reason.partition(_TO_RETURN)
        how = back.strip() or "remove the cause, then select a mode under Controls."
        out.append(
            f'<div class="notice shed" role="alert"><strong>SHED: the controller has given up control</strong>'
            f"<p>{escape(why.strip() or 'No reason was given.')}</p>"
            f"<p><b>{_TO_RETURN}</b> {escape(how)}</p></div>"
        )
    out += _silences(view)
    out += [
        f'<div class="notice bad" role="alert"><b>The plant\'s handshake is not as its file says.</b> {escape(f)}</div>'
        for f in (view.plant.faults if view.plant is not None else ())
    ]
    if (step := view.stepped) is not None:
        way = "back" if step.by_s < 0 else "ahead"
        out.append(
            f'<div class="notice bad" role="alert" data-source="clock"><b>The plant\'s clock was set {way} by '
            f"{duration(step.by_s)}.</b> This page follows the new time; trends begin anew.</div>"
        )
    if view.spec.disclaimer:
        out.append(f'<div class="notice"><b>{escape(view.spec.disclaimer)}</b></div>')
    return "".join(out)


def sayings(view: OperatorView) -> str:
    """What the controller says of its plan: what holds the plant and at what price, and what an operator should know. '' where it
    says nothing."""
    c = view.controller
    said = [] if c is None else [("Economy", c.active), ("The plan", c.why)]
    lines = "".join(f"<p><b>{label}</b> {escape(text)}</p>" for label, text in said if text)
    return f'<div class="notice says" data-source="plan">{lines}</div>' if lines else ""


def measurements(view: OperatorView) -> str:
    """One faceplate a tag on the endpoint: value, analogue bar with normal band, limits and target."""
    plates = "".join(_plate(view, tag) for tag in view.spec.online)
    return f'<div class="panel"><h2>Measurements and moves</h2>{plates}</div>'


def guardrails(view: OperatorView) -> str:
    """Each guardrail's margin: measured now and the plan's worst, against the calibrated margin. '' if the plant has none."""
    if not view.spec.guardrails:
        return ""
    known = sorted(view.spec.guardrails, key=lambda g: g.rank)
    rows = "".join(_guardrail(view, g) for g in known)
    planned = view.margins
    rows += "".join(
        _fallback_guardrail(view, name, m) for name, m in planned.items() if name not in {g.name for g in known}
    )
    key = "<small>┃ now&ensp;▯ worst expected&ensp;▨ kept for errors</small>"
    return f'<div class="panel"><h2>Guardrails {key}</h2>{rows}</div>'


def alarms(view: OperatorView) -> str:
    """The alarm list as the controller orders it, with a button (`data-key`) on what nobody has acknowledged yet."""
    found = view.controller.alarms if view.controller is not None else ()
    active = sum(a.active for a in found)
    new = sum(not a.acknowledged for a in found)
    head = f"<h2>Alarms <small>{active} active · {new} unacknowledged</small></h2>"
    if view.controller is None:
        return '<div class="panel"><h2>Alarms <small>unknown</small></h2><div class="quiet">No controller.</div></div>'
    if not found:
        return f'<div class="panel">{head}<div class="quiet">No alarms.</div></div>'
    rows = "".join(_alarm(a) for a in found)
    return f'<div class="panel">{head}<div class="scroll"><table>{rows}</table></div></div>'


def entries(view: OperatorView) -> str:
    """Recent events and operator actions, newest first."""
    rows = "".join(
        f'<tr><td class="time">{_clock(e.time_s)}</td><td>{_mark(e.severity) if e.severity in SEVERITIES else ""} '
        f'{escape(e.text)}</td><td class="who">{escape(e.who or e.kind)}</td></tr>'
        for e in view.history.entries
    )
    body = f'<div class="scroll rest"><table>{rows}</table></div>' if rows else '<div class="quiet">Nothing yet.</div>'
    return f'<div class="panel"><h2>Events and operator actions</h2>{body}</div>'


def trend_key(view: OperatorView, span_s: float) -> str:
    """What the strokes of the trend chart mean, and whether they are old."""
    minutes = f"{span_s / 60:.0f} min" if span_s >= 120 else f"{span_s:.0f} s"
    old = f' · <b class="amber">old, {duration(view.stored_news.age_s)}</b>'
    zone = "&ensp;▒ zone" if view.spec.zones else ""
    return (
        f"<h2><span>Trends, last {minutes}{old if view.trends_old else ''}</span> <small>▬ measured&ensp;╍ expected by the "
        f"plan&ensp;┈ target&ensp;─ limit{zone}</small></h2>"
    )


def answer(text: str, good: bool) -> str:
    """What became of the operator's last command."""
    if not text:
        return '<div class="quiet">No command sent yet.</div>'
    return f'<div class="notice {"" if good else "bad"}" role="status" style="margin:0">{escape(text)}</div>'


def _cell(value: str, label: str, state: State = State.NORMAL, kind: str = "") -> str:
    css = " ".join(filter(None, (state, kind)))
    return f'<div class="{css}"><b>{escape(value)}</b><span title="{escape(label)}">{escape(label)}</span></div>'


def _mode(view: OperatorView) -> str:
    """The mode in force; of a controller that is silent only that it is unknown. The last thing it said is in its banner."""
    c = view.controller
    if c is None:
        silent = view.controller_news.silent or bool(view.controller_error)
        return _cell("No controller", "mode unknown", State.ALARM if silent else State.NORMAL, kind="mode")
    asked = f"mode · asked for {c.mode_target}" if c.mode_target not in ("", c.mode_actual) else "mode"
    return _cell(c.mode_actual or "–", asked, State.ALARM if c.mode_actual == "SHED" else State.NORMAL, kind="mode")


def _silences(view: OperatorView) -> list[str]:
    """Who has nothing new to say, for how long, and what of the page is old for that."""
    out, said = [], view.said_controller
    if view.controller_news.silent or view.controller_error:
        last = f" It last said {said.mode_actual}." if said is not None and said.mode_actual else ""
        out.append(_silence("controller", view.controller_news, view.controller_error, f"{last} Its mode is unknown."))
        if view.plant is not None and view.plant.shed_reason:
            out.append(
                f'<div class="notice bad" role="alert"><b>The plant is in local control.</b> '
                f"{escape(view.plant.shed_reason)}</div>"
            )
    if view.plant_news.silent or view.plant_error:
        old = " The values shown are old." if view.old else ""
        if view.stored_news.silent and not view.history_error:
            old += " Nothing new is stored either."
        out.append(_silence("plant", view.plant_news, view.plant_error, old))
    if view.history_error:
        out.append(_silence("historian", view.stored_news, view.history_error, ""))
    elif view.stored_news.silent and not view.plant_news.silent:
        out.append(_silence("recorder", view.stored_news, "", " It stores nothing new; the trends are old."))
    return out


def _silence(source: str, news: News, error: str, so: str) -> str:
    if source == "historian":
        what = "The historian cannot be read"
    elif error:
        what = f"The {source} cannot be reached"
    else:
        what = f"The {source} is silent" if source == "recorder" else f"The {source} stands still"
    since = f": nothing new for {duration(news.age_s)}" if news.silent else ""
    return (
        f'<div class="notice bad" role="alert" data-source="{source}"><b>{what}{since}.</b>{escape(so)} '
        f"<span class='muted'>{escape(error)} This page keeps trying.</span></div>"
    )


def _age(news: News) -> str:
    return duration(news.age_s) if news.ever else "–"


def _surprise_label(c: ControllerSnapshot) -> str:
    """Above its limit a surprise names the tag that has most of the blame."""
    named = f" · {next(iter(c.blame))}" if c.surprise > 1 and c.blame else ""
    return f"surprise, limit 1{named}"


def _plant(view: OperatorView) -> tuple[str, str, State]:
    plant, c = view.plant, view.controller
    if plant is None:
        silent = view.plant_news.silent or bool(view.plant_error)
        return ("Unreachable", "plant", State.ALARM) if silent else ("–", "plant", State.NORMAL)
    if plant.interlock:
        return "INTERLOCK", "plant: interlock active", State.ALARM
    mode = {PlantMode.LOCAL: "LOCAL", PlantMode.REMOTE: "REMOTE", None: "–"}[plant.mode]
    controls = c is not None and c.mode_actual in ("AUTO", "MANUAL")
    return mode, "plant", State.WARNING if plant.mode is PlantMode.LOCAL and controls else State.NORMAL


def _plate(view: OperatorView, tag: Tag) -> str:
    reading, fault = view.readings.get(tag.name), view.fault(tag)
    state = "old" if view.old else view.state(tag)
    value = number(reading.value if reading else None, tag)
    low, high = display_range(view, tag)
    marks = []
    if band := normal_band(view, tag):
        left, right = _share(band[0], low, high), _share(band[1], low, high)
        marks.append(f'<i class="band" style="left:{left}%;width:{round(right - left, 2)}%"></i>')
    zone = view.zone(tag.name)
    if zone is not None:
        left, right = _share(zone[0], low, high), _share(zone[1], low, high)
        open_ends = "".join(f" open-{side}" for side, v in zip(("low", "high"), zone, strict=True) if math.isinf(v))
        marks.append(f'<i class="zone{open_ends}" style="left:{left}%;width:{round(right - left, 2)}%"></i>')
    limits = [g.limit for g in view.guardrails(tag.name)] + list(view.operator_limits(tag) or ())
    marks += [f'<i class="limit" style="left:{_share(v, low, high)}%"></i>' for v in limits if low <= v <= high]
    if (target := view.target(tag.name)) is not None:
        marks.append(f'<i class="target" style="left:{_share(target, low, high)}%"></i>')
    if reading is not None and math.isfinite(reading.value):
        shown = "old" if fault else state
        marks.append(f'<i class="now {shown}" style="left:{_share(reading.value, low, high)}%"></i>')
    wanted = [f"target {number(target, tag)}"] if target is not None else []
    wanted += [f"zone {zone_text(zone)}"] if zone is not None else []
    right = " · ".join(wanted) or f"{low:g} – {high:g}"
    why = f": {reading.reason}" if reading is not None and reading.reason and not view.old else ""
    note = f"<b>{escape(fault + why)}</b>" if fault else escape(tag.description)
    role = "" if tag.role is Role.CV else f'<span class="role">{escape(tag.role)}</span>'
    if (word := view.status(tag.name)) not in ("", "ON"):
        abnormal = State.WARNING if word in _ABNORMAL else State.NORMAL
        role += f'<span class="status {abnormal}">{escape(word)}</span>'
    if word := view.outside_zone(tag.name):
        role += f'<span class="status">{word}</span>'
    return (
        f'<div class="plate" title="{escape(f"{tag.description}, {tag.unit}. Bar: {low:g} to {high:g}")}" data-tag="{escape(tag.name)}">'
        f'<div class="head"><b>{escape(tag.name)}</b>{role}<span class="value {state}">{value}</span>'
        f'<span class="unit">{escape(tag.unit)}</span></div>'
        f'<div class="bar">{"".join(marks)}</div>'
        f'<div class="note"><span>{note}</span><span>{right}</span></div></div>'
    )


def zone_text(zone: tuple[float, float]) -> str:
    """A zone in words: 45 – 60, ≤ 60 or ≥ 45."""
    low, high = zone
    if math.isinf(low):
        return f"≤ {high:g}"
    return f"≥ {low:g}" if math.isinf(high) else f"{low:g} – {high:g}"


def _guardrail(view: OperatorView, g: Guardrail) -> str:
    margin = view.margins.get(g.name) or Margin(math.nan, math.nan, math.nan)
    expected = expected_margin(view, g, margin)
    return _margin_plate(view.spec.tag(g.tag), g, g.name, f"rank {g.rank}", margin, expected)


def _fallback_guardrail(view: OperatorView, name: str, margin: Margin) -> str:
    """A margin the controller adds to those of the spec: the worst value of a guardrail's tag should the fallback take
    over. Any other has no tag that this page could know, so no unit and no scale."""
    g = next((g for g in view.spec.guardrails if name == f"{g.name}{_FALLBACK}"), None)
    expected = margin.worst + margin.calibrated
    if g is not None:
        return _margin_plate(view.spec.tag(g.tag), g, name, "on fallback", margin, expected)
    return (
        f'<div class="plate" data-guardrail="{escape(name)}"><div class="head"><b>{escape(name.replace("_", " "))}</b></div>'
        f"{_margin_figures(margin, margin_state(margin, expected), None)}</div>"
    )


def _margin_plate(tag: Tag, g: Guardrail, name: str, note: str, margin: Margin, expected: float) -> str:
    state = margin_state(margin, expected)
    allowance = margin.calibrated if math.isfinite(margin.calibrated) else 0.0
    full = 1.5 * max(abs(g.limit - tag.nominal), 2 * allowance, 1e-9)
    marks = [f'<i class="allowance {state}" style="left:0%;width:{_share(allowance, 0, full)}%"></i>']
    if math.isfinite(expected):
        marks.append(f'<i class="expected" style="left:{_share(expected, 0, full)}%"></i>')
    if math.isfinite(margin.now):
        marks.append(f'<i class="now {state}" style="left:{_share(margin.now, 0, full)}%"></i>')
    sense = "≤" if g.max is not None else "≥"
    return (
        f'<div class="plate" data-guardrail="{escape(name)}"><div class="head"><b>{escape(g.name.replace("_", " "))}</b>'
        f'<span class="role">{escape(note)}</span>'
        f'<span class="muted limits">{escape(tag.name)} {sense} {g.limit:g} {escape(tag.unit)}</span></div>'
        f'<div class="bar">{"".join(marks)}</div>{_margin_figures(margin, state, tag)}</div>'
    )


def _margin_figures(margin: Margin, state: State, tag: Tag | None) -> str:
    passed = State.ALARM if margin.now < 0 else State.NORMAL
    return (
        f'<div class="figures"><span><span class="muted">now</span> <b class="{passed}">{number(margin.now, tag)}</b></span>'
        f'<span><span class="muted">worst</span> <b class="{state}">{number(margin.worst, tag)}</b></span>'
        f'<span><span class="muted">kept</span> <b>{number(margin.calibrated, tag)}</b></span></div>'
    )


def _alarm(a: ControllerAlarm) -> str:
    key = escape(a.key)
    act = "acknowledged" if a.acknowledged else f'<button data-key="{key}" title="Acknowledge {key}">Ack</button>'
    what = "" if a.active else " <span class='muted'>(cause gone)</span>"
    return (
        f'<tr class="{"" if a.active else "gone"}" data-alarm="{key}"><td>{_mark(a.severity, a.acknowledged)}</td>'
        f'<td class="time">{_clock(a.since_s)}</td><td>{escape(a.message)}{what}</td><td class="end muted">{act}</td></tr>'
    )


def _mark(severity: str, acknowledged: bool = True) -> str:
    digit = SEVERITIES.get(severity, ("0", ""))[0]
    seen = "seen" if acknowledged else "new"
    return f'<span class="mark s{digit} {seen}" title="{escape(severity)}">{"" if digit == "0" else digit}</span>'


def _share(value: float, low: float, high: float) -> float:
    """Where a value stands on a bar, %, held at its ends."""
    return round(min(max((value - low) / (high - low), 0.0), 1.0) * 100, 2)


def _tenths(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "–"


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s).strftime("%H:%M:%S")


def _day(time_s: float | None) -> str:
    if time_s is None:
        return "plant time"
    return "plant time " + datetime.fromtimestamp(time_s).strftime("%Y-%m-%d")
