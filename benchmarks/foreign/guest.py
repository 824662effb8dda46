"""Excitation as a guest: tests that begin close to a stated guardrail and push towards it, in lock-step, and what they leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from benchmarks.foreign.bench import Bench
from benchmarks.foreign.example import example_plant
from benchmarks.foreign.node import Tanks
from benchmarks.foreign.product import run
from benchmarks.outcomes import Cases, Outcome, none, yes
from homeostat.identification import plan_test
from homeostat.in_process import InProcessLink
from homeostat.visit import visit
from plant.clock import LockStepClock
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant

RESTORED = 1e-3  # of the limits: a tenth of their resolution of a hundredth
_ROOM = (0.05, 0.95)  # of the way from the test limit to nominal: where a guardrail's tag stands when the test begins
_SLOW = Path(__file__).with_name("slow_tank.yaml")
_HOURS = {"quadruple tank": 1.0, "reactor": 2.0, "slow integrating": 6.0}
_REFUSED_S = 60.0


def cases(bench: Bench) -> Cases:
    return {
        **{name: lambda n=name: tested(bench, n) for name in _HOURS},
        "a plant that is not granted": lambda: refused(bench),
        "a plant that refuses moves": lambda: refused(bench, moves=True),
    }


def plant_of(bench: Bench, name: str, seed: int) -> tuple[PlantSpec, SimulatedPlant]:
    """A plant at rest, or drifting, somewhere between nominal and its test limit."""
    rng = np.random.default_rng([seed, 0x9E57])
    tank = example_plant(bench.folder / "plug_in")
    share = 1 - rng.uniform(*_ROOM)
    if name == "reactor":
        spec = load_spec("reactor")
        return spec, SimulatedPlant(spec, seed, moves=np.array([[299.0 + 1.5 * share]]))
    if name == "slow integrating":
        spec = load_spec(_SLOW)
        level = 2.5 + share * (spec.test_limit(spec.guardrails[0]) - 2.5)
        return spec, SimulatedPlant(spec, seed, x0=np.array([[0.02, 0.02, level]]))
    high = min(tank.test_limit(g) for g in tank.guardrails)
    level = 12.4 + share * (high - 12.4)
    flow = np.sqrt(level / 12.4)  # outflows go with the root of the level
    x0, moves = (
        np.array([[level, 12.7 * level / 12.4, 1.8 * level / 12.4, 1.4 * level / 12.4]]),
        [[9.99 * flow, 10.05 * flow]],
    )
    return tank, SimulatedPlant(tank, seed, x0=x0, moves=np.array(moves))


def tested(bench: Bench, name: str) -> list[Outcome]:
    """One test a seed, every other one going on after it turned back: how far past a guardrail the truth was, and where the MVs
    are left."""
    past, strayed, turns, carried = [], [], 0, 0
    for seed in range(bench.settings.seeds):
        spec, plant = plant_of(bench, name, bench.seed + seed)
        clock = LockStepClock(1e9)
        link = InProcessLink(spec, plant, clock)
        plan = plan_test(spec, together=len(spec.mvs), hours=_HOURS[name], seed=seed)
        ended = asyncio.run(visit(spec, link, clock, plan, asyncio.Event(), go_on=bool(seed % 2)))
        past.append(
            max(
                g.sign * (link.worst[g.name] - g.limit) / spec.scale(g) for g in spec.guardrails if g.name in link.worst
            )
        )
        for mv, (before, after) in ended.restored.items():
            move = spec.tag(mv).move
            assert move is not None
            strayed.append(abs(after - before) / move.span)
        turns, carried = turns + ended.turns, carried + (not ended.failed)
    count = bench.settings.seeds
    note = f"{count} tests, {turns} turned back, {carried} carried through; nearest {max(past):.2f} scales"
    return [
        none("tests past a guardrail", sum(p > 0 for p in past), note),
        Outcome("set-points left elsewhere, of the limits", float(np.max(strayed)), RESTORED),
    ]


def refused(bench: Bench, moves: bool = False) -> list[Outcome]:
    """A foreign plant that does not grant its MVs, or refuses the moves: `homeostat excite` says so and ends with status 1."""
    path, _ = bench.foreign()
    data = bench.folder / "guest"
    with Tanks(speed=bench.settings.speed, seed=bench.seed + 61) as tanks:
        tanks.fault(**({"refuse": 1} if moves else {"no_grant": 1}))
        argv = ("excite", path, "--endpoint", tanks.endpoint, "--hours", 0.5, "--data-dir", data)
        code, said = run(*argv, timeout_s=_REFUSED_S)
        granted = tanks.state()["granted"]
    lines = [line for line in said.splitlines() if line.strip()]
    return [
        yes("exit status is not 0", code == 1, f"{code}: {lines[-1][:140] if lines else ''}"),
        yes("the plant is given back", not granted),
    ]
