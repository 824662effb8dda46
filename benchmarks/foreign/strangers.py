"""Other people's heartbeats, moves and controllers, and a controller that was stopped and wakes up again."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from asyncua import Client, ua

from benchmarks.foreign.bench import Bench, side_by_side
from benchmarks.foreign.node import Console, Tanks
from benchmarks.foreign.product import CALM, Controller, until
from benchmarks.foreign.simulated import PLANT, Simulated
from benchmarks.outcomes import Cases, Outcome, none, yes

HEARTBEATS = 3  # of a second each, in both plants
_LATE_S = 0.5  # wall: the plant looks every tenth or quarter of a second, this script as often
_URI = {"ours": "urn:homeostat:plant", "theirs": "http://tanks.example/QuadrupleTank"}
_LOST_S = 30.0


def cases(bench: Bench) -> Cases:
    ours = lambda: Simulated(speed=20.0, seed=bench.seed + 31)  # noqa: E731
    theirs = lambda: Tanks(speed=bench.settings.speed, seed=bench.seed + 31, lease=True)  # noqa: E731
    return side_by_side(
        {
            "our layer": lambda: attack(bench, "ours", ours, PLANT, None),
            "a foreign lease": lambda: attack(bench, "theirs", theirs, bench.foreign(lease=True)[0], bench.model()),
            "a foreign token": lambda: taken(bench),
        }
    )


def attack(
    bench: Bench, whose: str, made: Callable[[], Simulated | Tanks], plant: Path | str, checkpoint: Path | None
) -> list[Outcome]:
    """A stranger's heartbeat and move, a second controller, the first one paused and awake again."""
    folder, config = bench.folder / "strangers" / whose, CALM if checkpoint else None
    with made() as console, Controller(folder, plant, console.endpoint, config=config, checkpoint=checkpoint) as first:
        if why := first.auto():
            return [yes("AUTO is entered", False, why)]
        accepted = asyncio.run(_stranger(console.endpoint, whose))
        seen = first.now()
        undisturbed = seen is not None and seen.mode_actual == "AUTO"
        with Controller(folder / "second", plant, console.endpoint, config=config, checkpoint=checkpoint) as second:
            second.wait(lambda s: s.cycles > 5)
            refused = second.auto(3.0)
            now = first.now()
            held = now is not None and now.mode_actual == "AUTO"
            local_s = _paused(first, console)
            moved = len(_moves(console, 0))
            assert first.process is not None
            os.kill(first.process.pid, signal.SIGCONT)
            first.wait(lambda s: s.mode_actual != "AUTO")
            time.sleep(2.0)
            woken = first.now()
            after = [w for w in _moves(console, moved) if w["status"] == "Good"]
            again = second.auto(_LOST_S)
    return [
        none("writes of strangers accepted", len(accepted), ", ".join(accepted)),
        yes("AUTO goes on unmoved", undisturbed and held),
        yes("a second controller is refused", bool(refused), refused[:120]),
        Outcome("seconds to LOCAL once the controller is stopped, of 3 heartbeats", local_s / HEARTBEATS, 1 + _LATE_S / 3),
        yes("the one that wakes up has given AUTO up", woken is not None and woken.mode_actual == "SHED",
            woken.mode_reason[:120] if woken else ""),
        none("its moves taken after it woke", len(after)),
        yes("the second may have the plant afterwards", not again, again[:120]),
    ]  # fmt: skip


def taken(bench: Bench) -> list[Outcome]:
    """A plant without a lease, where a token shows who holds it: somebody else writes his."""
    path, _ = bench.foreign()
    folder = bench.folder / "strangers" / "token"
    with (
        Tanks(speed=bench.settings.speed, seed=bench.seed + 32) as tanks,
        Controller(folder, path, tanks.endpoint, config=CALM, checkpoint=bench.model()) as control,
    ):
        if why := control.auto():
            return [yes("AUTO is entered", False, why)]
        began = time.monotonic()
        asyncio.run(_write(tanks.endpoint, _URI["theirs"], 4007, "another's", ua.VariantType.String))
        control.wait(lambda s: s.mode_actual != "AUTO")
        took_s, moved = time.monotonic() - began, len(_moves(tanks, 0))
        time.sleep(1.5)
        after, seen = _moves(tanks, moved), control.now()
    return [
        Outcome("seconds until the one that lost the plant gives up, of 2 samples", took_s / 1.0, 1 + _LATE_S),
        none("its moves afterwards", len(after)),
        yes("the alarm names the cause", seen is not None and "own" in seen.mode_reason.lower(),
            seen.mode_reason[:140] if seen else ""),
    ]  # fmt: skip


def _paused(control: Controller, console: Console) -> float:
    """Stop the controller's process; wall seconds until the plant has its MVs back."""
    assert control.process is not None
    os.kill(control.process.pid, signal.SIGSTOP)
    took_s = until(lambda: not console.state()["granted"], _LOST_S)
    return took_s if math.isfinite(took_s) else _LOST_S


def _moves(console: Console, start: int) -> list[dict]:
    return [w for w in console.writes() if w["node"].startswith(("FC", "TC"))][start:]


async def _stranger(endpoint: str, whose: str) -> list[str]:
    """What a client that holds nothing could write: heartbeat and MVs."""
    wanted = (
        [("heartbeat", "s=reactor.Regulatory.ControllerHeartbeat", 7, ua.VariantType.UInt32),
         ("move", "s=reactor.TC101", 309.0, ua.VariantType.Double)]
        if whose == "ours" else
        [("heartbeat", "i=4004", 30, ua.VariantType.UInt16), ("move", "i=2101", 19.0, ua.VariantType.Float),
         ("permit", "i=4005", 0, ua.VariantType.Int16)]
    )  # fmt: skip
    taken = []
    async with Client(endpoint) as client:
        index = await client.get_namespace_index(_URI[whose])
        for what, node, value, kind in wanted:
            try:
                await client.get_node(f"ns={index};{node}").write_value(ua.DataValue(ua.Variant(value, kind)))
            except ua.UaStatusCodeError as e:
                if e.code == ua.StatusCodes.BadNodeIdUnknown:
                    raise
            else:
                taken.append(what)
    return taken


async def _write(endpoint: str, uri: str, number: int, value: object, kind: ua.VariantType) -> None:
    async with Client(endpoint) as client:
        index = await client.get_namespace_index(uri)
        await client.get_node(ua.NodeId(number, index)).write_value(ua.DataValue(ua.Variant(value, kind)))
