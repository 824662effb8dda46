"""A model that does not deserve AUTO advises a plant and does not move it: from the checkpoint's files to the controller's nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
from pathlib import Path

import pytest

from controllers.contracts import Mode
from controllers.runtime.config import ControllerConfig
from homeostat import live
from homeostat.checkpoints import load_checkpoint, shipped, watch_of
from homeostat.chosen import controller_of, doubts_about
from homeostat.status import read_status
from models.checkpoint import FILES
from models.manifest import seal
from plant.spec import load_spec
from simulators.scenario import load_scenario


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
async def test_a_suspect_checkpoint_is_refused_auto_with_its_reason(tmp_path: Path) -> None:
    spec = load_spec("reactor")
    shutil.copytree(shipped("reactor"), tmp_path / "model")
    facts = json.loads((tmp_path / "model" / "config.json").read_text())
    facts["facts"]["suspect"] = ["the moves hardly matter"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(facts))
    seal(tmp_path / "model", FILES)
    checkpoint = load_checkpoint(spec, tmp_path / "model")
    plant, nodes = (f"opc.tcp://127.0.0.1:{free_port()}/{name}" for name in ("plant", "controller"))
    config = ControllerConfig(endpoint=nodes)
    stop = asyncio.Event()
    simulated = live.simulate(
        spec,
        stop,
        endpoint=plant,
        speed=60.0,
        seed=0,
        scenario=load_scenario("operation", spec),
        noise=1.0,
        start_s=None,
    )
    async with asyncio.timeout(150):
        tasks = [asyncio.create_task(simulated)]
        while True:  # until the plant listens
            with contextlib.suppress(OSError):
                await asyncio.open_connection(*plant.removeprefix("opc.tcp://").split("/")[0].split(":"))
                break
            await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(live.control_live(
            spec, stop, config=config, controller=controller_of(spec, config, checkpoint), endpoint=plant,
            historian=tmp_path / "historian.db", mode=Mode.AUTO, watch=watch_of(checkpoint),
            doubts=doubts_about(config, checkpoint),
        )))  # fmt: skip
        try:
            while True:
                seen = await asyncio.to_thread(read_status, spec, nodes, tmp_path / "historian.db")
                assert seen.get("mode") != Mode.AUTO
                if "its training is suspect: the moves hardly matter" in seen.get("mode_reason", ""):
                    break
                assert not any(t.done() for t in tasks), tasks
                await asyncio.sleep(0.3)
        finally:
            stop.set()
            await asyncio.wait(tasks)
