"""Trends as ECharts options: plain dictionaries from an `OperatorView`, no I/O.

Every panel shares one time axis: history up to "now", then the predicted trajectory. The chart is sent whole at each tick,
so histories come decimated to the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dashboard.style import BAND, FONT, INK, LINE, LIVE, MUTED, PLAN, RED, ZONE
from dashboard.view import OperatorView, Reading
from plant.link import Quality
from plant.spec import Role, Tag

Option = dict[str, Any]
Point = list[float | None]

_LEFT_PX, _RIGHT_PX, _TITLE_PX, _AXIS_PX = 52, 10, 20, 24
_INTERVALS = 5
_LABEL_SHARE = 0.1  # of a panel's height that a limit's name needs for itself
_GAP_SAMPLES = 3.0  # control samples without a value after which a line is broken
_NEAR = 0.7  # a limit is drawn when it is at most this share of the shown span away


def trend_option(view: OperatorView, tags: Sequence[str], span_s: float) -> Option:
    """One ECharts option with a panel a tag, from `span_s` plant seconds ago to the end of the plan.

    With nothing known yet it has empty panels; values that are missing or bad are gaps.
    """
    now = view.now_s or 0.0
    end = max([now + 0.02 * span_s, *(t for t in view.plan.time_s if math.isfinite(t))])
    shown = [view.spec.tag(name) for name in tags]
    option: Option = {
        "animation": False,
        "useUTC": True,
        "backgroundColor": "transparent",
        "textStyle": {"fontFamily": FONT, "color": INK, "fontSize": 11},
        "axisPointer": {"link": [{"xAxisIndex": "all"}], "lineStyle": {"color": MUTED}, "label": {"show": False}},
        "tooltip": {
            "trigger": "axis",
            "transitionDuration": 0,
            "backgroundColor": BAND,
            "borderColor": LINE,
            "textStyle": {"color": INK, "fontSize": 11},
            "valueFormatter": "%.5g",
        },
        "grid": [],
        "xAxis": [],
        "yAxis": [],
        "title": [],
        "series": [],
    }
    for i, tag in enumerate(shown):
        last = i == len(shown) - 1
        _add_panel(option, view, tag, i, len(shown), last, now, (now - span_s, end))
    return option


def _add_panel(
    option: Option, view: OperatorView, tag: Tag, i: int, n: int, last: bool, now: float, extent: tuple[float, float]
) -> None:
    history = _history(view, tag, extent[0])
    ahead = _ahead(view, tag, now)
    target = _target(view, tag, extent)
    low, high, step = scale(tag, [p[1] for p in (*history, *ahead, *target)], [v for _, v in _limits(view, tag)])
    # Percent of the height for each panel's share, so that the chart follows its container without a new option.
    share = 100.0 / n
    option["title"].append(
        {
            "text": f"{{name|{_plain(tag.name)}}}  {_plain(tag.description)}, {_plain(tag.unit)}",
            "left": 4,
            "top": f"{i * share:.3f}%",
            "padding": [2, 0],
            "textStyle": {
                "fontSize": 11,
                "fontWeight": "normal",
                "color": MUTED,
                "rich": {"name": {"fontSize": 12, "fontWeight": "bold", "color": INK}},
            },
        }
    )
    option["grid"].append(
        {
            "left": _LEFT_PX,
            "right": _RIGHT_PX,
            "top": f"{i * share + 100 * _TITLE_PX / 720:.3f}%",
            "height": f"{share - 100 * (_TITLE_PX + (_AXIS_PX if last else 8)) / 720:.3f}%",
            "show": True,
            "backgroundColor": "transparent",
            "borderColor": LINE,
        }
    )
    option["xAxis"].append(
        {
            "type": "time",
            "gridIndex": i,
            "min": _ms(extent[0]),
            "max": _ms(extent[1]),
            "axisLine": {"lineStyle": {"color": LINE}},
            "axisTick": {"show": last, "lineStyle": {"color": LINE}},
            "splitLine": {"show": True, "lineStyle": {"color": LINE, "opacity": 0.35}},
            "axisLabel": {
                "show": last and view.now_s is not None,
                "color": MUTED,
                "hideOverlap": True,
                "formatter": {k: "{HH}:{mm}" for k in ("year", "month", "day", "hour", "minute")}
                | {"second": "{HH}:{mm}:{ss}", "millisecond": "{HH}:{mm}:{ss}", "none": "{HH}:{mm}:{ss}"},
            },
            "axisPointer": {"show": True, "label": {"show": False}},
        }
    )
    option["yAxis"].append(
        {
            "type": "value",
            "gridIndex": i,
            "min": low,
            "max": high,
            "interval": step,
            "axisLabel": {
                "color": MUTED,
                "margin": 6,
            },
            "splitLine": {"lineStyle": {"color": LINE, "opacity": 0.35}},
        }
    )
    stepped = {"step": "end"} if tag.role is Role.MV else {}
    held = {"step": "start"} if tag.role is Role.MV else {}  # the plan names the move that is held *until* its time
    colour = MUTED if view.trends_old else LIVE
    measured: Option = _line(tag.name, i, history, {"color": colour, "width": 1.6}) | stepped
    measured["markLine"] = _marks(view, tag, now, (low, high), labelled=i == 0)
    measured["markArea"] = {
        "silent": True,
        "itemStyle": {"color": BAND, "opacity": 0.65},
        "data": [*_zone(view, tag, (low, high)), [{"xAxis": _ms(now)}, {"xAxis": _ms(extent[1])}]],
    }
    option["series"].append(measured)
    option["series"].append(_line("expected", i, ahead, {"color": PLAN, "width": 2, "type": [5, 3]}) | held)
    if target:
        option["series"].append(
            _line("target", i, target, {"color": INK, "width": 1.2, "type": [2, 3]}) | {"step": "end"}
        )


def _line(name: str, i: int, data: list[Point], style: Option) -> Option:
    return {
        "type": "line",
        "name": name,
        "xAxisIndex": i,
        "yAxisIndex": i,
        "data": data,
        "showSymbol": False,
        "silent": True,
        "connectNulls": False,
        "lineStyle": style,
        "itemStyle": {"color": style["color"]},
        "z": 3,
    }


def _marks(view: OperatorView, tag: Tag, now: float, shown: tuple[float, float], labelled: bool) -> Option:
    """The limits inside the scale, with their names, and the line between past and future."""
    marks: list[Option] = []
    if view.now_s is not None:
        label = {"show": labelled, "formatter": "now", "position": "end", "color": INK, "fontSize": 11, "distance": 3}
        marks.append({"xAxis": _ms(now), "lineStyle": {"color": INK, "width": 1, "type": "solid"}, "label": label})
    reading = view.readings.get(tag.name)
    guarded = {g.limit: g for g in view.guardrails(tag.name)}
    named: list[float] = []
    for text, value in _limits(view, tag):
        if not shown[0] <= value <= shown[1]:
            continue
        legible = all(abs(value - v) > _LABEL_SHARE * (shown[1] - shown[0]) for v in named)
        named += [value] if legible else []
        rail = guarded.get(value)
        passed = rail is not None and reading is not None and rail.sign * (rail.limit - reading.value) < 0
        marks.append(
            {
                "yAxis": value,
                "lineStyle": {"color": RED if passed else MUTED, "width": 1.4, "type": "solid"},
                "label": {
                    "show": legible,
                    "formatter": f"{text} {value:g}",
                    "position": "insideStartTop",
                    "color": RED if passed else MUTED,
                    "fontSize": 11,
                },
            }
        )
    return {"silent": True, "symbol": "none", "animation": False, "data": marks}


def _zone(view: OperatorView, tag: Tag, shown: tuple[float, float]) -> list[list[Option]]:
    """The zone of a tag as an area, as far as it lies inside the scale."""
    zone = view.zone(tag.name)
    if zone is None:
        return []
    low, high = max(zone[0], shown[0]), min(zone[1], shown[1])
    return [[{"yAxis": low, "itemStyle": {"color": ZONE, "opacity": 0.45}}, {"yAxis": high}]] if low < high else []


def _limits(view: OperatorView, tag: Tag) -> list[tuple[str, float]]:
    limits = [("max" if g.max is not None else "min", g.limit) for g in view.guardrails(tag.name)]
    if operator := view.operator_limits(tag):
        limits += [("low", operator[0]), ("high", operator[1])]
    limits += [("zone", v) for v in view.zone(tag.name) or () if math.isfinite(v)]
    return limits


def _history(view: OperatorView, tag: Tag, start: float) -> list[Point]:
    series = view.history.trends.get(tag.name)
    points: list[Point] = []
    gap_s, last_s = _GAP_SAMPLES * view.spec.sample_time_s, math.inf
    if series is not None:
        for t, v in zip(series.time_s, series.value, strict=True):
            if t < start:
                continue
            if t - last_s > gap_s:
                points.append([_ms(last_s) + 1, None])  # nothing is known in between: no line
            points.append([_ms(t), _short(v)])
            last_s = t
    newest = view.readings.get(tag.name)
    if _believable(newest) and (not points or (points[-1][0] or 0) < _ms(newest.time_s)):  # type: ignore[union-attr]
        if view.trends_old or newest.time_s - last_s > gap_s:  # type: ignore[union-attr]
            points.append([_ms(newest.time_s) - 1, None])  # type: ignore[union-attr]  # nothing is stored in between
        points.append([_ms(newest.time_s), _short(newest.value)])  # type: ignore[union-attr]
    return points


def _ahead(view: OperatorView, tag: Tag, now: float) -> list[Point]:
    """The predicted trajectory, starting where the measurement ends so that the eye sees one line."""
    plan = view.plan
    values = plan.tags.get(tag.name) or plan.moves.get(tag.name)
    if not values:
        return []
    points: list[Point] = [[_ms(t), _short(v)] for t, v in zip(plan.time_s, values, strict=False) if t > now]
    newest = view.readings.get(tag.name)
    if points and _believable(newest):
        points.insert(0, [_ms(now), _short(newest.value)])  # type: ignore[union-attr]
    return points


def _target(view: OperatorView, tag: Tag, extent: tuple[float, float]) -> list[Point]:
    past = view.history.targets.get(tag.name)
    points: list[Point] = []
    if past is not None:
        points = [[_ms(max(t, extent[0])), _short(v)] for t, v in zip(past.time_s, past.value, strict=True)]
    present = view.target(tag.name)
    if present is None:
        present = points[-1][1] if points else None
    elif not points:
        points = [[_ms(extent[0]), _short(present)]]
    if present is None:
        return []
    points += [[_ms(view.now_s or extent[1]), _short(present)]]
    last = present
    for change in view.controller.schedule if view.controller is not None else ():
        if change.tag == tag.name and isinstance(change.asked, float) and change.time_s <= extent[1]:
            points.append([_ms(change.time_s), _short(change.asked)])
            last = change.asked
    return [*points, [_ms(extent[1]), _short(last)]]


def scale(tag: Tag, values: Sequence[float | None], limits: Sequence[float]) -> tuple[float, float, float]:
    """Low end, high end and grid step of a trend: round numbers around the values and around the limits near them (for
    an MV, all of them: how much room is left matters more than detail).

    Never finer than the noise deserves, so that a steady signal looks steady.
    """
    known = [v for v in values if v is not None]
    low, high = (min(known), max(known)) if known else tag.range
    least = max(20 * tag.noise, 0.01 * (tag.range[1] - tag.range[0]))
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    span = high - low
    near = [v for v in limits if tag.move or low - _NEAR * span <= v <= high + _NEAR * span]
    low, high = min([low, *near]), max([high, *near])
    room = 0.06 * (high - low)
    low, high = low - room, high + room
    step = _round_step((high - low) / _INTERVALS)
    return round(math.floor(low / step) * step, 10), round(math.ceil(high / step) * step, 10), step


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 x 10^n that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= least * (1 - 1e-9))


def _believable(reading: Reading | None) -> bool:
    return reading is not None and reading.quality is not Quality.BAD and math.isfinite(reading.value)


def _ms(time_s: float) -> float:
    """Axis time: milliseconds as if this machine's local time were UTC, so that every browser shows the plant's clock."""
    offset = datetime.fromtimestamp(time_s).astimezone().utcoffset()
    return round((time_s + (offset.total_seconds() if offset else 0.0)) * 1000)


def _short(value: float | None) -> float | None:
    """Six digits: what a pixel can show, at a third of the bytes."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _plain(text: str) -> str:
    """Text without the braces and bars that ECharts would read as rich text."""
    return text.replace("{", "(").replace("}", ")").replace("|", "/")
