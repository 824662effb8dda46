"""What a controller's YAML names of insulin control, made for a batch of patients: PD, the learned forecast, the last check.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from controllers.baselines.clinical import BEHIND_GUARDRAIL, PdGains, PdInsulinFeedback
from controllers.contracts import Array, Controller
from controllers.glucose.forecast import InsulinForecast
from controllers.glucose.last_check import LastCheck
from models.glucose_forecast import GlucoseForecast
from plant.errors import SpecError
from plant.spec import Guardrail, PlantSpec
from simulators.glucose.patients import Therapy

_KNOWN = ("basal_U_per_h", "weight_kg")
_GAINS = tuple(f.name for f in fields(PdGains))
Settings = Mapping[str, "float | Array"]


def pd_insulin_feedback(spec: PlantSpec, settings: Settings, batch: int) -> PdInsulinFeedback:
    """PD with insulin feedback; the gains of `PdGains` that `settings` does not name are those for behind a guardrail."""
    therapy = therapy_of(settings, batch)
    return PdInsulinFeedback(
        spec, therapy, replace(BEHIND_GUARDRAIL, **{k: settings[k] for k in _GAINS if k in settings})
    )


def insulin_forecast(
    spec: PlantSpec,
    model: GlucoseForecast,
    guardrail: Guardrail,
    settings: Settings,
    batch: int,
    clocked: bool | NDArray[np.bool_] = False,
) -> InsulinForecast:
    """The learned forecast, as what a quantile filter asks."""
    basal, weight = _told(settings, batch)
    return InsulinForecast(spec, model, basal, weight, guardrail.limit, clocked)


def insulin_last_check(spec: PlantSpec, inner: Controller, settings: Settings, batch: int) -> LastCheck:
    """The limits without a model, behind `inner`."""
    return LastCheck(spec, inner, therapy_of(settings, batch))


def therapy_of(settings: Settings, batch: int) -> Therapy:
    """What a clinic sets for patients of whom the basal rate is known."""
    return Therapy.by_rules(_told(settings, batch)[0])


def _told(settings: Settings, batch: int) -> tuple[Array, Array]:
    """Basal rate and weight (batch,) each. `SpecError` for a setting that is missing, unknown or not positive."""
    where = "controller YAML: filter.settings"
    if unknown := sorted(set(settings) - {*_KNOWN, *_GAINS}):
        raise SpecError(
            f"unknown {', '.join(unknown)}", where, f"Insulin control takes {', '.join((*_KNOWN, *_GAINS))}."
        )
    if missing := [k for k in _KNOWN if k not in settings]:
        raise SpecError(f"no {' and no '.join(missing)}", where, "Say what is known of the patient.")
    basal, weight = (np.broadcast_to(np.asarray(settings[k], dtype=np.float64), batch) for k in _KNOWN)
    if not ((basal > 0).all() and (weight > 0).all()):
        raise SpecError("a basal rate or a weight that is not positive", where, "Correct it.")
    return basal, weight
