"""Roll-outs that cannot leave what the data know, and limit heads that say true margins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.bounded import REACH, bounded
from models.windows import Run, WindowSet, channel_scale
from models.world_model import WorldModel
from plant.spec import PlantSpec

from .conftest import TINY, Trained


@pytest.fixture(scope="module")
def data(spec: PlantSpec, recorded: list[Run]) -> WindowSet:
    return WindowSet(recorded, channel_scale(spec, recorded), TINY.window, TINY.horizon)


@pytest.fixture(scope="module")
def untrained(spec: PlantSpec, recorded: list[Run]) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(spec, TINY, channel_scale(spec, recorded))
    for part in (model.predictor.linear, model.predictor.last):
        torch.nn.init.normal_(part.weight, std=0.1)
    return model


def test_the_readings_among_the_latents_change_no_answer(untrained: WorldModel, data: WindowSet) -> None:
    wide, rng = bounded(untrained, data), torch.Generator().manual_seed(1)
    wide.z_low.fill_(-1e9)
    wide.z_high.fill_(1e9)
    values, mask = data.gather(data.starts[:50])
    narrow_z, z = untrained.encode_normalised(values, mask), wide.encode_normalised(values, mask)
    for _ in range(6):
        u, d = (torch.randn(50, n, generator=rng) for n in (untrained.n_mv, untrained.n_dv))
        before, narrow_before = z, narrow_z
        narrow_z, z = untrained.advance_normalised(narrow_z, u, d), wide.advance_normalised(z, u, d)
        for name in ("read_out", "limit_margins", "fallback_margins"):
            torch.testing.assert_close(getattr(wide, name)(z), getattr(untrained, name)(narrow_z), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(
            wide.inverse_head(torch.cat([before, z], -1)),
            untrained.inverse_head(torch.cat([narrow_before, narrow_z], -1)),
            rtol=1e-4,
            atol=1e-4,
        )
    n = wide.n_measured
    torch.testing.assert_close(z[:, :n], wide.normalise(wide.read_out(z), "measured"), rtol=1e-4, atol=1e-4)


def test_a_model_that_runs_away_stays_within_three_ranges(untrained: WorldModel, data: WindowSet) -> None:
    runaway = bounded(untrained, data)
    with torch.no_grad():
        runaway.predictor.linear.weight *= 40.0
    z = runaway.encode_normalised(*data.gather(data.starts[:200]))
    n = runaway.n_measured
    seen = data.mask[:, :n] > 0
    low = torch.where(seen, data.rows[:, :n], torch.inf).amin(0)
    high = torch.where(seen, data.rows[:, :n], -torch.inf).amax(0)
    hot = torch.full((200, runaway.n_mv), 3.0), torch.full((200, runaway.n_dv), -3.0)
    with torch.no_grad():
        for _ in range(10 * TINY.horizon):
            z = runaway.advance_normalised(z, *hot)
            y = runaway.read_out_head(z)
            assert bool(((y - (low + high) / 2).abs() <= REACH / 2 * (high - low) + 1e-3).all())


def test_trained_limits_are_true_margins_far_from_the_limit(trained: Trained) -> None:
    """What a squashed head could not say: 60 K from the limit is 60 K."""
    model = trained.model
    scale = float(model.margin_scale[0])
    errors = []
    for run in (r for r in trained.held_out if r.kind != "incident"):
        rows = np.concatenate([run.measured, run.dvs, run.applied], 1)
        for at in range(TINY.window, len(run), 5):
            z = model.encode(torch.tensor(rows[at - TINY.window + 1 : at + 1], dtype=torch.float32)[None])
            for i, (guard, column) in enumerate(zip(model.spec.guardrails, model.watched, strict=True)):
                assert column is not None
                margin = guard.margin(run.measured[at, column])
                errors.append((margin, float(model.limit_margins(z)[0, i].detach()) - margin))
    margins, wrong = (np.array(v) for v in zip(*errors, strict=True))
    far = np.abs(margins) > 1.2 * scale
    assert far.sum() > 20
    assert np.nanmedian(np.abs(wrong[far])) < 0.2 * scale


def test_limit_heads_start_as_the_read_out_says(untrained: WorldModel) -> None:
    untrained.start_limits()
    z = torch.randn(20, TINY.latent, generator=torch.Generator().manual_seed(0))
    assert not untrained.limit_margins(z).any()
    untrained.finish_limits()
    value = untrained.read_out(z)
    rails = zip(untrained.spec.guardrails, untrained.watched, strict=True)
    wanted = torch.stack([g.margin(value[:, at]) for g, at in rails], -1)
    torch.testing.assert_close(untrained.limit_margins(z), wanted, rtol=1e-4, atol=1e-2)
