"""From the historian to runs a model can learn from, and the split of those runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from historian import Historian
from models.windows import Run
from plant.errors import ModelError
from plant.spec import PlantSpec

Array = NDArray[np.float64]
Column = tuple[NDArray[np.int64], Array]  # times in microseconds, values
_BLOCK = 180  # samples: a long recording is cut into blocks of this many, so that a split can tell them apart
_LATE = 0.6  # of a sample: an MV that still moves after this was not held, and no one move describes the interval


@dataclass(frozen=True)
class Split:
    """Runs by purpose. No run is in two of them; `digest` identifies the data."""

    training: list[Run]
    validation: list[Run]
    calibration: list[Run]
    test: list[Run]
    digest: str


def load_runs(historian: Historian, spec: PlantSpec, kinds: Sequence[str] | None = None) -> list[Run]:
    """Every closed run of the historian on the sample grid of `spec`. Raises `ModelError` when a tag or all data are
    missing, or when a recorded run is above what the recording policy allows to be used."""
    missing = [t.name for t in spec.online if t.name not in historian.tags]
    if missing:
        raise ModelError(
            f"the historian holds no {', '.join(missing)}", historian.location, f"Record {spec.name} first (`record`)."
        )
    table = historian.runs(kinds).drop_nulls("end_ts")
    if table.is_empty():
        raise ModelError(
            "the historian holds no finished run", historian.location, "Run `homeostat excite` or `record` first."
        )
    fallback = [g.fallback_tag for g in spec.guardrails]
    online = [t.name for t in spec.online]
    watched = [g.tag if g.tag not in online else None for g in spec.guardrails]  # hidden quantities
    labelled = [t for t in dict.fromkeys([*fallback, *watched]) if t and t in historian.tags]
    tags = online + labelled
    begin, end = float(table["start_ts"].min()) / 1e6, float(table["end_ts"].max()) / 1e6  # type: ignore[arg-type]
    history = historian.history(tags, begin, end)
    columns: dict[str, Column] = {}
    for tag in tags:
        rows = history.filter(history["tag"] == tag)
        columns[tag] = (rows["ts"].to_numpy(), rows["value"].cast(float).fill_null(np.nan).to_numpy())
    step = round(spec.sample_time_s * 1e6)
    runs = []
    for row in table.iter_rows(named=True):
        count = (row["end_ts"] - row["start_ts"]) // step + 1
        for first in range(0, count, _BLOCK):
            grid = row["start_ts"] + step * np.arange(first, min(first + _BLOCK, count), dtype=np.int64)
            if len(grid) < 2:
                continue
            at = {tag: _last_at(columns[tag], grid, row["start_ts"]) for tag in tags}
            for mv in spec.mvs:
                at[mv.name][_unheld(columns[mv.name], grid, step, mv.range[1] - mv.range[0])] = np.nan
            nothing = np.full(len(grid), np.nan)
            runs.append(
                Run(
                    row["kind"],
                    grid[0] / 1e6,
                    np.stack([at[t.name] for t in spec.measured], 1),
                    np.stack([at[t.name] for t in spec.dvs], 1) if spec.dvs else np.empty((len(grid), 0)),
                    np.stack([at[t.name] for t in spec.mvs], 1),
                    *(
                        np.stack([at.get(t, nothing) if t else nothing for t in tags_of], 1)
                        if tags_of else np.empty((len(grid), 0))
                        for tags_of in (fallback, watched)
                    ),
                )
            )  # fmt: skip
    return runs


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
        for part in (r.measured, r.dvs, r.applied):
            digest.update(np.ascontiguousarray(part).tobytes())
    return Split(**parts, digest=digest.hexdigest()[:16])


def _last_at(column: Column, grid: NDArray[np.int64], begin: int) -> Array:
    """The last value at or before each instant, none from before `begin` (another run)."""
    ts, value = column
    index = np.searchsorted(ts, grid, side="right") - 1
    found = (index >= 0) & (ts[np.maximum(index, 0)] >= begin) if len(ts) else np.zeros(len(grid), bool)
    return np.where(found, value[np.maximum(index, 0)] if len(ts) else np.nan, np.nan)


def _unheld(column: Column, grid: NDArray[np.int64], step: int, span: float) -> NDArray[np.bool_]:
    """Instants whose preceding interval saw the MV still moving late in it."""
    out = np.zeros(len(grid), bool)
    ts, value = column
    if len(ts) < 2:
        return out
    moved = np.flatnonzero(np.abs(np.diff(value)) > 0.01 * span) + 1
    place = (ts[moved] - grid[0]) / step
    late = (place % 1.0 > _LATE) & (place > 0) & (place < len(grid) - 1)
    out[np.ceil(place[late]).astype(int)] = True
    return out
