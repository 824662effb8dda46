"""MVs that are on or off, or go in steps: every move is a level, and the CV is held as well as levels can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from controllers.baselines.linear_mpc import LinearMpc
from controllers.contracts import Array, Controller, Decision, Observation, Status, Targets
from controllers.planning.config import PlannerConfig
from controllers.planning.forecast import ForecastMpc
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.levels import Levels
from controllers.planning.mpc import JepaMpc
from models.config import ModelConfig
from models.rivals.arx import Arx
from models.windows import Scale
from models.world_model import WorldModel
from plant.spec import Move, PlantSpec

AMBIENT, GAIN, SLOW, STD = 20.0, 40.0, 20.0, 10.0  # a heater: degC, degC a full heater, samples, degC
MIXED = {"levels": None, "step": 0.25}


def heated(mvs: int = 1, guardrail: float | None = 37.0, **move: Any) -> PlantSpec:
    """A vessel at 20 degC outside with heaters that share 40 K among them."""
    on_off = {"limits": [0.0, 1.0], "rate_per_s": 0.1, "safe": 0.0, "levels": [0.0, 1.0], **move}
    tag = {"description": "", "unit": "1", "range": [0.0, 1.0], "nominal": 0.0, "role": "MV", "move": on_off}
    return PlantSpec.model_validate({
        "name": "vessel", "description": "A heated vessel", "endpoint": "opc.tcp://127.0.0.1:4840", "sample_time_s": 10.0,
        "scan_time_s": 10.0,
        "tags": [
            {"name": "T", "role": "CV", "description": "", "unit": "degC", "range": [0.0, 100.0], "nominal": 35.0, "node_id": "ns=2;s=T"},
            *({**tag, "name": f"SW{i}", "node_id": f"ns=2;s=SW{i}"} for i in range(mvs)),
        ],
        "guardrails": [] if guardrail is None else [{"name": "hot", "tag": "T", "max": guardrail, "scale": 1.0}],
        "targets": [{"tag": "T", "value": 35.0, "limits": [20.0, 60.0], "scale": 1.0}],
    })  # fmt: skip


def scales(spec: PlantSpec) -> Scale:
    n = len(spec.mvs)
    return Scale(np.array([35.0] + [0.0] * n), np.array([STD] + [1.0] * n))


def world(spec: PlantSpec) -> WorldModel:
    """The vessel's own equation as a world model: one latent, the temperature."""
    n = len(spec.mvs)
    shape = ModelConfig(window=1, latent=1, encoder_width=8, predictor_width=8, head_width=8, horizon=15)
    model = WorldModel(spec, shape, scales(spec)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.encoder.linear.weight[0, 0] = 1.0
        model.predictor.linear.weight[0] = torch.tensor([-1 / SLOW] + [GAIN / n / SLOW / STD] * n)
        model.predictor.last.bias[0] = (AMBIENT - 35.0) / SLOW / STD
        model.read_out_head.weight[0, 0] = 1.0
        for i, g in enumerate(spec.guardrails):
            model.limit_heads.linear.weight[i, 0] = -STD / model.margin_scale[i]
            model.limit_heads.last.bias[i] = (g.limit - 35.0) / model.margin_scale[i]
    return model


def arx(spec: PlantSpec) -> ForecastMpc:
    n = len(spec.mvs)
    model = Arx(spec, ModelConfig(window=1, horizon=15), scales(spec))
    rows = [1 - 1 / SLOW] + [0.0] * n + [GAIN / n / SLOW / STD] * n + [(AMBIENT - 35.0) / SLOW / STD]
    model.theta = torch.nn.Parameter(torch.tensor(rows)[:, None])
    return ForecastMpc(model, PlannerConfig(horizon=15, effort=0.0))


class Fixed:
    """Asks for the same moves always."""

    horizon = 1

    def __init__(self, spec: PlantSpec, *moves: float) -> None:
        self._spec, self._moves = spec, np.array([moves])

    def reset(self) -> None: ...

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        return Decision.of_moves(self._spec, self._moves.copy(), 0.0)


def planner(name: str) -> Callable[[PlantSpec], Controller]:
    return lambda spec: JepaMpc(world(spec), PlannerConfig(name=name, horizon=15, effort=0.0, candidates=64))  # type: ignore[arg-type]


FORMS = {**{name: planner(name) for name in ("scp", "icem", "mppi")}, "arx": arx}


def loop(
    controller: Controller, spec: PlantSpec, samples: int = 60, target: float = 35.0, **targets: Any
) -> tuple[Array, Array, list[Decision]]:
    """Temperatures and moves of a vessel whose heaters are a twentieth stronger than the model has it, read with noise."""
    rng, n = np.random.default_rng(0), len(spec.mvs)
    low, high = (np.array([t.move.limits[i] for t in spec.mvs if t.move]) for i in (0, 1))
    asked = {"values": np.full((1, 1, len(spec.targets)), target), "move_low": low, "move_high": high, **targets}
    t, applied, seen, made, answers = 30.0, np.zeros((1, n)), [], [], []
    for k in range(samples):
        reading = Observation(10.0 * k, np.array([[t + 0.02 * rng.normal()]]), np.empty((1, 0)), applied)
        answers.append(controller.decide(reading, Targets(**asked)))
        applied = answers[-1].moves
        t += (AMBIENT - t + 1.05 * GAIN * applied.mean()) / SLOW
        seen.append(t)
        made.append(applied[0])
    return np.array(seen), np.array(made), answers


@pytest.mark.parametrize("form", FORMS)
def test_a_heater_that_is_on_or_off_holds_its_target(form: str) -> None:
    spec = heated()
    t, moves, answers = loop(FORMS[form](spec), spec)
    assert np.isin(moves, [0.0, 1.0]).all()
    assert all(np.isin(d.plan, [0.0, 1.0]).all() for d in answers)
    assert np.abs(t[30:] - 35.0).max() < 1.6, "a sample of heating is 1.3 K, one of rest .75 K"
    assert np.abs(t[30:].mean() - 35.0) < 0.4
    assert t.max() <= 37.0
    switches = (np.diff(moves[30:, 0]) != 0).mean()
    assert 0.1 < switches <= 0.8
    assert not any(s in (Status.INFEASIBLE, Status.RECOVERY) for d in answers for s in d.status)


@pytest.mark.parametrize("form", ["scp", "arx"])
def test_a_level_that_would_break_the_guardrail_is_not_taken(form: str) -> None:
    """The target lies half a degree below the limit, one sample of heating takes it past."""
    spec = heated()
    t, moves, _ = loop(FORMS[form](spec), spec, target=36.8)
    assert t.max() <= 37.0 + 0.1, "a twentieth more heat than the model knows, and noise"
    assert t[40:].mean() > 34.9, "and yet it is as near as heat allows"
    assert np.isin(moves, [0.0, 1.0]).all()


def test_linear_mpc_makes_levels_too() -> None:
    spec = heated()
    t, moves, answers = loop(LinearMpc(arx(spec).model.forecaster, PlannerConfig(horizon=15, effort=0.0)), spec)
    assert all(np.isin(d.plan, [0.0, 1.0]).all() for d in answers)
    assert np.abs(t[30:] - 35.0).max() < 2.5
    assert 0 < moves.mean() < 1


def test_moves_that_cost_more_switch_less() -> None:
    def switches(suppression: float) -> float:
        spec = heated()
        controller = JepaMpc(world(spec), PlannerConfig(horizon=15, effort=0.0, suppression=suppression))
        return float(np.abs(np.diff(loop(controller, spec)[1][30:, 0])).mean())

    assert switches(3.0) < 0.7 * switches(0.1)


@pytest.mark.parametrize("form", ["scp", "icem"])
def test_steps_two_at_a_time(form: str) -> None:
    """Two heaters in quarters, one of which is a continuous one in another plant: every move is a multiple."""
    spec = heated(2, **MIXED)
    t, moves, _ = loop(FORMS[form](spec), spec, samples=50)
    np.testing.assert_array_equal(moves * 4, np.round(moves * 4))
    assert np.abs(t[30:] - 35.0).max() < 0.8
    dropped = loop(FORMS[form](spec), spec, samples=10, dropped=np.array([True, False]))[1]
    assert (dropped[:, 0] == 0.0).all()


def test_the_filter_passes_levels_only() -> None:
    spec = heated()
    for asked, wanted in ((0.0, 0.0), (0.4, 0.0), (0.7, 1.0)):
        controller = GuardrailFilter(world(spec), None, Fixed(spec, asked), PlannerConfig(horizon=15))
        answer = controller.decide(_at(30.0), _targets(spec))
        assert answer.moves[0, 0] == wanted
        assert answer.energy["moved"][0] == pytest.approx(abs(asked - wanted), abs=1e-12)
    t, moves, _ = loop(GuardrailFilter(world(spec), None, Fixed(spec, 1.0), PlannerConfig(horizon=15)), spec)
    assert np.isin(moves, [0.0, 1.0]).all()
    assert t.max() <= 37.1
    assert t[40:].mean() > 34.9


def test_no_time_still_gives_a_level() -> None:
    spec = heated()
    controller = JepaMpc(world(spec), PlannerConfig(horizon=15, effort=0.0), deadline_s=1e-9)
    answer = controller.decide(_at(30.0), _targets(spec))
    assert answer.status == (Status.DEADLINE,)
    assert np.isin(answer.plan, [0.0, 1.0]).all()


def test_limits_without_a_level_contradict_themselves() -> None:
    spec = heated()
    asked = Targets(np.full((1, 1, 1), 35.0), np.array([0.3]), np.array([0.7]))
    answer = JepaMpc(world(spec), PlannerConfig(horizon=15)).decide(_at(30.0), asked)
    assert answer.status == (Status.INFEASIBLE,)
    assert answer.moves == 0.0
    assert "the limits of SW0 leave none of its levels: low 0.3, high 0.7" in answer.why[0]


def test_rounding_keeps_limits_rates_and_the_mean() -> None:
    stage = Move(limits=(0.0, 4.0), rate_per_s=1.0, safe=0.0, step=1.0)
    levels, none = Levels([stage]), torch.zeros(1).double()
    wanted = torch.full((1, 40, 1), 0.6).double()
    carried = levels.rounded(wanted, none[None], none, none + 1, none + 1, carried=True)
    assert set(carried.unique().tolist()) == {0.5, 0.75}
    assert carried.mean().item() == pytest.approx(0.6, abs=0.01)
    slow = levels.rounded(none[None, None] + torch.ones(1, 6, 1).double(), none[None], none, none + 0.8, none + 0.3)
    assert slow.flatten().tolist() == [0.25, 0.5, 0.75, 0.75, 0.75, 0.75], (
        "a level a sample, as far as operators let it"
    )
    back = levels.rounded(torch.ones(1, 3, 1).double(), none[None] + 1, none, none + 0.3, none + 0.3)
    assert back.flatten().tolist() == [0.75, 0.5, 0.25]
    between = levels.rounded(torch.ones(1, 2, 1).double(), none[None] + 0.4, none, none + 1, none + 0.05)
    assert between.flatten().tolist() == [0.5, 0.5], "no level can be reached: the nearest"
    held = levels.rounded(torch.ones(1, 2, 1).double(), none[None] + 0.4, none, none + 1, none)
    assert held.flatten().tolist() == [0.4, 0.4]


@pytest.mark.parametrize(
    ("move", "text"),
    [
        ({"rate_per_s": 0.05}, "SW0.move.rate_per_s (0.05) reaches no other level within a sample: levels are up to 1 apart"),
        ({**MIXED, "safe": 0.1}, "safe (0.1) must be a multiple of step from 0 on"),
        ({"fallback": 0.5}, "fallback (0.5) must be one of the levels [0.0, 1.0]"),
    ],
)  # fmt: skip
def test_levels_that_cannot_be_are_refused(move: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as error:
        heated(**move)
    assert text in str(error.value)


def _at(t: float) -> Observation:
    return Observation(0.0, np.array([[t]]), np.empty((1, 0)), np.array([[0.0]]))


def _targets(spec: PlantSpec) -> Targets:
    return Targets(np.full((1, 1, len(spec.targets)), 35.0), np.array([0.0]), np.array([1.0]))
