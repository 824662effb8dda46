"""A plant's history as a folder of Parquet files: written by `export`, read in parts by `ParquetHistory`.

    FOLDER/tags.parquet       name, role, description, unit, lo, hi
    FOLDER/runs.parquet       kind, start_ts, end_ts (null while open), seed, note
    FOLDER/samples/*.parquet  tag, ts, value (null where bad), quality

Times (`ts`) are int64 microseconds of plant time since the Unix epoch. Other programs may write such a folder; of the
samples `tag`, `ts` and `value` are read. Files in the order of time are read fastest: of the others every row group is looked
at each time. Samples may be doubled or out of order; the last stands, files in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import select

from historian import schema
from historian.queries import Queries, microseconds
from plant.errors import HistorianError

_FILE_ROWS = 1_000_000
_GROUP_ROWS = 200_000
_COLUMNS = {
    "tags": ("name", "unit"),
    "runs": ("kind", "start_ts", "end_ts"),
    "samples": ("tag", "ts", "value"),
}


def export(history: Queries, folder: Path) -> int:
    """Write a historian into `folder`, which must be empty or new; returns how many samples. Holds one file's rows in
    memory. Raises `HistorianError` when there is something in the folder or it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise HistorianError("the folder is not empty", str(folder), "Give a new one: nothing is overwritten.")
        (folder / "samples").mkdir()
        _tags(history).write_parquet(folder / "tags.parquet")
        history.runs().drop("id").write_parquet(folder / "runs.parquet")
        count = number = 0
        at, last, rows = history.extent()
        width = max(1, round((last - at + 1) * min(1.0, _FILE_ROWS / max(rows, 1))))
        while rows and at <= last:
            part = history.history(history.tags, at / 1e6, min(at + width - 1, last) / 1e6).sort(
                "ts", maintain_order=True
            )
            if len(part):
                part.write_parquet(folder / "samples" / f"{number:06d}.parquet", row_group_size=_GROUP_ROWS)
                number += 1
            count += len(part)
            at += width
        return count
    except OSError as e:
        raise HistorianError(f"it cannot be written: {e}", str(folder), "Check its permissions and the space.") from e


def _tags(history: Queries) -> pl.DataFrame:
    t = schema.tag.c
    types: dict[str, Any] = {n: pl.String for n in ("name", "role", "description", "unit")}
    types |= {n: pl.Float64 for n in ("lo", "hi")}
    return history._frame(select(*(t[n] for n in types)).where(t.plant == history.plant).order_by(t.id), types)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn what polars says of a file into a `HistorianError`."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as e:
        raise HistorianError(
            f"it cannot be read: {str(e).splitlines()[0]}", where, "Is it a whole Parquet file?"
        ) from e


class ParquetHistory:
    """A folder of Parquet files as a source of runs (`models.dataset.Source`). Only the rows asked for are ever in memory.

    Raises `HistorianError` for a folder that does not hold what is described above.
    """

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)
        self._samples = folder / "samples" / "*.parquet"
        tags, self._runs = (self._table(folder / f"{name}.parquet", name) for name in ("tags", "runs"))
        self.units: dict[str, str] = dict(tags.select("name", "unit").iter_rows())
        if not list((folder / "samples").glob("*.parquet")):
            raise HistorianError("there is no Parquet file in samples/", self.location, _FIX)
        with _readable(self.location):
            self._check(pl.scan_parquet(self._samples).collect_schema(), "samples", str(self._samples))

    @property
    def tags(self) -> list[str]:
        """Every tag that is known."""
        return list(self.units)

    def runs(self, kinds: Sequence[str] | None = None) -> pl.DataFrame:
        """Runs, oldest first: kind, start_ts, end_ts."""
        rows = self._runs if kinds is None else self._runs.filter(pl.col("kind").is_in(list(kinds)))
        return rows.sort("start_ts", maintain_order=True)

    def history(self, tags: Sequence[str], start_s: float, end_s: float) -> pl.DataFrame:
        """Samples in [start, end] as they lie in the files: tag, ts, value (null where bad)."""
        within = pl.col("ts").is_between(microseconds(start_s), microseconds(end_s))
        return self._read(within & pl.col("tag").is_in(list(tags)))

    def before(self, tags: Sequence[str], start_s: float) -> pl.DataFrame:
        """The last usable sample of each tag before `start_s`: tag, ts, value."""
        there = pl.col("value").is_not_null() & pl.col("value").is_finite()
        rows = self._read((pl.col("ts") < microseconds(start_s)) & pl.col("tag").is_in(list(tags)) & there)
        return rows.sort("ts", maintain_order=True).unique("tag", keep="last", maintain_order=True)

    def _read(self, rows: pl.Expr) -> pl.DataFrame:
        with _readable(self.location):
            return (
                pl.scan_parquet(self._samples, low_memory=True)
                .filter(rows)
                .select(pl.col("tag").cast(pl.String), pl.col("ts"), pl.col("value").cast(pl.Float64))
                .collect()
            )

    def _table(self, path: Path, name: str) -> pl.DataFrame:
        if not path.exists():
            raise HistorianError(f"there is no {path.name}", self.location, _FIX)
        with _readable(str(path)):
            table = pl.read_parquet(path)
        self._check(table.schema, name, str(path))
        return table

    def _check(self, found: pl.Schema, name: str, where: str) -> None:
        if missing := [c for c in _COLUMNS[name] if c not in found]:
            raise HistorianError(f"no column {', '.join(missing)}", where, _FIX)
        for column in (c for c in _COLUMNS[name] if c.endswith("ts")):
            if found[column] != pl.Int64:
                raise HistorianError(
                    f"{column} is {found[column]}",
                    where,
                    "Store int64 microseconds of plant time since the Unix epoch.",
                )


_FIX = "Write the folder with `homeostat export`, or as historian/parquet.py describes it."
