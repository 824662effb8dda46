"""A guest on a plant: in lock-step towards guardrails, and over OPC UA through everything that can go wrong on a visit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from historian import Historian
from homeostat.guest import Guest, tolerance
from homeostat.identification import Form, plan_test
from homeostat.in_process import InProcessLink
from homeostat.live import excite_live
from homeostat.lockstep import guest_run
from homeostat.visit import Visit, unguarded
from plant.clock import ScaledClock
from plant.errors import ControlError
from plant.link import PlantMode, Quality, Receipt
from plant.opcua.server import PlantServer
from plant.spec import PlantSpec, load_spec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import STEADY, load_scenario
from tests.simulators.plug_in import PLANT, installed, plant_file

BASIN = """
from homeostat import Names, Simulator

class Basin(Simulator):
    names = Names(x=("level", "flow"), u=("IN",), d=("out",), p=("lag",), y=("LT",))
    time_unit_s, step_s = 1.0, 2.0
    x0, u0, d0, p0 = (50.0, 50.0), (50.0,), (50.0,), (LAG,)
    d_range = {"out": (45.0, 55.0)}

    def derivative(self, x, u, d, p, xp):
        return 0.01 * (x[1] - d[0]), (u[0] - x[1]) / p[0]

    def outputs(self, x, u, d, p, xp):
        return (x[0],)
"""


@pytest.fixture
def basin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PlantSpec]:
    """A basin that integrates what comes in behind a lag (s): where its MV goes back, its level stays, and goes on before."""

    def made(lag_s: float, **move: object) -> PlantSpec:
        name = f"basin_{lag_s:g}"
        site = installed(tmp_path / name, **{name: f"{name}:Basin"})
        (site / f"{name}.py").write_text(BASIN.replace("LAG", str(lag_s)))
        monkeypatch.syspath_prepend(str(site))
        tags = [
            PLANT["tags"][0] | {"name": "LT", "node_id": "ns=2;s=basin.LT"},
            PLANT["tags"][1] | {"name": "IN", "node_id": "ns=2;s=basin.IN"},
        ]
        tags[1]["move"] = {"limits": [0, 100], "rate_per_s": 1.0, "safe": 0} | move
        guards = [{"name": "high", "tag": "LT", "max": 60}, {"name": "low", "tag": "LT", "min": 35}]
        return load_spec(plant_file(tmp_path, name="basin", simulator=name, tags=tags, targets=[], guardrails=guards))

    return made


def off(spec: PlantSpec, ended: Visit) -> float:
    """How far from where it was the worst MV was left, in its tolerance."""
    return max(abs(b - a) / tolerance(spec.tag(mv)) for mv, (a, b) in ended.restored.items())


@pytest.mark.parametrize("lag_s", [30.0, 300.0, 1000.0])
def test_a_level_that_goes_on_after_the_turn_stays_inside(basin: Callable[..., PlantSpec], lag_s: float) -> None:
    """A step of the default size takes it past the limit in minutes, and nobody said how slow it is."""
    spec, turned = basin(lag_s), 0
    for seed in range(3):
        run = guest_run(spec, plan_test(spec, seed=seed), STEADY, seed, after_s=5000.0)
        ended = run.visit
        assert min(run.margins.values()) > 0
        assert off(spec, ended) <= 1.0
        assert ended.failed == (ended.turns > 0)
        turned += ended.turns
    assert turned > 0, "a test that is never near a limit proves nothing"


def test_it_goes_on_with_smaller_steps_where_it_is_asked_to() -> None:
    spec = load_spec("reactor")
    run = guest_run(spec, plan_test(spec, seed=1), load_scenario("day", spec), 1, before_s=600.0, go_on=True)
    assert not run.visit.failed, run.visit.reason
    assert run.visit.turns > 0
    assert min(run.margins.values()) > 0
    assert off(spec, run.visit) <= 1.0


def test_a_plant_near_its_test_limit_is_left_alone(basin: Callable[..., PlantSpec]) -> None:
    spec = basin(30.0)
    near = tuple(g.model_copy(update={"test_limit": 49.0}) if g.name == "high" else g for g in spec.guardrails)
    spec, links = spec.model_copy(update={"guardrails": near}), []
    ended = guest_run(spec, plan_test(spec, seed=1), STEADY, 1, make=noting(links)).visit
    assert ended.failed
    assert "test limit 49 % of high before anything was moved" in ended.reason
    assert set(links[0].moves) <= {50.0}
    assert links[0].layer.mode is PlantMode.LOCAL


class Noting(InProcessLink):
    """Keeps the moves of IN; refuses those above `refused_above`."""

    refused_above = np.inf

    def __init__(self, *how: Any) -> None:
        super().__init__(*how)
        self.moves: list[float] = []

    async def write(self, moves: Mapping[str, float]) -> Receipt:
        self.moves.append(moves["IN"])
        if moves["IN"] > self.refused_above:
            return Receipt({"IN": "outside the operator's limits"})
        return await super().write(moves)


def noting(made: list[Noting], refused_above: float = np.inf) -> Callable[..., InProcessLink]:
    def make(*how: Any) -> InProcessLink:
        made.append(Noting(*how))
        made[-1].refused_above = refused_above
        return made[-1]

    return make


def test_a_discrete_mv_visits_its_levels(basin: Callable[..., PlantSpec]) -> None:
    spec, links = basin(30.0, levels=[0, 45, 50, 55, 100], rate_per_s=5.0), []
    run = guest_run(spec, plan_test(spec, seed=3, hours=0.5), STEADY, 3, go_on=True, make=noting(links))
    assert set(links[0].moves) == {45.0, 50.0, 55.0}, "its neighbours, and nothing between"
    assert off(spec, run.visit) <= 1.0


def test_refused_moves_end_it(basin: Callable[..., PlantSpec]) -> None:
    spec, links = basin(30.0), []
    ended = guest_run(spec, plan_test(spec, seed=3), STEADY, 3, make=noting(links, refused_above=51.0)).visit
    assert ended.failed
    assert ended.reason == "moves were refused: outside the operator's limits"
    assert off(spec, ended) <= 1.0


@pytest.mark.parametrize("form", list(Form))
def test_every_form_stays_within_a_step_of_where_it_stood(basin: Callable[..., PlantSpec], form: Form) -> None:
    spec, links = basin(30.0, test={"step": 2.0, "hold_s": 30.0}), []
    guest_run(spec, plan_test(spec, form=form, seed=3), STEADY, 3, go_on=True, make=noting(links))
    moves = links[0].moves
    assert 48.0 <= min(moves) < 50.0 < max(moves) <= 52.0
    assert np.ptp(moves) > 2.0


def served(spec: PlantSpec, speed: float, start_s: float = 1.75e9) -> PlantServer:
    plant = SimulatedPlant(spec, 5, conditions=Drawn(STEADY))
    outputs = {t.name: float(v) for t, v in zip(spec.mvs, plant.moves[0], strict=True)}
    return PlantServer(spec, plant, ScaledClock(speed, start_s), "opc.tcp://127.0.0.1:0/visit", outputs=outputs)


def test_a_live_visit_is_recorded_and_leaves_the_plant_as_it_was(
    basin: Callable[..., PlantSpec], tmp_path: Path
) -> None:
    spec = basin(30.0, test={"step": 1.0, "hold_s": 30.0})
    path = tmp_path / "historian.db"

    async def whole() -> tuple[Visit, str]:
        async with served(spec, 200.0) as server:
            ended = await excite_live(
                spec,
                asyncio.Event(),
                endpoint=server.endpoint,
                historian=path,
                plan=plan_test(spec, hours=0.1),
                go_on=True,
            )
            return ended, server.regulatory.mode.name

    ended, mode = asyncio.run(whole())
    assert not ended.failed, ended.reason
    assert mode == "LOCAL"
    assert ended.restored == {"IN": (50.0, 50.0)}
    with Historian(path, spec.name, read_only=True) as store:
        (run,) = store.runs().iter_rows(named=True)
        assert run["kind"] == "excitation"
        assert '"hold_s": 30.0' in run["note"]
        assert run["end_ts"] - run["start_ts"] > 0.1 * 3600 * 1e6
        moves = store.history(["IN"], run["start_ts"] / 1e6, run["end_ts"] / 1e6)["value"]
        assert {49.0, 51.0} <= set(moves.to_list())


@pytest.mark.parametrize(
    "what", ["an operator takes it", "a guardrail's sensor fails", "its field bus dies", "it is asked to stop"]
)
def test_what_ends_a_live_visit(basin: Callable[..., PlantSpec], what: str, tmp_path: Path) -> None:
    spec = basin(30.0, test={"step": 1.0, "hold_s": 60.0})
    stop, happened = asyncio.Event(), False

    async def whole() -> tuple[Visit, float]:
        async with served(spec, 100.0) as server:

            def meddle(elapsed_s: float, guest: Guest) -> None:
                nonlocal happened
                if happened or not guest.moved:
                    return
                happened = True
                if what == "an operator takes it":
                    server.regulatory.take_local("an operator took it")
                elif what == "it is asked to stop":
                    stop.set()
                elif what == "its field bus dies":
                    server.override("LT", stale=True)
                else:
                    server.override("LT", quality=Quality.BAD)

            ended = await excite_live(
                spec, stop, endpoint=server.endpoint, historian=tmp_path / "h.db", plan=plan_test(spec, hours=1.0),
                on_progress=meddle,
            )  # fmt: skip
            return ended, float(server.regulatory.outputs[0, 0])

    ended, at = asyncio.run(asyncio.wait_for(whole(), 60.0))
    assert happened
    if what == "an operator takes it":
        assert ended.failed
        assert "took its MVs back: an operator took it" in ended.reason
        return
    assert at == 50.0
    assert ended.failed == (what != "it is asked to stop")
    said = {
        "a guardrail's sensor fails": "LT, which a guardrail watches",
        "its field bus dies": "every source time stands",
    }
    assert said.get(what, "asked to stop") in ended.reason


def test_nothing_to_move_and_nobody_to_take_over() -> None:
    spec = load_spec("reactor")
    assert unguarded(spec) == ""
    assert "no handshake" in unguarded(spec.model_copy(update={"handshake": None}))
    watched = spec.model_copy(update={"tags": tuple(t for t in spec.tags if t.move is None)})
    with pytest.raises(ControlError, match="nothing to move"):
        plan_test(watched)
