"""What the supervisor is told of one sample, what it answers, and the causes for which it gives AUTO up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controllers.contracts import Decision
from controllers.runtime.quality import Inputs
from controllers.runtime.surprised import Surprised
from plant.link import Sample


class Cause(StrEnum):
    """Why AUTO or MANUAL was given up; the value tells the operator what to do before returning."""

    LINK = "restore the connection to the plant"
    STALL = "see what stopped the controller"
    OWNER = "see who else holds the plant"
    HANDSHAKE = "see at the plant what its handshake says"
    LOCAL = "see at the plant why it took the MVs"
    HEARTBEAT = "see why the plant's own scan stands still"
    SCAN = "see why readings are not renewed (field bus, gateway, simulator)"
    CLOCK = "see who set the plant's clock, and wait until it has settled"
    INPUT = "repair the measurement"
    LOOP = "put the loop under the MV back into a mode that takes our moves"
    GUARDRAIL = "bring the plant back inside its limits"
    READBACK = "see what holds the MV (an interlock, a stuck actuator, another user)"
    WRITE = "see why the plant refuses moves"
    ANSWER = "see the controller's log; its answers must be sound again"
    LATE = "see what slows the controller down"
    INFEASIBLE = "wait until a plan exists; check targets and limits"
    RECOVERY = "wait until plans keep every guardrail; check targets and limits"
    SURPRISE = "wait until predictions match the plant again, or retrain the model"
    INTERNAL = "see the controller's log and report the fault"
    OPERATOR = "nothing else"


NOT_OURS = frozenset({Cause.STALL, Cause.OWNER, Cause.HANDSHAKE, Cause.LOCAL})
"""After these the plant is no longer ours: nothing is written until a person says so."""

UNSEEN = NOT_OURS | {
    Cause.LINK,
    Cause.HEARTBEAT,
    Cause.SCAN,
    Cause.CLOCK,
    Cause.WRITE,
    Cause.READBACK,
    Cause.LOOP,
    Cause.INTERNAL,
}
"""Causes after which set-points cannot be put back before the plant is given back: we do not see them, they do not obey, or
nothing of ours is to be trusted."""


@dataclass(frozen=True)
class Observed:
    """What one sample brought. `sample` and `inputs` are None when the plant did not answer (`link_error` says why).
    `decision` is None when there is no usable plan; then `late` or `defect` says why, or nothing was asked. `speed_fault`:
    plant time does not run at the clock's rate. `held`: whether the plant was ours when the sample was read. `surprise`: None
    where nothing watches. `standing`: why the readings are not new ones, and `scan` the same once it has lasted. `step`: the
    plant's clock was set since the last sample; `unsettled`: it was, a few samples ago."""

    time_s: float
    sample: Sample | None = None
    inputs: Inputs | None = None
    decision: Decision | None = None
    late: bool = False
    defect: str = ""
    link_error: str = ""
    speed_fault: str = ""
    held: bool = True
    surprise: Surprised | None = None
    standing: str = ""
    scan: str = ""
    step: str = ""
    unsettled: str = ""


@dataclass(frozen=True)
class Action:
    """What the loop must do now: `moves` to write (empty: none); `enter_auto`: ask the plant for REMOTE and enter AUTO,
    because a person's standing wish, or the configuration, allows it."""

    moves: Mapping[str, float] = field(default_factory=dict)
    enter_auto: bool = False
