"""The world model's parts: exact Jacobians, masks that hide, and units that go round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ModelConfig
from models.windows import Scale
from models.world_model import Mlp, WorldModel
from plant.spec import PlantSpec, load_spec

SMALL = ModelConfig(window=3, latent=5, encoder_width=16, predictor_width=16, head_width=8, horizon=4)


def world(spec: PlantSpec, seed: int = 0) -> WorldModel:
    """An untrained model with every weight at random, so that nothing is zero by its initial value."""
    torch.manual_seed(seed)
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    scale = Scale(np.array([t.nominal for t in tags]), np.array([0.05 * (t.range[1] - t.range[0]) for t in tags]))
    model = WorldModel(spec, SMALL, scale).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return world(load_spec("reactor"))


def window_of(model: WorldModel, batch: int = 3) -> torch.Tensor:
    noise = torch.randn(batch, SMALL.window, len(model.channel_mean), dtype=torch.float64)
    return model.channel_mean + model.channel_std * noise


@given(seed=st.integers(0, 10_000), inputs=st.integers(1, 7), outputs=st.integers(1, 5), width=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_mlp_jacobian_is_the_derivative(seed: int, inputs: int, outputs: int, width: int) -> None:
    torch.manual_seed(seed)
    mlp = Mlp(inputs, width, outputs).double()
    x = 3 * torch.randn(2, 3, inputs, dtype=torch.float64)
    exact = torch.func.vmap(torch.func.vmap(torch.func.jacrev(mlp)))(x)
    torch.testing.assert_close(mlp.jacobian(x), exact, rtol=1e-9, atol=1e-9)


def test_encode_does_not_see_what_is_missing_or_padded(model: WorldModel) -> None:
    values, mask = torch.randn(4, 3, 6, dtype=torch.float64), torch.ones(4, 3, 6, dtype=torch.float64)
    mask[:, 0] = 0.0
    mask[:, 2, 1] = 0.0
    one = model.encode_normalised(values, mask)
    other = values.clone()
    other[:, 0] = 1e3
    other[:, 2, 1] = -1e3
    torch.testing.assert_close(model.encode_normalised(other, mask), one, rtol=0, atol=0)
    other[:, 1, 0] += 1.0
    assert (model.encode_normalised(other, mask) - one).abs().max() > 1e-3


def test_encode_takes_nan_for_missing(model: WorldModel) -> None:
    window = window_of(model)
    window[0, :2] = torch.nan
    window[1, 2, 0] = torch.inf
    window[2] = torch.nan
    z = model.encode(window)
    assert torch.isfinite(z).all()
    mask = torch.isfinite(window).double()
    scaled = (torch.where(mask > 0, window, 0.0) - model.channel_mean) / model.channel_std
    torch.testing.assert_close(z, model.encode_normalised(scaled, mask))


def test_missing_is_told_from_average(model: WorldModel) -> None:
    window = model.channel_mean.expand(1, SMALL.window, -1).clone()
    there = model.encode(window)
    window[0, 0, 0] = torch.nan
    assert (model.encode(window) - there).abs().max() > 1e-3


@pytest.mark.parametrize("part", ["measured", "dvs", "mvs"])
def test_normalise_goes_round(model: WorldModel, part: str) -> None:
    size = {"measured": model.n_measured, "dvs": model.n_dv, "mvs": model.n_mv}[part]
    x = 100 * torch.randn(2, 3, size, dtype=torch.float64)
    torch.testing.assert_close(model.denormalise(model.normalise(x, part), part), x)


def test_normalise_uses_each_tags_own_scale(model: WorldModel) -> None:
    spec = model.spec
    for part, tags in (("measured", spec.measured), ("dvs", spec.dvs), ("mvs", spec.mvs)):
        nominal = torch.tensor([t.nominal for t in tags], dtype=torch.float64)
        torch.testing.assert_close(model.normalise(nominal, part), torch.zeros_like(nominal), rtol=0, atol=1e-4)


def test_advance_is_advance_normalised_in_engineering_units(model: WorldModel) -> None:
    z = torch.randn(4, SMALL.latent, dtype=torch.float64)
    u, d = torch.randn(4, model.n_mv, dtype=torch.float64), torch.randn(4, model.n_dv, dtype=torch.float64)
    by_unit = model.advance(z, model.denormalise(u, "mvs"), model.denormalise(d, "dvs"))
    torch.testing.assert_close(by_unit, model.advance_normalised(z, u, d))
    assert (model.advance_normalised(z, u + 1, d) - by_unit).abs().max() > 1e-3
    assert (model.advance_normalised(z, u, d + 1) - by_unit).abs().max() > 1e-3


def test_a_fresh_predictor_leaves_the_plant_where_it_is() -> None:
    """Roll-outs of an untrained model stay bounded: it begins at "nothing changes" but for a constant."""
    spec = load_spec("reactor")
    channels = len(spec.measured) + len(spec.dvs) + len(spec.mvs)
    fresh = WorldModel(spec, SMALL, Scale(np.zeros(channels), np.ones(channels)))
    z = torch.randn(1, SMALL.latent)
    steps = []
    for k in range(3):
        step = fresh.advance_normalised(z, torch.full((1, 1), float(k)), torch.zeros(1, 2)) - z
        steps.append(step)
        z = z + step
    torch.testing.assert_close(steps[0], steps[2], rtol=0, atol=1e-5)


def test_heads_answer_in_units_and_say_how_far_they_may_go(model: WorldModel) -> None:
    z = torch.randn(4, 2, SMALL.latent, dtype=torch.float64)
    rails = len(model.spec.guardrails)
    assert model.read_out(z).shape == (4, 2, model.n_measured)
    assert model.limit_margins(z).shape == model.fallback_margins(z).shape == (4, 2, rails)
    torch.testing.assert_close(model.limit_margins(z), model.limit_heads(z) * model.margin_scale)
    wide = [0.1 * (model.spec.tag(g.tag).range[1] - model.spec.tag(g.tag).range[0]) for g in model.spec.guardrails]
    assert model.margin_scale.tolist() == pytest.approx(wide)


def test_squash_is_true_near_the_guardrail_and_keeps_the_sign_beyond(model: WorldModel) -> None:
    scale = model.margin_scale[0].item()
    margin = torch.tensor([-10 * scale, -0.01 * scale, 0.0, 0.01 * scale, 10 * scale], dtype=torch.float64)
    squashed = model.squash(margin[:, None])[:, 0]
    torch.testing.assert_close(squashed[1:4], margin[1:4], rtol=1e-3, atol=1e-9)
    assert squashed.abs().max() <= scale
    assert (squashed.diff() > 0).all()


def test_a_plant_without_guardrails_or_disturbances() -> None:
    spec = load_spec("reactor_bare").model_copy(update={"guardrails": ()})
    spec = spec.model_copy(update={"tags": tuple(t for t in spec.tags if t.role != "DV")})
    bare = world(spec)
    z = bare.encode(window_of(bare, 2))
    following = bare.advance(z, torch.full((2, 1), 300.0).double(), torch.zeros(2, 0).double())
    assert torch.isfinite(bare.read_out(following)).all()
