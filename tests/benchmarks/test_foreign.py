"""The plant of another make that `benchmarks.foreign` runs on, and the harness around it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from asyncua import Client, ua

from benchmarks.foreign import plants
from benchmarks.foreign.bench import side_by_side
from benchmarks.foreign.node import NoNode, Tanks, modules
from benchmarks.foreign.product import until
from benchmarks.outcomes import Outcome, Store, none, not_run, tabulate, yes
from benchmarks.report import Report
from controllers.baselines.pid import PidController, PidLoop
from controllers.contracts import Mode
from controllers.runtime.config import ControllerConfig
from controllers.runtime.loop import ControlLoop
from plant.clock import ScaledClock
from plant.opcua.client import OpcUaLink
from plant.spec import load_spec

EXAMPLE = Path(__file__).parents[2] / "examples" / "quadruple_tank"


@pytest.fixture(scope="module")
def node() -> None:
    """node-opcua, or a skip that says what is missing."""
    try:
        modules()
    except NoNode as e:
        pytest.skip(str(e))


@pytest.mark.usefixtures("node")
async def test_the_foreign_plant_keeps_its_own_rules() -> None:
    with Tanks(speed=60.0, index=2) as tanks:
        async with Client(tanks.endpoint) as client:
            index = await client.get_namespace_index("http://tanks.example/QuadrupleTank")
            assert index == 4

            def at(number: int):
                return client.get_node(ua.NodeId(number, index))

            with pytest.raises(ua.UaStatusCodeError):  # nobody has asked
                await at(2101).write_value(ua.Variant(11.0, ua.VariantType.Float))
            await at(4005).write_value(ua.DataValue(ua.Variant(1, ua.VariantType.Int16)))
            for _ in range(200):
                if await at(4006).read_value():
                    break
            await at(2101).write_value(ua.DataValue(ua.Variant(11.0, ua.VariantType.Float)))
            assert tanks.state()["remote"][0] == 11.0
            assert [w["status"] for w in tanks.writes()] == ["BadUserAccessDenied", "Good", "Good"]
            tanks.fault(stamp="1601")
            stamp = (await at(1001).read_data_value()).SourceTimestamp
            assert stamp is None or stamp.year == 1601
            assert until(lambda: not tanks.state()["granted"], 20.0) < 20.0  # nobody beats: the countdown ends it
            assert tanks.state()["reason"] == "WATCHDOG"


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("lease", [False, True], ids=["token", "lease"])
async def test_auto_holds_on_a_plant_of_another_make_until_its_field_bus_dies(tmp_path: Path, lease: bool) -> None:
    """Permit, grant, countdown, toggling bit, owner, loops that turn to us, moves to other nodes: all by YAML."""
    spec = plants.write(tmp_path / "tanks.yaml", plants.MINIMUM, speed=30.0, lease=lease)
    loops = tuple(PidLoop(pv=f"LT{i}", mv=f"FC{i}", gain=1.0, integral_s=200.0) for i in (1, 2))
    config = ControllerConfig.model_validate({"loop": {"speed_tolerance": 0.9}})
    with Tanks(speed=30.0, index=5, lease=lease) as tanks:
        clock = ScaledClock(30.0, tanks.state()["time_s"])
        async with OpcUaLink(spec, clock, tanks.endpoint) as link:
            loop = ControlLoop(spec, config, link, PidController(spec, loops), None, clock)
            running = asyncio.create_task(loop.run(Mode.AUTO, "test"))

            async def comes(what: Callable[[], bool]) -> None:
                async with asyncio.timeout(60.0):
                    while not what():
                        await asyncio.sleep(0.05)

            try:
                await comes(lambda: loop.supervisor.mode is Mode.AUTO)
                await comes(lambda: sum(w["node"] == "FC1.RSP" for w in tanks.writes()) >= 4)
                assert loop.supervisor.mode is Mode.AUTO, loop.supervisor.reason
                assert {w["status"] for w in tanks.writes()} == {"Good"}
                assert tanks.state()["mode"] == [5, 5]
                tanks.fault(old=1)
                await comes(lambda: loop.supervisor.mode is Mode.SHED)
                await comes(lambda: not tanks.state()["granted"])
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


def test_the_yaml_of_the_foreign_plant_holds_for_both_settings_and_without_a_handshake(tmp_path: Path) -> None:
    held = plants.write(tmp_path / "a.yaml", plants.NONMINIMUM, speed=60.0)
    bare = plants.write(tmp_path / "b.yaml", plants.MINIMUM, speed=60.0, bare=True)
    assert held.handshake is not None
    assert held.handshake.permit is not None
    assert bare.handshake is not None
    assert bare.handshake.permit is None
    assert [t.move.write_node for t in bare.mvs if t.move] == [None, None]


def test_the_example_is_the_plant_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """At rest where Johansson's is, with his time constants (his section II.B: 62, 90, 23 and 30 s)."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from quadruple_tank import AREA_CM2, HOLE_CM2, G, QuadrupleTank  # pyright: ignore[reportMissingImports]

    plant = QuadrupleTank()
    slope = plant.derivative(plant.x0, plant.u0, plant.d0, plant.p0, np)
    assert np.abs(slope).max() < 0.015  # cm/s: the published point is rounded to a millimetre
    times = [a / h * math.sqrt(2 * x / G) for a, h, x in zip(AREA_CM2, HOLE_CM2, plant.x0, strict=True)]
    assert times == pytest.approx([62, 90, 23, 30], abs=1.0)
    spec = load_spec(EXAMPLE / "quadruple_tank.yaml")
    assert [t.name for t in spec.mvs] == list(plant.names.u)
    sys.modules.pop("quadruple_tank")


def test_outcomes_outlive_a_run_that_was_cut_short(tmp_path: Path) -> None:
    runs: list[str] = []

    def case() -> list[Outcome]:
        runs.append("once")
        return [none("moves past a limit", 0)]

    def blind() -> list[Outcome]:
        runs.append("blind")
        return [not_run("anything", "no node")]

    for _ in range(2):
        store = Store(tmp_path / "outcomes.json")
        assert store.of("auto", "minimum", case)[0].met
        store.of("auto", "blind", blind)
    assert runs == ["once", "blind", "blind"]
    store.forget("auto")
    store.of("auto", "minimum", case)
    assert runs.count("once") == 2


def test_the_worst_case_stands_for_all_and_a_miss_is_named(tmp_path: Path) -> None:
    report = Report("x")
    found = {"one": [Outcome("seconds to shed", 1.0, 2.0)], "two": [Outcome("seconds to shed", math.inf, 2.0)]}
    tabulate(report, "field bus", found | {"three": [yes("shed", True), not_run("all", "no node")]}, 3.0)
    assert [(what, met) for what, met, _ in report.bars] == [
        ("field bus: seconds to shed (worst of 2: two)", False),
        ("field bus: shed (three)", True),
    ]
    assert report.notes == ["Not run: field bus, all: no node."]
    assert report.finish(tmp_path / "r.json", check=True) == 1


def test_what_runs_side_by_side_fails_by_itself() -> None:
    def broken() -> list[Outcome]:
        raise NoNode("no node")

    cases = side_by_side({"one": lambda: [yes("held", True)], "two": broken})
    with pytest.raises(NoNode):
        cases["two"]()
    assert cases["one"]()[0].met
