"""What feeds a running loop from files and nodes beside its plant's tags: the contract, and tables of times and values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import polars as pl

from controllers.runtime.targets import TargetBoard
from plant.errors import SpecError

LOOK_S = 2.0
"""Wall seconds between two looks at a file's date."""
FIX = "Correct the file; docs/wants.md shows one."
_MOST = 10_000  # rows


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
        return SpecError(what, f"{path}{where and f', {where}'}", FIX)

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


def date_of_file(path: Path) -> tuple[int, int]:
    """When a file was written last, and its size: what tells a new one from the old."""
    try:
        found = path.stat()
    except OSError as e:
        raise SpecError(f"cannot be read: {e.strerror}", str(path), "Check the path: it counts from the controller's YAML.") from e  # fmt: skip
    return found.st_mtime_ns, found.st_size


def _texts(frame: pl.DataFrame) -> pl.DataFrame:
    """Every column of a Parquet file as text, times with their time zone; a time without one stays so and is told."""
    out = []
    for name, kind in frame.schema.items():
        column = pl.col(name)
        if isinstance(kind, pl.Datetime):
            column = column.dt.to_string("iso") if kind.time_zone is None else column.dt.epoch("us") / 1e6
        out.append(column.cast(pl.String))
    return frame.select(out)
