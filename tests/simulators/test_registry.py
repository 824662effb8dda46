"""A simulator of one's own, brought by an entry point: the example in `examples/two_tanks`, as another package would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from plant.errors import SpecError
from plant.spec import load_spec
from simulators.registry import simulator_of, simulators
from tests.simulators.plug_in import LAG, installed, plant_file

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "two_tanks"
SPEC = load_spec(EXAMPLE / "two_tanks.yaml")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    folder = installed(tmp_path / "site", **project["entry-points"]["homeostat.simulators"])
    shutil.copy(EXAMPLE / "two_tanks.py", folder)
    return folder


def test_the_example_runs_through_the_command_line(site: Path, tmp_path: Path) -> None:
    picture = tmp_path / "leak.png"
    argv = ["simulate", "two_tanks.yaml", "--scenario", "leak.yaml", "--plot", str(picture)]
    done = subprocess.run(
        [sys.executable, "-m", "homeostat", *argv], cwd=EXAMPLE, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1800 s of plant time" in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_example_is_short() -> None:
    assert (
        len((EXAMPLE / "two_tanks.py").read_text().splitlines())
        + len((EXAMPLE / "pyproject.toml").read_text().splitlines())
        < 60
    )


def test_a_simulator_nobody_brings_is_refused() -> None:
    with pytest.raises(SpecError, match=r"'two_tanks' is not a simulator.*Known simulators: reactor, reactor_bare"):
        simulator_of(SPEC)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:TwoTanks", "cannot be loaded: ModuleNotFoundError"),
        ("decimal:Decimal", "makes no Simulator.*derive from homeostat.Simulator"),
    ],
)
def test_a_plug_in_that_does_not_work_is_named(
    target: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed(tmp_path, two_tanks=target)))
    assert simulators()[-1] == "two_tanks"
    with pytest.raises(SpecError, match=message):
        simulator_of(SPEC)


@pytest.mark.parametrize(("tick_s", "wrong"), [(10.0, True), (1.5, True), (4.0, True), (2.0, False), (0.5, False)])
def test_a_scan_is_a_whole_number_of_ticks(
    tick_s: float, wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said when the plant is loaded, by the field's name; a simulator would stop in the middle of a tick."""
    module = f"ticking_{tick_s:g}".replace(".", "_")
    site = installed(tmp_path / "site", ticking=f"{module}:Lag")
    (site / f"{module}.py").write_text(LAG.replace("step_s = 1.0, 1.0", f"step_s, tick_s = 1.0, 0.5, {tick_s}"))
    monkeypatch.syspath_prepend(str(site))
    spec = load_spec(plant_file(tmp_path, simulator="ticking"))
    if not wrong:
        assert simulator_of(spec).tick_s == tick_s
        return
    with pytest.raises(SpecError, match=rf"mill: scan_time_s: scan_time_s \(2\) .* tick_s \({tick_s:g}\)") as caught:
        simulator_of(spec)
    assert caught.value.fix
