"""What is expected of the DVs, out of files and nodes: what they may say, what is told of a bad one, and what is held."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import numpy as np
import pytest
from asyncua import Server, ua
from pydantic import ValidationError

from controllers.runtime.config import ForecastConfig
from controllers.runtime.forecast import Forecasts, read_forecast
from plant.errors import SpecError

START_S = 1_700_000_000.0


def of_file(path) -> dict[str, ForecastConfig]:
    return {"D": ForecastConfig(file=path)}


async def until(condition, what: str) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within 10 s: {what}")


class Heard:
    """What a source says."""

    def __init__(self) -> None:
        self.alarms: dict[str, str] = {}
        self.notes: list[str] = []

    def alarm(self, key: str, text: str) -> None:
        self.alarms[key] = text


@contextlib.asynccontextmanager
async def followed(forecasts: Forecasts, now_s: float = START_S):
    heard = Heard()
    task = asyncio.create_task(forecasts.follow(None, lambda: now_s, heard.alarm, heard.notes.append))  # type: ignore[arg-type]
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_value_holds_until_the_next_time_and_nothing_is_known_before_or_after(make_spec, tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(f"time,value\n{START_S + 8},3\n{START_S + 2},1\n{START_S + 12},5\n")
    forecasts = Forecasts(make_spec(), of_file(path), 5)
    np.testing.assert_equal(forecasts(START_S), [[[1.0], [3.0], [5.0], [np.nan], [np.nan]]])
    np.testing.assert_equal(forecasts(START_S - 4)[0, :, 0], [np.nan, 1.0, 3.0, 5.0, np.nan])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("time,value\n", "it has no rows"),
        ("time,value\n5,1\n5,2\n", "line 3: line 2 has a value for the same time"),
        ("time,value\n5,\n", "line 2: the value is missing"),
        ("time,value\n5,warm\n", "line 2: 'warm' is no number"),
        ("time,value\n5,300\n", r"line 2: 300 is outside the range \[-20, 20\] degC of D"),
        ("time,value\n2026-03-01 08:00,1\n", "has no time zone"),
        ("time\n5\n", "no column value"),
    ],
)
def test_a_bad_file_is_told_by_line(make_spec, tmp_path, text, told):
    path = tmp_path / "d.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=told):
        read_forecast(path, make_spec().tag("D"))


def test_a_forecast_is_of_a_dv(make_spec, tmp_path):
    with pytest.raises(SpecError, match=r"forecast.T: T is no DV of heater. A forecast is of a DV; there are D"):
        Forecasts(make_spec(), {"T": ForecastConfig(file=tmp_path / "d.csv")}, 3)
    with pytest.raises(SpecError, match=r"forecast.D.node: not an OPC UA node id"):
        Forecasts(make_spec(), {"D": ForecastConfig(node="here", step_s=4.0)}, 3)


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "either a file or a node"), ({"file": "a", "node": "ns=2;s=a", "step_s": 1}, "either a file or a node"),
     ({"node": "ns=2;s=a"}, "needs step_s"), ({"file": "a", "step_s": 1.0}, "needs step_s")],
)  # fmt: skip
def test_a_forecast_has_one_source(given, told):
    with pytest.raises(ValidationError, match=told):
        ForecastConfig.model_validate(given)


async def test_the_controller_is_told_of_what_is_expected(make_rig, make_spec, answer_with, scripted, tmp_path):
    path, shown = tmp_path / "d.csv", []
    path.write_text(f"time,value\n{START_S},1\n{START_S + 8},3\n{START_S + 14},4\n")

    def answer(observation):
        shown.append(observation.forecast)
        return answer_with(30.0)

    spec = make_spec()
    forecasts = Forecasts(spec, of_file(path), 4, look_s=0.02)
    rig = await make_rig(scripted(answer), forecast=forecasts, sources=[forecasts])
    await rig.cycle(2)
    np.testing.assert_equal(shown[0][0, :, 0], [1.0, 3.0, 3.0, np.nan])
    notes = [e[2] for e in rig.journal.events if e[0] == "source"]
    assert len(notes) == 1
    assert "The forecast of D ends at" in notes[0]
    assert "within the horizon; 4 is held from there on" in notes[0]
    await rig.cycle(4)
    await until(lambda: "forecast:D" in rig.alarms(), "it has ended")
    (alarm,) = [a for a in rig.loop.supervisor.alarms if a.key == "forecast:D"]
    assert "its reading is held" in alarm.message
    path.write_text(f"time,value\n{START_S},1\n{START_S + 8},3\n{START_S + 1e6},4\n")
    await until(lambda: "forecast:D" not in rig.alarms(), "it goes on")
    path.write_text("time,value\n5,hot\n")
    await until(lambda: "forecast:D" in rig.alarms(), "it cannot be read")
    await rig.cycle()
    assert np.isfinite(shown[-1]).all(), "what was read before stands"


@contextlib.asynccontextmanager
async def served(values: list[float] | float, stamp_s: float | None = START_S):
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/forecast")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:weather")
    node = await server.nodes.objects.add_variable(ua.NodeId("Coming", index), "Coming", values, ua.VariantType.Double)

    async def put(value, status: int = ua.StatusCodes.Good) -> None:
        stamp = None if stamp_s is None else datetime.fromtimestamp(stamp_s, UTC)
        variant = ua.Variant(value, ua.VariantType.Double)
        await node.write_value(ua.DataValue(variant, StatusCode=ua.StatusCode(status), SourceTimestamp=stamp))

    await put(values)
    async with server:
        port = server.bserver._server.sockets[0].getsockname()[1]
        yield f"opc.tcp://127.0.0.1:{port}/forecast", put


NODE = {"D": ForecastConfig(node="w:s=Coming", step_s=4.0)}


@pytest.fixture
def spec(make_spec):
    return make_spec(namespaces={"w": "urn:weather"})


async def test_a_node_holds_the_coming_values(spec):
    async with served([1.0, 2.0, 3.0]) as (endpoint, put):
        forecasts = Forecasts(spec, NODE, 5, endpoint, look_s=0.02)
        assert np.isnan(forecasts(START_S)).all()
        async with followed(forecasts) as heard:
            await until(lambda: np.isfinite(forecasts(START_S)).any(), "the node is read")
            np.testing.assert_equal(forecasts(START_S)[0, :, 0], [1.0, 2.0, 3.0, 3.0, np.nan])
            assert heard.alarms == {"forecast:D": ""}
            assert len(heard.notes) == 1, heard.notes
            await put([7.0] * 20)
            await until(lambda: (forecasts(START_S) == 7.0).all(), "the new values are read")


@pytest.mark.parametrize(
    ("value", "status", "told"),
    [([1.0], ua.StatusCodes.BadSensorFailure, "it is bad: BadSensorFailure"), ([], ua.StatusCodes.Good, "its array is empty"),
     ([1.0, 99.0], ua.StatusCodes.Good, "99 is outside the range"), ([float("nan")], ua.StatusCodes.Good, "nan is outside"),
     (5.0, ua.StatusCodes.Good, "no array of numbers")],
)  # fmt: skip
async def test_a_node_that_goes_bad_is_an_alarm_and_the_reading_is_held(spec, value, status, told):
    async with served([1.0] * 10) as (endpoint, put):
        forecasts = Forecasts(spec, NODE, 4, endpoint, look_s=0.02)
        async with followed(forecasts) as heard:
            await until(lambda: np.isfinite(forecasts(START_S)).all(), "the node is read")
            await put(value, status)
            await until(lambda: bool(heard.alarms.get("forecast:D")), "the alarm")
            assert "cannot be used, its reading is held" in heard.alarms["forecast:D"]
            assert told in heard.alarms["forecast:D"]
            assert np.isnan(forecasts(START_S)).all()
            await put([2.0] * 10)
            await until(lambda: (forecasts(START_S) == 2.0).all(), "it is good again")
            await until(lambda: heard.alarms == {"forecast:D": ""}, "the alarm is over")


async def test_an_endpoint_that_is_away_is_an_alarm_until_it_is_back(spec):
    async with served([1.0] * 10) as (endpoint, _):
        pass
    forecasts = Forecasts(spec, NODE, 4, endpoint, look_s=0.02)
    async with followed(forecasts) as heard:
        await until(lambda: "cannot connect" in heard.alarms.get("forecast:D", ""), "the alarm")
        assert np.isnan(forecasts(START_S)).all()
