"""Roll-outs that cannot leave what the data know: latents that carry the readings themselves, each kept inside a band."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.windows import WindowSet
from models.world_model import Mlp, WorldModel

REACH = 3.0  # ranges of the data that a roll-out may span
_AT_ONCE = 65_536  # windows encoded together


@torch.no_grad()
def bounded(model: WorldModel, data: WindowSet) -> WorldModel:
    """The same model with its read-out among its latents, the first `n_measured` of them, and all of them bounded: a reading
    to `REACH` times the range `data` has of it, any other latent to as many times the range it has on `data`."""
    wide = _carrying(model)
    low, high = torch.full((wide.config.latent,), torch.inf), torch.full((wide.config.latent,), -torch.inf)
    every = torch.arange(len(data.rows))
    for some in every.split(_AT_ONCE):
        z = wide.encode_normalised(*data.gather(some), data.conditions(some))
        low, high = torch.minimum(low, z.amin(0)), torch.maximum(high, z.amax(0))
    n = model.n_measured
    seen = data.mask[:, :n] > 0
    readings = torch.where(seen, data.rows[:, :n], torch.inf), torch.where(seen, data.rows[:, :n], -torch.inf)
    known = seen.any(0)
    low[:n] = torch.where(known, readings[0].amin(0), low[:n])
    high[:n] = torch.where(known, readings[1].amax(0), high[:n])
    centre, half = (low + high) / 2, (REACH * (high - low) / 2).clamp(min=1e-3)
    wide.z_low.copy_(centre - half)
    wide.z_high.copy_(centre + half)
    return wide


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
