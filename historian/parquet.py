"""A plant's history as a folder of Parquet files: written by `export`, read in parts by `ParquetHistory`.

    FOLDER/tags.parquet       name, role, description, unit, lo, hi
    FOLDER/runs.parquet       kind, start_ts, end_ts (null while open), seed, note
    FOLDER/samples/*.parquet  tag, ts, value (null where bad), quality, read (the number that came, bad or not)

Times (`ts`) are int64 microseconds of plant time since the Unix epoch, or Parquet's own timestamps (UTC where they name no
zone). Other programs may write such a folder; of the samples `tag`, `ts` and `value` are needed. Values may be of any kind of
number, truth values, or texts of numbers, decimal commas too; a text that is none (`Bad Input`) is a reading that is missing.
Files in the order of time are read fastest: of the others every row group is looked at each time. Samples may be doubled or
out of order; the last stands, files in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
_MICROSECONDS = "this folder wants int64 microseconds of plant time since the Unix epoch."
# What counts of a unit look like between the years 1985 and 2128, and what makes microseconds of them.
_EPOCHS = (
    ("seconds", 1e0, "Multiply by 1000000"),
    ("milliseconds", 1e3, "Multiply by 1000"),
    ("nanoseconds", 1e9, "Divide by 1000"),
)
_COMMA = r"^[+-]?\d*,\d+([eE][+-]?\d+)?$"


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
            part = history.readings(history.tags, at / 1e6, min(at + width - 1, last) / 1e6).sort(
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
        files = sorted((folder / "samples").glob("*.parquet"))
        tags, runs = (self._table(folder / f"{name}.parquet", name) for name in ("tags", "runs"))
        self._runs = runs.with_columns(_times(runs.schema, c, folder / "runs.parquet") for c in ("start_ts", "end_ts"))
        self.units: dict[str, str] = dict(tags.select("name", "unit").iter_rows())
        if not files:
            raise HistorianError("there is no Parquet file in samples/", self.location, _FIX)
        self._samples = _scanned(files)
        _of_microseconds(self._runs["start_ts"], "start_ts", str(folder / "runs.parquet"))
        with _readable(self.location):
            for part in (files[0], files[-1]):
                _of_microseconds(_scanned([part]).select("ts").head(1).collect()["ts"], "ts", str(part))

    @property
    def tags(self) -> list[str]:
        """Every tag that is known."""
        return list(self.units)

    def runs(self, kinds: Sequence[str] | None = None) -> pl.DataFrame:
        """Runs, oldest first: kind, start_ts, end_ts."""
        rows = self._runs if kinds is None else self._runs.filter(pl.col("kind").is_in(list(kinds)))
        return rows.sort("start_ts", maintain_order=True)

    def readings(self, tags: Sequence[str], start_s: float, end_s: float) -> pl.DataFrame:
        """Samples in [start, end] as they lie in the files: tag, ts, value (null where bad or no number), and where values are
        texts `text`, what stands where there is no number; `read` where every file has it. Raises `HistorianError` where commas and points are mixed."""
        within = pl.col("ts").is_between(microseconds(start_s), microseconds(end_s))
        return self._read(within & pl.col("tag").is_in(list(tags)))

    def before(self, tags: Sequence[str], start_s: float) -> pl.DataFrame:
        """The last usable sample of each tag before `start_s`: tag, ts, value."""
        rows = self._read((pl.col("ts") < microseconds(start_s)) & pl.col("tag").is_in(list(tags)))
        rows = rows.filter(pl.col("value").is_not_null() & pl.col("value").is_finite()).select("tag", "ts", "value")
        return rows.sort("ts", maintain_order=True).unique("tag", keep="last", maintain_order=True)

    def _read(self, rows: pl.Expr) -> pl.DataFrame:
        with _readable(self.location):
            found = self._samples.filter(rows).collect()
        return found if found["value"].dtype == pl.Float64 else _of_texts(found, self.location)

    def _table(self, path: Path, name: str) -> pl.DataFrame:
        if not path.exists():
            raise HistorianError(f"there is no {path.name}", self.location, _FIX)
        with _readable(str(path)):
            table = pl.read_parquet(path)
        _check(table.schema, name, str(path))
        return table


def _check(found: pl.Schema, name: str, where: str) -> None:
    if missing := [c for c in _COLUMNS[name] if c not in found]:
        raise HistorianError(f"no column {', '.join(missing)}", where, _FIX)


def _scanned(files: Sequence[Path]) -> pl.LazyFrame:
    """The samples of `files` one after another: tag, ts (int64), value (a number or a text), and read where all have it."""
    kinds, kept = {}, True
    for file in files:
        with _readable(str(file)):
            found = pl.scan_parquet(file).collect_schema()
        _check(found, "samples", str(file))
        kinds[file] = tuple(found[c] for c in _COLUMNS["samples"]), len(found)
        kept &= found.get("read") == pl.Float64
    text = any(of[2] in (pl.String, pl.Categorical, pl.Enum) for of, _ in kinds.values())
    alike = len(set(kinds.values())) == 1
    parts = []
    for some in [list(files)] if alike else [[f] for f in files]:
        frame = pl.scan_parquet(some, low_memory=True)
        kind = dict(zip(_COLUMNS["samples"], kinds[some[0]][0], strict=True))
        value = _values(kind["value"], text, some[0])
        read = [pl.col("read")] if kept else []
        parts.append(frame.select(pl.col("tag").cast(pl.String), _times(kind, "ts", some[0]), value, *read))
    return parts[0] if alike else pl.concat(parts)


def _times(types: Mapping[str, pl.DataType], column: str, file: Path) -> pl.Expr:
    """A column of times as int64 microseconds."""
    kind, at = types[column], pl.col(column)
    if kind == pl.Int64:
        return at
    if isinstance(kind, pl.Datetime):
        return at.dt.epoch("us").alias(column)
    if kind.is_integer() or kind == pl.Null:
        return at.cast(pl.Int64)
    raise HistorianError(f"{column} is {kind}", str(file), f"Store timestamps or integers: {_MICROSECONDS}")


def _values(kind: pl.DataType, text: bool, file: Path) -> pl.Expr:
    """The column of values as numbers; as texts where some file has texts."""
    value = pl.col("value")
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return value.cast(pl.String)
    if kind.is_numeric() or kind in (pl.Boolean, pl.Null):
        value = value.cast(pl.Float64)
        return value.cast(pl.String) if text else value
    raise HistorianError(f"value is {kind}", str(file), "Store numbers, one a row.")


def _of_microseconds(ts: pl.Series, column: str, where: str) -> None:
    """Refuse times that look like those of another unit."""
    first = ts.drop_nulls().head(1).to_list()
    for unit, factor, fix in _EPOCHS:
        if first and 5e8 <= first[0] / factor < 5e9:
            raise HistorianError(f"{column} looks like {unit} ({first[0]})", where, f"{fix}: {_MICROSECONDS}")


def _of_texts(rows: pl.DataFrame, where: str) -> pl.DataFrame:
    """Rows whose values are texts as numbers beside the texts that are none."""
    text = pl.col("value").str.strip_chars()
    mixed = rows.filter(text.str.contains(r"^[+-]?\d[\d.,]*$") & text.str.contains(",") & text.str.contains(r"\."))
    if len(mixed):
        row = mixed.row(0, named=True)
        raise HistorianError(
            f"{row['tag']} reads {row['value']!r} at {row['ts']} us: which of comma and point is the decimal one?",
            where,
            "Export numbers, or texts without separators of thousands.",
        )
    point = pl.when(text.str.contains(_COMMA)).then(text.str.replace(",", ".")).otherwise(text)
    rows = rows.with_columns(point.cast(pl.Float64, strict=False).alias("number"), text.alias("text"))
    odd = pl.col("number").is_null() & (pl.col("text").str.len_chars() > 0)
    return rows.select("tag", "ts", pl.col("number").alias("value"), pl.when(odd).then(pl.col("text")).alias("text"))


_FIX = "Write the folder with `homeostat export`, or as historian/parquet.py describes it."
