"""The gain matrix for people: a table for the terminal, matrix, step responses and relative gains for the report."""

from __future__ import annotations

import html
import math

import numpy as np
from matplotlib.figure import Figure

from homeostat.report_figures import svg
from models.gains import Array, Gains

_COLOURS = {"A": "#2e8b57", "B": "#2c6fbb", "C": "#b9770e", "D": "#95a5a6"}
_MOST = 30  # CVs in a picture of step responses, at most: those a target, zone or guardrail names go first


def table(gains: Gains) -> str:
    """The gains at the first operating point: a line a CV, a column a MV; `+1.2 [1.1, 1.4] A` is a gain, its interval and its
    grade, `?` what nobody can know, `/h` a slope of what integrates. Sentences below."""
    rows = [["gain", *gains.mvs]]
    for i, cv in enumerate(gains.cvs):
        per = "/h" if gains.integrating[i] else ""
        rows.append([cv + per, *(_cell(gains, 0, i, j) for j in range(len(gains.mvs)))])
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = ["  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    if math.isfinite(gains.condition):
        lines.append(f"condition number (scaled by ranges, what is known): {gains.condition:.3g}")
    return "\n".join([*lines, *gains.sentences])


def _cell(gains: Gains, p: int, i: int, j: int) -> str:
    low, high = float(gains.low[p, i, j]), float(gains.high[p, i, j])
    if not (math.isfinite(low) and math.isfinite(high)):
        return "?"
    return f"{gains.gain[p, i, j]:+.3g} [{low:.3g}, {high:.3g}] {gains.grades[i][j] if p == 0 else ''}".rstrip()


def sections(gains: Gains) -> list[tuple[str, str]]:
    """Titles and contents of the report's part: the matrix at every operating point, step responses, relative gains."""
    out = []
    for p, point in enumerate(gains.points):
        where = (
            ""
            if len(gains.points) == 1
            else f" where {html.escape(point.name)} ({100 * point.share:.0f} % of the time)"
        )
        title = f"Gains{where}: a unit of the CV for a unit of the MV in the end, 90 % interval, grade"
        out.append((title, _matrix(gains, p) + (_sentences(gains) if p == 0 else "")))
    if gains.mvs and gains.cvs:
        out.append(
            (
                "Step responses to a unit step of each MV (shaded: the 90 % interval of where they end)",
                _responses(gains),
            )
        )
        condition = f", condition number {gains.condition:.3g}" if math.isfinite(gains.condition) else ""
        out.append((f"Relative gains of what is known (RGA){condition}", _relative(gains)))
    return out


def _matrix(gains: Gains, p: int) -> str:
    head = "".join(f"<th>{html.escape(m)}</th>" for m in gains.mvs)
    body = ""
    for i, cv in enumerate(gains.cvs):
        cells = ""
        for j in range(len(gains.mvs)):
            colour = _COLOURS[gains.grades[i][j]]
            times = _times(gains, i, j) if p == 0 else ""
            cells += f"<td style=color:{colour}>{html.escape(_cell(gains, p, i, j))}{times}</td>"
        body += f"<tr><th>{html.escape(cv)}{' /h' if gains.integrating[i] else ''}</th>{cells}</tr>"
    return f"<table class=gains><tr><th></th>{head}</tr>{body}</table>"


def _times(gains: Gains, i: int, j: int) -> str:
    """Dead time and settling time of a gain whose sign is known."""
    dead, settling = float(gains.dead_s[i, j]), float(gains.settling_s[i, j])
    if not gains.sure[0, i, j] or not math.isfinite(dead):
        return ""
    return f"<br>dead {dead:.3g} s" + (f", settled {settling:.3g} s" if math.isfinite(settling) else "")


def _sentences(gains: Gains) -> str:
    return "".join(f"<p>{html.escape(s)}</p>" for s in gains.sentences)


def _responses(gains: Gains) -> str:
    order = sorted(range(len(gains.cvs)), key=lambda i: not gains.wanted[i])[:_MOST]
    figure = Figure(figsize=(max(8.5, 1.3 * len(gains.mvs)), 1.1 * len(order) + 0.4), layout="constrained")
    grid: Array = np.array(figure.subplots(len(order), len(gains.mvs), squeeze=False))
    for row, i in enumerate(order):
        t = np.linspace(0, gains.response_s[i], gains.response.shape[-1])
        for j, axes in enumerate(grid[row]):
            axes.plot(t, gains.response[i, j], color=_COLOURS[gains.grades[i][j]], lw=1.1)
            low, high = gains.low[0, i, j], gains.high[0, i, j]
            if np.isfinite([low, high]).all() and not gains.integrating[i]:
                axes.axhspan(low, high, color="#2c6fbb", alpha=0.12, lw=0)
            axes.axhline(0, color="#7f8c8d", lw=0.5)
            axes.tick_params(labelsize=5)
            if row == 0:
                axes.set_title(gains.mvs[j], fontsize=7)
            if j == 0:
                axes.set_ylabel(gains.cvs[i], fontsize=6)
    return svg(figure)


def _relative(gains: Gains) -> str:
    rga = gains.rga
    head = "".join(f"<th>{html.escape(m)}</th>" for m in gains.mvs)
    body = "".join(
        f"<tr><th>{html.escape(cv)}</th>{''.join(f'<td>{v:.2f}</td>' for v in row)}</tr>"
        for cv, row in zip(gains.rga_cvs, rga.tolist(), strict=True)
    )
    return f"<table class=gains><tr><th></th>{head}</tr>{body}</table>"
