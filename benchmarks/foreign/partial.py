"""Partial service: one of two MVs is an operator's, one of two CVs cannot be read, and the rest goes on, in lock-step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.foreign.bench import Bench
from benchmarks.foreign.example import Example, example
from benchmarks.outcomes import Cases, Outcome, yes
from controllers.contracts import Array, Controller, Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from simulators.plant import SimulatedPlant

BAR_RATIO = 1.3  # of linear MPC's mean error, told the same
_SAMPLES, _PLANTS = 160, 8
_STEPS = ((0, 0.0, 0.0), (20, 1.0, 0.0), (60, 1.0, -1.0), (100, -1.0, -0.5))  # from sample, cm above the usual levels
_BY_HAND = ((10, 9.0), (80, 11.0))  # what the operator makes of FC2 meanwhile, cm3/s


def cases(bench: Bench) -> Cases:
    return {
        "nothing lost": lambda: compared(bench, None, None),
        "FC2 in an operator's hands": lambda: compared(bench, 1, None),
        "LT2 lost": lambda: compared(bench, None, 1),
        "LT1 lost": lambda: compared(bench, None, 0),
    }


def compared(bench: Bench, dropped: int | None, lost: int | None) -> list[Outcome]:
    """The default planner beside linear MPC: the same plants, noise, targets, hands and losses."""
    made: Example = example(bench)
    scores, answered = {}, {}
    for name, make in (("jepa", made.jepa), ("linear", made.linear_mpc)):
        errors, sound = [], []
        for seed in range(max(1, bench.settings.seeds // 25)):
            error, good = driven(made, make, bench.seed + seed, dropped, lost)
            errors.append(error)
            sound.append(good)
        scores[name], answered[name] = float(np.mean(errors)), float(np.mean(sound))
    note = f"{scores['jepa']:.3f} against {scores['linear']:.3f} scales"
    return [
        Outcome("mean error, of linear MPC's", scores["jepa"] / scores["linear"], BAR_RATIO, note=note),
        yes("every sample has a plan", answered["jepa"] == 1.0, f"{answered['jepa']:.1%}"),
    ]


def driven(
    made: Example, make: Callable[[int], Controller], seed: int, dropped: int | None, lost: int | None
) -> tuple[float, float]:
    """Mean |error| in scales of the targets that are asked for, and the share of samples with a plan."""
    spec, batch = made.spec, _PLANTS
    plant, controller = SimulatedPlant(spec, 9000 + seed, batch), make(batch)
    low, high = limits_of(spec)
    usual, scale = (np.array([getattr(t, key) for t in spec.targets]) for key in ("value", "scale"))
    columns = [[t.name for t in spec.measured].index(t.tag) for t in spec.targets]
    applied = np.array(plant.moves)
    gone, out = np.zeros(len(spec.mvs), bool), np.zeros(len(usual), bool)
    if dropped is not None:
        gone[dropped] = True
    if lost is not None:
        out[lost] = True
    controller.reset()
    total, plans = [], 0
    for k in range(_SAMPLES):
        reading: dict[str, Array] = plant.measure()
        measured = np.stack([reading[t.name] for t in spec.measured], 1)
        if lost is not None:
            measured[:, columns[lost]] = np.nan
        wanted = usual + np.array(next(s[1:] for s in reversed(_STEPS) if k >= s[0]))
        if dropped is not None:
            applied[:, dropped] = next((v for at, v in reversed(_BY_HAND) if k >= at), spec.mvs[dropped].nominal)
        targets = Targets(np.tile(wanted, (batch, controller.horizon, 1)), low, high, gone, out)
        observation = Observation(k * spec.sample_time_s, measured, np.empty((batch, 0)), applied)
        decision = controller.decide(observation, targets)
        plans += sum(s in (Status.OPTIMAL, Status.FEASIBLE, Status.TIGHT) for s in decision.status)
        moves = np.where(gone, applied, decision.moves)
        plant.advance(moves, spec.sample_time_s)
        applied = np.array(moves)
        true = plant.true_outputs()
        error = np.abs(np.stack([true[t.tag] for t in spec.targets], 1) - wanted) / scale
        total.append(error[:, ~out])
    return float(np.mean(total)), plans / (_SAMPLES * batch)
