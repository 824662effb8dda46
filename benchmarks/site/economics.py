"""The column with its purities in zones and reflux and boil-up priced: what the products cost after the controller has settled, over what
the true equations say is the cheapest that the zones allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.outcomes import Outcome, none, shown
from benchmarks.site.bench import Bench
from benchmarks.site.column.column import ColumnA
from benchmarks.site.loop import WARM, lived
from controllers.runtime.config import ControllerConfig
from homeostat.chosen import controller_of
from plant.spec import PlantSpec
from plant.wants import Zone
from simulators.scenario import scenario_of
from simulators.steady import steady_state
from simulators.stepping import ErrorControlled

Array = NDArray[np.float64]
TITLE = "Economics: reflux and boil-up priced, purities in zones"
SHARE = 0.98
HOURS, JUDGED_FROM = 30.0, 10.0  # of a run; three of the column's settling times
_PURE = {"XD": (0.985, 0.995), "XB": (0.005, 0.015)}


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {"column": lambda: case(bench)}


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


def case(bench: Bench) -> list[Outcome]:
    whole = bench.simulated("column")
    spec = wanted(whole)
    checkpoint = bench.model("column", bench.settings.most)
    seeds = bench.settings.seeds
    hours = min(HOURS, max(2.0, bench.settings.loop_hours))
    samples = round(hours * 3600 / spec.sample_time_s) + WARM
    still = scenario_of({"name": "still", "description": "nothing happens", "duration_s": samples * spec.sample_time_s})
    site = wanted(bench.spec("column"))
    model = checkpoint.model
    model.spec = site
    planner = controller_of(site, ControllerConfig(), checkpoint, seeds)
    goals = np.empty((seeds, samples, 0))
    done = lived(spec, [(still, seeds)], samples, goals, lambda _: planner, (model, checkpoint.surprise), bench.seed)
    late = min(samples - 1, WARM + round(JUDGED_FROM * 3600 / spec.sample_time_s)) if hours >= HOURS else samples // 2
    price = np.array([p.per_unit for p in spec.prices])
    cost = float((done.moves[:, late:] @ price).mean())
    moves, best = optimum(spec)
    usual = float(price @ np.array(ColumnA.u0))
    outside = max(
        float(np.maximum(low - done.true[tag][:, late:], done.true[tag][:, late:] - high).mean()) / (high - low)
        for tag, (low, high) in _PURE.items()
    )
    gained = (usual - cost) / (usual - best)
    said = f"{cost:.2f} against {best:.2f} {spec.prices[0].currency}/h at L {moves[0]:.3f}, V {moves[1]:.3f}; set-points cost {usual:.2f}"
    return [
        Outcome("the true optimum's cost over what was paid", best / cost, SHARE, at_least=True, note=said),
        shown("share of what can be gained over the set-points", gained),
        shown("mean distance outside a purity's zone, of its width", max(0.0, outside)),
        none("sheds", float((done.shed < samples).sum()), ", ".join(sorted({w for w in done.causes if w}))),
    ]
