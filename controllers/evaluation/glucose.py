"""The clinical metrics of glucose control, and closed loops of patients through days of meals.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Controller
from controllers.evaluation.closed_loop import Trajectories, close_loop, limits_of
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.glucose.meals import Meals
from simulators.plant import SimulatedPlant

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GlucoseMetrics:
    """One value a patient (batch,). Shares of all samples in per cent: `tir` 70..180 mg/dL, both included; `tbr70` < 70;
    `tbr54` < 54; `tar180` > 180; `tar250` > 250. `cv` standard deviation over mean, per cent; `mean` mg/dL; `lbgi`,
    `hbgi` low and high blood glucose index; `gri` glycaemia risk index, at most 100."""

    tir: Array
    tbr70: Array
    tbr54: Array
    tar180: Array
    tar250: Array
    cv: Array
    mean: Array
    lbgi: Array
    hbgi: Array
    gri: Array

    def means(self) -> dict[str, float]:
        """Each metric's mean over the patients."""
        return {name: float(values.mean()) for name, values in vars(self).items()}

    def on_target(self) -> NDArray[np.bool_]:
        """Which patients (batch,) meet all of Battelino et al., Diabetes Care 42 (2019) 1593: TIR > 70, TBR70 < 4,
        TBR54 < 1, TAR180 < 25, TAR250 < 5, CV <= 36."""
        met = (self.tir > 70.0) & (self.tbr70 < 4.0) & (self.tbr54 < 1.0)
        return met & (self.tar180 < 25.0) & (self.tar250 < 5.0) & (self.cv <= 36.0)


def metrics(glucose: Array) -> GlucoseMetrics:
    """The metrics of glucose (batch x samples, evenly spaced, mg/dL).

    Risk (Kovatchev et al., Diabetes Care 20 (1997) 1655): f = 1.509 (ln(G)^1.084 - 5.381), risk 10 f^2, G clipped to
    20..600; LBGI the mean over all samples of the risk where f < 0, HBGI where f > 0. GRI (Klonoff et al., J. Diabetes
    Sci. Technol. 17 (2023) 1226): 3.0 %<54 + 2.4 %54-70 + 1.6 %>250 + 0.8 %180-250, at most 100. `ControlError` for an
    empty array, another shape, or values that are not finite.
    """
    g = np.asarray(glucose, float)
    if g.ndim != 2 or g.shape[1] == 0 or not np.isfinite(g).all():
        raise ControlError(f"glucose of shape {g.shape}", "glucose metrics", "Give finite values, (batch, samples).")

    def percent(share: NDArray[np.bool_]) -> Array:
        return 100.0 * share.mean(axis=1)

    tbr70, tbr54, tar180, tar250 = percent(g < 70.0), percent(g < 54.0), percent(g > 180.0), percent(g > 250.0)
    f = 1.509 * (np.log(np.clip(g, 20.0, 600.0)) ** 1.084 - 5.381)
    risk = 10.0 * f * f
    gri = 3.0 * tbr54 + 2.4 * (tbr70 - tbr54) + 1.6 * tar250 + 0.8 * (tar180 - tar250)
    return GlucoseMetrics(
        tir=100.0 - tbr70 - tar180, tbr70=tbr70, tbr54=tbr54, tar180=tar180, tar250=tar250,
        cv=100.0 * g.std(axis=1) / g.mean(axis=1), mean=g.mean(axis=1),
        lbgi=np.where(f < 0.0, risk, 0.0).mean(axis=1), hbgi=np.where(f > 0.0, risk, 0.0).mean(axis=1),
        gri=np.minimum(gri, 100.0),
    )  # fmt: skip


@dataclass(frozen=True)
class Days:
    """Closed loops: their metrics, what happened, and which patients (batch,) left the envelope and ended."""

    metrics: GlucoseMetrics
    runs: Trajectories
    ended: NDArray[np.bool_]


def live(
    spec: PlantSpec, controller: Controller, p: Array, eaten: Meals, *, seed: int = 0, target_mg_dL: float = 140.0,
    sensitivity: float | Array = 1.0, noise: float = 1.0,
) -> Days:  # fmt: skip
    """Patients `p` (batch x n_p) through `eaten`, from fasting at midnight, under `controller`.

    Metrics are of the true subcutaneous glucose at every sample; a patient who leaves 20..600 mg/dL stays where it left.
    """
    sample_min = round(spec.sample_time_s / 60.0)
    plant = SimulatedPlant(spec, seed, len(p), eaten.conditions(p, sensitivity, sample_min), noise)
    samples = eaten.served.shape[1] // sample_min
    low, high = limits_of(spec)
    runs = close_loop(
        controller, plant, np.full((samples, 1), target_mg_dL), preview=False, move_low=low, move_high=high,
        first_move=np.array([t.nominal for t in spec.mvs]), scans=round(spec.sample_time_s / spec.scan_time_s),
    )  # fmt: skip
    return Days(metrics(runs.true["CGM"][:, :-1]), runs, plant.ended != 0)
