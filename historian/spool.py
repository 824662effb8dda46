"""Rows that wait on disk while the database cannot take them.

Each spill is one file beside the database, complete before it gets its name and never changed after: several processes
may spill and replay side by side, and a cut power leaves no half line. The names give the order.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
Row = dict[str, Any]
Batch = tuple[str, list[Row]]
_FORMAT = 1


@dataclass(frozen=True)
class Segment:
    """One spill. `tags`: the plant's tags by the number they had in the rows; `batches`: (table, rows) in order."""

    plant: str
    tags: dict[int, str]
    batches: list[Batch]


class Spool:
    """The spill files of the database at `path`."""

    def __init__(self, path: Path) -> None:
        self._folder, self._prefix = path.parent, f"{path.name}.spool-"
        self._writer = uuid.uuid4().hex[:8]

    def segments(self) -> list[Path]:
        """The files that wait, oldest first."""
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        return [self._folder / n for n in names if n.startswith(self._prefix) and n.endswith(".jsonl")]

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return sum(_rows(p) for p in self.segments())

    @property
    def bytes(self) -> int:
        """The size of what waits."""
        total = 0
        for path in self.segments():
            with contextlib.suppress(FileNotFoundError):  # replayed meanwhile
                total += path.stat().st_size
        return total

    def write(self, plant: str, tags: Mapping[int, str], batches: Sequence[Batch]) -> Path:
        """Put rows on disk, for good when it returns. Raises `OSError`."""
        last = self.segments()[-1:]
        number = int(last[0].name[len(self._prefix) :].split("-")[0]) + 1 if last else 1
        path = self._folder / f"{self._prefix}{number:08d}-{self._writer}.jsonl"
        unfinished = path.with_suffix(".unfinished")
        head = {"format": _FORMAT, "rows": sum(len(r) for _, r in batches), "plant": plant, "tags": dict(tags)}
        try:
            with unfinished.open("w", encoding="utf-8") as f:
                for part in (head, *batches):
                    f.write(json.dumps(part, separators=(",", ":"), default=str) + "\n")
                f.flush()
                os.fsync(f.fileno())
            os.replace(unfinished, path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # not every system can sync a folder
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return path

    @staticmethod
    def read(path: Path) -> Segment:
        """One file's rows. Raises `FileNotFoundError` when it was replayed meanwhile, `ValueError` when it is damaged."""
        try:
            with path.open(encoding="utf-8") as f:
                head = json.loads(f.readline())
                if head["format"] != _FORMAT:
                    raise ValueError(f"spool format {head['format']}")
                tags = {int(i): name for i, name in head["tags"].items()}
                batches = [(table, rows) for table, rows in map(json.loads, f)]
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"not a spool file: {e!r}") from e
        return Segment(head["plant"], tags, batches)

    @staticmethod
    def set_aside(path: Path) -> Path:
        """Take a damaged file out of the way, and keep it."""
        kept = path.with_suffix(".damaged")
        os.replace(path, kept)
        return kept


def _rows(path: Path) -> int:
    try:
        with path.open(encoding="utf-8") as f:
            return int(json.loads(f.readline())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # replayed meanwhile, or damaged: the replay says so
