"""Nodes that hold an array of numbers, as forecasts do: read beside the plant's tags, in a session of their own."""

# asyncua types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asyncua import ua

from plant.errors import LinkError
from plant.node_ids import NodeAddress
from plant.opcua.nodes import quality_of, reason_of, resolve, to_seconds
from plant.opcua.session import Session


@dataclass(frozen=True)
class ReadArray:
    """What a node holds: `values`, and its source time (s since the Unix epoch, None where it says none); or `fault`, why not."""

    values: tuple[float, ...] = ()
    time_s: float | None = None
    fault: str = ""


class ArrayReader:
    """Reads some nodes of an endpoint. It connects with the first `read`, and again after a loss with the next one."""

    def __init__(self, endpoint: str, addresses: Mapping[str, NodeAddress], timeout_s: float = 4.0) -> None:
        self._endpoint, self._addresses, self._timeout_s = endpoint, addresses, timeout_s
        self._session: Session | None = None
        self._nodes: dict[str, ua.NodeId] = {}

    async def read(self) -> dict[str, ReadArray]:
        """Each node by its name. Raises `LinkError` while the endpoint does not answer."""
        if self._session is not None and self._session.lost.is_set():
            await self.close()
        if self._session is None:
            session = await Session.open(self._endpoint, self._timeout_s)
            try:
                self._nodes = resolve(self._addresses, await session.namespaces(), self._endpoint)
            except LinkError:
                await session.close()
                raise
            self._session = session
        answers = await self._session.read(list(self._nodes.values()))
        return {name: _array(dv) for name, dv in zip(self._nodes, answers, strict=True)}

    async def close(self) -> None:
        """Disconnect; the next `read` connects again."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _array(dv: ua.DataValue) -> ReadArray:
    if dv.StatusCode is not None and not dv.StatusCode.is_good():
        return ReadArray(fault=f"it is {quality_of(dv.StatusCode).name.lower()}: {reason_of(dv.StatusCode)}")
    value = dv.Value.Value if dv.Value is not None else None
    if not isinstance(value, list) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        return ReadArray(fault="it holds no array of numbers")
    stamp = None if dv.SourceTimestamp is None else to_seconds(dv.SourceTimestamp)
    return ReadArray(tuple(map(float, value)), stamp)
