"""The control benchmark compares what it says it compares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import control
from benchmarks.control_hostile import hostile, hottest
from benchmarks.control_reactor import Replay
from benchmarks.control_reactor_controllers import JEPA, LINEAR, NOMINAL, PID, make, shipped_checkpoint
from benchmarks.control_reactor_shifted import NOISE, Job, Kind, play, table, upper
from benchmarks.control_vandevusse import PLANTS, TARGET, TRUE, VanDeVusse, jepa, run
from benchmarks.report import Report
from controllers.baselines.nmpc import NmpcController
from controllers.evaluation.reactor import SafetyScenario, safety, tracking, violations
from plant.spec import PlantSpec, load_spec

KIND = Kind("a shift", 0.15, (0.0, 0.0), {JEPA: (2, 1), NOMINAL: (1, 0), LINEAR: (1, 0)})


@pytest.fixture(scope="module")
def bare() -> PlantSpec:
    return load_spec("reactor_bare")


def test_an_unknown_plant_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        control.main(["--plant", "kettle"])
    assert "kettle" in capsys.readouterr().err


def test_recorded_moves_score_what_they_scored(bare: PlantSpec) -> None:
    value, runs = tracking(bare, make(PID, 1, scored=True, quick=True), "A", preview=False, noise=0.0)
    again, _ = tracking(bare, Replay(bare, runs.moves[0]), "A", preview=False, noise=0.0)
    assert again[0] == pytest.approx(value[0], abs=1e-9)


def found(error: list[float], offset: list[float], avoidable: list[int]) -> dict[str, np.ndarray]:
    n = len(error)
    return {
        "error": np.array(error), "offset": np.array(offset), "reachable": np.ones(n), "broke": np.array(avoidable),
        "avoidable": np.array(avoidable),
    }  # fmt: skip


def test_pairs_are_those_both_have_met() -> None:
    """The second batch, which NMPC has not met, wins nothing; an offset counts where the run stayed whole, without noise."""
    jobs = {
        Job(KIND, JEPA, 1, 4, NOISE, False): found([1, 1, 1, 5], [9] * 4, [0] * 4),
        Job(KIND, JEPA, 2, 4, NOISE, False): found([0] * 4, [9] * 4, [0, 0, 0, 1]),
        Job(KIND, JEPA, 1, 4, 0.0, False): found([1] * 4, [0.0006, 0.0, 0.0, 9.0], [0, 0, 0, 1]),
        Job(KIND, NOMINAL, 1, 4, NOISE, False): found([2] * 4, [9] * 4, [0] * 4),
        Job(KIND, LINEAR, 1, 4, NOISE, False): found([1, 3, 3, 3], [9] * 4, [1, 0, 0, 0]),
    }
    report = Report("test")
    table(report, KIND, jobs, barred=True)
    shown = {what: (met, text) for what, met, text in report.bars}
    (largest, avoidable, pairs) = shown.values()
    assert pairs == (False, "0.75 (bar >= 0.8)")
    assert largest == (True, "0.0005 (bar <= 0.001)")
    assert avoidable == (False, "1 (bar <= 0)")
    rows = {row[0]: row for row in report.tables[0][2]}
    assert rows[JEPA][1] == 8
    assert rows[LINEAR][3] == "50.0% of 4"


def test_the_bound_of_a_rate() -> None:
    assert upper(0, 500) == pytest.approx(1 - 0.05 ** (1 / 500))
    assert 0.002 < upper(1, 500) < 0.01
    assert upper(5, 5) == 1.0


def test_jepa_beats_nmpc_that_believes_in_nominal_parameters() -> None:
    """Two drifted reactors, no noise: the one that learns its offset ends at the target, the other does not."""
    mine, other = (play(Job(KIND, name, 11, 2, 0.0, True)) for name in (JEPA, NOMINAL))
    assert mine["reachable"].all()
    assert mine["offset"].max() < 1e-3 < other["offset"].max()
    assert (mine["error"] < other["error"]).all()


def test_the_attack_is_real_and_the_guardrails_hold_it(bare: PlantSpec) -> None:
    """A rare run is lost (the benchmark's table has the count, of 500); without guardrails each one is."""
    scenario = SafetyScenario.draw(24, 3)
    far = np.full_like(scenario.targets, hottest(bare, "T").targets[0].value)
    broke = {}
    for on in (False, True):
        runs = safety(bare, hostile(shipped_checkpoint(), "T", 24, guardrails=on), replace(scenario, targets=far))
        broke[on] = violations(bare, runs, scenario)
    assert broke[False][0].all()
    assert broke[True][1].sum() <= 1


def test_do_mpcs_example() -> None:
    """NMPC told of the kinetics is near the best there is; JEPA-MPC is not far from it, and ends without an offset."""
    spec, plants = load_spec("vandevusse"), PLANTS[:1]
    true = NmpcController(spec, VanDeVusse(), parameters=plants, suppression=0.5, substeps=5)
    cost = {}
    for name, controller in ((JEPA, jepa(1)), (TRUE, true)):
        _, product = run(spec, controller, plants)
        cost[name] = ((product - TARGET) ** 2).sum(1)
        assert np.abs(product[:, -1] - TARGET).max() < 1e-3
    assert (cost[TRUE] <= 1.01 * cost[JEPA]).all()
    assert cost[JEPA][0] <= 0.0046
