"""`forecast:` of a controller's YAML: what is expected of the DVs, out of files or arrays on the plant's endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controllers.runtime.config import ForecastConfig
from controllers.runtime.sources import FIX, LOOK_S, date_of, date_of_file, number_of, read_table
from controllers.runtime.targets import TargetBoard
from plant.errors import LinkError, SpecError
from plant.node_ids import NodeAddress, parse_node_id
from plant.opcua.arrays import ArrayReader, ReadArray
from plant.spec import PlantSpec, Role, Tag

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """A DV's coming values (its unit), each from its plant time (s) until the next one's, the last until `end_s`."""

    times: Array
    values: Array
    end_s: float

    def at(self, times: Array) -> Array:
        """The values at plant times; NaN before the first and past the end."""
        k = np.searchsorted(self.times, times, side="right") - 1
        known = (k >= 0) & (times <= self.end_s)
        return np.where(known, self.values[np.maximum(k, 0)], np.nan)


def read_forecast(path: Path, tag: Tag) -> Expected:
    """A forecast file, its rows in the order of their times; it ends with its last row. Raises `SpecError`."""
    rows: dict[float, tuple[str, float]] = {}
    for where, at_s, cells in read_table(path, ("time", "value"), ("time", "value")):
        try:
            value = number_of(cells["value"])
            why = _outside(tag, value) if value is not None else "the value is missing"
            if at_s in rows:
                why = why or f"{rows[at_s][0]} has a value for the same time"
        except ValueError as e:
            value, why = None, str(e)
        if why or value is None:
            raise SpecError(why, f"{path}, {where}", FIX)
        rows[at_s] = where, value
    if not rows:
        raise SpecError("it has no rows", str(path), FIX)
    times = np.array(sorted(rows))
    return Expected(times, np.array([rows[t][1] for t in times]), float(times[-1]))


def _outside(tag: Tag, value: float) -> str:
    low, high = tag.range
    if not (math.isfinite(value) and low <= value <= high):
        return f"{value:g} is outside the range [{low:g}, {high:g}] {tag.unit} of {tag.name}"
    return ""


class Forecasts:
    """What is expected of the DVs of a plant. Called with a plant time (s) it answers `Observation.forecast` (1 x horizon x n_dv).

    **Arguments:**

    - `sources`: DV -> where its forecast comes from. Raises `SpecError` for what is no DV, and when a file cannot be followed from
      the start; what a file says later and cannot be followed is an alarm, and what was read before stands.
    - `horizon`: samples ahead.
    - `endpoint`: of the plant, where nodes are read.
    - `look_s`: wall seconds between two readings of a node, or looks at a file's date.
    """

    def __init__(
        self, spec: PlantSpec, sources: Mapping[str, ForecastConfig], horizon: int, endpoint: str | None = None,
        look_s: float = LOOK_S,
    ) -> None:  # fmt: skip
        self._spec, self._look_s = spec, look_s
        self._ahead_s: Array = spec.sample_time_s * np.arange(1.0, horizon + 1)
        self._expected: dict[str, Expected] = {}
        self._files: dict[str, tuple[Path, tuple[int, int]]] = {}
        self._steps: dict[str, float] = {}
        self._short: set[str] = set()
        addresses: dict[str, NodeAddress] = {}
        for name, source in sources.items():
            where = f"controller YAML: forecast.{name}"
            if name not in [t.name for t in spec.dvs]:
                listed = ", ".join(t.name for t in spec.dvs) or "none"
                raise SpecError(
                    f"{name} is no DV of {spec.name}", where, f"A forecast is of a {Role.DV}; there are {listed}."
                )
            if source.file is not None:
                self._files[name] = source.file, date_of_file(source.file)
                self._expected[name] = read_forecast(source.file, spec.tag(name))
            else:
                try:
                    addresses[name] = parse_node_id(source.node, spec.namespaces)
                except ValueError as e:
                    raise SpecError(str(e), f"{where}.node", "Correct it.") from None
                self._steps[name] = source.step_s or math.nan
        self._reader = ArrayReader(endpoint or spec.endpoint, addresses) if addresses else None

    def __call__(self, time_s: float) -> Array:
        """What is expected at the samples that follow plant time `time_s`; NaN where nothing is."""
        times = time_s + self._ahead_s
        nothing = np.full(len(times), np.nan)
        columns = [self._expected[t.name].at(times) if t.name in self._expected else nothing for t in self._spec.dvs]
        return np.stack(columns, -1)[None]

    async def follow(
        self, board: TargetBoard, now_s: Callable[[], float], alarm: Callable[[str, str], None], note: Callable[[str], None]
    ) -> None:  # fmt: skip
        """Read files that change, and nodes, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._files:
                    group.create_task(self._follow_files(now_s, alarm, note))
                if self._reader is not None:
                    group.create_task(self._follow_nodes(self._reader, now_s, alarm, note))
        finally:
            if self._reader is not None:
                with contextlib.suppress(LinkError):
                    await self._reader.close()

    async def _follow_files(
        self, now_s: Callable[[], float], alarm: Callable[[str, str], None], note: Callable[[str], None]
    ) -> None:
        troubles: dict[str, str] = {}
        while True:
            for name in self._files:
                ended = self._ended(name, now_s(), note)
                alarm(f"forecast:{name}", troubles.get(name) or ended)
            await asyncio.sleep(self._look_s)
            for name, (path, date) in list(self._files.items()):
                try:
                    if (found := await asyncio.to_thread(date_of_file, path)) != date:
                        self._expected[name] = await asyncio.to_thread(read_forecast, path, self._spec.tag(name))
                        self._files[name] = path, found
                    troubles.pop(name, None)
                except SpecError as e:
                    troubles[name] = f"The forecast of {name} read before stands: {e}"

    async def _follow_nodes(
        self, reader: ArrayReader, now_s: Callable[[], float], alarm: Callable[[str, str], None],
        note: Callable[[str], None],
    ) -> None:  # fmt: skip
        while True:
            try:
                found = await reader.read()
            except LinkError as e:
                found = {name: ReadArray(fault=str(e)) for name in self._steps}
            for name, read in found.items():
                fault = self._take(name, read, now_s())
                if fault:
                    self._expected.pop(name, None)
                    alarm(f"forecast:{name}", f"The forecast of {name} cannot be used, its reading is held: {fault}")
                else:
                    alarm(f"forecast:{name}", self._ended(name, now_s(), note))
            await asyncio.sleep(self._look_s)

    def _take(self, name: str, read: ReadArray, now_s: float) -> str:
        """Keep what a node holds. Returns '' or why it cannot be used."""
        tag, step_s = self._spec.tag(name), self._steps[name]
        if read.fault:
            return read.fault
        if not read.values:
            return "its array is empty"
        if outside := next(filter(None, (_outside(tag, v) for v in read.values)), ""):
            return outside
        times: Array = np.arange(1.0, len(read.values) + 1) * step_s + (now_s if read.time_s is None else read.time_s)
        self._expected[name] = Expected(times, np.array(read.values), float(times[-1]) + step_s)
        return ""

    def _ended(self, name: str, now_s: float, note: Callable[[str], None]) -> str:
        """Why nothing is forecast any more, '' while something is. One that ends within the horizon is noted, once."""
        expected = self._expected[name]
        at = date_of(expected.end_s)
        if expected.end_s <= now_s:
            return f"The forecast of {name} ended at {at}; its reading is held"
        short = expected.end_s < now_s + self._ahead_s[-1]
        if short and name not in self._short:
            note(
                f"The forecast of {name} ends at {at}, within the horizon; {expected.values[-1]:g} is held from there on"
            )
        if short:
            self._short.add(name)
        else:
            self._short.discard(name)
        return ""
