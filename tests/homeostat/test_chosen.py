"""A controller's YAML puts another controller behind the guardrails: PID loops, or one that an installed package brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controllers.baselines.min_max import MinMaxController
from controllers.baselines.nmpc import NmpcController
from controllers.baselines.pid import PidController
from controllers.baselines.standby import Standby
from controllers.contracts import Controller, Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.mpc import JepaMpc
from controllers.runtime.config import load_config
from homeostat.checkpoints import load_checkpoint
from homeostat.chosen import controller_of, other_of
from plant.errors import SpecError
from plant.spec import load_spec

PLUGIN = """
from homeostat import Decision
class Hottest:
    horizon = 1
    def __init__(self, spec):
        self.spec = spec
    def reset(self):
        pass
    def decide(self, observation, targets):
        return Decision.of_moves(self.spec, observation.applied * 0 + 310.0, 0.0)
def broken(spec):
    return 1 / 0
def nothing(spec):
    return None
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "controller.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with controllers, as pip would leave it."""
    info = tmp_path / "site" / "hot-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hot\nVersion: 0.1\n")
    names = "\n".join(f"{name} = hot_plugin:{what}" for name, what in (("hottest", "Hottest"), ("broken", "broken"), ("nothing", "nothing")))  # fmt: skip
    (info / "entry_points.txt").write_text(f"[homeostat.controllers]\n{names}\n")
    (tmp_path / "site" / "hot_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def test_without_a_filter_it_is_the_planner(tmp_path: Path) -> None:
    spec = load_spec("reactor_bare")
    config = load_config(written(tmp_path, "preview: true\n"))
    assert isinstance(controller_of(spec, config, load_checkpoint(spec)), JepaMpc)


def test_pid_loops_behind_the_guardrails(tmp_path: Path) -> None:
    spec = load_spec("reactor_bare")
    text = "filter: {pid: [{mv: Tc, pv: Ca, gain: -120.0, integral_s: 90.0}], weights: {Tc: 2.0}}\nplanner: {horizon: 10}\n"
    controller = controller_of(spec, load_config(written(tmp_path, text)), load_checkpoint(spec))
    assert isinstance(controller, GuardrailFilter)
    assert isinstance(controller.inner, PidController)
    assert controller.horizon == 10
    assert controller.calibration.runs >= 100, "the checkpoint's own margins"


@pytest.mark.usefixtures("site")
def test_a_controller_of_an_installed_package(tmp_path: Path) -> None:
    spec = load_spec("reactor_bare")
    config = load_config(written(tmp_path, "filter: {controller: hottest}\n"))
    controller = controller_of(spec, config, load_checkpoint(spec))
    low, high = limits_of(spec)
    seen = Observation(0.0, np.array([[0.87, 345.0]]), np.array([[350.0]]), np.array([[300.0]]))
    decision = controller.decide(seen, Targets(np.full((1, 1, 1), 0.87), low, high))
    assert decision.moves[0, 0] < 310.0
    assert decision.energy["moved"][0] > 0


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("name", "said"),
    [("coldest", r"0 installed controllers are called 'coldest'.*hottest.*min_max, nmpc"), ("broken", "cannot be made: ZeroDivision"),
     ("nothing", "makes no Controller")],
)  # fmt: skip
def test_what_cannot_be_used_is_said(tmp_path: Path, name: str, said: str) -> None:
    spec = load_spec("reactor_bare")
    config = load_config(written(tmp_path, f"filter: {{controller: {name}}}\n"))
    with pytest.raises(SpecError, match=said):
        controller_of(spec, config, load_checkpoint(spec))


@pytest.mark.parametrize(
    "text", ["filter: {}\n", "filter: {weights: {Tc: 0}, controller: x}\n", "filter: {pids: []}\n"]
)
def test_a_filter_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match="filter"):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("plant", "name", "kind"), [("reactor", "nmpc", NmpcController), ("turbofan", "min_max", MinMaxController)]
)
def test_a_baseline_of_the_library_filtered_and_standing_by(
    tmp_path: Path, plant: str, name: str, kind: type[Controller]
) -> None:
    spec = load_spec(plant)
    text = f"filter: {{controller: {name}}}\nstandby: {{controller: {name}}}\n"
    config = load_config(written(tmp_path, text))
    filtered = controller_of(spec, config, load_checkpoint(spec))
    assert isinstance(filtered, GuardrailFilter)
    assert isinstance(filtered.inner, kind)
    assert config.standby is not None
    standing = Standby(JepaMpc(filtered.model), other_of(spec, config.standby, "standby"))
    nominal = [np.array([[t.nominal for t in tags]]) for tags in (spec.measured, spec.dvs, spec.mvs)]
    low, high = limits_of(spec)
    targets = Targets(np.array([[[t.value for t in spec.targets]]]), low, high)
    nothing = Targets(targets.values, high, low)  # limits that leave no move: the planner has no answer
    for k, asked in enumerate((targets, targets)):
        decision = filtered.decide(Observation(k * spec.sample_time_s, *nominal), asked)
        assert np.isfinite(decision.moves).all()
        assert decision.status[0] != Status.INFEASIBLE
    assert standing.decide(Observation(0.0, *nominal), nothing).status[0] in (Status.FALLBACK, Status.INFEASIBLE)


def test_a_standby_that_does_not_exist_is_said(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "standby: {controller: wizard}\n"))
    assert config.standby is not None
    with pytest.raises(SpecError, match=r"'wizard'.*standby.controller.*min_max, nmpc|standby.controller.*'wizard'"):
        other_of(load_spec("reactor"), config.standby, "standby")
    with pytest.raises(SpecError, match="either pid loops or the name"):
        load_config(written(tmp_path, "standby: {}\n"))
