"""Plants that lack what most have: guardrails, targets, MVs. Legitimate, or refused in a line before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controllers.baselines.linear_mpc import LinearMpc
from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.forecast import ForecastMpc
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.mpc import JepaMpc
from plant.errors import ControlError
from plant.spec import PlantSpec, Role, load_spec

from .test_units import Random, linear, shifted, world


def without(*what: str) -> PlantSpec:
    spec = load_spec("vandevusse")
    if "MVs" in what:
        spec = spec.model_copy(update={"tags": tuple(t for t in spec.tags if t.role is not Role.MV)})
    return spec.model_copy(update={name: () for name in ("guardrails", "targets") if name in what})


def made(form: str, spec: PlantSpec) -> Any:
    scp, steady = PlannerConfig(horizon=8), PlannerConfig(horizon=8, steady=0.5)
    return {
        "jepa": lambda: JepaMpc(world(spec, 1.0), steady),
        "icem": lambda: JepaMpc(world(spec, 1.0), PlannerConfig(name="icem", horizon=8, candidates=16)),
        "filter": lambda: GuardrailFilter(world(spec, 1.0), None, Random(spec), scp),
        "forecast": lambda: ForecastMpc(linear(spec, 1.0), scp),
        "linear": lambda: LinearMpc(linear(spec, 1.0), scp),
    }[form]()


FORMS = ("jepa", "icem", "filter", "forecast", "linear")


@pytest.mark.parametrize("what", [("guardrails",), ("targets",), ("guardrails", "targets")], ids=" and ".join)
@pytest.mark.parametrize("form", FORMS)
def test_a_plant_without_guardrails_or_targets_is_planned_for(form: str, what: tuple[str, ...]) -> None:
    spec = without(*what)
    controller, (mean, _), (low, high) = made(form, spec), shifted(spec), limits_of(spec)
    asked = Targets(np.array([[[t.value for t in spec.targets]]]).reshape(1, 1, len(spec.targets)), low, high)
    for k in range(3):
        answer = controller.decide(Observation(18.0 * k, mean[None, :4], mean[None, 4:6], mean[None, 6:]), asked)
    assert answer.status[0] not in (Status.INFEASIBLE, Status.DEADLINE)
    assert np.isfinite(answer.moves).all()
    assert answer.margins.shape[2] == len(answer.guardrails)
    if "guardrails" in what:
        assert answer.guardrails == ()
        assert (answer.violation == 0).all()
        assert answer.status[0] is not Status.RECOVERY


@pytest.mark.parametrize("form", FORMS)
def test_a_plant_without_mvs_is_refused(form: str) -> None:
    with pytest.raises(ControlError, match="no MV to move"):
        made(form, without("MVs"))
