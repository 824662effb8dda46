"""`Link`: the one way to read and write a plant. OPC UA is one implementation, an in-process simulator another."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


class Quality(IntEnum):
    """OPC UA severity of a value. Stored in the historian as this integer."""

    GOOD = 0
    UNCERTAIN = 1
    BAD = 2


class PlantMode(IntEnum):
    """Who moves the MVs: the plant's own regulatory layer, or the remote controller."""

    LOCAL = 0
    REMOTE = 1


@dataclass(frozen=True)
class Value:
    """One value of one tag: in the tag's unit, quality, source time (plant time, s since the Unix epoch), and why it is not
    good. `server_s`: when the server says it had it (plant time), NaN where it does not say."""

    value: float
    quality: Quality
    time_s: float
    reason: str = ""
    server_s: float = math.nan


@dataclass(frozen=True)
class Sample:
    """A consistent read of every tag of a plant.

    `time_s` is its plant time: what most of the tags stamped at each scan say, else when it was received. The rest comes from
    the plant's handshake: `mode` whether the MVs are granted to us, `heartbeat` the plant's sign of life, which stands still
    when the plant does, `owned` whether the lease is ours; each None where the plant has no such thing or does not say it.
    `loops`: for each MV with a mode of its own, whether its loop takes our moves. `received_s`: wall time of the answer, by
    the clock's `wall_time`. `reason`: why the plant last took the MVs, `interlock` whether one holds an MV, where it says so.
    `faults`: what of the handshake is not as the plant file says, a line each that begins with the field; nobody goes to AUTO
    on such a plant, and what lasts longer than a sample means that the plant is not ours.
    """

    time_s: float
    values: Mapping[str, Value]
    mode: PlantMode | None = None
    heartbeat: float | None = None
    owned: bool | None = None
    loops: Mapping[str, bool] = field(default_factory=dict)
    received_s: float = math.nan
    reason: str = ""
    interlock: bool | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Receipt:
    """What became of a write: for each tag refused, the plant's reason. Empty means every move was taken."""

    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.rejected


class Link(Protocol):
    """Read and write one plant. Every call raises `LinkError` when the plant cannot be reached."""

    @property
    def speed(self) -> float:
        """Plant seconds per wall second, as the plant declares it (1 for a real plant)."""
        ...

    async def read(self) -> Sample:
        """Read every tag that is not hidden, with its quality and source time, in one batch."""
        ...

    async def write(self, moves: Mapping[str, float]) -> Receipt:
        """Write MVs (engineering units). A refusal is in the receipt, not an exception."""
        ...

    async def request_mode(self, mode: PlantMode) -> Receipt:
        """Ask the plant for REMOTE (take the MVs) or LOCAL (give them back; what is not ours stays whose it is)."""
        ...

    async def beat(self, counter: int) -> None:
        """Show the plant that we live, in the form its watchdog wants; the plant takes the MVs when it stops."""
        ...

    def subscribe(self) -> AsyncIterator[Mapping[str, Value]]:
        """Every change of every tag, in order, as small batches; survives reconnects. Ends when the link closes."""
        ...

    async def close(self) -> None:
        """Close the connection. Safe to call twice."""
        ...
