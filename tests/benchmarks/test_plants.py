"""The plant benchmarks' own behaviour: bars that are enforced, bad input in one line, peers that cannot be had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import plants, simulation_speed
from benchmarks.peers import environment as peers
from benchmarks.report import Report
from benchmarks.validation import reactor, vandevusse
from benchmarks.validation.sequences import crossing_s, held, relative_error
from plant.errors import SpecError
from plant.spec import load_spec
from simulators.compiled import Kernel
from simulators.reactor import BareReactor
from simulators.registry import simulator_of
from simulators.stepping import stepper_of
from simulators.vandevusse import VanDeVusse

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four short sequences instead of a hundred."""
    case = vandevusse.sequences(4)
    short = type(case)(case.spec, case.x0, case.u[:8], case.d[:8], case.p)
    monkeypatch.setattr(vandevusse, "sequences", lambda: short)


ARGUMENTS = ["--only", "vandevusse", "--quick", "--no-peers", "--check"]


@pytest.mark.usefixtures("few")
def test_check_passes_fails_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plants.json"
    assert plants.main([*ARGUMENTS, "--json", str(path)]) == 0
    assert "met: vandevusse: relative error" in path.with_suffix(".md").read_text()
    monkeypatch.setattr(vandevusse, "BAR_RELATIVE", 1e-15)
    assert plants.main(ARGUMENTS) == 1
    assert plants.main(ARGUMENTS[:-1]) == 0, "without --check a missed bar is only shown"


@pytest.mark.usefixtures("few")
def test_a_step_that_is_too_long_misses_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = Kernel(type("Coarse", (VanDeVusse,), {"step_s": 6.0})())
    monkeypatch.setattr(vandevusse, "stepper_of", lambda kind: coarse)
    assert plants.main(ARGUMENTS) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "error: --data nowhere: no such folder."),
        (["--data", "."], "no jt9d_npss_points.csv in it"),
        (["--only", "turbofan"], "no folder of reference data"),
    ],
)
def test_bad_data_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert plants.main(arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_an_environment_that_cannot_be_made_says_why_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess:
        asked.append(command)
        failed = "install" in command
        return subprocess.CompletedProcess(
            command, int(failed), "", "looking\nERROR: no such thing\n" if failed else ""
        )

    monkeypatch.setattr(peers.subprocess, "run", pip)
    for _ in range(2):
        with pytest.raises(SpecError, match=r"comparison environment odd: .*ERROR: no such thing.* --no-peers"):
            peers.environment("odd", ["odd==1"])
    assert sum("venv" in c for c in asked) == 2, "a failed one is made again"


def test_an_environment_is_made_once_for_its_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def works(command: list[str], **_: object) -> subprocess.CompletedProcess:
        asked.append(command)
        if "venv" in command:
            Path(command[-1], "bin").mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(peers.subprocess, "run", works)
    first = peers.environment("odd", ["odd==1"])
    assert peers.environment("odd", ["odd==1"]) == first
    assert len(asked) == 2
    assert asked[1][0] == str(first)
    assert peers.environment("odd", ["odd==2"]) != first


def test_the_reactors_own_way_keeps_its_bars_on_a_few_runs() -> None:
    case = reactor.sequences(6, seed=3)
    truth = reactor.Truth.of(case.reference(BareReactor(), 1e-11))
    assert 0 < truth.ignites.sum() < len(case)
    label, away, _, ignition, peak, ended, _ = reactor._row(case, truth, stepper_of(BareReactor), "ours")
    assert label == "ours"
    assert ended == 0
    assert away <= reactor.BAR_RELATIVE
    assert ignition <= reactor.BAR_IGNITION_S
    assert peak <= reactor.BAR_PEAK_K
    away = truth.away(26.0)
    np.testing.assert_array_equal(away[:, ~truth.ignites], True)
    assert (truth.reference.states[:, :, 1][away] <= reactor.IGNITED_K).all()


def test_crossing_is_the_first_upward_passage() -> None:
    times = np.arange(5.0)
    values = np.array([[0.0, 0.0, 3.0], [1.0, 0.5, 3.0], [3.0, 0.0, 3.0], [0.0, 0.5, 3.0], [5.0, 0.0, 3.0]])
    np.testing.assert_allclose(crossing_s(times, values, 2.0), [1.5, np.nan, np.nan])
    assert relative_error(np.array([[[1.0, 2.2]]]), np.array([[[1.0, 2.0]]])).item() == pytest.approx(0.1)


def test_levels_are_held() -> None:
    levels = held(np.random.default_rng(0), 1000, 3, 5.0, 10.0, 5.0)
    assert levels.min() >= 5.0
    assert levels.max() <= 10.0
    assert (np.diff(levels, axis=0) != 0).mean() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("plant", ["vandevusse", "glucose"])
def test_the_speeds_are_of_the_same_equations(plant: str) -> None:
    """What is timed against each other arrives at the same state."""
    spec = load_spec(plant)
    simulator = simulator_of(spec)
    load = simulation_speed.work(simulator, 3)
    kernel, _ = Kernel(simulator).advance(*load, spec.sample_time_s)
    plain = simulation_speed.NumpySteps(simulator).advance(*load, spec.sample_time_s)
    np.testing.assert_allclose(plain, kernel, rtol=1e-10, atol=1e-12)


def test_speed_bars_are_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_speed, "PLANTS", ("vandevusse",))
    monkeypatch.setattr(simulation_speed, "BATCHES", (1, 2))
    monkeypatch.setattr(simulation_speed, "BAR_NUMPY", 1e12)
    report = Report("speed")
    simulation_speed.compare(report, quick=True)
    assert report.finish(None, check=True) == 1
    assert [met for what, met, _ in report.bars if what.startswith("vandevusse")] == [False]
