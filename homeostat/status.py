"""What `homeostat status` prints: a running controller and its historian, in one dictionary."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from historian import Historian
from plant.errors import HistorianError, LinkError
from plant.opcua.controller_client import ControllerClient
from plant.spec import PlantSpec


def read_status(spec: PlantSpec, controller: str, historian: Path) -> dict[str, Any]:
    """Mode, reasons, plan status, solve time (ms), sample age (plant s), margins, what is asked for (targets, zones, prices, what is
    scheduled, where MVs rest), what holds it, a word for each tag, doubts about the model, active alarms; historian size and newest sample. What cannot be reached says why instead of failing the rest."""
    facts: dict[str, Any] = {"plant": spec.name, "controller": "reachable"}
    client = ControllerClient(controller)
    try:
        shot = client.snapshot()
        facts |= {
            "mode": shot.mode_actual, "mode_target": shot.mode_target, "mode_reason": shot.mode_reason,
            "plan_status": shot.plan_status, "solve_time_ms": shot.solve_time_ms, "sample_age_s": shot.sample_age_s,
            "violation": shot.violation, "surprise": shot.surprise, "cycles": shot.cycles,
            "missed_deadlines": shot.missed_deadlines, "jitter_p99_ms": shot.jitter_p99_ms,
            "targets": dict(shot.targets), "zones": {k: list(v) for k, v in shot.zones.items()}, "prices": dict(shot.prices),
            "rest": dict(shot.rest), "schedule": [asdict(c) for c in shot.schedule], "why": shot.why, "active": shot.active,
            "limits": {k: list(v) for k, v in shot.limits.items()},
            "margins": {k: asdict(m) for k, m in shot.margins.items()},
            "tag_status": dict(shot.tag_status), "doubts": list(shot.doubts), "published_s": shot.published_s,
            "alarms": [a.message for a in shot.alarms if a.active],
        }  # fmt: skip
    except LinkError as e:
        facts["controller"] = str(e)
    finally:
        client.close()
    try:
        with Historian(historian, spec.name, read_only=True) as store:
            facts["historian"] = store.status()
    except HistorianError as e:
        facts["historian"] = {"error": str(e)}
    return _finite(facts)


def _finite(value: Any) -> Any:
    """JSON has no NaN: None stands for it."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
