"""A tag's unit is nobody's business: the same plant in billions or billionths of its units gets the same moves."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import torch

from controllers.baselines.linear_mpc import LinearMpc
from controllers.contracts import Controller, Decision, Observation, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning import compiled
from controllers.planning.config import PlannerConfig
from controllers.planning.forecast import ForecastMpc
from controllers.planning.guardrail_filter import GuardrailFilter
from controllers.planning.mpc import JepaMpc
from models.calibration import Calibration, joint_margins
from models.config import ModelConfig
from models.rivals.arx import Arx
from models.rivals.contract import Forecaster
from models.whitening import Whitening
from models.windows import Scale
from models.world_model import WorldModel
from plant.native import CompilerError
from plant.spec import PlantSpec, load_spec

SHAPE = ModelConfig(window=3, latent=5, encoder_width=16, predictor_width=20, head_width=12, horizon=8)
PLANTS = ("reactor", "vandevusse", "turbofan")
FACTORS = (1e-9, 1e9)
Model = TypeVar("Model", WorldModel, Forecaster)
_LENGTHS = ("limits", "range", "excitation")
_VALUES = (
    "nominal", "noise", "resolution", "rate_per_s", "safe", "max", "min", "recording_limit", "test_limit", "scale", "value",
)  # fmt: skip


def in_units(spec: PlantSpec, factor: float) -> PlantSpec:
    """`spec` with every tag's unit made smaller by `factor`: all its numbers are as many times larger."""
    raw = spec.model_dump()
    raw["regulatory"] = {}
    for part in [*raw["tags"], *[t["move"] for t in raw["tags"] if t["move"]], *raw["guardrails"], *raw["targets"]]:
        for name in _VALUES:
            if isinstance(part.get(name), float):
                part[name] *= factor
        for name in _LENGTHS:
            if part.get(name):
                part[name] = [factor * v for v in part[name]]
    return PlantSpec.model_validate(raw)


def shifted(spec: PlantSpec) -> tuple[np.ndarray, np.ndarray]:
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    return np.array([t.nominal for t in tags]), np.array([0.1 * t.span for t in tags])


def world(spec: PlantSpec, factor: float) -> WorldModel:
    """Weights at random, the same ones whatever the unit; only the normalisation knows it."""
    torch.manual_seed(5)
    model = WorldModel(spec, SHAPE, Scale(*shifted(spec)))
    with torch.no_grad():
        for layer in (model.predictor.linear, model.predictor.last):
            layer.weight.normal_(std=0.1)
        model.limit_heads.last.bias += 0.6
        model.fallback_heads.last.bias += 0.6
    return renormalised(model.double(), spec, factor)


def renormalised(model: Model, spec: PlantSpec, factor: float) -> Model:
    changed = copy.deepcopy(model)
    changed.spec = in_units(spec, factor)
    for name in ("channel_mean", "channel_std", "margin_scale"):
        if hasattr(changed, name):
            setattr(changed, name, getattr(changed, name) * factor)
    return changed


def linear(spec: PlantSpec, factor: float) -> Forecaster:
    model = Arx(spec, SHAPE, Scale(*shifted(spec)))
    rng = torch.Generator().manual_seed(3)
    rows = SHAPE.window * model.channels + model.n_mv + 1
    theta = 0.05 * torch.randn(rows, model.n_measured, generator=rng)
    for j in range(model.n_measured):
        theta[(SHAPE.window - 1) * model.channels + j, j] += 0.8
    model.theta = torch.nn.Parameter(theta)
    return renormalised(model.double(), spec, factor)


def calibration(spec: PlantSpec, factor: float) -> Calibration:
    margins = [0.01 * spec.tag(g.tag).span for g in spec.guardrails]
    margins += [0.02 * spec.tag(g.tag).span for g in spec.guardrails if g.fallback_tag]
    return Calibration(factor * torch.tensor(margins).double().expand(SHAPE.horizon, -1), 0.9, 10)


class Random:
    """A controller that asks for anything."""

    horizon = 1

    def __init__(self, spec: PlantSpec) -> None:
        self._spec = spec
        self.reset()

    def reset(self) -> None:
        self._rng = np.random.default_rng(4)

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        low, high = limits_of(self._spec)
        return Decision.of_moves(self._spec, low + (high - low) * self._rng.random((1, len(low))), 0.0)


def planned(name: str) -> Callable[[PlantSpec, float], Controller]:
    config = PlannerConfig(name=name if name in ("icem", "mppi") else "scp", horizon=8, candidates=32, steady=0.5)

    def made(spec: PlantSpec, factor: float) -> Controller:
        if name == "filter":
            model = world(spec, factor)
            return GuardrailFilter(model, calibration(spec, factor), Random(model.spec), config)
        return JepaMpc(world(spec, factor), config, calibration(spec, factor))

    return made


def forecast(spec: PlantSpec, factor: float) -> Controller:
    visible = seen_only(spec)
    model = linear(visible, factor)
    margins = Calibration(calibration(visible, factor).margins[:, : len(visible.guardrails)], 0.9, 10)
    return ForecastMpc(model, PlannerConfig(horizon=8), margins)


def linear_mpc(spec: PlantSpec, factor: float) -> Controller:
    return LinearMpc(linear(seen_only(spec), factor), PlannerConfig(horizon=8))


def seen_only(spec: PlantSpec) -> PlantSpec:
    """Guardrails on what is measured, which is all a rival knows."""
    names = [t.name for t in spec.measured]
    rails = [g.model_copy(update={"tag": g.tag if g.tag in names else g.shown_by}) for g in spec.guardrails]
    kept = tuple(g.model_copy(update={"fallback_tag": None, "shown_by": None}) for g in rails if g.tag is not None)
    return spec.model_copy(update={"guardrails": kept})


FORMS = {
    **{name: planned(name) for name in ("compiled", "tensors", "icem", "mppi", "filter")},
    "forecast": forecast, "linear": linear_mpc,
}  # fmt: skip


def decisions(controller: Controller, spec: PlantSpec, factor: float) -> list[Decision]:
    rng, low, high = np.random.default_rng(1), *limits_of(spec)
    mean, std = shifted(spec)
    nm, nd = len(spec.measured), len(spec.dvs)
    applied, answers = mean[nm + nd :], []
    for k in range(5):
        row = (mean + 0.3 * std * rng.normal(size=len(mean)))[None]
        values = np.array([[[t.value + 0.2 * t.scale * rng.normal() for t in spec.targets]]])
        constants = np.array([[t.nominal for t in spec.constants]])
        answer = controller.decide(
            Observation(k * spec.sample_time_s, factor * row[:, :nm], factor * row[:, nm : nm + nd], factor * applied[None],
                        factor * constants),
            Targets(factor * values, factor * low, factor * high),
        )  # fmt: skip
        answers.append(answer)
        applied = answer.moves[0] / factor
    return answers


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("form", FORMS)
def test_the_moves_do_not_depend_on_units(
    form: str, plant: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "compiled" and not shutil.which("cc"):
        pytest.skip("no C compiler")
    if form == "tensors":

        def none() -> None:
            raise CompilerError("not this time")

        monkeypatch.setattr(compiled, "_library", none)
    spec = load_spec(plant)
    if plant == "turbofan":  # its guardrails count as a plant's whose engineer said nothing of scales
        spec = spec.model_copy(
            update={"guardrails": tuple(g.model_copy(update={"scale": None}) for g in spec.guardrails)}
        )
    (low, high), moved = limits_of(spec), 0.0
    ours = decisions(FORMS[form](spec, 1.0), spec, 1.0)
    theirs = decisions(FORMS[form](spec, factor), spec, factor)
    for one, other in zip(ours, theirs, strict=True):
        assert one.status == other.status
        np.testing.assert_allclose(other.plan / factor / (high - low), one.plan / (high - low), atol=1e-6)
        np.testing.assert_allclose(other.violation, one.violation, rtol=1e-5, atol=1e-6)
        moved = max(moved, float(np.abs(np.diff(one.plan / (high - low), axis=1)).max()))
    assert moved > 1e-3, "there was something to plan"


@pytest.mark.parametrize("factor", FACTORS)
def test_calibrated_margins_and_normalisation_follow_the_unit(factor: float) -> None:
    errors = torch.randn(200, 6, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([0.01, 3.0])
    errors[:, 2] = 0.0  # a step that is never wrong
    one, other = joint_margins(errors, 0.9), joint_margins(factor * errors, 0.9)
    torch.testing.assert_close(other / factor, one, rtol=1e-9, atol=0)
    rows = np.random.default_rng(0).normal(5.0, 1.0, (50, 3)) * [1.0, 0.0, 1.0]
    np.testing.assert_allclose(Whitening.fit(factor * rows)(factor * rows), Whitening.fit(rows)(rows), atol=1e-9)
