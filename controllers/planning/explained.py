"""What an operator is told about a plan that is not simply the best one."""

from __future__ import annotations

import numpy as np

from controllers.contracts import Array, Status, Targets
from plant.spec import PlantSpec

_FAR = 0.05  # of what the target may be set to: nearer than that it is met
_RESTS = 0.1  # of what is missing: a plan that changes less over its last sample has come to rest
_BINDS = 1e-3  # of an MV's limits
_COUNTS = 0.01  # scales of a guardrail: a plan that falls less short is told so by nobody
_NEAR = 0.5  # scales of a guardrail: one with less to spare holds the plan


def contradiction(spec: PlantSpec, targets: Targets) -> str:
    """Which operator limits leave no move at all; '' where all do."""
    for tag, low, high in zip(spec.mvs, targets.move_low.tolist(), targets.move_high.tolist(), strict=True):
        if not low <= high:
            return f"the limits of {tag.name} leave no move: low {low:g}, high {high:g} {tag.unit}; set them anew"
        levels = tag.move.discrete if tag.move else ()
        if levels and not any(low <= v <= high for v in levels):
            return f"the limits of {tag.name} leave none of its levels: low {low:g}, high {high:g} {tag.unit}; set them anew"
    return ""


def unseen(spec: PlantSpec, measured: Array, applied: Array) -> str:
    """Of one plant: what keeps a controller from seeing it; '' where nothing does. `measured`, `applied` as in `Observation`."""
    if not np.isfinite(measured).any():
        return f"none of {', '.join(t.name for t in spec.measured)} can be read"
    blind = [t.name for t, u in zip(spec.mvs, applied.tolist(), strict=True) if not np.isfinite(u)]
    return f"the move in force of {', '.join(blind)} is not known" if blind else ""


def beyond_limits(spec: PlantSpec, targets: Targets, move: Array) -> str:
    """Of one plan whose first `move` (n_mv) leaves the operator limits: which, and why."""
    out = [
        f"{t.name} goes to {u:.4g} {t.unit}, outside {low:.4g} to {high:.4g}"
        for t, u, low, high in zip(spec.mvs, move, targets.move_low, targets.move_high, strict=True)
        if not low <= u <= high
    ]
    return f"no plan inside the operator's limits keeps every guardrail: {', '.join(out)}"


def broken(spec: PlantSpec, guardrails: tuple[str, ...], hard: Array, scale: Array) -> str:
    """Of one plan: its guardrail that is broken the most by its `scale` (n_guardrail); `hard` (horizon x n_guardrail): margins less what
    is required, in the tags' units."""
    step, j = np.unravel_index(int(np.argmin(hard / scale)), hard.shape)
    what = "comes past its limit" if j < len(spec.guardrails) else "falls short of what brings the plant back"
    return f"{guardrails[j]} {what} by {-hard[step, j]:.3g} {_unit(spec, int(j))} in {_ahead(spec, int(step))}, whatever is done"


def tight(spec: PlantSpec, guardrails: tuple[str, ...], margins: Array, hard: Array, scale: Array) -> str:
    """Of one plan that passes no limit: its guardrail whose calibrated margin it gives up the most of by its `scale`, how much, and
    when; `margins` (horizon x n_guardrail) less what is wanted, `hard` less what is required, in the tags' units."""
    given_up = np.where(margins < hard, margins / scale, np.inf)
    step, j = np.unravel_index(int(np.argmin(given_up)), margins.shape)
    unit, wanted = _unit(spec, int(j)), hard[step, j] - margins[step, j]
    return (
        f"{guardrails[j]} keeps {hard[step, j]:.3g} of its margin of {wanted:.3g} {unit} in {_ahead(spec, int(step))}:"
        f" {-margins[step, j]:.3g} {unit} less than calibrated, and no plan keeps more"
    )


def _unit(spec: PlantSpec, j: int) -> str:
    """Of constraint `j`: limits first, then the recoverability of those that have one."""
    rails = [*spec.guardrails, *(g for g in spec.guardrails if g.fallback_tag)]
    return spec.tag(rails[j].tag).unit


def _ahead(spec: PlantSpec, step: int) -> str:
    """When step `step` of a plan is."""
    samples = step + 1
    return f"{samples} {'samples' if samples > 1 else 'sample'} ({samples * spec.sample_time_s:g} s)"


def short_of_target(
    spec: PlantSpec, guardrails: tuple[str, ...], scale: Array, plan: Array, predicted: Array, margins: Array, targets: Targets,
    wanted: Array,
) -> str:  # fmt: skip
    """Of one plan that has come to rest: which target it does not reach, and what holds it; '' where all are met or under way.
    `scale` (n_guardrail), `plan`, `predicted`, `margins` (horizon x any), `wanted` (horizon x n_target)."""
    names = [t.name for t in spec.measured]
    for i, target in enumerate(spec.targets):
        low, high = target.limits
        reading = predicted[:, names.index(target.tag)]
        gap = abs(reading[-1] - wanted[-1, i])
        moving = abs(reading[-1] - reading[-2]) if len(reading) > 1 else 0.0
        if not np.isfinite(gap) or gap <= _FAR * (high - low) or moving > _RESTS * gap:
            continue
        dropped = np.zeros(len(spec.mvs), bool) if targets.dropped is None else targets.dropped
        held = [f"{t.name} is not ours to move" for t, out in zip(spec.mvs, dropped, strict=True) if out]
        held += [
            f"{t.name} is at its limit"
            for t, out, last, bottom, top in zip(
                spec.mvs, dropped, plan[-1], targets.move_low, targets.move_high, strict=True
            )
            if not out and min(last - bottom, top - last) <= _BINDS * (top - bottom)
        ]
        if margins.size and (margins[-1] / scale).min() < _NEAR:
            held.append(f"{guardrails[int((margins[-1] / scale).argmin())]} holds it")
        if held:
            return f"the plan brings {target.tag} to {reading[-1]:.4g}, not to {wanted[-1, i]:.4g}: {', '.join(held)}"
    return ""


def why(
    spec: PlantSpec, status: tuple[Status, ...], guardrails: tuple[str, ...], scale: Array, plan: Array, predicted: Array,
    margins: Array, hard: Array, targets: Targets, wanted: Array, measured: Array, applied: Array, deadline_s: float | None,
    beyond: list[bool],
) -> tuple[str, ...]:  # fmt: skip
    """`Decision.why` of a planner's answer; arrays with the batch in front but for `scale`. `margins` less what is wanted, `hard`
    less what is required. `beyond` (batch): which leave the operator limits."""
    contradicted, said = contradiction(spec, targets), []
    for b, s in enumerate(status):
        if s is Status.INFEASIBLE:
            text = contradicted or unseen(spec, measured[b], applied[b]) or "the model's prediction is not a number"
        elif s is Status.RECOVERY:
            said_of = [beyond_limits(spec, targets, plan[b, 0])] if beyond[b] else []
            if hard.size and (hard[b] / scale).min() <= -_COUNTS:
                said_of.append(broken(spec, guardrails, hard[b], scale))
            text = "; ".join(said_of)
        elif s is Status.TIGHT:
            text = tight(spec, guardrails, margins[b], hard[b], scale)
        elif s is Status.DEADLINE:
            text = f"the best found in {1e3 * (deadline_s or 0.0):.3g} ms"
        else:
            text = short_of_target(spec, guardrails, scale, plan[b], predicted[b], margins[b], targets, wanted[b])
        said.append(text)
    return tuple(said)
