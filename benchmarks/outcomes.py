"""What a case of the table came to, kept on disk as soon as it is known, so that a run that was cut short goes on."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import Report


@dataclass(frozen=True)
class Outcome:
    """`value` must be at most `limit`, or at least where `at_least`; a limit of inf asks nothing. NaN: it could not be measured, `note`
    says why."""

    what: str
    value: float
    limit: float
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def yes(what: str, held: bool, note: str = "") -> Outcome:
    """Something that must hold."""
    return Outcome(what, float(held), 1.0, at_least=True, note=note)


def none(what: str, count: float, note: str = "") -> Outcome:
    """Something that must not happen even once."""
    return Outcome(what, float(count), 0.0, note=note)


def shown(what: str, value: float, note: str = "") -> Outcome:
    """Something that is told and has no bar."""
    return Outcome(what, float(value), math.inf, note=note)


FAILED = "ran to its end"


def failed(error: Exception) -> Outcome:
    """A case that ended in an error."""
    return Outcome(FAILED, 0.0, 1.0, at_least=True, note=f"{type(error).__name__}: {error}"[:200])


def not_run(what: str, why: str) -> Outcome:
    """Something that could not be measured."""
    return Outcome(what, math.nan, math.nan, note=why)


Case = Callable[[], list[Outcome]]
Cases = Mapping[str, Case]


class Store:
    """Outcomes by row and case in one JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, row: str, case: str, work: Case) -> list[Outcome]:
        """The outcomes of a case: known ones, or measured now and kept."""
        if self.knows(row, case):
            return self.outcomes(row, case)
        began = time.monotonic()
        found = work()
        self.keep(row, case, found, time.monotonic() - began)
        return found

    def knows(self, row: str, case: str) -> bool:
        """Whether a case was measured before."""
        return f"{row}/{case}" in self._known

    def outcomes(self, row: str, case: str) -> list[Outcome]:
        """What was measured of a case before."""
        return [Outcome(**o) for o in self._known[f"{row}/{case}"]["outcomes"]]

    def keep(self, row: str, case: str, found: list[Outcome], seconds: float) -> None:
        """Keep what a case came to, but for one that could not be measured or failed."""
        if any(math.isnan(o.value) or o.what == FAILED for o in found):
            return
        self._known[f"{row}/{case}"] = {
            "seconds": round(seconds, 1), "revision": revision(), "outcomes": [asdict(o) for o in found]
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self._known, indent=1) + "\n")
        part.replace(self.path)

    def revisions(self, row: str) -> list[str]:
        """Which revisions the cases of a row were measured at."""
        return sorted({str(f.get("revision", "")) for key, f in self._known.items() if key.split("/")[0] == row})

    def seconds(self, row: str) -> float:
        """How long the cases of a row took."""
        return sum(f["seconds"] for key, f in self._known.items() if key.split("/")[0] == row)

    def forget(self, row: str) -> None:
        """Measure a row anew."""
        self._known = {k: f for k, f in self._known.items() if k.split("/")[0] != row}


def revision() -> str:
    """The git revision this runs from, with a + where something was changed since; '' outside a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def tabulate(report: Report, title: str, found: Mapping[str, list[Outcome]], seconds: float) -> None:
    """One row of the table: its cases, and a bar for each thing measured, the worst case standing for all."""
    rows = [
        [case, o.what, "not run" if math.isnan(o.value) else f"{o.value:.4g}", _bar(o), o.note]
        for case, outcomes in found.items()
        for o in outcomes
    ]
    report.table(f"{title} ({seconds:.0f} s)", ["case", "what", "measured", "bar", "seen"], rows)
    kinds: dict[tuple[str, float, bool], list[tuple[str, Outcome]]] = {}
    for case, outcomes in found.items():
        for o in outcomes:
            if math.isinf(o.limit):
                continue
            key = (o.what, o.limit, o.at_least) if not math.isnan(o.value) else (o.what, math.nan, False)
            kinds.setdefault(key, []).append((case, o))
    for (what, limit, at_least), cases in kinds.items():
        if math.isnan(limit):
            report.note(f"Not run: {title}, {what}: {', '.join(dict.fromkeys(o.note for _, o in cases))}.")
            continue
        case, worst = (min if at_least else max)(cases, key=lambda c: c[1].value)
        name = f"{title}: {what}" + (f" (worst of {len(cases)}: {case})" if len(cases) > 1 else f" ({case})")
        report.bar(name, worst.value, limit, at_least=at_least)


def _bar(o: Outcome) -> str:
    return "" if not math.isfinite(o.limit) else f"{'>=' if o.at_least else '<='} {o.limit:g}"
