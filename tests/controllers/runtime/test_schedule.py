"""A schedule file: what it may say, what is told of a bad one, and that a running loop follows it."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from controllers.runtime.config import load_config
from controllers.runtime.schedule import ScheduleFile, read_schedule
from controllers.runtime.sources import time_of
from controllers.runtime.targets import Change
from plant.errors import SpecError

START_S = 1_700_000_000.0
ZONES = {"zones": [{"tag": "T", "low": 45.0, "high": 60.0, "limits": [30.0, 80.0]}]}


@pytest.fixture
def spec(make_spec):
    return make_spec(**ZONES)


def written(folder: Path, text: str) -> Path:
    path = folder / "schedule.csv"
    path.write_text(text)
    return path


def test_targets_and_zones_by_date_or_by_plant_seconds(tmp_path, spec):
    path = written(
        tmp_path,
        "time,tag,value,low,high\n2026-03-01T08:00:00Z,T,60,,\n2026-03-01T10:30:00+01:00,T,,50,70\n1772352000,T,,,65\n",
    )
    eight = datetime(2026, 3, 1, 8, tzinfo=UTC).timestamp()
    assert [c for _, c in read_schedule(path, spec)] == [
        Change(eight, "T", 60.0), Change(eight, "T", (None, 65.0)), Change(eight + 5400, "T", (50.0, 70.0))
    ]  # fmt: skip


def test_targets_alone_need_no_more_columns_and_parquet_is_read_too(tmp_path, spec):
    assert [c for _, c in read_schedule(written(tmp_path, "time,tag,value\n5,T,60\n"), spec)] == [
        Change(5.0, "T", 60.0)
    ]
    at = datetime(2026, 3, 1, 8, tzinfo=UTC)
    path = tmp_path / "schedule.parquet"
    pl.DataFrame({"time": [at], "tag": ["T"], "value": [60.0]}).write_parquet(path)
    assert read_schedule(path, spec) == [("row 1", Change(at.timestamp(), "T", 60.0))]
    pl.DataFrame({"time": [at.replace(tzinfo=None)], "tag": ["T"], "value": [60.0]}).write_parquet(path)
    with pytest.raises(SpecError, match=r"row 1.*has no time zone"):
        read_schedule(path, spec)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty"),
        ("time,tag\n5,T\n", "line 2: a row needs a value"),
        ("when,tag,value\n5,T,60\n", "no column time"),
        ("time,tag,value,colour\n5,T,60,red\n", "unknown column colour"),
        ("time,tag,value\n5,T,60\n6,X,60\n", "line 3: X has no target; targets: T"),
        ("time,tag,value\n5,T,90\n", r"line 2: target 90 of T is outside \[30, 80\] degC"),
        ("time,tag,low,high\n5,T,60,50\n", "line 2: .*low must be below high"),
        ("time,tag,low,high\n5,F,1,2\n", "line 2: F has no zone; zones: T"),
        ("time,tag,value,low\n5,T,60,50\n", "line 2: a row has a value .* not both"),
        ("time,tag,value\n5,T,hot\n", "line 2: 'hot' is no number"),
        ("time,tag,value\n5,T,nan\n", "line 2: target nan of T is outside"),
        ("time,tag,value\n2026-03-01T08:00:00,T,60\n", "line 2: '2026-03-01T08:00:00' has no time zone"),
        ("time,tag,value\nnoon,T,60\n", "line 2: 'noon' is no time"),
        ("time,tag,value\n5,T,60\n7,T,61\n5,T,62\n", "line 4: line 2 has a target of T for the same time"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_by_file_and_line(tmp_path, spec, text, told):
    with pytest.raises(SpecError, match=told) as error:
        read_schedule(written(tmp_path, text), spec)
    assert "schedule.csv" in str(error.value)


def test_a_file_that_is_not_there_or_no_table(tmp_path, spec):
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        ScheduleFile(tmp_path / "none.csv", spec)
    path = tmp_path / "schedule.parquet"
    path.write_text("time,tag,value")
    with pytest.raises(SpecError, match="cannot be read"):
        ScheduleFile(path, spec)


@pytest.mark.parametrize("text", ["", "nan", "inf", "10:00", "2026-13-01T00:00Z"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="is no time"):
        time_of(text)


def test_the_path_counts_from_the_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("schedule: plans/week.csv\nforecast: {D: {file: weather.csv}}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert config.schedule == tmp_path / "plans" / "week.csv"
    assert config.forecast["D"].file == tmp_path / "weather.csv"


# In the loop ----------------------------------------------------------------------------------------------------------


async def until(condition, what: str) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within 5 s: {what}")


async def test_a_running_loop_follows_the_file_and_says_what_was_past(make_rig, spec, tmp_path):
    path = written(
        tmp_path, f"time,tag,value,low,high\n{START_S + 8},T,60,,\n{START_S - 9},T,55,,\n{START_S - 5},T,56,,\n"
    )
    rig = await make_rig(spec=spec, sources=[ScheduleFile(path, spec, look_s=0.02)])
    await rig.cycle()
    assert rig.loop.state().targets == {"T": 56.0}
    notes = [e[2] for e in rig.journal.events if e[0] == "source"]
    assert len(notes) == 2, notes
    assert "lines 3 to 4 are in the past: taken as already due, of each tag the last stands" in notes[0]
    assert "not in the order of their times" in notes[1]
    assert ("schedule", "SetTarget", "T", "56.0", True, "") in rig.journal.audits
    path.write_text(f"time,tag,value,low,high\n{START_S - 5},T,56,,\n{START_S + 8},T,61,,\n{START_S + 8},T,,50,\n")
    await until(
        lambda: [c.asked for c in rig.loop.targets.coming][-2:] == [61.0, (50.0, None)], "the new rows are known"
    )
    await rig.cycle(2)
    assert rig.loop.state().targets == {"T": 61.0}
    assert rig.loop.state().zones == {"T": (50.0, None)}
    assert len([e for e in rig.journal.events if e[0] == "source"]) == 2, "what was said is not said again"


async def test_a_file_that_goes_bad_or_away_is_an_alarm_and_what_was_read_stands(make_rig, spec, tmp_path):
    path = written(tmp_path, f"time,tag,value\n{START_S + 1000},T,60\n")
    rig = await make_rig(spec=spec, sources=[ScheduleFile(path, spec, look_s=0.02)])
    await rig.cycle()
    path.write_text(f"time,tag,value\n{START_S + 1000},T,600\n")
    await until(lambda: "schedule" in rig.alarms(), "the alarm")
    (alarm,) = [a for a in rig.loop.supervisor.alarms if a.key == "schedule"]
    assert "The schedule read before stands" in alarm.message
    assert "line 2: target 600 of T is outside" in alarm.message
    assert [c.asked for c in rig.loop.targets.coming] == [60.0]
    os.unlink(path)
    await until(lambda: any("No such file" in a.message for a in rig.loop.supervisor.alarms), "it is gone")
    path.write_text(f"time,tag,value\n{START_S + 1000},T,62\n")
    await until(lambda: "schedule" not in rig.alarms(), "it is over")
    assert [c.asked for c in rig.loop.targets.coming] == [62.0]
