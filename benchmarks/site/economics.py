"""The column with its purities in zones and reflux and boil-up priced: what the products cost after the controller has settled, over what
the true equations say is the cheapest that the zones allow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.outcomes import Outcome, none, shown
from benchmarks.site.bench import Bench
from benchmarks.site.column.column import ColumnA
from benchmarks.site.loop import WARM, lived
from benchmarks.site.plants import controller_config
from homeostat.chosen import controller_of
from plant.spec import PlantSpec
from plant.wants import Zone
from simulators.scenario import scenario_of
from simulators.steady import steady_state
from simulators.stepping import ErrorControlled

Array = NDArray[np.float64]
TITLE = "Economics: reflux and boil-up priced, purities in zones"
SHARE, NOTHING, OUTSIDE = 0.98, 1.002, 0.02
HOURS, JUDGED_FROM = (
    45.0,
    0.75,
)  # of a run, and the share of it after which it is judged: three of the column's settling times
_PURE = {"XD": (0.985, 0.995), "XB": (0.005, 0.015)}


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {"column": lambda: case(bench, False), "column, a wrong sign planted": lambda: case(bench, True)}


def wanted(spec: PlantSpec) -> PlantSpec:
    """The column as its economists want it: no targets, zones on the purities, the prices of its YAML."""
    zones = tuple(
        Zone(tag=tag, low=low, high=high, limits=(low - 0.005, high + 0.005), rank=1, scale=0.001)
        for tag, (low, high) in _PURE.items()
    )
    return spec.model_copy(update={"targets": (), "zones": zones})


def optimum(spec: PlantSpec) -> tuple[Array, float]:
    """The cheapest moves (n_mv,) at rest that keep both zones, and their cost an hour, by the true equations."""
    column, price = ColumnA(), np.array([p.per_unit for p in spec.prices])
    d, p = np.array([column.d0]), np.array([column.p0])
    start = column.initial(np.array([column.u0]), d, p)
    names, outputs = list(column.names.y), ErrorControlled(column).outputs

    def purities(moves: Array) -> Array:
        u = np.array([moves])
        y = outputs(steady_state(column, u, d, p, start), u, d, p)[0]
        return np.array([y[names.index(tag)] for tag in _PURE])

    def room(moves: Array) -> Array:
        found = purities(moves)
        ends = np.array(list(_PURE.values()))
        return 1e3 * np.concatenate([found - ends[:, 0], ends[:, 1] - found])

    found = minimize(
        lambda moves: float(price @ moves), np.array(column.u0), method="SLSQP",
        constraints=[{"type": "ineq", "fun": room}], options={"ftol": 1e-10, "maxiter": 200},
    )  # fmt: skip
    return found.x, float(price @ found.x)


def case(bench: Bench, wrong_sign: bool) -> list[Outcome]:
    """The column at rest, from its usual set-points on. With `wrong_sign` the model's own gain of XB to the boil-up is taken for its
    opposite, against what the data say."""
    spec = wanted(bench.simulated("column"))
    checkpoint = bench.model("column", bench.settings.most)
    checkpoint.model.spec = wanted(bench.spec("column"))
    if wrong_sign:
        checkpoint = replace(checkpoint, facts=turned(checkpoint.facts, "XB", "V"))
    seeds, hours = bench.settings.seeds, min(HOURS, max(2.0, bench.settings.loop_hours))
    samples = round(hours * 3600 / spec.sample_time_s) + WARM
    still = scenario_of({"name": "still", "description": "nothing happens", "duration_s": samples * spec.sample_time_s})
    planner = controller_of(checkpoint.model.spec, controller_config("column"), checkpoint, seeds)
    goals = np.empty((seeds, samples, 0))
    watched = (checkpoint.model, checkpoint.surprise)
    done = lived(spec, [(still, seeds)], samples, goals, lambda _: planner, watched, bench.seed)
    late = WARM + round((samples - WARM) * JUDGED_FROM)
    price = np.array([p.per_unit for p in spec.prices])
    cost = float((done.moves[:, late:] @ price).mean())
    moves, best = optimum(spec)
    usual = float(price @ np.array(ColumnA.u0))
    outside = max(
        float(np.maximum(low - done.true[tag][:, late:], done.true[tag][:, late:] - high).clip(0).mean()) / (high - low)
        for tag, (low, high) in _PURE.items()
    )
    money = f"{spec.prices[0].currency}/h"
    said = (
        f"{cost:.2f} against {best:.2f} {money} at L {moves[0]:.3f}, V {moves[1]:.3f}; the set-points cost {usual:.2f}"
    )
    if wrong_sign:
        judged = Outcome("paid over what the set-points cost", cost / usual, NOTHING, note=said)
    else:
        judged = Outcome("the true optimum's cost over what was paid", best / cost, SHARE, at_least=True, note=said)
    return [
        judged,
        shown("share of what can be gained over the set-points", (usual - cost) / (usual - best)),
        Outcome("mean distance outside a purity's zone, of its width", outside, OUTSIDE),
        none("sheds", float((done.shed < samples).sum()), ", ".join(sorted({w for w in done.causes if w}))),
    ]


def turned(facts: dict[str, Any], cv: str, mv: str) -> dict[str, Any]:
    """A checkpoint's facts in which the model's own gain of `cv` to `mv` has the other sign at every operating point."""
    gains = copy.deepcopy(facts["gains"])
    i, j = gains["cvs"].index(cv), gains["mvs"].index(mv)
    for point in gains["model"]:
        own = point[i][j]
        point[i][j] = None if own is None else -own
    return facts | {"gains": gains}
