"""`schedule:` of a controller's YAML: targets and zones from a time on, out of a file that may change while the controller runs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import polars as pl

from controllers.runtime.targets import Change, Sides, TargetBoard
from plant.errors import SpecError
from plant.spec import PlantSpec

log = logging.getLogger(__name__)
_LOOK_S = 2.0  # wall
_MOST = 10_000  # rows
_FIX = "Correct the file; docs/wants.md shows one."


class Source(Protocol):
    """What feeds a running loop from outside its plant's tags."""

    async def follow(
        self,
        board: TargetBoard,
        now_s: Callable[[], float],
        alarm: Callable[[str, str], None],
        note: Callable[[str], None],
    ) -> None:
        """Feed the loop until cancelled. `now_s`: plant time; `alarm(key, text)`: what is wrong now, '' when it is over; `note`:
        one sentence for the journal."""
        ...  # fmt: skip


def time_of(text: str) -> float:
    """Plant time, s since the Unix epoch: ISO 8601 with a time zone, or the seconds themselves. Raises `ValueError`, in words."""
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if math.isfinite(seconds):
            return seconds
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is no time: give ISO 8601 with a time zone, or plant seconds") from None
    if found.tzinfo is None:
        raise ValueError(f"'{text}' has no time zone: write {text}Z, or {text}+01:00")
    return found.timestamp()


def date_of(time_s: float) -> str:
    """Plant time in words: ISO 8601 in this machine's time zone; the seconds where no calendar has it."""
    try:
        return datetime.fromtimestamp(time_s).astimezone().isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{time_s:.0f} s"


def read_table(path: Path, needed: Sequence[str], known: Sequence[str]) -> list[tuple[str, float, dict[str, str]]]:
    """The rows of a CSV or Parquet file: where each stands ("line 3"), its `time` (plant s), its cells as text ('' where empty).
    Raises `SpecError` naming file and row."""

    def wrong(what: str, where: str = "") -> SpecError:
        return SpecError(what, f"{path}{where and f', {where}'}", _FIX)

    parquet = path.suffix.lower() in (".parquet", ".pq")
    try:
        if parquet:
            frame = _texts(pl.read_parquet(path))
        else:
            frame = pl.read_csv(path, infer_schema=False)
    except FileNotFoundError:
        raise SpecError("no such file", str(path), "Check the path: it counts from the controller's YAML.") from None
    except pl.exceptions.NoDataError:
        raise wrong(f"it is empty; its first line must name {', '.join(needed)}") from None
    except (OSError, pl.exceptions.PolarsError) as e:
        raise wrong(f"cannot be read: {str(e).splitlines()[0]}") from e
    frame = frame.rename({c: c.strip().lower() for c in frame.columns})
    if missing := [c for c in needed if c not in frame.columns]:
        raise wrong(f"no column {', '.join(missing)}; it has {', '.join(frame.columns)}")
    if strange := [c for c in frame.columns if c not in known]:
        raise wrong(f"unknown column {', '.join(strange)}; known are {', '.join(known)}")
    if len(frame) > _MOST:
        raise wrong(f"it has {len(frame)} rows, at most {_MOST} are read")
    rows = []
    for i, cells in enumerate(frame.iter_rows(named=True)):
        where = f"row {i + 1}" if parquet else f"line {i + 2}"
        try:
            told = {k: (v or "").strip() for k, v in cells.items()}
            rows.append((where, time_of(told["time"]), told))
        except ValueError as e:
            raise wrong(str(e), where) from None
    return rows


def number_of(cell: str) -> float | None:
    """A cell's number, None where it is empty. Raises `ValueError`, in words."""
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"'{cell}' is no number") from None


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
            raise SpecError(why, f"{path}, {where}", _FIX)
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

    def __init__(self, path: Path, spec: PlantSpec, look_s: float = _LOOK_S) -> None:
        self._path, self._spec, self._look_s = path, spec, look_s
        self._date = _date(path)
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
        date = _date(self._path)
        if date != self._date:
            self._rows = read_schedule(self._path, self._spec)
            self._date = date


def _date(path: Path) -> tuple[int, int]:
    """When a file was written last, and its size: what tells a new one from the old."""
    try:
        found = path.stat()
    except OSError as e:
        raise SpecError(f"cannot be read: {e.strerror}", str(path), "Check the path: it counts from the controller's YAML.") from e  # fmt: skip
    return found.st_mtime_ns, found.st_size


def _listed(places: Sequence[str]) -> str:
    """ "lines 2 to 5, 7 are" out of "line 2", "line 3", ..."""
    word, numbers = places[0].split()[0], sorted(int(p.split()[1]) for p in places)
    runs = [[n for _, n in group] for _, group in itertools.groupby(enumerate(numbers), key=lambda p: p[1] - p[0])]
    text = ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
    return f"{word} {text} is" if len(numbers) == 1 else f"{word}s {text} are"


def _texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Every column of a Parquet file as text, times with their time zone; a time without one stays so and is told."""
    out = []
    for name, kind in frame.schema.items():
        column = pl.col(name)
        if isinstance(kind, pl.Datetime):
            column = column.dt.to_string("iso") if kind.time_zone is None else column.dt.epoch("us") / 1e6
        out.append(column.cast(pl.String))
    return frame.select(out)
