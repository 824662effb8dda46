"""The linear model as the trunk of a world model: its state is the latent, and what is learned beside it starts at nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from models.config import TrainingConfig
from models.objectives import losses
from models.rivals.latent import LatentForecaster
from models.rivals.stretches import Stretches, multi_step_error
from models.rivals.subspace import Subspace
from models.windows import WindowSet
from models.world_model import Mlp, WorldModel

WIDTH = 32  # of what one seed learns beside the trunk
NARROW = 8  # of networks that answer nothing
SEEDS = 3
_RATE, _LINEAR_RATE, _DECAY = 3e-3, 1e-4, 0.03
EVERY = 20  # steps between two looks
_SETTLED = 0.9995  # spectral radius of a repaired model
_WORSE = 1.02  # times the error: a repair that costs more contradicts the data
_HEAD_STEPS, _HEAD_RATE = 1000, 3e-3


def world_of(linear: Subspace, width: int = NARROW) -> WorldModel:
    """`linear` as a world model that gives the same answers. Its networks are `width` wide and answer nothing yet."""
    spec, n = linear.spec, linear.order
    config = linear.config.model_copy(
        update={"latent": n, "encoder_width": width, "predictor_width": width, "filled": True}
    )
    world = WorldModel(spec, config, linear.scale(), linear.constant)
    own = world.n_measured + world.n_dv + world.n_mv
    with torch.no_grad():
        for net in (world.encoder, world.predictor):
            nn.init.zeros_(net.last.weight)
            nn.init.zeros_(net.linear.weight)
        state = linear.state[:-1].reshape(config.window, linear.channels, n).clone()
        state[-1, world.n_measured : world.n_measured + world.n_dv] = 0.0
        values = own * config.window
        world.encoder.linear.weight[:, :values] = state[:, :own].flatten(0, 1).T
        world.encoder.linear.weight[:, 2 * values :] = state[:, own:].sum(0).T
        world.encoder.last.bias.copy_(linear.state[-1])
        x, u, d = linear.step[:-1].split([n, linear.n_mv, linear.n_dv])
        step = torch.cat([x - torch.eye(n, dtype=x.dtype), u[: world.n_mv], d, u[world.n_mv :]])
        world.predictor.linear.weight.copy_(step.T)
        world.predictor.last.bias.copy_(linear.step[-1])
        world.read_out_head.weight.copy_(linear.read[:-1].T)
        world.read_out_head.bias.copy_(linear.read[-1])
    return world


def radius(linear: Subspace) -> float:
    """The spectral radius of a linear model: above 1 its roll-outs grow without end."""
    return float(torch.linalg.eigvals(linear.step[: linear.order].detach()).abs().max())


def steadied(linear: Subspace, held: Stretches) -> tuple[Subspace, str]:
    """`linear` with what grows in it made to stay, and a sentence about that; as it was where nothing grows, and where the
    repair costs so much on `held` stretches that the plant itself must be unstable, or integrate."""
    found = radius(linear)
    if found <= 1.0:
        return linear, ""
    n, other = linear.order, copy.deepcopy(linear)
    values, vectors = torch.linalg.eig(linear.step[:n].detach())
    size = values.abs()
    values = torch.where(size > _SETTLED, values * (_SETTLED / size), values)
    with torch.no_grad():
        other.step[:n] = (vectors @ values.diag() @ torch.linalg.inv(vectors)).real
    before, after = (multi_step_error(m, held) for m in (linear, other))
    if after <= _WORSE * before or not math.isfinite(before):
        return other, f"unstable (spectral radius {found:.3f}) and repaired"
    return linear, f"unstable (spectral radius {found:.3f}) as the plant itself is, or it integrates"


def settling(linear: Subspace) -> int:
    """Samples until nine tenths of the slowest mode are gone; a model that does not settle takes very many."""
    return math.ceil(math.log(0.1) / math.log(min(max(radius(linear), 1e-3), 0.9999)))


def grow(
    linear: Subspace, data: WindowSet, training: TrainingConfig, seed: int, steps: int, look: Callable[[WorldModel], bool],
) -> WorldModel:  # fmt: skip
    """`linear` and what one network learns beside it in `steps` steps over the horizon of `data`; `look` sees it before the
    first and after every `EVERY`, and says whether to go on."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    world = world_of(linear, WIDTH)
    nets = (world.encoder, world.predictor)
    learned = [p for net in nets for layer in (net.first, net.second, net.last) for p in layer.parameters()]
    trunk = [*(net.linear.weight for net in nets), *world.read_out_head.parameters()]
    groups = [
        {"params": learned, "lr": _RATE, "weight_decay": _DECAY},
        {"params": trunk, "lr": _LINEAR_RATE, "weight_decay": 0.0},
    ]
    optimiser, model = torch.optim.AdamW(groups), LatentForecaster(world)
    look(world)
    for step in range(1, steps + 1):
        part = Stretches.of(data, data.draw(training.batch, training.steady_share, 0.0, rng))
        error = 2 * nn.functional.smooth_l1_loss(
            model.roll(part.values, part.mask, part.u, part.d), part.y, reduction="none"
        )
        counted = part.counted.sum((0, 1))
        # Every tag counts alike, however seldom it is read.
        loss = ((error * part.counted).sum((0, 1)) / counted.clamp(min=1.0))[counted > 0].mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if not torch.isfinite(nn.utils.clip_grad_norm_([*learned, *trunk], 1.0)):
            break  # what was before stays
        optimiser.step()
        if step % EVERY == 0 and not look(world):
            break
    return world


@torch.no_grad()
def averaged(worlds: Sequence[WorldModel]) -> WorldModel:
    """The mean of world models of one shape around one trunk: their networks side by side in one as wide as all together."""
    first, n = worlds[0], len(worlds)
    config = first.config.model_copy(
        update={"encoder_width": n * first.config.encoder_width, "predictor_width": n * first.config.predictor_width}
    )
    mean = WorldModel(first.spec, config, first.scale(), first.constant_scale())
    states = [w.state_dict() for w in worlds]
    same = {
        k: torch.stack([s[k] for s in states]).mean(0)
        for k, v in mean.state_dict().items()
        if states[0][k].shape == v.shape
    }
    mean.load_state_dict(same, strict=False)
    for name in ("encoder", "predictor"):
        to, of = getattr(mean, name), [getattr(w, name) for w in worlds]
        _side_by_side(to, of)
    return mean


def _side_by_side(to: Mlp, of: Sequence[Mlp]) -> None:
    to.first.weight.copy_(torch.cat([net.first.weight for net in of]))
    to.first.bias.copy_(torch.cat([net.first.bias for net in of]))
    to.second.weight.copy_(torch.block_diag(*(net.second.weight for net in of)))
    to.second.bias.copy_(torch.cat([net.second.bias for net in of]))
    to.last.weight.copy_(torch.cat([net.last.weight for net in of], 1) / len(of))
    to.last.bias.copy_(torch.stack([net.last.bias for net in of]).mean(0))
    to.linear.weight.copy_(torch.stack([net.linear.weight for net in of]).mean(0))


def learn_heads(world: WorldModel, data: WindowSet, training: TrainingConfig) -> None:
    """Teach the guardrail and fallback heads of a trunk that stays as it is, on `data`, incidents among them, where somebody
    labelled what they answer. Where nobody did, a limit's margin is the read-out's own."""
    if not bool(torch.isfinite(data.labels).any() or torch.isfinite(data.hidden).any()):
        return
    moved = [*world.limit_heads.parameters(), *world.fallback_heads.parameters()]
    world.requires_grad_(False)
    for p in moved:
        p.requires_grad_(True)
    rng = torch.Generator().manual_seed(training.seed)
    steps = min(training.steps, _HEAD_STEPS)
    optimiser = torch.optim.AdamW(moved, lr=_HEAD_RATE, weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    usual = torch.ones(training.batch)
    if len(data.danger):
        usual[training.batch - round(training.batch * training.danger_share) :] = 0.0
    for _ in range(steps):
        starts = data.draw(training.batch, training.steady_share, training.danger_share, rng)
        loss = losses(world, data, starts, training, rng, frozen=True, usual=usual).guardrail
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(moved, 1.0)
        optimiser.step()
        schedule.step()
    world.requires_grad_(True)
