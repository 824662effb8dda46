"""A picture of a run worth looking at: what was controlled, what was moved, what disturbed, on one time axis."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np

from homeostat.lockstep import Rehearsal
from plant.errors import SpecError
from plant.spec import PlantSpec, Role, Tag
from simulators.scenario import Scenario

_FORMATS = (".png", ".svg", ".pdf")
_INK, _TRUE, _TARGET, _LIMIT, _MOVE, _OTHER = "#1b2a3a", "#2c6fbb", "#2e8b57", "#c0392b", "#8e5ea2", "#7f8c8d"
_LONGEST_WITHOUT_HOURS_S = 600.0


def draw(spec: PlantSpec, scenario: Scenario, run: Rehearsal, path: Path, disclaimer: str = "") -> None:
    """Draw one run to `path` (.png, .svg or .pdf). Raises `SpecError` for another ending or an unwritable file."""
    if path.suffix.lower() not in _FORMATS:
        raise SpecError(f"'{path.suffix}' is no kind of picture", str(path), f"End the name in {', '.join(_FORMATS)}.")
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    tags = [t for role in (Role.CV, Role.AUX, Role.MV, Role.DV, Role.HIDDEN) for t in spec.with_role(role)]
    tags = [t for t in tags if t.name in run.values]
    scale, unit = (1.0, "s") if run.time_s[-1] <= _LONGEST_WITHOUT_HOURS_S else (1 / 3600, "h")
    time = run.time_s * scale
    columns = 1 if len(tags) <= 6 else 2
    rows = -(-len(tags) // columns)
    figure = Figure(figsize=(6.2 * columns + 1.2, 1.25 * rows + 1.1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True)).reshape(rows, columns)
    for axis, tag in zip(axes.T.flat, tags, strict=False):
        _panel(axis, spec, tag, run, time)
        for start, end in run.faults.get(tag.name, ()):
            axis.axvspan(start * scale, min(end, run.time_s[-1]) * scale, color="#f0c36d", alpha=0.35, lw=0)
        for start, end in run.interlocked:
            axis.axvspan(start * scale, end * scale, color=_LIMIT, alpha=0.12, lw=0)
    for axis in axes.T.flat[len(tags) :]:
        axis.set_visible(False)
    for column in axes.T:
        column[-1].set_xlabel(f"time, {unit}")
    ended = f"; ended: {run.reason}" if run.reason else ""
    marks = [text for text, on in (("red: interlock", run.interlocked), ("amber: faulty instrument", run.faults)) if on]
    text = scenario.description + (f" ({', '.join(marks)})" if marks else "")
    title = [f"{spec.name}, scenario {scenario.name}{ended}", *textwrap.wrap(text, 85 * columns)]
    figure.suptitle("\n".join(title), fontsize=9.5, color=_INK)
    if disclaimer:
        figure.supxlabel(disclaimer, fontsize=7, color=_LIMIT)
    try:
        with rc_context({"svg.fonttype": "none"}):  # words in an SVG stay words
            figure.savefig(path, dpi=130)
    except OSError as e:
        raise SpecError(f"cannot be written: {e.strerror or e}", str(path), "Choose another place.") from e


def _panel(axis, spec: PlantSpec, tag: Tag, run: Rehearsal, time) -> None:
    value = run.values[tag.name]
    if tag.name in run.true and tag.role is not Role.HIDDEN:
        axis.plot(time, value, color=_OTHER, lw=0.6, alpha=0.45)
        value = run.true[tag.name]
    colour = {Role.MV: _MOVE, Role.CV: _TRUE, Role.HIDDEN: _INK}.get(tag.role, _OTHER)
    style = {"drawstyle": "steps-post"} if tag.role is Role.MV else {}
    axis.plot(time, value, color=colour, lw=1.3, **style)
    if tag.name in run.set_points:
        axis.plot(time, run.set_points[tag.name], color=_TARGET, lw=1.0, ls="--")
    low, high = axis.get_ylim()
    span = max(high - low, 1e-3 * max(abs(low), abs(high), 1e-9))
    limits = [g.limit for g in spec.guardrails if g.tag == tag.name]
    for limit in (v for v in limits if low - 0.6 * span < v < high + 0.6 * span):
        axis.axhline(limit, color=_LIMIT, lw=0.9)
    axis.set_ylabel(f"{tag.name}\n{tag.unit}", fontsize=8)
    axis.set_title(tag.description, fontsize=7.5, loc="left", color=_INK, pad=2)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)
