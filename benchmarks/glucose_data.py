"""Training patients who are at times given insulin by chance: what a forecast of insulin's effect can be learned from.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.baselines.clinical import PdGains, PdInsulinFeedback
from controllers.contracts import Controller, Observation, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.glucose.assembled import insulin_forecast
from controllers.glucose.last_check import LastCheck, Limits
from controllers.planning.quantile_filter import QuantileFilter
from controllers.runtime.config import config_for
from models.glucose_forecast import (
    DAY,
    GOALS,
    REACH,
    STRIDE,
    WINDOW,
    Episodes,
    GlucoseForecast,
    known,
    scaled_glucose,
    scaled_rate,
    slow,
)  # fmt: skip
from plant.spec import PlantSpec, load_spec
from simulators.glucose.cgm import DexcomG6
from simulators.glucose.meals import Announcing, Meals, meals
from simulators.glucose.patients import PARAMETERS, Cohort, Split, Therapy, draw
from simulators.plant import SimulatedPlant

Array = NDArray[np.float64]

_AHEAD = 48  # samples of a branch: 4 h
_SHIFTED = 0.5  # of the patients live by another clock than most


@dataclass(frozen=True)
class People:
    """Patients of all cohorts, one cohort after another: `p` (n x n_p), what their clinics set, `weight` kg and `cohorts`."""

    p: Array
    therapy: Therapy
    cohorts: tuple[Cohort, ...]

    @property
    def weight(self) -> Array:
        return self.p[:, PARAMETERS.index("BW")]

    def __len__(self) -> int:
        return len(self.p)

    def repeated(self, times: int) -> People:
        """The same people `times` times."""
        therapy = Therapy(*(np.tile(v, times) for v in vars(self.therapy).values()))
        return People(np.tile(self.p, (times, 1)), therapy, self.cohorts * times)


def everybody(count: int, split: Split, seed: int) -> People:
    """`count` patients of each cohort."""
    drawn = [draw(c, split, count, seed) for c in Cohort]
    therapy = Therapy(*(np.concatenate([vars(d.therapy)[k] for d in drawn]) for k in vars(drawn[0].therapy)))
    return People(np.concatenate([d.p for d in drawn]), therapy, tuple(d.cohort for d in drawn for _ in d.p))


def later(planned: Meals, samples_min: NDArray[np.int64]) -> Meals:
    """The same meals (batch x minutes), each patient's moved by so many minutes (batch,) around the days."""
    rolled = [np.stack([np.roll(row, by) for row, by in zip(m, samples_min, strict=True)])
              for m in (planned.served, planned.announced)]  # fmt: skip
    return Meals(*rolled)


def recorded(
    spec: PlantSpec, patients: People, days: int, seed: int,
    policies: Callable[[People, np.random.Generator], Controller] | None = None, every: int = 12,
) -> Episodes:  # fmt: skip
    """Patients under a controller (PD with gains by chance, or what `policies` makes) for `days` days of S3 that nobody
    announces; at about `every` sample the simulation branches into four hours of insulin by chance."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x61C0]))
    n, samples = len(patients), days * DAY
    shift = np.where(rng.random(n) < _SHIFTED, rng.integers(0, 1440, n), 0)
    eaten = later(meals("S3", days, n, seed, Announcing(told=False)), shift)
    intake = eaten.intake()
    plant = SimulatedPlant(spec, seed, n, eaten.conditions(patients.p))
    controller = (policies or by_pd)(patients, rng)
    controller.reset()
    basal = patients.therapy.basal_U_per_h
    what = known(basal, patients.weight)
    low, high = limits_of(spec)
    cgm, applied = (np.zeros((n, REACH - 1 + samples)) for _ in range(2))
    now = basal[:, None].copy()
    parts = []
    for k in range(samples):
        reading, at = plant.measure(), REACH - 1 + k
        cgm[:, at] = np.where(np.isfinite(reading["CGM"]), scaled_glucose(reading["CGM"]), cgm[:, at - 1])
        applied[:, at] = scaled_rate(now[:, 0], basal)
        if k == 0:
            cgm[:, :at] = cgm[:, at : at + 1]
        if k % every == (7 * (k // every)) % every and k + _AHEAD < samples:
            alive = np.flatnonzero(plant.ended == 0)
            parts.append(_branch(rng, plant, patients, intake, cgm[:, at - REACH + 1 : at + 1],
                                 applied[:, at - REACH + 1 : at + 1], k, what).some(alive))  # fmt: skip
        measured = np.stack([reading[t.name] for t in spec.measured], 1)
        observation = Observation(k * spec.sample_time_s, measured, np.zeros((n, 1)), now)
        now = controller.decide(observation, Targets(np.full((n, 1, 1), 110.0), low, high)).moves.copy()
        for _ in range(5):
            plant.advance(now, 60.0)
    return Episodes.join(parts)


def _branch(
    rng: np.random.Generator, plant: SimulatedPlant, patients: People, intake: Array, cgm: Array, applied: Array, k: int,
    what: Array,
) -> Episodes:  # fmt: skip
    """Four hours of each patient from sample `k` under insulin by chance and the meals that come, beside the run."""
    n, basal, correction = len(cgm), patients.therapy.basal_U_per_h, patients.therapy.correction_mg_dL_per_U
    level, slope = 60.0 * cgm[:, -1] + 140.0, 60.0 * (cgm[:, -1] - cgm[:, -4]) / 15.0
    rates = np.stack([_by_chance(rng, basal[i], correction[i], level[i], slope[i]) for i in range(n)])
    sensor = DexcomG6()
    sensor.start(n, rng)
    x, ended = plant.x.copy(), plant.ended.copy()
    vg = plant.p[:, PARAMETERS.index("Vg")]
    true, seen = np.empty((n, _AHEAD)), np.empty((n, _AHEAD))
    d = np.stack([np.zeros(n), np.ones(n), np.zeros(n)], 1)
    for j in range(_AHEAD):
        for minute in range(5):
            d[:, 0] = intake[:, 5 * (k + j) + minute]
            x, ended = plant._stepper.advance(x, rates[:, j : j + 1], d, plant.p, 60.0, ended)
        true[:, j] = x[:, 12] / vg
        sensor.see(300.0 * (j + 1), true[:, j])
        seen[:, j] = sensor.read()
    whole = np.concatenate([cgm, scaled_glucose(seen)], 1)
    doses = np.concatenate([applied, scaled_rate(rates, basal[:, None])], 1)
    memory = slow(whole, doses)[:, [0, *(STRIDE * g for g in GOALS)]]
    ends = np.arange(STRIDE - 1, _AHEAD, STRIDE)
    return Episodes(
        whole[:, REACH - WINDOW :].astype(np.float32), doses[:, REACH - WINDOW :].astype(np.float32), memory.astype(np.float32),
        np.full(n, k * 5.0 / 60.0), np.full(n, k / DAY), what, true[:, ends].astype(np.float32),
    )  # fmt: skip


def by_pd(patients: People, rng: np.random.Generator) -> Controller:
    """PD with gains by chance."""
    n = len(patients)
    gains = PdGains(
        *(rng.uniform(a, b, n) for a, b in ((10.0, 90.0), (0.3, 1.3), (0.1, 1.0))), rng.uniform(5.0, 60.0, n)
    )
    return PdInsulinFeedback(load_spec("glucose"), patients.therapy, gains)


def by_guardrail(forecast: GlucoseForecast) -> Callable[[People, np.random.Generator], Controller]:
    """Aggressive PD behind `forecast` and a lenient last check, each with settings by chance: where the guardrail will take
    patients to, and beyond."""

    def make(patients: People, rng: np.random.Generator) -> Controller:
        spec, n = load_spec("glucose"), len(patients)
        gains = PdGains(*(rng.uniform(a, b, n) for a, b in ((20.0, 80.0), (0.3, 1.0), (0.1, 0.4), (12.0, 60.0))))
        inner = PdInsulinFeedback(spec, patients.therapy, gains)
        guard = behind_forecast(spec, forecast, inner, patients, True, start=rng.uniform(0.0, 40.0, n))
        limits = Limits(strength=rng.uniform(0.3, 2.0, n), weakest=0.3, rise=0.05, leave_mg_dL=90.0)
        return LastCheck(spec, guard, patients.therapy, limits)

    return make


def behind_forecast(
    spec: PlantSpec, forecast: GlucoseForecast, inner: Controller, patients: People, clocked: bool | NDArray[np.bool_],
    start: Array | None = None,
) -> QuantileFilter:  # fmt: skip
    """`inner` behind `forecast` as the controller that comes with the plant has it."""
    chosen = config_for(spec.name).filter
    assert chosen is not None
    assert chosen.back_off is not None
    rail = next(g for g in spec.guardrails if g.name == chosen.back_off.guardrail)
    told = {"basal_U_per_h": patients.therapy.basal_U_per_h, "weight_kg": patients.weight}
    seen = insulin_forecast(spec, forecast, rail, told, len(patients), clocked)
    step = np.array([chosen.step[t.name] for t in spec.mvs])
    return QuantileFilter(spec, seen, inner, chosen.back_off, step, start)


def _by_chance(rng: np.random.Generator, basal: float, correction: float, glucose: float, slope: float) -> Array:
    """Four hours of rates, U/h: pieces of 20 to 120 min, mostly stopped or at the basal, and some doses."""
    rates, at = np.empty(_AHEAD), 0
    kind = rng.random()
    while at < _AHEAD:
        piece = int(rng.integers(4, 25))
        levels = (0.0, 1.0, rng.uniform(0.0, 3.0), np.exp(rng.normal(0.5, 0.7)))
        level = levels[rng.choice(4, p=(0.35, 0.35, 0.2, 0.1))] if kind > 0.4 else 0.0  # stopped after the first doses
        rates[at : at + piece] = level * basal
        at += piece
    want = max((glucose + 30.0 * slope - 100.0) / correction, 0.0)
    if rng.random() < 0.7:
        dose = rng.uniform(0.0, 1.3) * want + rng.exponential(rng.choice([0.0, 0.7, 2.5])) * basal
        first = int(rng.integers(1, 7))  # at once, or over half an hour
        rates[:first] += dose * 12.0 / first
    while rng.random() < 0.3:
        rates[int(rng.integers(1, _AHEAD))] += rng.exponential(1.2) * basal * 12.0
    return np.minimum(rates, 90.0)
