"""The pictures of reports: axes alike, as SVG inside the page."""

from __future__ import annotations

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure


def svg(figure: Figure) -> str:
    """A figure as text that goes into a page."""
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg")
    text = out.getvalue()
    return text[text.index("<svg") :]


def axes_of(height: float = 2.8) -> tuple[Figure, Any]:
    """A figure as wide as the page and `height` inches high, and its axes."""
    figure = Figure(figsize=(8.5, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.5)
    return figure, axes
