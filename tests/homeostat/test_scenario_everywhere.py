"""One scenario, one seed, one history: in lock-step, live over OPC UA, and in the evaluator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from controllers.baselines.pid import PidController, PidLoop
from controllers.evaluation.closed_loop import run_scenario
from historian import Historian
from historian.recorder import record
from homeostat.lockstep import rehearse
from plant.clock import LockStepClock
from plant.opcua.client import OpcUaLink
from plant.opcua.server import PlantServer
from plant.spec import load_spec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario, scenario_of

SPEC = load_spec("reactor")
BUSY = scenario_of(
    {
        "name": "busy", "description": "A little of everything", "duration_s": 260.0,
        "set_points": {"TI101": {"steps": [[40, 326.0]]}, "AI101": {"steps": [[0, 0.88], [130, 0.86]]}},
        "disturbances": {"Ti": {"random": {"range": [345, 355], "hold_s": 60, "rest": 0.3}}},
        "parameters": {"UA": {"factor": [0.9, 1.1]}},
        "sensors": [{"tag": "TI101", "fault": "bias", "size": 1.0, "at_s": 60, "for_s": 40},
                    {"tag": "AI101", "fault": "dropout", "at_s": 100, "for_s": 30}],
        "actuators": [{"mv": "TC101", "fault": "slow", "lag_s": 20, "at_s": 150}],
    }
)  # fmt: skip


async def test_live_over_opc_ua_is_the_lock_step_run() -> None:
    """Every scan of the server shows, to the last bit, what the rehearsal of the same seed saw."""
    run = rehearse(SPEC, BUSY, seed=5)
    drawn = Drawn(BUSY)
    plant, clock = SimulatedPlant(SPEC, 5, conditions=drawn), LockStepClock(1_000_000.0)

    def set_points() -> dict[str, float]:
        return {"TI101": float(drawn.set_points()["TI101"][0])}

    server = PlantServer(
        SPEC, plant, clock, "opc.tcp://127.0.0.1:0/homeostat/reactor", by_hand=True, scenario=plant.facts(),
        set_points=set_points,
    )  # fmt: skip
    async with server, OpcUaLink(SPEC, clock, server.endpoint) as link:
        for k in range(len(run.time_s)):
            sample = await link.read()
            for tag, reading in sample.values.items():
                np.testing.assert_equal(reading.value, run.values[tag][k], err_msg=f"{tag} at scan {k}")
            if k + 1 < len(run.time_s):
                await server.scan()
        assert link.scenario == plant.facts() == run.facts
    assert np.isnan(run.values["AI101"][51])
    assert run.faults["TI101"] == [(60.0, 100.0)]
    assert (run.set_points["TI101"][20:] == 326.0).all()


async def test_a_recorder_keeps_what_made_the_run(tmp_path: Path) -> None:
    plant, clock = SimulatedPlant(SPEC, 5, conditions=Drawn(BUSY)), LockStepClock(1_000_000.0)
    server = PlantServer(
        SPEC, plant, clock, "opc.tcp://127.0.0.1:0/homeostat/reactor", by_hand=True, scenario=plant.facts()
    )
    stop = asyncio.Event()
    with Historian(tmp_path / "h.db", SPEC.name) as store:
        store.register(SPEC)
        async with server, OpcUaLink(SPEC, clock, server.endpoint) as link:
            await link.read()
            recording = asyncio.create_task(record(link, store, SPEC, clock, stop, note=link.scenario))
            while store.status()["pending"] == 0 and store.newest() is None:
                await asyncio.sleep(0.05)
            stop.set()
            await recording
        store.flush(10.0)
        (note,) = store.runs()["note"].to_list()
    assert scenario_of(json.loads(note)["scenario"]) == BUSY
    assert json.loads(note)["seed"] == 5


def test_the_evaluator_meets_the_same_scenario() -> None:
    pid = PidController(SPEC, (PidLoop(pv="AI101", mv="TC101", gain=-20.0, integral_s=200.0),))
    runs = run_scenario(SPEC, pid, BUSY, batch=3, seed=5, noise=0.0)
    plant = SimulatedPlant(SPEC, 5, 3, Drawn(BUSY), noise=0.0)
    feed = [plant.true_outputs()["TI100"]]
    for _ in range(10 * 13):
        plant.advance(plant.moves, 2.0)
        feed.append(plant.true_outputs()["TI100"])
    np.testing.assert_array_equal(runs.true["TI100"], np.array(feed)[::13].T)
    np.testing.assert_array_equal(runs.targets[0, :, 0], [0.88] * 5 + [0.86] * 5)
    assert np.isnan(runs.measured[:, 4, 0]).all(), "the analyser shows nothing from 100 to 130 s"
    again = run_scenario(SPEC, pid, BUSY, batch=3, seed=5, noise=0.0)
    np.testing.assert_array_equal(again.moves, runs.moves)


@pytest.mark.parametrize("name", ["runaway", "hot_feed"])
def test_a_scenario_tells_the_truth_about_itself(name: str) -> None:
    run = rehearse(SPEC, load_scenario(name, SPEC), seed=0)
    assert bool(run.interlocked) == (name == "runaway")
    assert run.values["TC101"].min() < 292.0, "cooling is near its limit either way"
    assert (run.true["TI101"].max() > 400.0) == (name == "runaway")
