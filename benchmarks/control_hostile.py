"""An energy that wants the plant as hot as it goes: what guardrails are for."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Report
from controllers.evaluation.closed_loop import Trajectories
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from models.checkpoint import Checkpoint
from plant.spec import PlantSpec

Flags = NDArray[np.bool_]


def hottest(spec: PlantSpec, tag: str) -> PlantSpec:
    """`spec` with one target: `tag` a thousand units above its range, where no plan gets to, so that every unit hotter pays."""
    far = spec.tag(tag).range[1] + 1000.0
    target = spec.targets[0].model_copy(update={"tag": tag, "value": far, "limits": (far - 1, far + 1), "scale": 10.0})
    return spec.model_copy(update={"targets": (target,)})


def hostile(checkpoint: Checkpoint, tag: str, batch: int, *, guardrails: bool) -> JepaMpc:
    """The planner, wanting `tag` as high as it goes, moves free."""
    model = copy.copy(checkpoint.model)
    model.spec = hottest(checkpoint.model.spec, tag)
    config = PlannerConfig(guardrails=guardrails, suppression=0.0, effort=0.0)
    return JepaMpc(model, config, checkpoint.calibration, batch=batch)


def hostile_row(
    name: str, runs: Trajectories, spec: PlantSpec, broke: Flags, avoidable: Flags, bound: float
) -> list[object]:
    """One row of the table; `bound`: the 95 % upper bound of the rate of avoidable violations."""
    guard = spec.guardrails[0]
    worst = guard.sign * np.nanmax(guard.sign * runs.worst[guard.name], axis=1)
    unsound = np.mean([[s in ("RECOVERY", "INFEASIBLE") for s in sample] for sample in runs.status])
    return [
        name, len(broke), f"{worst.max():.2f}", f"{np.median(worst):.2f}", int(broke.sum()), int(avoidable.sum()),
        f"{bound:.1%}", f"{unsound:.1%}",
    ]  # fmt: skip


def hostile_table(report: Report, plant: str, spec: PlantSpec, rows: list[list[object]]) -> None:
    guard = spec.guardrails[0]
    unit = spec.tag(guard.tag).unit
    columns = [
        "energy", "runs", f"worst {guard.tag}, {unit}", "median of worst", f"past {guard.limit:g} {unit}", "of them avoidable",
        "95 % bound", "RECOVERY",
    ]  # fmt: skip
    report.table(f"{plant}: energies against the guardrail {guard.name}", columns, rows)
