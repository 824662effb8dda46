"""Insulin from a CGM alone: PD with insulin feedback, and the same behind what a world model says of glucose.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.

Held-out generated patients, days of S3 that nobody announces, CGM noise. Gains, floors and limits were chosen on training
patients. Every automatic controller stands behind the same deterministic last check, which adapts to each patient; plain PD and
the clinic's basal-bolus stand beside it as they are used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.glucose_data import People, behind_forecast, by_guardrail, everybody, later, recorded
from benchmarks.report import Report, interval
from controllers.baselines.clinical import BEHIND_GUARDRAIL, TUNED, BasalBolus, PdGains, PdInsulinFeedback
from controllers.contracts import Controller, Decision, Observation, Targets
from controllers.evaluation.glucose import live
from controllers.glucose.last_check import LastCheck, Limits
from models.glucose_forecast import Episodes, GlucoseConfig, GlucoseForecast, fit
from models.rivals.glucose import ArxGlucose, GruGlucose
from plant.spec import PlantSpec, load_spec
from simulators.glucose import DISCLAIMER
from simulators.glucose.meals import Announcing, Meals, meals
from simulators.glucose.patients import Cohort, Split

Array = NDArray[np.float64]

_LEARNED = ("models/glucose_forecast.py", "models/rivals/glucose.py", "benchmarks/glucose_data.py")
_LIVED = (
    *_LEARNED, "controllers/glucose/forecast.py", "controllers/glucose/last_check.py", "controllers/library/glucose.yaml",
    "controllers/planning/filtered.py", "controllers/planning/quantile_filter.py", "controllers/baselines/clinical.py",
)  # fmt: skip
_FOLDER = Path(".homeostat/benchmarks/trained")
TARGET, BOLUS_TARGET = 110.0, 140.0
HELD_OUT_SEED, DAY_SEED = 6100, 6101
LATER_MIN = 180
CONDITIONS: tuple[str, ...] = ("clock", "clock-blind", "meals 3 h later")
BAR_TIR: dict[str, float] = dict(zip(CONDITIONS, (5.0, 3.0, 0.0), strict=True))
BAR_TBR70: dict[str, float] = dict(zip(CONDITIONS, (2.0, 2.0, 3.0), strict=True))
BAR_TBR54, BAR_WORST70, BAR_WORST54 = 0.5, 5.0, 1.0
BUDGETS = (0.01, 0.03, 0.06)  # of the last check, for PD at matched time below range


@dataclass(frozen=True)
class Sizes:
    """`patients` a cohort and `days` of a run; `training` patients a cohort, `record` days each, `steps` of training; `rivals` of the
    world model that are put behind the same guardrail."""

    patients: int = 30
    days: int = 14
    training: int = 150
    record: int = 4
    steps: int = 1500
    seeds: int = 3
    rivals: tuple[str, ...] = ("ARX",)


QUICK = Sizes(2, 1, 2, 2, 20, 1, ("ARX", "GRU"))


def measure(report: Report, *, quick: bool) -> None:
    """Add the glucose tables and bars to `report`."""
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # patients that leave the envelope are counted in the table
    report.note(DISCLAIMER)
    bench = Bench(report, QUICK if quick else Sizes(), load_spec("glucose"))
    report.note(
        "TIR 70..180, TBR below 70 and below 54 mg/dL, of the true subcutaneous glucose; means over patients, then over training "
        "seeds with 95 % intervals. A patient who leaves 20..600 mg/dL stays where it left. Clock-blind: no time of day; what was "
        "seen at the same hours of the last three days is remembered all the same. Plain PD and basal-bolus as clinics use them, "
        "with their own suspension; all that is called adaptive or guarded stands behind the same last check, whose strength "
        "follows each patient's lows. Gains, floors and limits were chosen on training patients; the "
        "ARX has the JEPA's floors, and errors as wide in every state: it mostly stops the pump. Not measured: MPC on the JEPA by a "
        "zone energy, the GRU, linear MPC with a limit on insulin on board, MPC with the true equations."
    )
    bench.rivals()
    bench.jepa()
    bench.hostile()


@dataclass(frozen=True)
class Lived:
    """Metrics of runs: cohort -> name -> (patients,), and how many patients ended."""

    tir: dict[str, Array]
    tbr70: dict[str, Array]
    tbr54: dict[str, Array]
    ended: dict[str, int]

    @staticmethod
    def of(metrics: Array, ended: NDArray[np.bool_], each: int, first: int = 0) -> Lived:
        """Of the patients of three cohorts, `each`, from column `first` of `metrics` (3 x batch) on."""
        rows = {c.value: slice(first + i * each, first + (i + 1) * each) for i, c in enumerate(Cohort)}
        tir, tbr70, tbr54 = ({c: v[part] for c, part in rows.items()} for v in metrics)
        return Lived(tir, tbr70, tbr54, {c: int(ended[part].sum()) for c, part in rows.items()})

    def row(self, c: str) -> list[Any]:
        return [
            float(self.tir[c].mean()), float(self.tbr70[c].mean()), float(self.tbr54[c].mean()),
            float(self.tbr70[c].max()), float(self.tbr54[c].max()), self.ended[c],
        ]  # fmt: skip


COLUMNS = ["TIR %", "TBR70 %", "TBR54 %", "worst patient TBR70", "worst patient TBR54", "left 20..600 mg/dL"]


class Bench:
    """Held-out patients, their days, and everything that is run on them."""

    def __init__(self, report: Report, sizes: Sizes, spec: PlantSpec) -> None:
        self.report, self.sizes, self.spec = report, sizes, spec
        self.patients = everybody(sizes.patients, Split.HELD_OUT, HELD_OUT_SEED)
        self.n = len(self.patients)
        self.plain: dict[str, Lived] = {}
        self.adaptive: dict[str, list[Lived]] = {}

    def days(self, announcing: Announcing | None = None) -> Meals:
        return meals("S3", self.sizes.days, self.n, DAY_SEED, announcing or Announcing(told=False))

    def shifted(self) -> Meals:
        return later(self.days(), np.full(self.n, LATER_MIN))

    def lived(
        self, name: str, make: Callable[[People], Controller], eaten: list[Meals], target: float = TARGET
    ) -> list[Lived]:
        """`make`'s controller on the same patients under each of `eaten`, all in one batch; kept on disk under `name` for as
        long as code and sizes are the same, so that a benchmark that was stopped goes on."""
        k = len(eaten)
        path = _FOLDER / f"glucose_lived_{name}_{_digest(name, self.sizes, _LIVED)}.npz"
        if path.exists():
            with np.load(path) as kept:
                return [Lived.of(kept["metrics"], kept["ended"], self.sizes.patients, i * self.n) for i in range(k)]
        many = self.patients.repeated(k)
        whole = Meals(*(np.concatenate([vars(m)[key] for m in eaten]) for key in ("served", "announced")))
        result = live(self.spec, make(many), many.p, whole, seed=DAY_SEED, target_mg_dL=target)
        metrics = np.stack([result.metrics.tir, result.metrics.tbr70, result.metrics.tbr54])
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, metrics=metrics, ended=result.ended)
        return [Lived.of(metrics, result.ended, self.sizes.patients, i * self.n) for i in range(k)]

    def rivals(self) -> None:
        """Everything without a world model."""
        usual = {"announced": self.days(Announcing()), "missed": self.days(Announcing(missed=1 / 3))}
        told = self.lived("bolus", lambda p: BasalBolus(self.spec, p.therapy, 80.0), list(usual.values()), BOLUS_TARGET)
        meals_of = [self.days(), self.shifted()]
        pd = self.lived("pd", lambda p: PdInsulinFeedback(self.spec, p.therapy, tuned_gains(p)), meals_of)
        self.plain = {"clock": pd[0], "clock-blind": pd[0], "meals 3 h later": pd[1]}
        swept = [
            self.lived(f"pd_{b:g}", lambda p, b=b: self.checked(PdInsulinFeedback(self.spec, p.therapy, tuned_gains(p)), p, b), meals_of)
            for b in BUDGETS
        ]  # fmt: skip
        self.adaptive = {c: [s[c == "meals 3 h later"] for s in swept] for c in CONDITIONS}
        rows = []
        for c in Cohort:
            rows.append([c.value, "basal-bolus, announced, predictive suspend", *told[0].row(c)])
            rows.append([c.value, "the same, a third of the boluses missed", *told[1].row(c)])
            rows.append([c.value, "PD + insulin feedback", *pd[0].row(c)])
            rows.append([c.value, "PD + insulin feedback, meals 3 h later", *pd[1].row(c)])
            for budget, s in zip(BUDGETS, swept, strict=True):
                rows.append([c.value, f"PD + feedback, adaptive last check, budget {budget:g}", *s[0].row(c)])
                rows.append([c.value, f"the same, meals 3 h later, budget {budget:g}", *s[1].row(c)])
        title = f"glucose: {self.sizes.patients} held-out patients a cohort, {self.sizes.days} days of S3 + CGM noise, no world model"
        self.report.table(title, ["cohort", "controller", *COLUMNS], rows)

    def checked(self, inner: Controller, p: People, budget: float | None = None) -> LastCheck:
        limits = Limits() if budget is None else replace(Limits(), budget=budget)
        return LastCheck(self.spec, inner, p.therapy, limits)

    def guarded(
        self, forecast: GlucoseForecast, p: People, hour_known: NDArray[np.bool_], hostile: bool = False
    ) -> LastCheck:
        inner = AlwaysMost(self.spec, len(p)) if hostile else PdInsulinFeedback(self.spec, p.therapy, BEHIND_GUARDRAIL)
        guard = behind_forecast(self.spec, forecast, inner, p, hour_known)
        return self.checked(guard, p)

    def jepa(self) -> None:
        """The guardrail by the JEPA and by its rivals, over the seeds of training."""
        eaten = dict(zip(CONDITIONS, [self.days(), self.days(), self.shifted()], strict=True))
        rows = []
        kinds = [("JEPA", self.sizes.seeds, 3), *((rival, 1, 1) for rival in self.sizes.rivals)]
        for kind, count, conditions in kinds:
            shown = CONDITIONS[:conditions]
            hours = np.repeat([c != "clock-blind" for c in shown], self.n)
            seeds = [
                self.lived(
                    f"{kind}_{s}",
                    lambda p, s=s, k=kind, h=hours: self.guarded(forecast_of(k, s, self.sizes), p, h),
                    [eaten[c] for c in shown],
                )
                for s in range(count)
            ]
            for i, condition in enumerate(shown):
                for c in Cohort:
                    of = [s[i] for s in seeds]
                    rows.append([condition, c.value, f"PD + {kind} guardrail", *self._over(of, c.value, condition)])
                    if kind == "JEPA":
                        self._bars(condition, c.value, of)
        self.report.table(
            f"glucose: the same patients and days, PD behind a learned guardrail; {self.sizes.seeds} seeds of training for the "
            "JEPA, one for each rival; gain over plain PD, and over PD with the adaptive last check at the same TBR70",
            ["condition", "cohort", "controller", *COLUMNS[:5], "left 20..600", "TIR over PD", "TIR over adaptive PD"], rows,
        )  # fmt: skip

    def _over(self, of: list[Lived], c: str, condition: str) -> list[Any]:
        means = [interval([float(vars(o)[k][c].mean()) for o in of], 2) for k in ("tir", "tbr70", "tbr54")]
        worst = [max(float(vars(o)[k][c].max()) for o in of) for k in ("tbr70", "tbr54")]
        gains = [interval([g(o, c, condition) for o in of], 2) for g in (self.over_plain, self.over_adaptive)]
        return [*means, *worst, sum(o.ended[c] for o in of), *gains]

    def over_plain(self, of: Lived, c: str, condition: str) -> float:
        """TIR above plain PD's."""
        return float(of.tir[c].mean() - self.plain[condition].tir[c].mean())

    def over_adaptive(self, of: Lived, c: str, condition: str) -> float:
        """TIR above that of adaptive PD at the same TBR70, between its budgets (at the ends: the nearest)."""
        below = np.array([s.tbr70[c].mean() for s in self.adaptive[condition]])
        tir = np.array([s.tir[c].mean() for s in self.adaptive[condition]])
        order = np.argsort(below)
        return float(of.tir[c].mean() - np.interp(of.tbr70[c].mean(), below[order], tir[order]))

    def _bars(self, condition: str, c: str, of: list[Lived]) -> None:
        def mean(values: list[float]) -> float:
            return float(np.mean(values))

        where = f"{c}, {condition}"
        bar = self.report.bar
        bar(
            f"{where}: TIR over PD + feedback, points",
            mean([self.over_plain(o, c, condition) for o in of]),
            BAR_TIR[condition],
            at_least=True,
        )
        matched = mean([self.over_adaptive(o, c, condition) for o in of])
        bar(f"{where}: TIR over adaptive PD at the same TBR70, points", matched, BAR_TIR[condition], at_least=True)
        bar(f"{where}: TBR70, %", mean([float(o.tbr70[c].mean()) for o in of]), BAR_TBR70[condition], at_least=False)
        bar(f"{where}: TBR54, %", mean([float(o.tbr54[c].mean()) for o in of]), BAR_TBR54, at_least=False)
        bar(f"{where}: worst patient's TBR70, %", max(float(o.tbr70[c].max()) for o in of), BAR_WORST70, at_least=False)
        bar(f"{where}: worst patient's TBR54, %", max(float(o.tbr54[c].max()) for o in of), BAR_WORST54, at_least=False)

    def hostile(self) -> None:
        """A policy that asks for all the insulin the pump can give, at every sample."""
        eaten = [self.days()]
        clock = np.full(self.n, True)
        cases = {
            "guardrails off": lambda p: AlwaysMost(self.spec, len(p)),
            "last check alone": lambda p: self.checked(AlwaysMost(self.spec, len(p)), p),
            "JEPA guardrail and last check": lambda p: self.guarded(
                forecast_of("JEPA", 0, self.sizes), p, clock, hostile=True
            ),
        }
        rows = []
        for number, (name, make) in enumerate(cases.items()):
            (of,) = self.lived(f"hostile_{number}", make, eaten)
            rows += [[c.value, name, *of.row(c)] for c in Cohort]
            if name != "guardrails off":
                worst = max(float(of.tbr54[c].max()) for c in Cohort)
                self.report.bar(
                    f"always the most insulin, {name}: worst patient's TBR54, %", worst, BAR_WORST54, at_least=False
                )
        self.report.table(
            "glucose: a policy that always asks for the most insulin", ["cohort", "guardrails", *COLUMNS], rows
        )


class AlwaysMost:
    """A hostile policy: all the insulin the pump can give, always."""

    horizon = 1

    def __init__(self, spec: PlantSpec, batch: int, rate_U_per_h: float = 90.0) -> None:
        self._spec, self._batch, self._rate = spec, batch, rate_U_per_h

    def reset(self) -> None:
        """It remembers nothing."""

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        """The same rate for everybody."""
        return Decision.of_moves(self._spec, np.full((self._batch, 1), self._rate), 0.0)


def tuned_gains(patients: People) -> PdGains:
    """Each cohort's tuned gains, for patients of `everybody` (repeated or not)."""
    lead, feedback, within, most = (
        np.array([float(getattr(TUNED[c], k)) for c in patients.cohorts]) for k in ("lead_min", "feedback", "within_h", "most")
    )  # fmt: skip
    return PdGains(lead, feedback, within, most)


@cache
def episodes_of(sizes: Sizes) -> tuple[Episodes, Episodes]:
    """What is learned from: training patients under PD, and others where a first forecast's guardrail takes them."""
    spec = load_spec("glucose")
    first = recorded(spec, everybody(sizes.training, Split.TRAINING, 1), sizes.record, 1)
    scout = fit(first, GlucoseConfig(steps=max(sizes.steps // 2, 1), seed=99))
    second = recorded(spec, everybody(sizes.training, Split.TRAINING, 2), sizes.record + 1, 2, by_guardrail(scout))
    return first, second


def forecast_of(kind: str, seed: int, sizes: Sizes) -> GlucoseForecast:
    """The forecast "JEPA", "ARX" or "GRU" of a training seed, or as kept on disk from the same data and code."""
    config = GlucoseConfig(steps=sizes.steps, seed=seed)
    if kind == "GRU":
        config = config.model_copy(update={"latent": 64, "latent_weight": 0.0, "sigreg_weight": 0.0})
    model = {"JEPA": GlucoseForecast, "ARX": ArxGlucose, "GRU": GruGlucose}[kind](config)
    torch.manual_seed(seed)
    path = (
        _FOLDER
        / f"glucose_{kind}_{seed}_{_digest(config.model_dump_json(), replace(sizes, patients=1, days=1), _LEARNED)}.safetensors"
    )
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    first, second = episodes_of(sizes)
    both = Episodes.join([first.some(np.arange(0, len(first.cgm), 2)), second])
    if isinstance(model, ArxGlucose):
        model.learn(both)
    else:
        model = fit(both, config, None if kind == "JEPA" else model)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, path)
    return model.eval()


def _digest(what: str, sizes: Sizes, files: tuple[str, ...]) -> str:
    root = Path(__file__).parents[1]
    code = b"".join((root / f).read_bytes() for f in files)
    counted = {k: v for k, v in asdict(replace(sizes, seeds=1)).items() if k != "rivals"}
    facts = json.dumps([what, counted])
    return hashlib.sha256(code + facts.encode()).hexdigest()[:12]
