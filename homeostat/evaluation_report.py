"""What `homeostat evaluate` writes: JSON, Markdown and an HTML page with the trajectories."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from controllers.evaluation.evaluation import Compared, Row, compared, facts, solve_times
from plant.spec import PlantSpec

Array = NDArray[np.float64]
_COLOURS = ("#2c6fbb", "#c0392b", "#2e8b57", "#8e5ea2", "#b8860b")


def write(folder: Path, spec: PlantSpec, rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Write `evaluation.json`, `.md` and `.html` into `folder`, which is made; returns the Markdown. `about`: what was run,
    by name."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"plant": spec.name, **about, **facts(spec, rows)}
    (folder / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = markdown(spec, rows, about)
    (folder / "evaluation.md").write_text(text, encoding="utf-8")
    (folder / "evaluation.html").write_text(page(spec, rows, about), encoding="utf-8")
    return text


def unit_of(spec: PlantSpec, score: str) -> str:
    """The unit of a score of `controllers.evaluation.evaluation.scores`."""
    kind, _, name = score.partition(" ")
    unit = spec.tag(name).unit if kind in ("error", "offset") else ""
    money = f"{spec.prices[0].currency}/h" if spec.prices else ""
    units = {"error": f"{unit} min", "offset": unit, "travel": "spans", "beyond": "zone scales", "money": money}
    units |= dict.fromkeys(("outside", "unsound", "tight"), "share of samples")
    return units.get(kind, "share of runs")


def _shown(cell: Compared) -> str:
    text = f"{cell.mean:.3g}" + (f" ± {cell.interval:.2g}" if math.isfinite(cell.interval) else "")
    if cell.difference is None:
        return text
    gap, half = cell.difference
    return f"{text} ({gap:+.2g}" + (f" ± {half:.2g})" if math.isfinite(half) else ")")


def table(spec: PlantSpec, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and body: a score a line, a controller a column; in brackets the paired difference from the first."""
    body = [[name, unit_of(spec, name), *map(_shown, cells)] for name, cells in compared(spec, rows).items()]
    times = [solve_times(row) for row in rows]
    body.append(["decision p50 / p99", "ms a batch", *(f"{t['p50']:.1f} / {t['p99']:.1f}" for t in times)])
    return ["score", "unit", *(row.name for row in rows)], body


def markdown(spec: PlantSpec, rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The table, and above it what it is of."""
    header, body = table(spec, rows)
    lines = [f"# Evaluation of {spec.name}", "", spec.about, ""]
    lines += [", ".join(f"{name} {value}" for name, value in about.items()) + ".", ""]
    lines += ["Mean over the seeds ± half of the 95 % interval; in brackets the paired difference from the first.", ""]
    for line in (header, ["---"] * len(header), *body):
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def page(spec: PlantSpec, rows: Sequence[Row], about: dict[str, Any]) -> str:
    """One self-contained HTML page: the table, trajectories of targets and guardrails, solve times."""
    header, body = table(spec, rows)
    figures = [
        (f"{t.tag}: true value less target", _trajectories(spec, rows, t.tag, i)) for i, t in enumerate(spec.targets)
    ]
    figures += [(f"{z.tag}: true value against its zone", _zone(spec, rows, i)) for i, z in enumerate(spec.zones)]
    figures += [
        (f"{g.name}: true {g.tag} against its limit", _guardrail(spec, rows, i)) for i, g in enumerate(spec.guardrails)
    ]
    if any(d.energy for row in rows for d in row.seeds):
        figures.append(("Energy of the plans, mean of the runs, by term", _energy(spec, rows)))
    figures.append(("Time of a decision for the whole batch", _times(rows)))
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>" for line in body)
    head = "".join(f"<th>{html.escape(c)}</th>" for c in header)
    told = html.escape(", ".join(f"{name} {value}" for name, value in about.items()))
    sections = "".join(f"<section><h2>{html.escape(title)}</h2>{svg}</section>" for title, svg in figures)
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation of {html.escape(spec.name)}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;color:#1b2a3a}}h2{{font-size:1rem}}
table{{border-collapse:collapse}}td,th{{padding:.1rem .8rem;border-bottom:1px solid #ddd;text-align:left}}
svg{{width:100%;height:auto}}</style>
<h1>Evaluation of {html.escape(spec.name)}</h1><p>{html.escape(spec.about)}</p><p>{told}.</p>
<table><tr>{head}</tr>{cells}</table>
<p>Mean over the seeds ± half of the 95 % interval; in brackets the paired difference from the first controller.</p>
<p>Trajectories: median (line), 5 to 95 % of the runs (band), and the worst run (dotted).</p>{sections}</html>
"""


def _axes(count: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.5, 1.2 + 1.7 * count), layout="constrained")
    axes = np.atleast_1d(figure.subplots(count, 1, sharex=True, sharey=True))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, lw=0.5)
    return figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :]


def _band(axis: Any, time: Array, values: Array, worst: Array, colour: str, name: str) -> None:
    """Median, 5 to 95 % and one run of `values` (runs x samples)."""
    with np.errstate(invalid="ignore"):
        low, middle, high = np.nanquantile(values, [0.05, 0.5, 0.95], axis=0)
    axis.fill_between(time, low, high, color=colour, alpha=0.2, lw=0)
    axis.plot(time, middle, color=colour, lw=1.3, label=name)
    axis.plot(time, worst, color=colour, lw=0.8, ls=":")
    axis.legend(fontsize=8, loc="upper right")


def _trajectories(spec: PlantSpec, rows: Sequence[Row], tag: str, i: int) -> str:
    """The error from the target: runs have targets of their own."""
    figure, axes = _axes(len(rows))
    for axis, row, colour in zip(axes, rows, _cycle(len(rows)), strict=True):
        error = np.concatenate([d.true[tag][:, 1:] - d.targets[..., i] for d in row.seeds])
        time = np.arange(error.shape[1]) * spec.sample_time_s / 60
        _band(axis, time, error, error[np.nansum(np.abs(error), 1).argmax()], colour, row.name)
        axis.axhline(0.0, color="#7f8c8d", lw=0.8)
        axis.set(ylabel=f"error, {spec.tag(tag).unit}")
    axes[-1].set(xlabel="min")
    return _svg(figure)


def _guardrail(spec: PlantSpec, rows: Sequence[Row], i: int) -> str:
    guard = spec.guardrails[i]
    figure, axes = _axes(len(rows))
    for axis, row, colour in zip(axes, rows, _cycle(len(rows)), strict=True):
        value = np.concatenate([d.worst[guard.name] for d in row.seeds])
        time = np.arange(value.shape[1]) * spec.sample_time_s / 60
        nearest = np.nanmax(np.where(np.isnan(value), -np.inf, guard.sign * value), 1).argmax()
        _band(axis, time, value, value[nearest], colour, row.name)
        axis.axhline(guard.limit, color="#c0392b", lw=0.9, ls="--")
        axis.set(ylabel=spec.tag(guard.tag).unit)
    axes[-1].set(xlabel="min (dashed: the limit)")
    return _svg(figure)


def _zone(spec: PlantSpec, rows: Sequence[Row], i: int) -> str:
    zone = spec.zones[i]
    figure, axes = _axes(len(rows))
    for axis, row, colour in zip(axes, rows, _cycle(len(rows)), strict=True):
        value = np.concatenate([d.true[zone.tag][:, 1:] for d in row.seeds])
        time = np.arange(value.shape[1]) * spec.sample_time_s / 60
        sides = row.seeds[0].zones
        fixed = [np.nan if v is None else v for v in (zone.low, zone.high)]
        sides = np.broadcast_to(fixed, (len(time), 2)) if sides is None else sides[:, i]
        _band(
            axis,
            time,
            value,
            value[np.nansum(np.fmax(np.fmax(sides[:, 0] - value, value - sides[:, 1]), 0.0), 1).argmax()],
            colour,
            row.name,
        )
        axis.plot(time, sides, color="#2e8b57", lw=0.9, ls="--", drawstyle="steps-post")
        axis.set(ylabel=spec.tag(zone.tag).unit)
    axes[-1].set(xlabel="min (dashed: the zone)")
    return _svg(figure)


def _energy(spec: PlantSpec, rows: Sequence[Row]) -> str:
    planners = [row for row in rows if row.seeds[0].energy]
    figure, axes = _axes(len(planners))
    for axis, row in zip(axes, planners, strict=True):
        terms = {n: np.nanmean(np.concatenate([d.energy[n] for d in row.seeds]), 0) for n in row.seeds[0].energy}
        time = np.arange(len(next(iter(terms.values())))) * spec.sample_time_s / 60
        axis.stackplot(time, *terms.values(), labels=list(terms), alpha=0.7)
        axis.set(ylabel=row.name)
        axis.legend(fontsize=8, loc="upper right")
    axes[-1].set(xlabel="min")
    return _svg(figure)


def _times(rows: Sequence[Row]) -> str:
    figure, axes = _axes(1)
    for row, colour in zip(rows, _cycle(len(rows)), strict=True):
        times = np.concatenate([d.solve_s for d in row.seeds]) * 1e3
        axes[0].hist(times, bins=40, histtype="step", color=colour, label=row.name)
    axes[0].set(xlabel="ms", ylabel="samples", yscale="log")
    axes[0].legend(fontsize=8)
    return _svg(figure)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]
