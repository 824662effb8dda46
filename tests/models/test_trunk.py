"""The linear model as a world model, what is learned beside it, and how the one that is deployed is chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from models.bench import persistent
from models.bounded import REACH, reach
from models.candidates import choose, compared
from models.config import ModelConfig, TrainingConfig
from models.objectives import losses
from models.rivals.latent import LatentForecaster
from models.rivals.persistence import Persistence
from models.rivals.stretches import Stretches, whole
from models.rivals.subspace import Subspace
from models.trunk import averaged, grow, radius, steadied, world_of
from models.windows import Run, WindowSet, channel_scale
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

from .conftest import TINY, Trained
from .test_rivals import linear_system

SHAPE = ModelConfig(window=2, latent=8, encoder_width=32, predictor_width=32, head_width=16, horizon=6)
QUICK = TrainingConfig(steps=40, batch=64, sigreg_slices=16)


@pytest.fixture(scope="module")
def runs(spec: PlantSpec) -> list[Run]:
    return linear_system(spec, 30)


@pytest.fixture(scope="module")
def data(spec: PlantSpec, runs: list[Run]) -> WindowSet:
    return WindowSet(runs, channel_scale(spec, runs), 4, 6)


@pytest.fixture(scope="module")
def linear(spec: PlantSpec, data: WindowSet) -> Subspace:
    model = Subspace(spec, SHAPE.model_copy(update={"window": 4}), data.scale)
    model.learn(data)
    return model


@pytest.fixture(scope="module")
def part(data: WindowSet) -> Stretches:
    return Stretches.of(data, whole(data))


def answers(model: torch.nn.Module, part: Stretches) -> torch.Tensor:
    with torch.no_grad():
        return model.roll(part.values, part.mask, part.u, part.d)  # type: ignore[operator]


def test_a_linear_model_is_a_world_model_with_the_same_answers(linear: Subspace, part: Stretches) -> None:
    """With gaps in the windows too."""
    gone = torch.rand(part.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    holes = Stretches(part.values, part.mask * ~gone, part.u, part.d, part.y, part.counted)
    world = LatentForecaster(world_of(linear))
    for some in (part, holes):
        torch.testing.assert_close(answers(world, some), answers(linear, some.double()).float(), rtol=1e-3, atol=1e-3)


def test_persistence_is_a_world_model_too(spec: PlantSpec, data: WindowSet, part: Stretches) -> None:
    rival = Persistence(spec, SHAPE.model_copy(update={"window": 4}), data.scale)
    torch.testing.assert_close(answers(LatentForecaster(persistent(rival)), part), answers(rival, part))


def test_seeds_are_averaged_into_one_network(linear: Subspace, data: WindowSet, part: Stretches) -> None:
    worlds = [grow(linear, data, QUICK, seed, 30, lambda world: True) for seed in range(3)]
    mean = averaged(worlds)
    assert mean.config.predictor_width == 3 * worlds[0].config.predictor_width
    z = mean.encode_normalised(part.values, part.mask)
    apart = torch.stack([w.encode_normalised(part.values, part.mask) for w in worlds])
    torch.testing.assert_close(z, apart.mean(0), rtol=1e-3, atol=1e-3)
    u, d = part.u[:, 0], part.d[:, 0]
    ahead = torch.stack([w.advance_normalised(z, u, d) for w in worlds]).mean(0)
    torch.testing.assert_close(mean.advance_normalised(z, u, d), ahead, rtol=1e-3, atol=1e-3)
    jacobian = mean.predictor.jacobian(mean.inputs(z, u, d))
    alone = torch.stack([w.predictor.jacobian(w.inputs(z, u, d)) for w in worlds]).mean(0)
    torch.testing.assert_close(jacobian, alone, rtol=1e-3, atol=1e-3)


def test_what_is_learned_starts_at_nothing_and_repeats(linear: Subspace, data: WindowSet, part: Stretches) -> None:
    seen: list[torch.Tensor] = []

    def look(world: WorldModel) -> bool:
        seen.append(answers(LatentForecaster(world), part))
        return len(seen) % 2 == 1

    two = [grow(linear, data, QUICK, 5, 60, look) for _ in range(2)]
    assert len(seen) == 4, "no step after it was told to stop"
    torch.testing.assert_close(seen[0], answers(LatentForecaster(world_of(linear)), part))
    assert all(torch.equal(a, b) for a, b in zip(two[0].parameters(), two[1].parameters(), strict=True))


def test_an_unstable_model_is_repaired_or_believed(linear: Subspace, part: Stretches, spec: PlantSpec) -> None:
    """Repaired where that costs nothing on held-out time; where the data themselves grow, said and kept."""
    wild = Subspace(spec, linear.config, linear.scale())
    state = {name: value.detach().clone() for name, value in linear.state_dict().items()}
    n = linear.order
    # A state of its own that grows, and that no reading shows.
    size = linear.state.shape[0]
    wild.keep(
        torch.cat([state["state"], torch.zeros(size, 1).double()], 1),
        torch.cat(
            [
                torch.cat([state["step"][:n], torch.zeros(n, 1).double()], 1),
                torch.tensor([[0.0] * n + [1.05]]).double(),
                torch.cat([state["step"][n:], torch.zeros(len(state["step"]) - n, 1).double()], 1),
            ]
        ),
        torch.cat([state["read"][:n], torch.zeros(1, state["read"].shape[1]).double(), state["read"][n:]]),
    )
    assert radius(wild) == pytest.approx(1.05)
    mended, said = steadied(wild, part.double())
    assert radius(mended) < 1
    assert said == "unstable (spectral radius 1.050) and repaired"
    growing = part.double()
    with torch.no_grad():
        wild.read[n] = 1.0  # now readings show it, and the data are what the model says
        wild.state[-1, -1] = 1.0
        grown = Stretches(growing.values, growing.mask, growing.u, growing.d, answers(wild, growing), growing.counted)
    kept, said = steadied(wild, grown)
    assert kept is wild
    assert "as the plant itself is" in said
    assert steadied(linear, part.double()) == (linear, "")


def test_reach_finds_a_model_that_leaves_the_data(linear: Subspace, data: WindowSet, trained: Trained) -> None:
    wild = world_of(linear)
    with torch.no_grad():
        wild.predictor.linear.weight[:, : linear.order] = torch.eye(linear.order) * 0.2
    assert reach(LatentForecaster(wild), data, 60) > 10 * REACH
    assert reach(linear, data, 60) < float("inf"), "the same check for rivals"
    model = trained.model
    seen = WindowSet(trained.training, model.scale(), TINY.window, TINY.horizon)
    assert reach(LatentForecaster(model), seen, 10 * TINY.horizon) <= REACH + 1e-3


def test_incidents_teach_no_latents(trained: Trained) -> None:
    """Not through the prediction, the read-out or the guardrails; the heads do learn from them."""
    model: WorldModel = trained.model
    incidents = [r for r in trained.training if r.kind == "incident"]
    data = WindowSet(incidents, model.scale(), TINY.window, TINY.horizon)
    model.zero_grad()
    terms = losses(model, data, data.starts[:64], QUICK, torch.Generator().manual_seed(0))
    (terms.total(QUICK) + 0.0 * sum(p.sum() for p in model.parameters())).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert name.startswith(("limit_heads", "fallback_heads")) or not p.grad.any(), name
    assert model.fallback_heads.last.weight.grad is not None
    assert model.fallback_heads.last.weight.grad.any()
    model.zero_grad(set_to_none=True)


def test_a_linear_plant_gets_a_linear_model(spec: PlantSpec, runs: list[Run]) -> None:
    stages: list[str] = []
    choice, again = (choose(spec, runs[:20], runs[20:25], SHAPE, QUICK, stage=stages.append) for _ in range(2))
    assert stages[:4] == [f"trying {name}" for name in ("persistence", "arx", "subspace", "trunk")]
    assert choice.name != "persistence"
    state = choice.model.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(state.values(), again.model.state_dict().values(), strict=True))
    facts = choice.facts(runs[25:])
    assert json.loads(json.dumps(facts)) == facts
    by_name = {c["name"]: c for c in facts["candidates"]}
    assert max(by_name[choice.name]["test"]) < 0.1 < min(by_name["persistence"]["test"])
    table = compared(facts)
    assert f"| {choice.name} (chosen) |" in table
    assert choice.said in table
    data = WindowSet(runs, choice.model.scale(), 4, 6)
    assert reach(LatentForecaster(choice.model), data, 60) <= REACH + 1e-3


def test_candidates_can_be_named_and_what_fails_is_said(spec: PlantSpec, runs: list[Run]) -> None:
    only = QUICK.model_copy(update={"candidates": ("persistence",)})
    choice = choose(spec, runs[:20], runs[20:25], SHAPE, only)
    assert choice.said == "persistence: the only one"
    unknown = [Run(r.kind, r.start_s, r.measured, r.dvs, np.full_like(r.applied, np.nan), r.labels) for r in runs]
    for r in unknown:
        r.applied[0] = runs[0].applied[0]
    with pytest.raises(ModelError, match=r"arx: .*no reading follows a whole window"):
        choose(spec, unknown[:20], unknown[20:25], SHAPE, QUICK)
