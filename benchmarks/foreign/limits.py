"""Hostile operator limits: whatever they say, the safe side stays within reach, and the way there is made as it is."""

from __future__ import annotations

import time

from benchmarks.foreign.bench import Bench, Tick, side_by_side
from benchmarks.foreign.node import Tanks
from benchmarks.foreign.product import CALM, Controller, until
from benchmarks.foreign.simulated import PLANT, Simulated
from benchmarks.outcomes import Cases, Outcome, none, yes
from plant.spec import load_spec

_LOOK_S = 0.1
_SAMPLES = 60
_BARRED, _OPENED = 9.0, 15.0  # cm3/s
_ROUNDED = 1e-3  # of the limits: a Float node


def cases(bench: Bench) -> Cases:
    return side_by_side(
        {
            "AUTO, reactor: the cold side barred": lambda: reactor(bench),
            "RECOVERY, tanks: one pump taken, the other barred": lambda: tanks(bench),
            "SHED, no handshake: to the safe values": lambda: shed(bench),
        }
    )


def reactor(bench: Bench) -> list[Outcome]:
    """Limits of 308 to 310 K on a coolant that stands near 300 K and is safe at 290 K."""
    spec, hottest = load_spec(PLANT), [0.0]
    limit = next(g.limit for g in spec.guardrails if g.rank == 1)
    with (
        Simulated(speed=40.0, seed=bench.seed + 51) as plant,
        Controller(bench.folder / "limits" / "reactor", PLANT, plant.endpoint) as control,
    ):
        if why := control.auto():
            return [yes("AUTO is entered", False, why)]
        answers = [control.client.set_limit("TC101", low, 310.0, "hostile") for low in (308.0, 305.0, 302.0)]

        def look() -> None:
            hottest[0] = max(hottest[0], plant.state()["true"]["TI101"])

        with Tick(look, _LOOK_S):
            began = control.now()
            control.wait(lambda s: began is None or s.cycles >= began.cycles + _SAMPLES // 2, 60.0)
        seen = control.now()
    note = f"answered {answers[0][:80] or 'taken, ramped'!r}; {seen.mode_actual if seen else 'no answer'} at the end"
    return [Outcome("highest temperature, K, of its guardrail", hottest[0], limit, note=note)]


def tanks(bench: Bench) -> list[Outcome]:
    """Somebody at the plant opens pump 2 so far that tank 2 would overflow, and pump 1 is barred from going down: it goes."""
    path, spec = bench.foreign()
    limit = min(g.limit for g in spec.guardrails)
    with (
        Tanks(speed=bench.settings.speed, seed=bench.seed + 52) as plant,
        Controller(
            bench.folder / "limits" / "tanks", path, plant.endpoint, config=CALM, checkpoint=bench.model()
        ) as control,
    ):
        if why := control.auto():
            return [yes("AUTO is entered", False, why)]
        control.client.set_limit("FC1", _BARRED, 20.0, "hostile")
        control.wait(lambda s: s.limits.get("FC1") == (_BARRED, 20.0))
        first = len(plant.writes())
        plant.operate(MODE2=1, FC2=_OPENED)
        seen: set[str] = set()
        until_s = time.monotonic() + _SAMPLES * spec.sample_time_s / bench.settings.speed
        while time.monotonic() < until_s:
            if (now := control.now()) is not None:
                seen |= {now.mode_actual, now.plan_status}
            time.sleep(_LOOK_S)
        state, writes = plant.state(), plant.writes(first)
    lowest = min((w["value"] for w in writes if w["node"].startswith("FC1") and w["status"] == "Good"), default=20.0)
    return [
        Outcome("highest level, cm, of its guardrail", max(state["highest"][:2]), limit, note=", ".join(sorted(seen))),
        none("trips of the plant", state["trips"]),
        yes(
            "the barred side is used",
            lowest < _BARRED - 1,
            f"lowest move {lowest:.2f} cm3/s under a limit of {_BARRED:g}",
        ),
    ]


def shed(bench: Bench) -> list[Outcome]:
    """Limits of 8 to 12 cm3/s, then SHED to safe values of 0: the moves go there at the rate, each as it is."""
    path, spec = bench.foreign(bare=True)
    config = {**CALM, "supervisor": {"fallback": "safe"}}
    with (
        Tanks(speed=bench.settings.speed, seed=bench.seed + 53, bare=True) as plant,
        Controller(
            bench.folder / "limits" / "shed", path, plant.endpoint, config=config, checkpoint=bench.model()
        ) as control,
    ):
        if why := control.auto():
            return [yes("AUTO is entered", False, why)]
        for mv in ("FC1", "FC2"):
            control.client.set_limit(mv, 8.0, 12.0, "hostile")
        control.wait(lambda s: s.limits.get("FC2") == (8.0, 12.0))
        start, first = plant.state()["q"], len(plant.writes())
        control.client.set_mode("SHED", "operator", "hostile limits")
        took_s = until(lambda: max(plant.state()["q"]) < 1e-6, 30.0)
        writes = plant.writes(first)
    worst = 0.0
    for mv, begun in zip(spec.mvs, start, strict=True):
        assert mv.move is not None
        reach, now = mv.move.reach(spec.sample_time_s), begun
        for w in (w for w in writes if w["node"] == mv.name):
            worst = max(worst, abs(w["value"] - max(now - reach, mv.move.safe)) / mv.move.span)
            now = w["value"]
    return [
        yes("the safe values are reached", took_s < 30.0, f"{took_s:.1f} s"),
        Outcome("difference of a fallback move from the way at its rate, of the limits", worst, _ROUNDED),
    ]
