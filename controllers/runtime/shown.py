"""What is wrong now, whatever the mode: the alarms of one sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controllers.contracts import Status
from controllers.runtime.alarms import Severity
from controllers.runtime.config import SupervisorConfig
from controllers.runtime.gate import CRITICAL_RANK, past_guardrails, said
from controllers.runtime.observed import Observed
from controllers.runtime.partial import PartialService
from controllers.runtime.signs import Signs
from controllers.runtime.trust import Trust
from plant.spec import PlantSpec

Condition = tuple[str, Severity, str]
"""An alarm's key, how grave it is, and its text, '' where it is not there."""


def plant_conditions(spec: PlantSpec, o: Observed, partial: PartialService, signs: Signs) -> Iterator[Condition]:
    """What is wrong with the plant, its readings and its handshake."""
    yield "link", Severity.HIGH, f"The plant does not answer: {o.link_error}" if o.sample is None else ""
    yield "speed", Severity.HIGH, _sentence(o.speed_fault)
    yield "clock", Severity.HIGH, _sentence(o.unsettled)
    if o.inputs is None:
        return
    yield "heartbeat", Severity.HIGH, _sentence(signs.still)
    yield "scan", Severity.CRITICAL, f"The plant's scan is not alive: {o.scan}" if o.scan else ""
    yield "handshake", Severity.HIGH, f"The handshake is not as it should be: {signs.faults}" if signs.faults else ""
    faults = {f.tag: f for f in o.inputs.faults}
    for tag in spec.online:
        fault = faults.get(tag.name)
        yield (
            f"input:{tag.name}",
            Severity.HIGH if fault and fault.critical else Severity.LOW,
            fault.text if fault else "",
        )
    for tag in spec.mvs:
        why = partial.dropped.get(tag.name) or partial.unable.get(tag.name, "")
        yield f"dropped:{tag.name}", Severity.MEDIUM, f"{tag.name} is not ours to move: {why}" if why else ""
    past = {g.name: text for g, text in past_guardrails(spec, o)}
    for g in spec.guardrails:
        yield (
            f"guardrail:{g.name}",
            Severity.CRITICAL if g.rank <= CRITICAL_RANK else Severity.HIGH,
            past.get(g.name, ""),
        )


def plan_conditions(
    config: SupervisorConfig, o: Observed, strayed: Mapping[str, str], trust: Trust
) -> Iterator[Condition]:
    """What is wrong with the plan, the model, and what becomes of the moves."""
    if o.inputs is None:
        return
    yield "readback", Severity.HIGH, "; ".join(strayed.values())
    yield "answer", Severity.HIGH, o.defect
    yield "late", Severity.MEDIUM, "The plan was late; the last one is followed" if o.late else ""
    d, text = o.decision, ""
    status = d.status[0] if d is not None else None
    if d is not None and status in (Status.RECOVERY, Status.INFEASIBLE, Status.FALLBACK):
        text = f"The plan is {status}, worst violation {d.violation[0]:.3g} scales{said(d)}"
    yield "plan", Severity.HIGH, text
    yield "tight", Severity.LOW, f"The plan is TIGHT{said(d)}" if d is not None and status is Status.TIGHT else ""
    sound = d is not None and status in (Status.OPTIMAL, Status.FEASIBLE)
    yield "target", Severity.LOW, said(d).removeprefix(": ") if d is not None and sound else ""
    high = o.surprise is not None and o.surprise.score > config.surprise_to_enter
    yield "surprise", Severity.MEDIUM, o.surprise.text if o.surprise is not None and high else ""
    yield "override", Severity.LOW, f"Doubts about the model are set aside by {trust.by}" if trust.by else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
