"""What survives a restart, what AUTO waits for after one, who may set doubts aside, and texts that people give."""

from __future__ import annotations

import asyncio
import json
import logging

import numpy as np
import pytest

from controllers.contracts import Mode, Status
from controllers.runtime.memory import Memory, Remembered
from controllers.runtime.spoken import plain
from models.plant_surprise import Verdict


@pytest.fixture
def path(tmp_path):
    return tmp_path / "heater.controller.json"


async def ended(rig, memory: Memory, orderly: bool = True) -> None:
    """End a rig as a signal does, or as if the process had been killed after its last sample."""
    if not orderly:
        memory.close()
        rig.loop._memory = None
    rig.task.cancel()
    await asyncio.gather(rig.task, return_exceptions=True)
    if orderly:
        memory.close()


async def test_nothing_is_forgotten(make_rig, path):
    memory = Memory(path, "heater")
    rig = await make_rig(memory=memory)
    await rig.cycle(3)
    assert rig.loop.set_target("T", 61.0, "ann") == ""
    assert rig.loop.set_limit("U", 0.0, 70.0, "ann") == ""
    assert rig.loop.asking.schedule_target("T", 65.0, f"{rig.clock.plant_time() + 1e6}", "ann") == ""
    rig.link.refuse = "BadOutOfRange"
    assert await rig.loop.set_mode("AUTO", "ann") == ""
    await rig.cycle(2)
    assert rig.mode is Mode.SHED
    assert rig.loop.acknowledge("shed", "ann") == ""
    await ended(rig, memory)
    rig = await make_rig(memory=Memory(path, "heater"), start=Mode.AUTO)
    await rig.cycle(4)
    state = rig.loop.state()
    assert state.targets == {"T": 61.0}
    assert state.limits == {"U": (0.0, 70.0)}
    assert [(c.tag, c.asked) for c in rig.loop.targets.coming] == [("T", 65.0)]
    assert next(a for a in state.alarms if a.key == "shed").acknowledged
    assert rig.mode is Mode.ADVISORY, "AUTO waits for a person"
    assert "restart" in rig.alarms()
    assert "after a shed" in rig.reason
    assert await rig.loop.set_mode("AUTO", "ann") == ""
    await rig.cycle()
    assert not {"restart", "shed"} & rig.alarms()


async def test_after_a_crash_in_auto_a_person_decides_and_the_set_points_of_before_are_known(make_rig, make_spec, path):
    spec = make_spec(regulatory={})
    memory = Memory(path, "heater")
    rig = await make_rig(memory=memory, spec=spec)
    await rig.auto()
    assert rig.loop.set_target("T", 70.0, "ann") == ""
    await rig.cycle(10)
    left = float(rig.link.layer.outputs[0, 0])
    await ended(rig, memory, orderly=False)
    again = await make_rig(memory=Memory(path, "heater"), start=Mode.AUTO, spec=spec)
    again.link.layer._outputs[:] = again.link.layer._remote[:] = left
    await again.cycle(4)
    assert again.mode is Mode.ADVISORY
    assert "ended in AUTO without giving the plant back" in again.reason
    assert "Before AUTO stood U 30" in again.reason
    assert again.loop.state().mode_target == "AUTO", "the wish is shown"
    assert await again.loop.set_mode("AUTO", "ann") == ""
    assert again.loop.supervisor.fallback.before_auto == pytest.approx({"U": 30.0}), "nobody moved it since"


async def test_a_first_start_and_one_after_an_orderly_end_enter_auto(make_rig, path):
    for _ in range(2):
        memory = Memory(path, "heater")
        rig = await make_rig(memory=memory, start=Mode.AUTO)
        await rig.cycle(5)
        assert rig.mode is Mode.AUTO, rig.reason
        await ended(rig, memory)


async def test_automatic_return_also_holds_for_a_restart(make_rig, path):
    memory = Memory(path, "heater")
    rig = await make_rig(memory=memory)
    await rig.auto()
    await ended(rig, memory, orderly=False)
    config = {"supervisor": {"return_to_auto": "automatic"}}
    rig = await make_rig(memory=Memory(path, "heater"), start=Mode.AUTO, config=config)
    await rig.cycle(5)
    assert rig.mode is Mode.AUTO


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"plant": "other"}', '{"plant": "heater", "version": 2}', "\x00" * 50, "x" * 2_000_000,
             '{"plant": "heater", "targets": {"T": NaN}}']
)  # fmt: skip
def test_a_damaged_memory_is_one_warning_and_set_aside(path, caplog, text):
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert Memory(path, "heater").recall() is None
    assert len(caplog.records) == 1
    assert "starts from its defaults" in caplog.records[0].getMessage()
    assert not path.exists()
    assert path.with_suffix(".damaged").exists()


async def test_what_no_longer_fits_the_plant_is_left_out(make_rig, path):
    facts = Remembered(plant="heater", targets={"T": 500.0, "X": 1.0}, limits={"U": (-5.0, 900.0)}, before_auto={"U": 1e9},
                       put_back=False)  # fmt: skip
    path.write_text(facts.model_dump_json())
    rig = await make_rig(memory=Memory(path, "heater"))
    await rig.cycle(2)
    assert rig.loop.state().targets == {"T": 50.0}
    assert rig.loop.state().limits == {"U": (0.0, 80.0)}
    assert rig.loop.supervisor.fallback.before_auto == {}


def test_a_memory_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file" / "memory.json", "heater")
    memory.keep(Remembered(plant="heater"))
    memory.keep(Remembered(plant="heater", targets={"T": 1.0}))
    memory.close()
    assert 1 <= len(caplog.records) <= 2
    assert "cannot be written" in caplog.records[0].getMessage()


# Doubts ---------------------------------------------------------------------------------------------------------------


async def test_doubts_refuse_auto_until_a_named_person_sets_them_aside(make_rig):
    rig = await make_rig(doubts=("its files are not those of its manifest",))
    await rig.cycle(3)
    assert "not those of its manifest" in await rig.loop.set_mode("AUTO", "ann")
    assert rig.loop.state().doubts == ("its files are not those of its manifest",)
    assert "name of a person" in rig.loop.override("", "trial")
    assert "name of a person" in rig.loop.override("ann", " \n ")
    assert rig.loop.override("ann", "trial on the stand") == ""
    assert rig.journal.audits[-1][:2] == ("ann", "Override")
    await rig.cycle()
    assert "override" in rig.alarms()
    assert await rig.loop.set_mode("AUTO", "ann") == ""
    assert "no doubt to override" in rig.loop.override("ann", "again")


async def test_an_override_is_for_doubts_only(make_rig, answer_with, scripted):
    rig = await make_rig(scripted(lambda o: answer_with(30.0, status=(Status.RECOVERY,))), doubts=("suspect",))
    await rig.cycle(3)
    assert rig.loop.override("ann", "trial") == ""
    refusal = await rig.loop.set_mode("AUTO", "ann")
    assert "the plan is RECOVERY" in refusal
    assert "suspect" not in refusal


class Cold:
    """A watch that cannot judge yet."""

    score = 0.0

    def see(self, measured, dvs, applied, constants=None) -> Verdict:
        return Verdict(np.array([self.score]), np.array([self.score]), np.zeros((1, 2)))

    def reset(self) -> None:
        return


async def test_a_surprise_that_cannot_be_judged_yet_refuses_auto(make_rig):
    watch = Cold()
    rig = await make_rig(watch=watch, start=Mode.AUTO)
    await rig.cycle(4)
    assert rig.mode is Mode.ADVISORY
    assert "cannot be judged yet" in rig.reason, "the wish says what it waits for"
    watch.score = 0.3
    await rig.cycle(2)
    assert rig.mode is Mode.AUTO


# Texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ann", "ann"),
        ("ann\n2026-01-01 INFO bob: SetMode: accepted", "ann 2026-01-01 INFO bob: SetMode: accepted"),
        ("a\x1b[2Kb\u2028c\u202ed", "a [2Kb c d"),
        ("x" * 100, "x" * 61 + "..."),
        ("  \t ", ""),
    ],
)
def test_texts_stay_on_their_line(text, shown):
    assert plain(text, 64) == shown


async def test_nobody_forges_a_line_of_the_log(make_rig, caplog):
    rig = await make_rig()
    await rig.cycle(2)
    with caplog.at_level(logging.INFO):
        await rig.loop.set_mode("FAST\nroot: SetMode: accepted", "eve\r\nann: SetTarget T: accepted", "x\ny")
        rig.loop.set_target("T\nU", 50.0, "eve")
        rig.loop.acknowledge("k\n" * 9000, "eve")
    assert all("\n" not in r.getMessage() and len(r.getMessage()) < 2000 for r in caplog.records)
    assert all("\n" not in json.dumps(a).replace("\\n", "\n") for a in rig.journal.audits)
