"""From a plant's history to runs a model can learn from, and the split of those runs.

A run's values are those in force at each instant of the sample grid: the last at or before it. What is stamped when it
changes (MVs, what is constant, any tag whose `stamps` say so) holds until it does, from before the run too; of the others
none is from before the run, and none outlasts a recorder that fell silent. A measurement slower than the sample time
(`period_s`) is there at the instants it is new, and missing between. What an instrument cannot have read is missing, as the
runtime would have it (`plant.judgement`).

A move is the time mean of what was in force over the interval that ends at the instant: MVs are held between two of their
samples, and where only a target is recorded (`move.recorded`) the MV goes there at its rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.counts import Counts
from models.moves import mean_over, path_of
from models.windows import Run
from plant.errors import ModelError
from plant.judgement import believable
from plant.spec import PlantSpec, Role, Tag

Array = NDArray[np.float64]
Column = tuple[NDArray[np.int64], Array]  # times in microseconds, values
_BLOCK = 180  # samples: a long recording is cut into blocks of this many, so that a split can tell them apart
_ROWS = 1_000_000  # of a history read at once, about
_ENOUGH = 20  # runs: a tenth of them are two
_SILENCE = 10  # samples without a row of any scanned tag: the recorder was down, not the plant at rest


class Source(Protocol):
    """What runs are read from: a `Historian`, or a folder of Parquet files. Times in int64 microseconds are `ts`."""

    @property
    def location(self) -> str: ...

    @property
    def tags(self) -> list[str]: ...

    @property
    def units(self) -> dict[str, str]:
        """Tag -> the unit its values are stored in."""
        ...

    def runs(self, kinds: Sequence[str] | None = None) -> pl.DataFrame:
        """Runs, oldest first: kind, start_ts, end_ts (null while open)."""
        ...

    def readings(self, tags: Sequence[str], start_s: float, end_s: float) -> pl.DataFrame:
        """Samples in [start, end]: tag, ts, value (null where bad), each tag's in the order they were stored in. Where it is
        known, `read`: the number that was read, bad or not; and where some are no numbers, `text`: what stands there instead,
        else null."""
        ...

    def before(self, tags: Sequence[str], start_s: float) -> pl.DataFrame:
        """The last usable sample of each tag before `start_s`: tag, ts, value."""
        ...


@dataclass(frozen=True)
class Split:
    """Runs by purpose. No run is in two of them; `digest` identifies the data."""

    training: list[Run]
    validation: list[Run]
    calibration: list[Run]
    test: list[Run]
    digest: str


@dataclass(frozen=True)
class _Block:
    """A stretch of the grid of the run that began at `begin`."""

    kind: str
    begin: int
    grid: NDArray[np.int64]


def load_runs(
    source: Source, spec: PlantSpec, kinds: Sequence[str] | None = None, counts: Counts | None = None
) -> list[Run]:
    """Every closed run of `source` on the sample grid of `spec`; see `iter_runs`."""
    return list(iter_runs(source, spec, kinds, counts))


def iter_runs(
    source: Source, spec: PlantSpec, kinds: Sequence[str] | None = None, counts: Counts | None = None
) -> Iterator[Run]:
    """The closed runs of `source` one after another, read in parts: what they hold together need not fit into memory.

    Samples out of order are put in order, of several at one time the last stored stands, what is no number or far outside the
    tag's range is missing, and where runs overlap the later one begins where the earlier ends. `counts` is told how many
    there were of each: ("out of order", tag), ("doubled", tag), ("not finite", tag), ("text", tag), ("out of range", tag) but
    for simulated incidents, ("overlapping", ""), ("silent", ""), ("changed within a run", tag) of constants.

    Raises `ModelError` when a tag or all data are missing, or when a tag is stored in another unit than the plant's.
    """
    if missing := [t.name for t in spec.online if t.name not in source.tags]:
        raise ModelError(
            f"the historian holds no {', '.join(missing)}", source.location, f"Record {spec.name} first (`record`)."
        )
    counts = Counts() if counts is None else counts
    fallback = [g.fallback_tag for g in spec.guardrails]
    online = [t.name for t in spec.online]
    watched = [g.tag if g.tag not in online else None for g in spec.guardrails]  # hidden quantities
    tags = online + [t for t in dict.fromkeys([*fallback, *watched]) if t and t in source.tags]
    for tag in tags:
        stored = source.units.get(tag, spec.tag(tag).unit)
        if stored != spec.tag(tag).unit:
            raise ModelError(
                f"{tag} is stored in {stored}, the plant file says {spec.tag(tag).unit}",
                source.location,
                "Correct the unit in the plant file with its ranges and limits, or convert the history.",
            )
    table = source.runs(kinds).drop_nulls("end_ts")
    if table.is_empty():
        raise ModelError(
            "the historian holds no finished run", source.location, "Run `homeostat excite` or `record` first."
        )
    step = round(spec.sample_time_s * 1e6)
    # What a scan stores of every tag, if all of them change.
    instants = max(_BLOCK, int(_ROWS / (len(tags) * max(1.0, spec.sample_time_s / spec.scan_time_s))))
    carried, read_to = _at_start(source, spec, table, counts), int(table["start_ts"].min()) - 1  # type: ignore[arg-type]
    stood = dict.fromkeys((t.name for t in spec.mvs), np.nan)  # where MVs with a recorded target were at `carried`
    by_name = {tag: spec.tag(tag) for tag in tags}
    held = {t.name for t in spec.online if not t.scanned}
    slow_tags = [t for t in spec.measured if _is_slow(t, spec)]
    scanned = set(online) - held - {t.name for t in slow_tags}
    for blocks in _parts(_blocks(table, step, counts), instants):
        end = int(blocks[-1].grid[-1])
        history = source.readings(tags, (read_to + 1) / 1e6, end / 1e6)
        columns, refused = {}, {}
        for tag in tags:
            columns[tag], refused[tag] = _column(history, by_name[tag], carried.get(tag), counts)
        read_to = end
        paths = {t.name: path_of(columns[t.name], t.move, stood[t.name]) for t in spec.mvs if t.move}
        stood = {mv: path.at_end for mv, path in paths.items()}
        carried = {tag: _last_of(column) for tag, column in columns.items()}
        rows = np.sort(np.concatenate([columns[tag][0] for tag in scanned])) if scanned else None
        for tag in spec.constants:
            columns[tag.name] = _usable(columns[tag.name])
            carried[tag.name] = _last_of(columns[tag.name])
        slow = {t.name: _news(columns[t.name], t, step) for t in slow_tags}
        carried |= {tag: _last_of(column) for tag, column in slow.items()}
        for block in blocks:
            at = {tag: _last_at(columns[tag], block.grid, None if tag in held else block.begin) for tag in tags}
            # A slow tag is there where a value came in the interval that ends at the instant.
            at |= {tag: _last_at(column, block.grid, block.begin, step - 1) for tag, column in slow.items()}
            if rows is not None and (silent := _silent(rows, block, step)).any():
                counts["silent", ""] += int((np.diff(silent.astype(int), prepend=0) > 0).sum())
                for tag in scanned:
                    at[tag][silent] = np.nan
            for mv, path in paths.items():
                at[mv] = mean_over(path, block.grid, step, at[mv], block.begin, mv in held)
            if block.kind != "incident":
                for tag in online:
                    _tell(tag, block, columns[tag], refused[tag], counts)
            yield _run(spec, block, at, fallback, watched, {t.name: columns[t.name] for t in spec.constants}, counts)


def _run(
    spec: PlantSpec, block: _Block, at: dict[str, Array], fallback: list[str | None], watched: list[str | None],
    constants: dict[str, Column], counts: Counts,
) -> Run:  # fmt: skip
    nothing = np.full(len(block.grid), np.nan)

    def together(columns: Sequence[Array]) -> Array:
        return np.stack(columns, 1) if columns else np.empty((len(block.grid), 0))

    held = []
    for tag, column in constants.items():
        value, changed = _constant(column, block.grid)
        counts["changed within a run", tag] += changed
        held.append(value)
    measured, dvs, applied = (together([at[t.name] for t in tags]) for tags in (spec.measured, spec.dvs, spec.mvs))
    labels, hidden = (together([at.get(t, nothing) if t else nothing for t in tags]) for tags in (fallback, watched))
    known = np.array(held) if held else None
    return Run(block.kind, block.grid[0] / 1e6, measured, dvs, applied, labels, hidden, known)


def cut_finer(spec: PlantSpec, runs: Sequence[Run], least: int) -> list[Run]:
    """`runs`, the longest of them cut in two until there are enough to be split, or none is twice `least` samples long."""
    cut = list(runs)
    while len(cut) < _ENOUGH:
        i = max(range(len(cut)), key=lambda i: len(cut[i]))
        run, half = cut[i], len(cut[i]) // 2
        if half < least:
            break
        cut[i : i + 1] = [
            _cut(run, 0, half, run.start_s),
            _cut(run, half, len(run), run.start_s + half * spec.sample_time_s),
        ]
    return cut


def _cut(run: Run, first: int, last: int, start_s: float) -> Run:
    rows = {name: getattr(run, name)[first:last] for name in ("measured", "dvs", "applied", "labels")}
    hidden = None if run.hidden is None else run.hidden[first:last]
    return replace(run, start_s=start_s, hidden=hidden, **rows)


def split_runs(runs: Sequence[Run], validation: float, calibration: float, seed: int) -> Split:
    """Split by run, at random from `seed`, each kind in the same shares; the test share equals `validation`.

    Raises `ModelError` when there are too few runs to keep the four apart.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5B11]))
    parts: dict[str, list[Run]] = {"training": [], "validation": [], "calibration": [], "test": []}
    for kind in sorted({r.kind for r in runs}):
        mine = [r for r in runs if r.kind == kind]
        order = rng.permutation(len(mine))
        cuts = np.cumsum([round(len(mine) * validation), round(len(mine) * validation), round(len(mine) * calibration)])
        for i, k in enumerate(order):
            name = ("validation", "test", "calibration", "training")[int(np.searchsorted(cuts, i, side="right"))]
            parts[name].append(mine[k])
    if empty := [name for name, some in parts.items() if not some]:
        raise ModelError(
            f"{len(runs)} runs leave none for {', '.join(empty)}",
            "training data",
            "Record more runs (a recording counts one per 180 samples), or run `homeostat excite`.",
        )
    digest = hashlib.sha256()
    for r in runs:
        for part in (r.measured, r.dvs, r.applied, *([] if r.constants is None else [r.constants])):
            digest.update(np.ascontiguousarray(part).tobytes())
    return Split(**parts, digest=digest.hexdigest()[:16])


def _blocks(table: pl.DataFrame, step: int, counts: Counts) -> Iterator[_Block]:
    """The grids of all runs, cut into blocks, in the order of time."""
    ended = None
    for row in sorted(_carved(table, step), key=lambda row: row["start_ts"]):
        skipped = 0
        if ended is not None and row["start_ts"] <= ended:
            # One sample in two runs could be trained on in one and reported on in the other.
            skipped = (ended - row["start_ts"]) // step + 1
            counts["overlapping", ""] += 1
        count = (row["end_ts"] - row["start_ts"]) // step + 1
        for first in range(skipped, count, _BLOCK):
            grid = row["start_ts"] + step * np.arange(first, min(first + _BLOCK, count), dtype=np.int64)
            if len(grid) >= 2:
                yield _Block(row["kind"], row["start_ts"], grid)
        ended = row["end_ts"] if ended is None else max(ended, row["end_ts"])


def _carved(table: pl.DataFrame, step: int) -> list[dict[str, Any]]:
    """The runs of `table`, those of a recorder without what it recorded while a test had its own run: that is the test's."""
    rows = list(table.iter_rows(named=True))
    tests = sorted((r["start_ts"], r["end_ts"]) for r in rows if r["kind"] == "excitation")
    carved = []
    for row in rows:
        if row["kind"] != "recorded":
            carved.append(row)
            continue
        begin = row["start_ts"]
        for start, end in tests:
            if end < begin or start > row["end_ts"]:
                continue
            carved.append(row | {"start_ts": begin, "end_ts": start - step})
            begin = end + step
        carved.append(row | {"start_ts": begin})
    return [row for row in carved if row["end_ts"] >= row["start_ts"]]


def _parts(blocks: Iterator[_Block], instants: int) -> Iterator[list[_Block]]:
    """Blocks in lists of about as many grid instants."""
    part, size = [], 0
    for block in blocks:
        part.append(block)
        size += len(block.grid)
        if size >= instants:
            yield part
            part, size = [], 0
    if part:
        yield part


def _at_start(source: Source, spec: PlantSpec, table: pl.DataFrame, counts: Counts) -> dict[str, Column]:
    """What holds until it changes, as it was when the first run began: it may have been stamped long before."""
    names = [t.name for t in spec.online if not t.scanned]
    if not names:
        return {}
    rows = source.before(names, float(table["start_ts"].min()) / 1e6)  # type: ignore[arg-type]
    found = {}
    for tag, ts, value in zip(rows["tag"], rows["ts"].to_numpy(), rows["value"].to_numpy(), strict=True):
        if believable(spec.tag(tag), value):
            found[tag] = (np.array([ts]), np.array([value], float))
        else:
            counts.note("out of range", tag, np.array([ts]), [f"{value:g}"])
    return found


def _column(history: pl.DataFrame, tag: Tag, carried: Column | None, counts: Counts) -> tuple[Column, Column]:
    """A tag's samples in order of time, one a time, after the last one of the part before, NaN where missing; and those that
    are because the instrument cannot have read them."""
    rows = history.filter(history["tag"] == tag.name)
    if "text" in rows.columns and len(texts := rows.filter(rows["text"].is_not_null())):
        counts.note("text", tag.name, texts["ts"].to_numpy(), texts["text"].head(1).to_list())
    ts, value = rows["ts"].to_numpy(), _numbers(rows["value"])
    read = _numbers(rows["read"]) if "read" in rows.columns else value.copy()
    counts["not finite", tag.name] += int(np.isinf(value).sum())
    value[np.isinf(value)] = np.nan
    if len(ts) > 1 and (descents := int((ts < np.maximum.accumulate(ts)).sum())):
        counts["out of order", tag.name] += descents
        order = np.argsort(ts, kind="stable")
        ts, value, read = ts[order], value[order], read[order]
    last = np.append(np.diff(ts) > 0, True)[: len(ts)]
    counts["doubled", tag.name] += int((~last).sum())
    if not last.all():
        ts, value, read = ts[last], value[last], read[last]
    # How far a simulated plant goes in what it hides is not for an instrument's range to say; a fill value is.
    asked = tag.model_copy(update={"over_range": 1.0}) if tag.role is Role.HIDDEN else tag
    far = np.isfinite(read) & ~believable(asked, read)
    refused = ts[far], read[far]
    value[far] = np.nan
    if carried is not None:
        ts, value = np.concatenate([carried[0], ts]), np.concatenate([carried[1], value])
    return (ts, value), refused


def _numbers(column: pl.Series) -> Array:
    """A column as numbers, NaN where there is none."""
    return column.cast(float).fill_null(np.nan).to_numpy().copy()


def _tell(tag: str, block: _Block, column: Column, refused: Column, counts: Counts) -> None:
    """Count what of a tag was refused within a block."""
    (ts, value), (at, far) = column, refused
    if not len(at):
        return
    mine = slice(*np.searchsorted(at, [block.grid[0], block.grid[-1] + 1]))
    all_of = slice(*np.searchsorted(ts, [block.grid[0], block.grid[-1] + 1]))
    counts.far(tag, block.grid[0] / 1e6, at[mine], far[mine], int(np.isfinite(value[all_of]).sum()))


def _silent(rows: NDArray[np.int64], block: _Block, step: int) -> NDArray[np.bool_]:
    """Instants of a block within a run before which nothing was stored for `_SILENCE` samples: `rows` are the times of all
    that was."""
    index = np.searchsorted(rows, block.grid, side="right") - 1
    newest = np.where(index >= 0, rows[np.maximum(index, 0)] if len(rows) else 0, 0)
    return block.grid - np.maximum(newest, block.begin) > _SILENCE * step


def _last_of(column: Column) -> Column:
    ts, value = column
    return ts[-1:], value[-1:]


def _usable(column: Column) -> Column:
    ts, value = column
    return ts[np.isfinite(value)], value[np.isfinite(value)]


def _constant(column: Column, grid: NDArray[np.int64]) -> tuple[float, int]:
    """The value in force at the start of a block, however long ago it was stamped, else the first one in it; and how often
    it changes within."""
    ts, value = column
    before = int(np.searchsorted(ts, grid[0], side="right"))
    inside = value[max(before - 1, 0) : int(np.searchsorted(ts, grid[-1], side="right"))]
    return (float(inside[0]), int((np.diff(inside) != 0).sum())) if len(inside) else (np.nan, 0)


def _is_slow(tag: Tag, spec: PlantSpec) -> bool:
    return tag.period_s is not None and tag.period_s > spec.sample_time_s


def _news(column: Column, tag: Tag, step: int) -> Column:
    """The samples that are new: another value than before, or the same again a whole period later. A server may stamp what
    it holds anew at each scan."""
    assert tag.period_s is not None
    ts, value = column
    if not len(ts):
        return column
    fresh = np.append(True, np.diff(value) != 0)
    began = ts[np.maximum.accumulate(np.where(fresh, np.arange(len(ts)), 0))]
    beat = (ts - began + step // 2) // round(tag.period_s * 1e6)
    fresh |= np.append(False, np.diff(beat) > 0)
    return ts[fresh], value[fresh]


def _last_at(column: Column, grid: NDArray[np.int64], begin: int | None, oldest: int | None = None) -> Array:
    """The last value at or before each instant and no older than `oldest`, none from before `begin` (another run) if given."""
    ts, value = column
    index = np.searchsorted(ts, grid, side="right") - 1
    at = ts[np.maximum(index, 0)] if len(ts) else np.zeros(len(grid), np.int64)
    found = (index >= 0) & (begin is None or at >= begin) if len(ts) else np.zeros(len(grid), bool)
    if oldest is not None:
        found &= grid - at <= oldest
    return np.where(found, value[np.maximum(index, 0)] if len(ts) else np.nan, np.nan)
