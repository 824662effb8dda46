"""The plants of `benchmarks.site` against what was published of them, and the benchmark's own parts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.site.column.column import ColumnA
from benchmarks.site.plants import PLANTS, site_plant
from benchmarks.site.sensors import Analyser
from benchmarks.site.tanks.tanks import MinimumPhase, NonminimumPhase
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
