"""`schedule:` of a controller's YAML: targets and zones from a time on, out of a file that may change while the controller runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from controllers.runtime.sources import FIX, LOOK_S, date_of_file, number_of, read_table
from controllers.runtime.targets import Change, Sides, TargetBoard
from plant.errors import SpecError
from plant.spec import PlantSpec


def read_schedule(path: Path, spec: PlantSpec) -> list[tuple[str, Change]]:
    """The changes of a schedule file in the order of their times, each with where it stands. Raises `SpecError`."""
    board, changes, seen = TargetBoard(spec), [], {}
    for where, at_s, cells in read_table(path, ("time", "tag"), ("time", "tag", "value", "low", "high")):
        try:
            change = Change(at_s, cells["tag"], _asked(cells))
            why = board.refusal(change.tag, change.asked)
            if earlier := seen.get((at_s, change.of)):
                kind = "zone" if change.of[1] else "target"
                why = why or f"{earlier} has a {kind} of {change.tag} for the same time"
        except ValueError as e:
            why = str(e)
        if why:
            raise SpecError(why, f"{path}, {where}", FIX)
        seen[at_s, change.of] = where
        changes.append((where, change))
    return sorted(changes, key=lambda row: row[1].at_s)


def _asked(cells: dict[str, str]) -> float | Sides:
    value, low, high = (number_of(cells.get(c, "")) for c in ("value", "low", "high"))
    if value is not None and (low is not None or high is not None):
        raise ValueError("a row has a value (of a target), or low and high (of a zone), not both")
    if value is None and low is None and high is None:
        raise ValueError("a row needs a value (of a target), or low, high or both (of a zone)")
    return value if value is not None else (low, high)


class ScheduleFile:
    """A schedule in a file, read anew when its date changes. Raises `SpecError` when what it says first cannot be followed; what
    it says later and cannot be followed is an alarm, and what was read before stands.

    **Arguments:**

    - `look_s`: wall seconds between two looks at the file's date.
    """

    def __init__(self, path: Path, spec: PlantSpec, look_s: float = LOOK_S) -> None:
        self._path, self._spec, self._look_s = path, spec, look_s
        self._date = date_of_file(path)
        self._rows = read_schedule(path, spec)

    async def follow(
        self, board: TargetBoard, now_s: Callable[[], float], alarm: Callable[[str, str], None], note: Callable[[str], None]
    ) -> None:  # fmt: skip
        """Keep `board` as the file has it, until cancelled."""
        known: list[tuple[str, Change]] = []
        while True:
            if self._rows is not known:
                before = {c for _, c in known}
                past = [where for where, c in self._rows if c.at_s <= now_s() and c not in before]
                if past:
                    note(
                        f"{self._path}: {_listed(past)} in the past: taken as already due, of each tag the last stands"
                    )
                unordered = [c.at_s for _, c in sorted(self._rows, key=lambda row: int(row[0].split()[1]))]
                if any(a > b for a, b in itertools.pairwise(unordered)):
                    note(f"{self._path}: its rows are not in the order of their times; they are followed in that order")
                known = self._rows
                board.file(c for _, c in known)
            await asyncio.sleep(self._look_s)
            try:
                await asyncio.to_thread(self._look)
            except SpecError as e:
                alarm("schedule", f"The schedule read before stands: {e}")
            else:
                alarm("schedule", "")

    def _look(self) -> None:
        date = date_of_file(self._path)
        if date != self._date:
            self._rows = read_schedule(self._path, self._spec)
            self._date = date


def _listed(places: Sequence[str]) -> str:
    """ "lines 2 to 5, 7 are" out of "line 2", "line 3", ..."""
    word, numbers = places[0].split()[0], sorted(int(p.split()[1]) for p in places)
    runs = [[n for _, n in group] for _, group in itertools.groupby(enumerate(numbers), key=lambda p: p[1] - p[0])]
    text = ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
    return f"{word} {text} is" if len(numbers) == 1 else f"{word}s {text} are"
