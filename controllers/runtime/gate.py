"""What must be true of the plant before AUTO or MANUAL is entered, and which guardrails it is past."""

from __future__ import annotations

import math
from collections.abc import Mapping

from controllers.contracts import Decision, Status
from controllers.runtime.config import SupervisorConfig
from controllers.runtime.observed import Observed
from plant.spec import Guardrail, PlantSpec

CRITICAL_RANK = 1
"""The guardrails of this rank are never tolerated past their limit."""


def said(decision: Decision) -> str:
    """What the controller says about its plan, after a colon; '' where it says nothing."""
    return f": {decision.why[0]}" if decision.why and decision.why[0] else ""


def readbacks(spec: PlantSpec, o: Observed) -> dict[str, float]:
    """MV -> move in force, NaN where it is not known."""
    return {t.name: o.inputs.values.get(t.name, math.nan) if o.inputs else math.nan for t in spec.mvs}


def past_guardrails(spec: PlantSpec, o: Observed) -> list[tuple[Guardrail, str]]:
    """Guardrails whose tag reads past its limit, in words."""
    found = []
    for g in spec.guardrails:
        value = o.inputs.values.get(g.tag, math.nan) if o.inputs else math.nan
        if g.margin(value) < 0:
            found.append((g, f"{g.tag} is {value:.5g}, past its limit {g.limit:g} ({g.name})"))
    return found


def near_guardrails(spec: PlantSpec, config: SupervisorConfig, o: Observed) -> list[str]:
    """Limits that a TIGHT plan keeps and that the readings are near already, in words; none under any other plan."""
    if o.decision is None or o.decision.status[0] is not Status.TIGHT:
        return []
    found = []
    for g in spec.guardrails:
        value = o.inputs.values.get(g.tag, math.nan) if o.inputs else math.nan
        if g.margin(value) < config.near_limit * spec.scale(g):
            found.append(f"the plan is TIGHT and {g.tag} is {value:.5g}, near its limit {g.limit:g} ({g.name})")
    return found


def plant_blockers(spec: PlantSpec, config: SupervisorConfig, o: Observed, unable: Mapping[str, str]) -> list[str]:
    """Why the plant cannot be moved now, by whomever. `unable`: MVs that do not take moves."""
    assert o.sample is not None
    if not spec.mvs:
        return ["the plant has no MVs: there is nothing to move"]
    optional = {t.name for t in spec.mvs if t.move is not None and t.move.optional}
    now = readbacks(spec, o)
    why = [f"the read-back of {mv} is missing" for mv, v in now.items() if not math.isfinite(v) and mv not in optional]
    why += [text for mv, text in unable.items() if mv not in optional]
    if optional and all(mv in unable or not math.isfinite(v) for mv, v in now.items()):
        why.append("no MV takes our moves")
    why += [o.standing] if o.standing else []
    why += [o.unsettled] if o.unsettled else []
    if (
        o.sample.mode is None
        and config.fallback == "regulatory"
        and (spec.handshake is None or not spec.handshake.granted)
    ):
        why.append("the plant has no regulatory layer to shed to: configure supervisor.fallback as moves, hold or safe")
    return why


def plan_blockers(spec: PlantSpec, config: SupervisorConfig, o: Observed) -> list[str]:
    """Why AUTO cannot be entered on these inputs with this plan."""
    assert o.inputs is not None
    why = [f.text for f in o.inputs.faults if f.critical]
    why += [text for _, text in past_guardrails(spec, o)]
    why += [o.speed_fault] if o.speed_fault else []
    d = o.decision
    if d is None:
        late = "the last plan was late" if o.late else "there is no plan yet: select ADVISORY first"
        return [*why, o.defect or late]
    if d.status[0] not in (Status.OPTIMAL, Status.FEASIBLE, Status.TIGHT):
        why.append(f"the plan is {d.status[0]}{said(d)}")
    why += near_guardrails(spec, config, o)
    if o.surprise is not None and o.surprise.score > config.surprise_to_enter:
        why.append(f"the model is surprised ({o.surprise.text}), at most {config.surprise_to_enter:g} is allowed")
    return why
