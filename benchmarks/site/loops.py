"""AUTO for two days on tanks and column, against their own loops and a plain linear MPC on the same data: undisturbed, under four
disturbances, with 5 % more feed, and with a change of target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.outcomes import Outcome, none, shown
from benchmarks.site.bench import Bench
from benchmarks.site.loop import WARM, Lived, lived
from benchmarks.site.plants import controller_config
from controllers.baselines.linear_mpc import LinearMpc
from controllers.baselines.simulator_nmpc import SimulatorNmpc
from homeostat.chosen import controller_of
from plant.spec import PlantSpec
from simulators.scenario import Scenario, scenario_of

Array = NDArray[np.float64]
TITLE = "Closed loop"
TARGET_SD, ZONE_SD, MEAN_SHARE, SETTLED = 1.1, 0.6, 0.1, 1.0
LITTLE_HOURS = 10.0  # of history that a model learned from, where that is asked
CONDITIONS = ("undisturbed", "four disturbances", "feed + 5 %", "target change")
OWN, AUTO, LINEAR = "own loops", "AUTO", "linear MPC"
_H = 3600.0


@dataclass(frozen=True)
class Course:
    """What is done to a plant: `disturbances` a name and its levels by the share of the run from which they hold; `feed` the one that is 5 % up, and
    `change` a target's tag and new value; it has settled within `grade` of that."""

    disturbances: dict[str, list[tuple[float, float]]]
    feed: tuple[str, float]
    change: tuple[str, float]
    grade: float


COURSES = {
    "column": Course(
        {
            "F": [(0.1, 1.08), (0.3, 1.0)],
            "zF": [(0.3, 0.46), (0.5, 0.5)],
            "qF": [(0.5, 0.92), (0.7, 1.0)],
        },
        ("F", 1.05),
        ("XD", 0.992),
        0.0005,
    ),
    "tanks_minimum": Course(
        {
            "supply": [(0.1, 0.9), (0.3, 1.0)],
            "inflow3": [(0.3, 0.8), (0.5, 0.0)],
            "leak1": [(0.5, 0.6), (0.7, 0.0)],
            "wear2": [(0.7, 0.92)],
        },
        ("supply", 1.05),
        ("LT1", 13.8),
        0.15,
    ),
}
_SLOW = {"column": ("V", 0.7, 90.0)}  # an MV that from that share of the run on follows with a lag of so many seconds


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    learned = {
        f"{plant}, {hours:g} h of history": lambda plant=plant, hours=hours: case(bench, plant, hours)
        for plant in COURSES
        for hours in dict.fromkeys((bench.settings.most, LITTLE_HOURS))
    }
    return learned | {f"{plant}, true equations": lambda plant=plant: true_case(bench, plant) for plant in COURSES}


def case(bench: Bench, plant: str, hours: float) -> list[Outcome]:
    """AUTO with a model of so many hours of history; with all of it against the others too."""
    spec, seeds = _unpriced(bench.simulated(plant)), bench.settings.loop_seeds
    samples = round(_hours(bench, plant) * _H / spec.sample_time_s) + WARM
    events, goals = asked(plant, spec, samples, seeds)
    checkpoint, config = bench.model(plant, hours), controller_config(plant)
    checkpoint.model.spec = _unpriced(checkpoint.model.spec)
    planner = controller_of(checkpoint.model.spec, config, checkpoint, len(goals))
    watched = (checkpoint.model, checkpoint.surprise)
    found = {AUTO: lived(spec, events, samples, goals, lambda _: planner, watched, bench.seed)}
    if hours < bench.settings.most:
        return _sheds(found[AUTO])
    found[OWN] = lived(spec, events, samples, goals, seed=bench.seed)
    linear = LinearMpc(bench.rival("arx", plant, hours), config.planner, len(goals))
    found[LINEAR] = lived(spec, events, samples, goals, lambda _: linear, seed=bench.seed)
    outcomes = [
        *_sheds(found[AUTO]),
        *_deviations(spec, found, seeds),
        *_changed(spec, COURSES[plant], found, seeds, samples),
    ]
    linear_sheds = float((found[LINEAR].shed < samples).sum())
    outcomes.append(shown("sheds of linear MPC", linear_sheds, "by the same rules"))
    return outcomes


def true_case(bench: Bench, plant: str) -> list[Outcome]:
    """NMPC with the true equations, states, disturbances and parameters, one seed and a quarter of the time: what could be had."""
    spec = _unpriced(bench.simulated(plant))
    samples = round(_hours(bench, plant) / 4 * _H / spec.sample_time_s) + WARM
    events, goals = asked(plant, spec, samples, 1)
    own, planner = lived(spec, events, samples, goals, seed=bench.seed), controller_config(plant).planner
    true = lived(
        spec, events, samples, goals, lambda plants: SimulatorNmpc(spec, plants.states, planner), seed=bench.seed
    )
    outcomes = [shown("sheds", float((true.shed < samples).sum()), "by the same rules")]
    for tag in [*(t.tag for t in spec.targets), *(z.tag for z in spec.zones)]:
        ratio = _sd(true.true[tag], 1) / _sd(own.true[tag], 1)
        said = ", ".join(f"{name} {r:.3f}" for name, r in zip(CONDITIONS, ratio, strict=False))
        outcomes.append(shown(f"true sd of {tag} over own loops', the worst", float(ratio.max()), said))
    return outcomes


def _unpriced(spec: PlantSpec) -> PlantSpec:
    """The plant without prices: what they are for is another row."""
    return spec.model_copy(update={"prices": ()})


def _hours(bench: Bench, plant: str) -> float:
    return bench.settings.loop_hours if plant == "column" else bench.settings.tank_hours


def asked(plant: str, spec: PlantSpec, samples: int, seeds: int) -> tuple[list[tuple[Scenario, int]], Array]:
    """`CONDITIONS`, each for so many plants, and their targets (batch x samples x n_target)."""
    events = [(scenario, seeds) for scenario in scenarios(plant, spec, samples)]
    goals = np.tile([t.value for t in spec.targets], (len(events) * seeds, samples, 1)).astype(float)
    tag, value = COURSES[plant].change
    goals[-seeds:, samples // 4 :, [t.tag for t in spec.targets].index(tag)] = value
    return events, goals


def scenarios(plant: str, spec: PlantSpec, samples: int) -> list[Scenario]:
    """`CONDITIONS` as scenarios, for a run of so many samples."""
    course, length = COURSES[plant], samples * spec.sample_time_s
    usual = {"description": "a row of the site's table", "duration_s": length}
    steps = {
        name: {"steps": [[share * length, level] for share, level in levels]}
        for name, levels in course.disturbances.items()
    }
    four: dict = {"disturbances": steps}
    if plant in _SLOW:
        mv, share, lag = _SLOW[plant]
        four["actuators"] = [{"mv": mv, "fault": "slow", "at_s": share * length, "lag_s": lag}]
    feed, level = course.feed
    more = {"disturbances": {feed: {"steps": [[0.1 * length, level]]}}}
    return [
        scenario_of(usual | {"name": name} | what)
        for name, what in (("undisturbed", {}), ("disturbed", four), ("feed", more), ("target", {}))
    ]


def _sheds(auto: Lived) -> list[Outcome]:
    samples = auto.moves.shape[1]
    why = {why for why, at in zip(auto.causes, auto.shed, strict=True) if at < samples}
    first = int(auto.shed.min())
    note = (
        f"first at sample {first}: {', '.join(sorted(why))}"
        if why
        else f"{auto.moves.shape[0]} runs of {samples} samples"
    )
    passed = float(sum((margin < 0).sum() for margin in auto.worst.values()))
    total = max(1, sum(auto.status.values()))
    said = ", ".join(f"{status} {count / total:.1%}" for status, count in sorted(auto.status.items()))
    return [
        none("sheds", float((auto.shed < samples).sum()), note),
        none("trips", float(auto.tripped.sum())),
        shown("guardrails truly passed", passed, said),
        shown("milliseconds a decision and plant", float(1e3 * np.median(auto.solve_s[WARM:]) / len(auto.moves))),
    ]


def _deviations(spec: PlantSpec, found: Mapping[str, Lived], seeds: int) -> list[Outcome]:
    """Of CVs at a target what instruments read, the worst condition counts: nobody comes below the noise. Of zoned CVs the true
    value, all conditions together: inside the zone a CV may be where it likes."""
    outcomes = []
    for t in spec.targets:
        deviations = {name: _sd(done.shown[t.tag], seeds) for name, done in found.items()}
        ratio = deviations[AUTO] / deviations[OWN]
        worst = int(ratio.argmax())
        said = "; ".join(f"{name} {v[worst]:.3g}" for name, v in deviations.items())
        note = f"{CONDITIONS[worst]}: {said}; noise {spec.tag(t.tag).noise:g}"
        outcomes.append(
            Outcome(f"sd of {t.tag} at its target over own loops'", float(ratio[worst]), TARGET_SD, note=note)
        )
        linear = float((deviations[LINEAR] / deviations[OWN]).max())
        outcomes.append(shown(f"sd of {t.tag} under linear MPC over own loops'", linear))
    for z in spec.zones:
        deviations = {name: _sd(done.true[z.tag], seeds) for name, done in found.items()}
        pooled = {name: float(np.sqrt((v**2).mean())) for name, v in deviations.items()}
        ratio = deviations[AUTO] / deviations[OWN]
        said = ", ".join(f"{name} {r:.3f}" for name, r in zip(CONDITIONS, ratio, strict=False))
        outcomes.append(
            Outcome(f"sd of {z.tag} in its zone over own loops'", pooled[AUTO] / pooled[OWN], ZONE_SD, note=said)
        )
        outcomes.append(shown(f"sd of {z.tag} under linear MPC over own loops'", pooled[LINEAR] / pooled[OWN]))
    widths = {t.tag: 2 * t.scale for t in spec.targets}
    widths |= {z.tag: (z.high or z.limits[1]) - (z.low or z.limits[0]) for z in spec.zones}
    for tag, width in widths.items():
        means = {name: _means(done.true[tag], seeds) for name, done in found.items()}
        gap = np.abs(means[AUTO] - means[OWN]) / width
        outcomes.append(Outcome(f"mean of {tag} off own loops', of its width", float(gap.max()), MEAN_SHARE))
    return outcomes


def _sd(shown_: Array, seeds: int) -> Array:
    """Root mean square over seeds of the deviations, a number for each condition but the change of target."""
    parts = shown_[: (len(CONDITIONS) - 1) * seeds, WARM:].reshape(len(CONDITIONS) - 1, seeds, -1)
    return np.sqrt((parts.std(2) ** 2).mean(1))


def _means(true: Array, seeds: int) -> Array:
    return true[: (len(CONDITIONS) - 1) * seeds, WARM:].reshape(len(CONDITIONS) - 1, seeds, -1).mean((1, 2))


def _changed(spec: PlantSpec, course: Course, found: Mapping[str, Lived], seeds: int, samples: int) -> list[Outcome]:
    """The change of a target: where it ends, how long it takes, and whether it stayed inside the guardrails."""
    tag, value = course.change
    began, seconds = samples // 4, {}
    for name, done in found.items():
        error = np.abs(done.true[tag][-seeds:, began:] - value)
        outside = error > course.grade
        seconds[name] = (
            np.array([np.flatnonzero(row)[-1] + 1 if row.any() else 0 for row in outside]) * spec.sample_time_s
        )
    end = np.abs(found[AUTO].true[tag][-seeds:, -samples // 5 :].mean(1) - value).max()
    worst = min(
        float((margin[-seeds:] / spec.scale(g)).min())
        for g, margin in ((g, found[AUTO].worst[g.name]) for g in spec.guardrails)
    )
    said = ", ".join(f"{name} {v.mean():.0f} s" for name, v in seconds.items())
    return [
        Outcome(
            f"{tag} changed: settled, over own loops' time",
            float(seconds[AUTO].mean() / max(seconds[OWN].mean(), spec.sample_time_s)),
            SETTLED,
            note=said,
        ),
        Outcome(f"{tag} changed: off grade at the end, of the grade", float(end / course.grade), 1.0),
        Outcome(f"{tag} changed: least margin to a guardrail, in its scales", worst, 0.0, at_least=True),
    ]
