"""The controller's process dies in each mode and is started again with the wish for AUTO: what does it remember, what does it do?"""

from __future__ import annotations

import signal

from benchmarks.foreign.bench import Bench, side_by_side
from benchmarks.foreign.node import Tanks
from benchmarks.foreign.product import CALM, Controller, until
from benchmarks.outcomes import Case, Cases, Outcome, yes
from plant.opcua.controller_client import ControllerSnapshot

MODES = ("OFF", "ADVISORY", "MANUAL", "AUTO", "SHED")
TARGETS = {"LT1": 13.1, "LT2": 12.2}
LIMITS = (4.5, 15.5)
_LOOK_S = 5.0  # 20 samples: long enough to enter AUTO where nothing forbids it


def cases(bench: Bench) -> Cases:
    def case(mode: str) -> Case:
        return lambda: killed(bench, mode)

    return side_by_side({mode: case(mode) for mode in MODES})


def killed(bench: Bench, mode: str) -> list[Outcome]:
    """SIGKILL in `mode`, a start with `--mode auto`."""
    path, _ = bench.foreign()
    folder, model = bench.folder / "restart" / mode.lower(), bench.model()
    with Tanks(speed=bench.settings.speed, seed=bench.seed + 41) as tanks:
        with Controller(folder, path, tanks.endpoint, config=CALM, checkpoint=model) as control:
            if why := _brought(control, mode):
                return [yes("the mode is entered", False, why)]
            for tag, value in TARGETS.items():
                control.client.set_target(tag, value, "operator")
            control.client.set_limit("FC1", *LIMITS, "operator")
            _acknowledge(control)
            before = control.wait(lambda s: s.limits.get("FC1") == LIMITS)
            until(lambda: False, 1.0)  # what is to be kept is written by now
            control.end(signal.SIGKILL)
        with Controller(folder, path, tanks.endpoint, config=CALM, checkpoint=model, mode="auto") as control:
            after = control.wait(lambda s: s.cycles > 3)
            entered = control.wait(lambda s: s.mode_actual == "AUTO", _LOOK_S) is not None
            again = control.auto(30.0)
    if before is None or after is None:
        return [yes("the controller answers", False, "before" if before is None else "after")]
    crashed = mode in ("AUTO", "MANUAL", "SHED")
    return [
        yes("targets are remembered", _close(after.targets, before.targets), str(dict(after.targets))),
        yes("operator limits are remembered", after.limits == before.limits, str(dict(after.limits))),
        yes("alarms and acknowledgements are remembered", _known(before) <= _known(after),
            str(sorted(_known(before) - _known(after)))[:160]),
        yes("AUTO only by a person", not (crashed and entered), f"it {'entered' if entered else 'waited'}"),
        yes("a person gets AUTO", not again, again[:140]),
    ]  # fmt: skip


def _brought(control: Controller, mode: str) -> str:
    """Bring a controller into `mode`; '' or why not."""
    if control.wait(lambda s: s.cycles > 3) is None:
        return control.last_word()
    if mode in ("AUTO", "MANUAL", "SHED"):
        if why := control.auto():
            return why
        if mode == "AUTO":
            return ""
    why = control.client.set_mode(mode, "operator", "restart")
    return why or ("" if control.wait(lambda s: s.mode_actual == mode, 10.0) else f"{mode} is not entered")


def _acknowledge(control: Controller) -> None:
    seen = control.now()
    for alarm in seen.alarms if seen else ():
        control.client.acknowledge(alarm.key, "operator")


def _known(seen: ControllerSnapshot) -> set[tuple[str, bool]]:
    return {(a.key, a.acknowledged) for a in seen.alarms if a.key == "shed"}


def _close(one: object, other: object) -> bool:
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    return one.keys() == other.keys() and all(abs(one[k] - other[k]) < 1e-6 for k in one)
