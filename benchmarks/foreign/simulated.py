"""Homeostat's own simulated reactor, served as always, with a field bus that can die behind it, and a log of writes.

    python -m benchmarks.foreign.simulated PORT CONTROL_PORT SPEED SEED

By HTTP on CONTROL_PORT as `server.js`: /state, /writes, and /set with old, frozen, stamp, shift and shift_tag.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlparse

from asyncua import ua

from benchmarks.foreign.node import Console
from benchmarks.foreign.ports import free_port
from plant.clock import ScaledClock
from plant.opcua.server import PlantServer
from plant.spec import Role, load_spec
from simulators.plant import SimulatedPlant

PLANT = "reactor"


class FaultyServer(PlantServer):
    """The plant's server; what its sensors publish passes through the faults that are set."""

    faults: dict[str, str]
    writes: list[dict[str, Any]]

    async def _publish(self, values: Iterable[tuple[ua.NodeId, ua.DataValue]]) -> None:
        sensors = {self._nodes[t.name]: t.name for t in self.spec.online if t.role is not Role.MV}
        kept = []
        for node, shown in values:
            if node not in sensors:
                kept.append((node, shown))
            elif "old" not in self.faults:
                kept.append((node, self._spoilt(sensors[node], shown)))
        await super()._publish(kept)

    def _spoilt(self, tag: str, shown: ua.DataValue) -> ua.DataValue:
        stamp, odd = shown.SourceTimestamp, self.faults.get("shift_tag", ",").split(",")
        assert stamp is not None
        if "frozen" in self.faults:
            shown = replace(shown, Value=self.last.setdefault(tag, shown.Value))
        else:
            self.last.pop(tag, None)
        shift_s = float(self.faults.get("shift", 0)) + (float(odd[1]) if odd[0] == tag else 0.0)
        stamp += timedelta(seconds=shift_s)
        if "stamp" in self.faults:
            stamp = datetime(int(self.faults["stamp"]), 1, 1, tzinfo=UTC)
        return replace(shown, SourceTimestamp=stamp)

    async def _gate(self, node: ua.NodeId, value: ua.DataValue, *who: Any) -> ua.StatusCode:
        status = await super()._gate(node, value, *who)
        kind = self._mv_of.get(node, "")
        if kind:
            written = value.Value.Value if value.Value is not None else None
            self.writes.append({"at": time.time(), "node": kind, "value": written, "status": status.name})
        return status

    def state(self) -> dict[str, Any]:
        """The truth about the plant."""
        layer = self.regulatory
        return {
            "mode": int(layer.mode), "granted": int(layer.mode) == 1, "reason": layer.shed_reason, "fault": self.faults,
            "true": {k: float(v[0]) for k, v in self.process.true_outputs().items()},  # pyright: ignore
            "moves": {t.name: float(v) for t, v in zip(self.spec.mvs, layer.outputs[0], strict=True)},
            "wall_s": time.time(), "time_s": self.clock.plant_time(),
        }  # fmt: skip


async def serve(port: int, console: int, speed: float, seed: int) -> None:
    """Serve the plant and its console until cancelled."""
    spec = load_spec(PLANT)
    server = FaultyServer(
        spec, SimulatedPlant(spec, seed), ScaledClock(speed), f"opc.tcp://127.0.0.1:{port}/homeostat/{spec.name}"
    )
    server.faults, server.writes, server.last = {}, [], {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = urlparse((await reader.readline()).decode().split()[1])
        query, found = dict(parse_qsl(url.query)), {}
        if url.path == "/set":
            if query.pop("clear", None):
                server.faults.clear()
            server.faults.update(query)
        elif url.path == "/writes":
            found = server.writes[int(query.get("from", 0)) :]
        else:
            found = server.state()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(found).encode())
        await writer.drain()
        writer.close()

    async with server, await asyncio.start_server(answer, "127.0.0.1", console):
        await asyncio.Event().wait()


class Simulated(Console):
    """The process above while the context is open, with the console of `node.Tanks`."""

    def __init__(self, *, speed: float = 40.0, seed: int = 1, port: int | None = None) -> None:
        self.port, self.speed = port or free_port(), speed
        super().__init__(free_port())
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}/homeostat/{PLANT}"
        self._argv = [sys.executable, "-m", __name__, *map(str, (self.port, self.console, speed, seed))]

    def __enter__(self) -> Simulated:
        self.process = subprocess.Popen(self._argv, env={**os.environ})
        self.await_start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
