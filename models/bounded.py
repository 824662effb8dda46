"""Roll-outs that cannot leave what the data know: latents that carry the readings themselves, each kept inside a band."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from models.rivals.contract import Forecaster
from models.rivals.stretches import Stretches
from models.windows import WindowSet
from models.world_model import Mlp, WorldModel

REACH = 3.0  # ranges of the data that a roll-out may span
_AT_ONCE = 4096  # windows encoded together


@torch.no_grad()
def bounded(model: WorldModel, data: WindowSet) -> WorldModel:
    """The same model with its read-out among its latents, the first `n_measured` of them, and all of them bounded: a reading
    to `REACH` times the range `data` has of it, any other latent to as many times the range it has on `data`."""
    wide = _carrying(model)
    n, size = model.n_measured, wide.config.latent
    low, high = torch.full((size,), torch.inf), torch.full((size,), -torch.inf)
    read_low, read_high = low[:n].clone(), high[:n].clone()
    for some in torch.arange(len(data.rows)).split(_AT_ONCE):
        z = wide.encode_normalised(*data.gather(some), data.conditions(some))
        low, high = torch.minimum(low, z.amin(0)), torch.maximum(high, z.amax(0))
        y, seen = data.rows[some, :n], data.mask[some, :n] > 0
        read_low = torch.minimum(read_low, torch.where(seen, y, torch.inf).amin(0))
        read_high = torch.maximum(read_high, torch.where(seen, y, -torch.inf).amax(0))
    known = read_low <= read_high
    low[:n], high[:n] = torch.where(known, read_low, low[:n]), torch.where(known, read_high, high[:n])
    centre, half = (low + high) / 2, (REACH * (high - low) / 2).clamp(min=1e-3)
    wide.z_low.copy_(centre - half)
    wide.z_high.copy_(centre + half)
    return wide


@torch.no_grad()
def reach(model: Forecaster, data: WindowSet, steps: int) -> float:
    """How many ranges of `data` the roll-outs of `model` span over `steps` samples at worst: from every corner (each channel's
    lowest and highest sample), every MV at a limit, all at their lower, all at their upper ones, and each alone. Infinite
    for one that is no number at the end."""
    n, after = data.n_measured, data.n_measured + data.n_dv
    rows = torch.where(data.mask > 0, data.rows, torch.nan)
    low, high = (rows.nan_to_num(fill).aminmax(dim=0) for fill in (torch.inf, -torch.inf))
    whole = data.starts[data.starts - data.first[data.starts] >= min(data.window, len(data.rows)) - 1]
    whole = whole if len(whole) else data.starts
    inside = rows[whole]
    corners = whole[
        torch.cat([inside.nan_to_num(torch.inf).argmin(0), inside.nan_to_num(-torch.inf).argmax(0)]).unique()
    ]
    part = Stretches.of(data, corners, steps=1)
    moves = model.spec.mvs
    scale = data.scale
    ends = torch.tensor(np.array([t.move.limits if t.move else t.range for t in moves])).reshape(-1, 2).T
    ends = (ends - torch.from_numpy(scale.mean[after:])) / torch.from_numpy(scale.std[after:])
    m = len(moves)
    sides = [torch.zeros(1, m), torch.ones(1, m), torch.eye(m), 1 - torch.eye(m)]
    chosen = torch.cat(sides if m else sides[:1]).long()
    worst, kind = 0.0, next(model.parameters(), part.values).dtype
    centre, span = (high.max[:n] + low.min[:n]) / 2, (high.max[:n] - low.min[:n]).clamp(min=1e-6)
    for choice in chosen:
        u = part.u.repeat(1, steps, 1).to(kind)
        u[..., :m] = ends[choice, torch.arange(m)].to(kind)
        y = model.roll(part.values.to(kind), part.mask.to(kind), u, part.d.repeat(1, steps, 1).to(kind))
        away = (2 * (y - centre.to(kind)).abs() / span.to(kind)).amax()
        worst = max(worst, float(away) if torch.isfinite(y).all() else math.inf)
    return worst


def _carrying(model: WorldModel) -> WorldModel:
    """`model` with latents [normalised readings, its own latents]: the same answers to the last digits."""
    n, d = model.n_measured, model.config.latent
    read, bias = model.read_out_head.weight, model.read_out_head.bias
    config = model.config.model_copy(update={"latent": n + d})
    wide = WorldModel(model.spec, config, model.scale(), model.constant_scale())
    state = model.state_dict()
    grown = {name: state[name] for name, t in wide.state_dict().items() if state[name].shape == t.shape}
    wide.load_state_dict(grown, strict=False)
    both = torch.cat([read, torch.eye(d)])
    nothing = torch.zeros(d, n)

    def outputs(to: Mlp, of: Mlp, constant: Tensor) -> None:
        to.last.weight.copy_(both @ of.last.weight)
        to.last.bias.copy_(both @ of.last.bias + torch.cat([constant, torch.zeros(d)]))

    outputs(wide.encoder, model.encoder, bias)
    wide.encoder.linear.weight.copy_(both @ model.encoder.linear.weight)
    # What is added to a reading takes it from where it was, by the latents, to where they take it.
    outputs(wide.predictor, model.predictor, bias)
    own = model.predictor.linear.weight
    step = read @ own
    step[:, :d] += read
    wide.predictor.linear.weight.copy_(torch.cat([torch.cat([-torch.eye(n), step], 1), torch.cat([nothing, own], 1)]))
    _from_latents(wide.predictor.first, model.predictor.first, n)
    for name in ("limit_heads", "fallback_heads"):
        to, of = getattr(wide, name), getattr(model, name)
        _from_latents(to.first, of.first, n)
        to.linear.weight.copy_(torch.cat([torch.zeros(len(of.linear.weight), n), of.linear.weight], 1))
    inverse = model.inverse_head
    for name in ("first", "linear"):
        before, after = getattr(inverse, name).weight.split(d, 1)
        none = torch.zeros(len(before), n)
        getattr(wide.inverse_head, name).weight.copy_(torch.cat([none, before, none, after], 1))
    wide.read_out_head.weight.copy_(torch.cat([torch.eye(n), torch.zeros(n, d)], 1))
    wide.read_out_head.bias.zero_()
    return wide.train(model.training)


def _from_latents(to: nn.Linear, of: nn.Linear, n: int) -> None:
    """A layer that leaves the first `n` of its inputs alone and takes the others as `of` does."""
    to.weight.copy_(torch.cat([torch.zeros(len(of.weight), n), of.weight], 1))
