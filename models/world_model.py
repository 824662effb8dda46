"""`WorldModel`: encoder, action-conditioned latent predictor, read-out and guardrail heads of one plant."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from models.config import ModelConfig
from models.windows import Scale, filled
from plant.spec import PlantSpec

_UNBOUNDED = 1e9  # where the latents of a model that was never trained may go: anywhere


class Mlp(nn.Module):
    """Two hidden SiLU layers beside a linear path: plants are nearly linear most of the time, and the layers need only
    learn where they are not."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)
        self.last = nn.Linear(width, outputs)
        self.linear = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., inputs) -> (..., outputs)."""
        silu = nn.functional.silu
        return self.last(silu(self.second(silu(self.first(x))))) + self.linear(x)

    def jacobian(self, x: Tensor) -> Tensor:
        """d output / d input at `x` (..., inputs) -> (..., outputs, inputs)."""
        a = self.first(x)
        b = self.second(nn.functional.silu(a))
        inner = _dsilu(a)[..., :, None] * self.first.weight
        return (self.last.weight * _dsilu(b)[..., None, :]) @ (self.second.weight @ inner) + self.linear.weight


def _dsilu(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


class WorldModel(nn.Module):
    """A JEPA over one plant's signals.

    Inputs and outputs at the public methods are in engineering units; the latent is what the networks make of it.
    Guardrail heads come in pairs per guardrail of the spec: the limit now, and the worst value if the fallback took
    over now. Both answer signed margins, > 0 safe. That of a measured tag's limit is true wherever it is: the read-out's own,
    and what was learned beside it. The others are squashed smoothly beyond `margin_scale`, where only the sign matters.

    No latent leaves [`z_low`, `z_high`] on a roll-out, whatever moves are asked for.

    What is constant within a run (COND tags) is no signal: it conditions the encoder and the predictor as `c`
    (..., 2 * n_constant) of `condition`, whose leading axes are the first ones of what it goes with. Without it (None) the
    spec's nominal values are meant.
    """

    channel_mean: Tensor
    channel_std: Tensor
    margin_scale: Tensor
    z_low: Tensor
    z_high: Tensor

    constant_mean: Tensor
    constant_std: Tensor

    def __init__(self, spec: PlantSpec, config: ModelConfig, channel: Scale, constant: Scale | None = None) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.n_measured, self.n_dv, self.n_mv = len(spec.measured), len(spec.dvs), len(spec.mvs)
        channels = self.n_measured + self.n_dv + self.n_mv
        d, self.n_constant = config.latent, len(spec.constants)
        self.encoder = Mlp(2 * config.window * channels + 2 * self.n_constant, config.encoder_width, d)
        self.predictor = Mlp(d + self.n_mv + self.n_dv + 2 * self.n_constant, config.predictor_width, d)
        for layer in (
            self.predictor.linear,
            self.predictor.last,
        ):  # start from "nothing changes": roll-outs stay bounded
            nn.init.zeros_(layer.weight)
        self.read_out_head = nn.Linear(d, self.n_measured)
        self.limit_heads = Mlp(d, config.head_width, max(len(spec.guardrails), 1))
        self.fallback_heads = Mlp(d, config.head_width, max(len(spec.guardrails), 1))
        self.inverse_head = Mlp(2 * d, config.head_width, max(self.n_mv, 1))
        for name, value in (("channel_mean", channel.mean), ("channel_std", channel.std)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))
        if self.n_constant:
            constant = constant or Scale(np.zeros(self.n_constant), np.ones(self.n_constant))
            self.register_buffer("constant_mean", torch.tensor(constant.mean, dtype=torch.float32))
            self.register_buffer("constant_std", torch.tensor(constant.std, dtype=torch.float32))
        scales = [0.1 * (spec.tag(g.tag).range[1] - spec.tag(g.tag).range[0]) for g in spec.guardrails] or [1.0]
        self.register_buffer("margin_scale", torch.tensor(scales, dtype=torch.float32))
        for name, bound in (("z_low", -_UNBOUNDED), ("z_high", _UNBOUNDED)):
            self.register_buffer(name, torch.full((d,), bound))

    def _slice(self, part: str) -> slice:
        at = {"measured": 0, "dvs": self.n_measured, "mvs": self.n_measured + self.n_dv}[part]
        return slice(at, at + {"measured": self.n_measured, "dvs": self.n_dv, "mvs": self.n_mv}[part])

    def normalise(self, values: Tensor, part: str) -> Tensor:
        """Engineering units -> normalised; `part` is measured, dvs or mvs."""
        s = self._slice(part)
        return (values - self.channel_mean[s]) / self.channel_std[s]

    def denormalise(self, values: Tensor, part: str) -> Tensor:
        """Normalised -> engineering units."""
        s = self._slice(part)
        return values * self.channel_std[s] + self.channel_mean[s]

    def scale(self) -> Scale:
        """The normalisation of [measured, dvs, applied]."""
        return Scale(self.channel_mean.double().cpu().numpy(), self.channel_std.double().cpu().numpy())

    def constant_scale(self) -> Scale | None:
        """The normalisation of `condition`; None where the plant has no constants."""
        if not self.n_constant:
            return None
        return Scale(self.constant_mean.double().cpu().numpy(), self.constant_std.double().cpu().numpy())

    def condition(self, constants: Tensor) -> Tensor:
        """Constants of runs (..., n_constant), engineering units, NaN where unknown -> `c` (..., 2 * n_constant): normalised,
        0 where unknown, and which of them are known."""
        known = torch.isfinite(constants)
        scaled = (torch.where(known, constants, self.constant_mean) - self.constant_mean) / self.constant_std
        return torch.cat([scaled, known.to(scaled.dtype)], dim=-1)

    def _with(self, parts: list[Tensor], c: Tensor | None) -> Tensor:
        """The inputs (..., any) of a network beside what they are conditioned on."""
        if not self.n_constant:
            return torch.cat(parts, dim=-1)
        if c is None:
            nominal = [t.nominal for t in self.spec.constants]
            c = self.condition(torch.tensor(nominal, dtype=parts[0].dtype, device=parts[0].device))
        c = c.view(*c.shape[:-1], *[1] * (parts[0].dim() - c.dim()), c.shape[-1])
        return torch.cat([*parts, c.expand(*parts[0].shape[:-1], -1)], dim=-1)

    def encode_normalised(self, values: Tensor, mask: Tensor, c: Tensor | None = None) -> Tensor:
        """Normalised windows and masks (..., window, channels) -> z (..., latent)."""
        values = filled(values, mask) if self.config.filled else values * mask
        return self.encoder(self._with([values.flatten(-2), mask.flatten(-2)], c))

    def encode(self, window: Tensor, constants: Tensor | None = None) -> Tensor:
        """`window` (..., window, channels) of [measured, dvs, applied], engineering units, NaN where missing or padded,
        and `constants` (..., n_constant), NaN where unknown -> z (..., latent)."""
        mask = torch.isfinite(window)
        scaled = (torch.where(mask, window, self.channel_mean) - self.channel_mean) / self.channel_std
        c = None if constants is None or not self.n_constant else self.condition(constants)
        return self.encode_normalised(scaled, mask.to(scaled.dtype), c)

    def inputs(self, z: Tensor, u: Tensor, d: Tensor, c: Tensor | None = None) -> Tensor:
        """What the predictor sees: z (..., latent), then moves and disturbances (normalised), then what holds."""
        return self._with([z, u, d], c)

    def advance_normalised(self, z: Tensor, u: Tensor, d: Tensor, c: Tensor | None = None) -> Tensor:
        """`advance` of normalised moves and disturbances, and of `c` as `condition` answers it."""
        return (z + self.predictor(self.inputs(z, u, d, c))).clamp(self.z_low, self.z_high)

    def advance(self, z: Tensor, u: Tensor, d: Tensor, constants: Tensor | None = None) -> Tensor:
        """One sample ahead: z (..., latent), moves u (..., n_mv), disturbances d (..., n_dv), `constants` (..., n_constant) ->
        z (..., latent)."""
        c = None if constants is None or not self.n_constant else self.condition(constants)
        return self.advance_normalised(z, self.normalise(u, "mvs"), self.normalise(d, "dvs"), c)

    def read_out(self, z: Tensor) -> Tensor:
        """z (..., latent) -> measurements (..., n_measured)."""
        return self.denormalise(self.read_out_head(z), "measured")

    @property
    def watched(self) -> list[int | None]:
        """For each guardrail, which measurement tells of it; None where a hidden quantity does."""
        names = [t.name for t in self.spec.measured]
        return [names.index(g.tag) if g.tag in names else None for g in self.spec.guardrails]

    def limit_margins(self, z: Tensor) -> Tensor:
        """z (..., latent) -> signed margin to each guardrail now (..., n_guardrail): true where a measured tag tells of it,
        squashed at `margin_scale` where it is hidden."""
        return self.limit_heads(z) * self.margin_scale

    def fallback_margins(self, z: Tensor) -> Tensor:
        """z (..., latent) -> margin left at the worst moment if the fallback took over now (..., n_guardrail)."""
        return self.fallback_heads(z) * self.margin_scale

    def squash(self, margin: Tensor) -> Tensor:
        """What the heads learn of a margin nobody measures: near zero itself, far away only its sign."""
        return self.margin_scale * torch.tanh(margin / self.margin_scale)

    def read_out_margins(self) -> tuple[Tensor, Tensor]:
        """The margins that the read-out alone foretells, in units of the limit heads' output, as a map of latents: weight
        (n_guardrail x latent) and bias (n_guardrail,); zero where a guardrail's tag is not measured."""
        head = self.read_out_head
        weight, bias = (torch.zeros_like(v) for v in (self.limit_heads.linear.weight, self.limit_heads.last.bias))
        for i, (g, at) in enumerate(zip(self.spec.guardrails, self.watched, strict=True)):
            if at is not None:
                slope = -g.sign * self.channel_std[at] / self.margin_scale[i]
                weight[i] = slope * head.weight[at]
                bias[i] = slope * head.bias[at] + g.sign * (g.limit - self.channel_mean[at]) / self.margin_scale[i]
        return weight, bias

    @torch.no_grad()
    def start_limits(self) -> None:
        """Limit heads of measured tags that answer nothing: what is learned from here on is a correction of the read-out's
        margin, until `finish_limits`."""
        for i, at in enumerate(self.watched):
            if at is not None:
                for part in (self.limit_heads.last.weight, self.limit_heads.linear.weight, self.limit_heads.last.bias):
                    part[i] = 0.0

    @torch.no_grad()
    def finish_limits(self) -> None:
        """Put the read-out's own margins into the limit heads: correction becomes margin."""
        weight, bias = self.read_out_margins()
        self.limit_heads.linear.weight.add_(weight)
        self.limit_heads.last.bias.add_(bias)
