"""`ForecastMpc`: a rival of the world model (`models.rivals`) behind the same planner, energy and offset correction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from controllers.planning.planner import Planner
from controllers.planning.problem import Energy, Problem, Rollout
from controllers.planning.scp import ScpPlanner
from models.calibration import Calibration
from models.rivals.contract import Forecaster, with_constants
from plant.errors import ControlError


class Measured(nn.Module):
    """A forecaster as planners want a model: its latent of a sample ahead is the normalised measurement, and that of now
    the whole window it reads. Guardrails are read off the measurements; those on hidden quantities, and recoverability,
    it has no heads for: they are left out of its `spec`."""

    n_constant = 0  # what is constant within a run lies in the window

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        names = [t.name for t in forecaster.spec.measured]
        rails = tuple(g.model_copy(update={"fallback_tag": None}) for g in forecaster.spec.guardrails if g.tag in names)
        self.spec = forecaster.spec.model_copy(update={"guardrails": rails})
        self.forecaster, self.n_measured, self.n_dv = forecaster, forecaster.n_measured, forecaster.n_dv
        self.n_mv = len(self.spec.mvs)
        self.config = forecaster.config.model_copy(update={"latent": self.n_measured})
        self.read_out_head = nn.Linear(self.n_measured, self.n_measured, bias=False)
        nn.init.eye_(self.read_out_head.weight)
        chosen = torch.eye(self.n_measured, dtype=torch.float64)[
            [names.index(g.tag) for g in rails]
        ]  # n_guardrail x n_measured
        sign, limit, scale = (
            torch.tensor(v, dtype=torch.float64)
            for v in ([g.sign for g in rails], [g.limit for g in rails], [self.spec.scale(g) for g in rails])
        )
        self.margin_scale: Tensor
        self._slope: Tensor
        self._level: Tensor
        mean, std = forecaster.channel_mean.double(), forecaster.channel_std.double()
        for name, value in (
            ("channel_mean", mean), ("channel_std", std), ("margin_scale", scale),
            ("_slope", -sign[:, None] * chosen * std[: self.n_measured]),
            ("_level", sign * (limit - chosen @ mean[: self.n_measured])),
        ):  # fmt: skip
            self.register_buffer(name, value.clone())

    @property
    def limit_heads(self) -> Measured:
        return self

    fallback_heads = limit_heads

    def _part(self, part: str) -> slice:
        at = {"measured": (0, self.n_measured), "dvs": (self.n_measured, self.n_dv)}
        start, size = at.get(part, (self.n_measured + self.n_dv, self.n_mv))
        return slice(start, start + size)

    def normalise(self, values: Tensor, part: str) -> Tensor:
        """Engineering units -> normalised; `part`: measured, dvs or mvs."""
        where = self._part(part)
        return (values - self.forecaster.channel_mean[where]) / self.forecaster.channel_std[where]

    def encode(self, window: Tensor, constants: Tensor | None = None) -> Tensor:
        """Windows (batch x samples x channels, engineering units, NaN where missing) -> values, masks, and what holds."""
        f = self.forecaster
        seen = torch.isfinite(window)
        values = torch.where(seen, (window - f.channel_mean) / f.channel_std, 0.0)
        held = [] if f.constant is None else [f._conditions(constants, len(window)).to(values.dtype)]
        return torch.cat([values.flatten(1), seen.to(values.dtype).flatten(1), *held], 1)

    def ahead(self, z: Tensor, u: Tensor, d: Tensor) -> Tensor:
        """From `encode`'s answer, normalised moves (batch x k x n_mv) and disturbances (batch x k x n_dv), the normalised
        measurements of the next k samples."""
        channels = self.n_measured + self.n_dv + self.n_mv
        size = self.config.window * channels
        values, mask = (z[:, i * size : (i + 1) * size].view(len(z), -1, channels) for i in (0, 1))
        if self.forecaster.constant is not None:
            values, mask, u = with_constants(values, mask, u, z[:, 2 * size :])
        return self.forecaster.roll(values, mask, u, d)

    def read_out(self, z: Tensor) -> Tensor:
        """Normalised measurements -> engineering units."""
        where = self._part("measured")
        return z * self.forecaster.channel_std[where] + self.forecaster.channel_mean[where]

    def limit_margins(self, z: Tensor) -> Tensor:
        """Normalised measurements (..., n_measured) -> (..., n_guardrail), in the tags' units, > 0 is safe."""
        return z @ self._slope.mT + self._level

    fallback_margins = limit_margins

    def jacobian(self, z: Tensor) -> Tensor:
        """d `limit_margins` / d z, in units of `margin_scale`."""
        slope = self._slope / self.margin_scale[:, None]
        return slope.expand(*z.shape[:-1], *slope.shape)


class ForecastPlanner(ScpPlanner):
    """The planner through a whole forecast: no state is carried from sample to sample but the measurement."""

    model: Measured

    def roll(self, problem: Problem, moves: Tensor) -> tuple[Rollout, Tensor]:
        u = moves * self.scale_u + self.shift_u
        y = self.model.ahead(problem.z, u, problem.dvs)
        states = torch.cat([torch.zeros_like(y[:, :1]), y], 1)
        measured = self.model.read_out(y) + problem.bias
        rollout = Rollout(moves, states, measured, self.constraints.margins(self.model, y))  # type: ignore[arg-type]
        return rollout, torch.cat([problem.z, u.flatten(1), problem.dvs.flatten(1)], 1)

    def sensitivity(self, inputs: Tensor) -> Tensor:
        m, h = self.model.n_mv, self.config.horizon
        batch, moved, disturbed = len(inputs), h * m, h * self.model.n_dv
        with torch.inference_mode(False), torch.enable_grad():
            z, u, d = inputs.clone().split([inputs.shape[1] - moved - disturbed, moved, disturbed], 1)
            z, d = z.detach(), d.detach().view(batch, h, -1)

            def summed(moves: Tensor) -> Tensor:  # plants do not meet: the sum over them has each one's slopes
                return self.model.ahead(z, moves.view(batch, h, m), d).sum(0)

            jacobian = torch.autograd.functional.jacobian(summed, u.detach().clone(), vectorize=True)
        slopes = jacobian if isinstance(jacobian, Tensor) else jacobian[0]
        return slopes.permute(2, 0, 1, 3) * self.scale_u.repeat(h)


class ForecastMpc(JepaMpc):
    """Plans with `forecaster` instead of a world model. `calibration` has a column a guardrail on a measured tag.

    Raises `ControlError` for a horizon beyond the one trained for, an energy in a latent, or another planner than `scp`.
    """

    model: Measured

    def __init__(
        self,
        forecaster: Forecaster,
        config: PlannerConfig | None = None,
        calibration: Calibration | None = None,
        batch: int = 1,
        deadline_s: float | None = None,
    ) -> None:
        config = config or PlannerConfig()
        if (config.energy, config.name) != ("decoded", "scp"):
            raise ControlError(
                f"energy: {config.energy}, name: {config.name}", f"planner of {forecaster.spec.name}",
                "A rival has no latent and one planner: take energy: decoded and name: scp.",
            )  # fmt: skip
        super().__init__(Measured(forecaster), config, calibration, batch, deadline_s)  # type: ignore[arg-type]

    def _planner(self, energy: Energy) -> Planner:
        shift = self.model.normalise(self._low, "mvs")
        scale = self.model.normalise(self._low + self._span, "mvs") - shift
        return ForecastPlanner(self.model, self.config, energy, scale, shift)  # type: ignore[arg-type]

    def reset(self) -> None:
        super().reset()
        self._encoded: list[Tensor] = []  # windows of the last samples, newest first
        self._moves: list[Tensor] = []  # and the moves (batch x n_mv) in force until, the disturbances at each
        self._disturbances: list[Tensor] = []

    def _reading(self, z: Tensor) -> Tensor:
        seen = self._window[..., : self.model.n_measured]
        last = seen[:, 0]
        for k in range(1, seen.shape[1]):
            last = torch.where(torch.isfinite(seen[:, k]), seen[:, k], last)
        return last

    def _margins(self, z: Tensor) -> Tensor:
        read = self._window[:, -1, : self.model.n_measured]
        return self.model.limit_margins(self.model.normalise(read, "measured"))

    def _expected_now(self, z: Tensor, applied: Tensor) -> Tensor:
        u, d = self.model.normalise(applied, "mvs"), self.model.normalise(self._d, "dvs")
        return self.model.read_out(self.model.ahead(z, u[:, None], d[:, None])[:, 0])

    def _learn_bias(self, z: Tensor, measured: Tensor, applied: Tensor) -> None:
        """Compare what the windows of the last samples say of now with what is; `z` is the window of now."""
        h = self.config.horizon
        self._moves = [self.model.normalise(applied, "mvs").nan_to_num(0.0), *self._moves][:h]
        self._disturbances = [self.model.normalise(self._d, "dvs"), *self._disturbances][:h]
        if known := len(self._encoded):
            # Of the window k samples ago only step k is looked at: what comes after repeats the newest.
            u, d = (
                torch.stack([torch.stack([part[max(k - i, 0)] for i in range(h)], 1) for k in range(known)], 1)
                for part in (self._moves, self._disturbances)
            )
            y = self.model.ahead(torch.stack(self._encoded, 1).flatten(0, 1), u.flatten(0, 1), d.flatten(0, 1))
            k = torch.arange(known)
            self._offset.learn(measured[:, None] - self.model.read_out(y.view(self.batch, known, h, -1)[:, k, k]))
        self._encoded = [z, *self._encoded][:h]
