"""Everything a controller shows of itself, at one instant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from controllers.contracts import Decision
from controllers.runtime.alarms import Alarm
from controllers.runtime.quality import Inputs
from controllers.runtime.targets import Change, Sides
from plant.spec import PlantSpec


@dataclass(frozen=True)
class Margin:
    """A guardrail's margin, engineering units, > 0 is safe: measured now, the worst of the plan, and the calibrated
    allowance the latter has already paid. NaN where unknown."""

    now: float = math.nan
    worst: float = math.nan
    calibrated: float = math.nan


@dataclass(frozen=True)
class Prediction:
    """The plan: plant times (s since the Unix epoch), and at each the predicted tags and planned moves by name."""

    time_s: Sequence[float] = ()
    tags: Mapping[str, Sequence[float]] = field(default_factory=dict)
    moves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ControllerState:
    """`time_s`, `plan_time_s`: plant time, s since the Unix epoch. `solve_*`, `jitter_*`: wall ms over the last cycles.
    `surprise`: multiple of its limit, NaN where nothing watches; `blame`: shares of it by tag, the largest first.
    `zones`: low and high by tag, None where a side is open; `prices`: by unit and hour; `schedule`: changes to come; `rest`: where MVs
    rest; `why`, `active`: as in `Decision`. `tag_status`: a word for each tag on the endpoint. `doubts`: why the model does not
    deserve AUTO."""

    time_s: float
    mode_target: str
    mode_actual: str
    mode_reason: str
    plan_status: str
    plan_time_s: float
    sample_age_s: float
    violation: float
    surprise: float
    blame: Mapping[str, float]
    solve_ms: float
    solve_p50_ms: float
    solve_p99_ms: float
    jitter_p50_ms: float
    jitter_p99_ms: float
    heartbeat: int
    cycles: int
    missed_deadlines: int
    overruns: int
    targets: Mapping[str, float]
    zones: Mapping[str, Sides]
    prices: Mapping[str, float]
    schedule: Sequence[Change]
    rest: Mapping[str, float]
    why: str
    active: str
    limits: Mapping[str, tuple[float, float]]
    margins: Mapping[str, Margin]
    prediction: Prediction
    alarms: Sequence[Alarm]
    tag_status: Mapping[str, str]
    doubts: Sequence[str]


def margins_of(spec: PlantSpec, inputs: Inputs | None, decision: Decision | None) -> dict[str, Margin]:
    """Margins by guardrail: those of the spec, and any others the controller plans with."""
    now = {g.name: g.margin(inputs.values.get(g.tag, math.nan)) if inputs else math.nan for g in spec.guardrails}
    worst: dict[str, float] = {}
    calibrated: dict[str, float] = {}
    if decision is not None:
        worst = dict(zip(decision.guardrails, np.min(decision.margins[0], axis=0).tolist(), strict=True))
        required = np.atleast_2d(decision.calibrated)
        if required.shape[-1] == len(decision.guardrails) and required.size:
            calibrated = dict(zip(decision.guardrails, np.max(required, axis=0).tolist(), strict=True))
    return {
        name: Margin(now.get(name, math.nan), worst.get(name, math.nan), calibrated.get(name, math.nan))
        for name in [*now, *(n for n in worst if n not in now)]
    }


def said_of(sentences: Sequence[str]) -> str:
    """What a decision says of the one live plant; '' where it says nothing."""
    return sentences[0] if sentences else ""


def rest_of(spec: PlantSpec, decision: Decision | None) -> dict[str, float]:
    """Where MVs rest, by name: where the decision's steady-state layer lets them, else where the spec does; those that rest nowhere
    in particular are left out."""
    found = {t.name: t.move.rest for t in spec.mvs if t.move is not None}
    if decision is not None and decision.rest is not None:
        found |= {t.name: float(v) for t, v in zip(spec.mvs, decision.rest[0], strict=True) if math.isfinite(v)}
    return {mv: v for mv, v in found.items() if v is not None}


def prediction_of(spec: PlantSpec, decision: Decision | None, time_s: float) -> Prediction:
    """A decision made for plant time `time_s`, as trajectories by tag. Each move is held until its
    time, when the values predicted beside it are due."""
    if decision is None:
        return Prediction()
    horizon = decision.plan.shape[1]
    return Prediction(
        time_s=(time_s + spec.sample_time_s * np.arange(1, horizon + 1)).tolist(),
        tags={t.name: decision.predicted[0, :, i].tolist() for i, t in enumerate(spec.measured)},
        moves={t.name: decision.plan[0, :, i].tolist() for i, t in enumerate(spec.mvs)},
    )
