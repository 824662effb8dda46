"""The plants of `benchmarks.site` against what was published of them, and the benchmark's own parts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.outcomes import Outcome, shown, tabulate
from benchmarks.report import Report
from benchmarks.site.bench import QUICK, Bench
from benchmarks.site.column.column import ColumnA
from benchmarks.site.economics import optimum, wanted
from benchmarks.site.history import Part, fold_s, history_of
from benchmarks.site.loop import WARM, lived
from benchmarks.site.plants import PLANTS, controller_config, history_scenario, site_plant
from benchmarks.site.running import worked
from benchmarks.site.sensors import Analyser
from benchmarks.site.tanks.tanks import MinimumPhase, NonminimumPhase
from controllers.contracts import Decision, Observation, Status, Targets
from historian import Historian
from models.dataset import load_runs
from plant.spec import PlantSpec
from simulators.contract import Array, Simulator
from simulators.namespaces import NumpyNamespace
from simulators.scenario import load_scenario
from simulators.steady import steady_state
from simulators.stepping import ErrorControlled, stepper_of

OWN = ("tanks_minimum", "tanks_nonminimum", "column")


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlantSpec]:
    folder = tmp_path_factory.mktemp("site")
    return {name: site_plant(name, folder) for name in PLANTS}


def usual(plant: Simulator) -> tuple[Array, Array, Array]:
    """Moves, disturbances and parameters (1 x n each)."""
    return tuple(np.array([v], float) for v in (plant.u0, plant.d0, plant.p0))  # type: ignore[return-value]


def gains(plant: Simulator, outputs: tuple[str, ...], nudge: float) -> Array:
    """Static gains (outputs x moves) at the usual operating point."""
    u, d, p = usual(plant)
    rows = [plant.names.y.index(name) for name in outputs]

    def at(moves: Array) -> Array:
        x = steady_state(plant, moves, d, p, plant.initial(u, d, p))
        return np.array(plant.outputs(x[0], moves[0], d[0], p[0], NumpyNamespace()), float)[rows]

    return np.stack([(at(u + nudge * e) - at(u - nudge * e)) / (2 * nudge) for e in np.eye(u.shape[1])], 1)


def relative_gain(matrix: Array) -> float:
    return float((matrix * np.linalg.inv(matrix).T)[0, 0])


def test_the_column_is_column_a() -> None:
    column = ColumnA()
    u, d, p = usual(column)
    x = column.initial(u, d, p)
    assert x[0, [0, 40]] == pytest.approx([0.01, 0.99], abs=1e-6)
    assert x[0, 41:] == pytest.approx(0.5, abs=1e-6)
    # Skogestad 1997: linearised gains of the LV configuration, RGA about 35, dominant time constant 194 min.
    found = gains(column, ("XD", "XB"), 1e-5)
    assert found == pytest.approx(np.array([[0.8754, -0.8618], [1.0846, -1.0982]]), abs=2e-4)
    assert relative_gain(found) == pytest.approx(35.9, abs=0.2)

    def rates(states: Array) -> Array:
        return np.array(column.derivative(list(states), u[0], d[0], p[0], NumpyNamespace()), float)

    matrix = np.stack([(rates(x[0] + 1e-6 * e) - rates(x[0] - 1e-6 * e)) / 2e-6 for e in np.eye(82)], 1)
    assert -1 / np.linalg.eigvals(matrix).real.max() == pytest.approx(194, abs=1)


def test_the_tanks_are_johanssons() -> None:
    for plant, levels, phase in (
        (MinimumPhase(), (12.4, 12.7, 1.8, 1.4), 1.40),
        (NonminimumPhase(), (12.6, 13.0, 4.8, 4.9), -0.64),
    ):
        u, d, p = usual(plant)
        assert plant.initial(u, d, p)[0] == pytest.approx(
            levels, abs=0.2
        )  # the paper's, to what its voltages are rounded to
        assert relative_gain(gains(plant, ("LT1", "LT2"), 1e-4)) == pytest.approx(phase, abs=0.01)


@pytest.mark.parametrize("kind", [ColumnA, MinimumPhase, NonminimumPhase])
def test_the_fixed_step_keeps_its_accuracy(kind: type[Simulator]) -> None:
    plant = kind()
    u, d, p = usual(plant)
    x, moved = plant.initial(u, d, p), u * [[1.02, 1.0]]
    kernel, reference = stepper_of(kind), ErrorControlled(plant)
    for _ in range(20):
        x, after = kernel.advance(x, moved, d, p, 60.0)[0], reference.advance(x, moved, d, p, 60.0)[0]
        assert x == pytest.approx(after, rel=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_plants_have_what_a_site_has(specs: dict[str, PlantSpec], name: str) -> None:
    spec = specs[name]
    assert 12 <= len(spec.tags) <= 25
    for kind in (spec.guardrails, spec.targets, spec.zones, spec.regulatory.loops):
        assert kind
    for scenario in ("history", "operation"):
        load_scenario(scenario, spec)


def test_an_analyser_answers_late_and_holds() -> None:
    analyser = Analyser(0.0, period_s=180.0, dead_time_s=240.0)
    analyser.start(1, np.random.default_rng(0))
    shown = []
    for k in range(12):
        analyser.see(60.0 * k, np.array([float(k)]))
        shown.append(float(analyser.read()[0]))
    assert shown == [0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 6, 6]


def test_folds_are_held_out_by_time_and_a_part_of_each_is_a_test(specs: dict[str, PlantSpec], tmp_path: Path) -> None:
    spec = specs["column"]
    path = history_of(spec, history_scenario("column", spec), 8.0, tmp_path / "history.db", 1)
    with Historian(path, spec.name, read_only=True) as store:
        whole = store.runs()
        assert whole["kind"].to_list() == ["recorded", "excitation"] * 4
        parts = [Part(store, fold, fold_s(spec, 8.0), inside=True).runs()["id"].to_list() for fold in range(4)]
        assert sorted(itertools.chain(*parts)) == whole["id"].to_list()
        assert all(len(p) == 2 for p in parts)
        rest = Part(store, 1, fold_s(spec, 8.0), inside=False).runs()["id"].to_list()
        assert set(rest) == set(whole["id"]) - set(parts[1])
        runs = load_runs(store, spec)
    steps = {r.kind: np.nanstd(np.diff(r.applied, axis=0)) for r in runs}
    assert steps["excitation"] > steps["recorded"] > 0
    analyser = np.isfinite(np.concatenate([r.measured[:, 0] for r in runs])).mean()
    assert analyser == pytest.approx(1 / 3, abs=0.03)


class Blind:
    """A controller that keeps the moves it finds and says of its plans what it is told to, sample by sample."""

    horizon = 1

    def __init__(self, spec: PlantSpec, says: dict[int, tuple[Status, float]]) -> None:
        self._spec, self._says, self._k = spec, says, -1

    def reset(self) -> None:
        self._k = -1

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        self._k += 1
        status, violation = self._says.get(self._k, (Status.FEASIBLE, 0.0))
        made = Decision.of_moves(self._spec, observation.applied, 0.0)
        batch = len(made.moves)
        return replace(made, status=(status,) * batch, violation=np.full(batch, violation))


def test_plants_go_back_to_their_own_loops_where_the_supervisor_would_shed(specs: dict[str, PlantSpec]) -> None:
    spec = specs["tanks_minimum"]
    samples = WARM + 40
    goals = np.tile([t.value for t in spec.targets], (2, samples, 1)).astype(float)
    still = [(load_scenario("steady", spec), 2)]
    broken = {k: (Status.RECOVERY, 2.0) for k in range(WARM + 5, WARM + 30)}
    for says, shed, why in (
        ({}, samples, ""),
        ({k: (Status.RECOVERY, 0.5) for k in broken}, samples, ""),  # less than one scale: executed
        ({k: (Status.TIGHT, 9.0) for k in broken}, samples, ""),
        (broken, WARM + 9, "plans in a row"),
        ({WARM + 3: (Status.INFEASIBLE, 0.0)}, WARM + 3, "no answer"),
    ):
        done = lived(spec, still, samples, goals, lambda _, says=says: Blind(spec, says))
        assert done.shed.tolist() == [shed] * 2
        assert all(why in cause for cause in done.causes)
        assert not done.tripped.any()


def test_the_plants_own_loops_hold_their_targets(specs: dict[str, PlantSpec]) -> None:
    spec = specs["tanks_minimum"]
    goals = np.full((1, 200, 1), 13.0)
    done = lived(spec, [(load_scenario("steady", spec), 1)], 200, goals)
    assert done.true["LT1"][0, -50:] == pytest.approx(13.0, abs=0.15)
    assert done.true["LT2"][0, -50:] == pytest.approx(12.8, abs=0.15)


def test_the_cheapest_column_stands_at_both_limits(specs: dict[str, PlantSpec]) -> None:
    moves, cost = optimum(wanted(specs["column"]))
    column = ColumnA()
    _, d, p = usual(column)
    x = steady_state(column, np.array([moves]), d, p, column.initial(np.array([column.u0]), d, p))
    assert x[0, 40] == pytest.approx(0.985, abs=1e-5)
    assert x[0, 0] == pytest.approx(0.015, abs=1e-5)
    assert cost < 43.0


def test_a_row_runs_from_end_to_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(QUICK, folds=((4.0, 1),)))
    outcomes, _ = worked(bench, "known_moves", "column")
    assert [o.met for o in outcomes] == [True]


def test_what_is_only_shown_has_no_bar() -> None:
    report = Report("test")
    tabulate(report, "row", {"a": [shown("told", 7.0), Outcome("asked", 2.0, 1.0)]}, 0.0)
    assert [met for _, met, _ in report.bars] == [False]
    assert report.tables[0][2][0][:4] == ["a", "told", "7", ""]


@pytest.mark.parametrize("name", OWN)
def test_a_plants_controller_speaks_of_its_own_mvs(specs: dict[str, PlantSpec], name: str) -> None:
    assert set(controller_config(name).planner.work) == {t.name for t in specs[name].mvs}
