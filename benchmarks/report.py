"""What every benchmark shares: the machine, the table, the JSON and Markdown beside it, and the bars."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.stats import t as student


@dataclass
class Report:
    """Collects tables and bars of one benchmark, prints them, writes them, and says which bar was missed."""

    name: str
    tables: list[tuple[str, list[str], list[list[Any]]]] = field(default_factory=list)
    bars: list[tuple[str, bool, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Add a table and print it."""
        self.tables.append((title, columns, rows))
        print("\n" + _markdown(title, columns, rows), flush=True)

    def bar(self, what: str, value: float, limit: float, *, at_least: bool) -> None:
        """Add a bar: `value` must be at least (or at most) `limit`."""
        met = value >= limit if at_least else value <= limit
        self.bars.append((what, met, f"{value:.4g} (bar {'>=' if at_least else '<='} {limit:g})"))

    def note(self, text: str) -> None:
        """Add a line under the tables."""
        self.notes.append(text)

    def finish(self, path: Path | None, check: bool) -> int:
        """Print the bars; write JSON and Markdown beside each other when `path` is given. Returns the exit status."""
        print()
        for what, met, shown in self.bars:
            print(f"{'met   ' if met else 'MISSED'} {what}: {shown}")
        facts = machine()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            tables = [{"title": t, "columns": c, "rows": r} for t, c, r in self.tables]
            bars = [{"what": w, "met": m, "shown": s} for w, m, s in self.bars]
            path.write_text(
                json.dumps(
                    {"benchmark": self.name, **facts, "tables": tables, "bars": bars, "notes": self.notes}, indent=1
                )
                + "\n"
            )
            parts = [
                f"# {self.name}",
                f"`{facts['command']}`, {facts['date']}, {facts['machine']}, {facts['versions']}",
            ]
            parts += [_markdown(*t) for t in self.tables]
            parts += ["\n".join(f"- {'met' if m else '**missed**'}: {w}: {s}" for w, m, s in self.bars)]
            parts += self.notes
            path.with_suffix(".md").write_text("\n\n".join(p for p in parts if p) + "\n")
        return int(check and not all(met for _, met, _ in self.bars))


def machine() -> dict[str, str]:
    """Command, date, machine and versions of this run."""
    packages = ("torch", "numpy", "casadi")
    return {
        "command": " ".join(["python -m", f"benchmarks.{_program(Path(sys.argv[0]))}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.machine()}",
        "versions": f"Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages),
    }


def _program(path: Path) -> str:
    """The module that runs, of a file or of a package."""
    return path.parent.name if path.stem == "__main__" else path.stem


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and half of its 95 % interval over seeds (Student's t); NaN are left out, '–' when nothing is left."""
    v = np.array([x for x in values if np.isfinite(x)])
    if len(v) < 2 or np.ptp(v) == 0:
        return f"{v.mean():.{digits}f}" if len(v) else "–"
    half = student.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5
    return f"{v.mean():.{digits}f} ± {half:.{digits}f}"


def _markdown(title: str, columns: list[str], rows: list[list[Any]]) -> str:
    body = "\n".join("| " + " | ".join(_shown(v) for v in row) + " |" for row in rows)
    return f"**{title}**\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n{body}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
