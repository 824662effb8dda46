"""Linear MPC on an identified model: what most plants with MPC run today."""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controllers.contracts import Decision, Observation, Status, Targets
from controllers.planning import qp
from controllers.planning.config import PlannerConfig
from controllers.planning.explained import contradiction
from controllers.planning.levels import Levels
from controllers.planning.offset import Offset
from controllers.planning.target_layer import TargetLayers
from controllers.planning.tuning import Tuning
from models.gains import Gains
from models.rivals.contract import Forecaster
from plant.errors import ControlError

Array = NDArray[np.float64]

_STEPS = (
    10  # interior-point steps for each iteration configured: the subproblem is the whole problem, solved to its end
)
_HARD = 1e5  # price of a limit on a move, in energy per span: above every guardrail's
_PRICE = (100.0, 10.0, 1.0)  # price of a guardrail by rank, in energy per scale of it
_BROKEN = 0.01  # scales by which a plan passes a guardrail before it counts


class LinearMpc:
    """One quadratic program a sample for `batch` plants: the energy, zones, limits and guardrails of `JepaMpc` on a linear
    `model` of the measurements (ARX or subspace, `models.rivals.registry.train_rival`).

    Limits and rates of the moves hold exactly, operator limits but where those of the spec alone break a guardrail less (RECOVERY);
    guardrails are soft, ranked by price, so that there is always an answer.
    Discrete MVs are rounded step by step, what is left out carried on.
    Offset-free: what was predicted k samples ago corrects today's prediction k samples ahead (`Offset`).
    Disturbances are held at their last reading. A missing measurement is stood in for by the last one; a plant with none
    at all, or whose move in force is unknown, gets INFEASIBLE and its safe moves.

    Raises `ControlError` when the model is not linear, there is no MV, was validated to a shorter horizon, or a guardrail watches what it
    does not predict.
    """

    def __init__(
        self, model: Forecaster, config: PlannerConfig | None = None, batch: int = 1, gains: Gains | None = None
    ) -> None:
        self.spec, self.config, self.batch = model.spec, config or PlannerConfig(), batch
        self.horizon = self.config.horizon
        if self.horizon > model.config.horizon:
            raise ControlError(
                f"a horizon of {self.horizon} samples", f"linear MPC of {self.spec.name}",
                f"The model was validated to {model.config.horizon}; plan no further, or train it further.",
            )  # fmt: skip
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        moves = [t.move for t in self.spec.mvs if t.move]
        if not moves:
            raise ControlError(
                "no MV to move",
                f"linear MPC of {self.spec.name}",
                "A plant without MVs can be watched, not controlled.",
            )
        self._low = _double([m.limits[0] for m in moves])
        self._span = _double([m.span for m in moves])
        self._levels = Levels(moves)
        self._rate = _double([m.reach(self.spec.sample_time_s) for m in moves]) / self._span
        self._safe = (_double([m.safe for m in moves]) - self._low) / self._span
        self._tuning = Tuning(self.spec, self.config)
        names = [t.name for t in self.spec.measured]
        self._rails = [g for g in self.spec.guardrails if g.tag in names]
        if self.config.guardrails and len(self._rails) < len(self.spec.guardrails):
            blind = ", ".join(g.name for g in self.spec.guardrails if g not in self._rails)
            raise ControlError(
                f"no measurement tells about {blind}", f"linear MPC of {self.spec.name}",
                "Set `guardrails: false` and guard it otherwise.",
            )  # fmt: skip
        self._watched = [names.index(g.tag) for g in self._rails]
        self._sign, self._rail_scale = (
            _double(v) for v in ([g.sign for g in self._rails], [self.spec.scale(g) for g in self._rails])
        )
        ranks = sorted({g.rank for g in self._rails})
        self._price = _double([_PRICE[min(ranks.index(g.rank), 2)] for g in self._rails])
        n, m = self.horizon * len(moves), len(moves)
        self._difference = torch.eye(n, dtype=torch.float64)
        self._difference[m:, :-m] -= torch.eye(n - m, dtype=torch.float64)
        self._gain = self._gains()
        self.layers = TargetLayers(self.spec, gains, np.zeros(len(self.spec.guardrails)), batch)
        self.reset()

    def reset(self) -> None:
        model = self.model
        rows = model.config.window + self.horizon
        self._history = torch.full((self.batch, rows, len(model.channel_mean)), torch.nan, dtype=torch.float64)
        self._offset = Offset(self.batch, self.horizon, model.n_measured, self.config.bias_filter)
        self._d = _double([t.nominal for t in self.spec.dvs]).expand(self.batch, -1)
        self._known = 0  # samples in the history
        self.layers.reset()

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        targets = self.layers.targets(observation, targets)
        with torch.inference_mode():
            measured, dvs, applied = map(_double, (observation.measured, observation.dvs, observation.applied))
            position = _double(observation.standing)
            self._d = torch.where(torch.isfinite(dvs), dvs, self._d)
            row = torch.cat([measured, self._d, applied], -1)
            self._history = torch.cat([self._history[:, 1:], row[:, None]], 1)
            self._known = min(self._known + 1, self._history.shape[1])
            self._learn_bias(measured)
            previous = ((position - self._low) / self._span).nan_to_num(0.5)
            low, high = ((_double(v) - self._low) / self._span for v in (targets.move_low, targets.move_high))
            dropped = np.zeros(len(self._span), bool) if targets.dropped is None else targets.dropped
            gone = torch.from_numpy(np.array(dropped, bool))
            rate = torch.where(gone, 0.0, self._rate)
            free = self._predict(previous[:, None].expand(-1, self.horizon, -1))
            goals = self._goals(targets, free)
            rest, zones = self._tuning.rest(targets, self.batch), self._tuning.zones(targets, goals)
            moves = self._solve(free, goals, zones, rest, previous, low, high, rate)
            worst = self._violation(moves)
            beyond = torch.zeros(self.batch, dtype=torch.bool)
            if bool((worst > _BROKEN).any()):  # operator limits bar no way that keeps the guardrails better
                wide = self._solve(
                    free, goals, zones, rest, previous, torch.zeros_like(low), torch.ones_like(high), rate
                )
                beyond = (worst > _BROKEN) & (self._violation(wide) < worst - _BROKEN)
                moves = torch.where(beyond[:, None, None], wide, moves)
            sound = torch.isfinite(measured).any(-1) & torch.isfinite(position).all(-1)
            sound &= torch.isfinite(moves).all(-1).all(-1) & (not contradiction(self.spec, targets))
            moves = torch.where(sound[:, None, None], moves, self._safe)
            held = (gone & torch.isfinite(position))[:, None]
            moves = torch.where(held, previous[:, None], moves)
            plan = moves * self._span + self._low
            exact = torch.from_numpy(self._levels.exact(plan.numpy()))
            plan = torch.where(held, position[:, None], exact).numpy()
            return self.layers.told(self._decision(plan, self._predict(moves), sound, beyond, began))

    def _gains(self) -> Tensor:
        """d measurements / d scaled moves (horizon * n_measured x horizon * n_mv), the same wherever it is taken."""
        model, h, m = self.model, self.horizon, len(self._span)
        unit = torch.eye(h * m, dtype=torch.float64).view(-1, h, m) * self._span
        found = []
        for shift in (0.0, 1.0):
            at = (model.channel_mean + shift * model.channel_std).expand(h * m, model.config.window, -1)
            rest = at[:, :1].expand(-1, h, -1)
            u, d = rest[..., model.n_measured + model.n_dv :], rest[..., model.n_measured :][..., : model.n_dv]
            with torch.inference_mode():
                found.append((model.rollout(at, u + unit, d) - model.rollout(at, u, d)).flatten(1).T)
        if not torch.allclose(*found, rtol=1e-6, atol=1e-6 * float(found[0].abs().max())):
            raise ControlError(
                f"a {type(model).__name__} is not linear", f"linear MPC of {self.spec.name}",
                "Train `arx` or `subspace`, or plan with a planner for world models.",
            )  # fmt: skip
        return found[0].clone()

    def _predict(self, moves: Tensor) -> Tensor:
        """Measurements (batch x horizon x n_measured) under scaled moves (batch x horizon x n_mv)."""
        d = self._d[:, None].expand(-1, self.horizon, -1)
        return self.model.rollout(self._history, moves * self._span + self._low, d) + self._offset.bias

    def _learn_bias(self, measured: Tensor) -> None:
        """Compare what each of the last samples predicts for now, told the moves since, with what is."""
        model, h = self.model, self.horizon
        w, n, dv, mv = model.config.window, self._history.shape[1], model.n_measured, model.n_measured + model.n_dv
        ends = n - 2 - torch.arange(h)  # k = 1..h samples ago
        ahead = ends[:, None] + torch.arange(h)
        windows = self._history[:, ends[:, None] + torch.arange(-w + 1, 1)]
        d = self._history[:, ahead.clamp(max=n - 1)][..., dv:mv]
        u = self._history[:, (ahead + 1).clamp(max=n - 1)][..., mv:]
        # A move that is not known spoils every prediction that depends on it.
        spoilt = (torch.isnan(u).any(-1) & (ahead + 1 < n)).any(-1)
        y = model.rollout(windows.flatten(0, 1), u.nan_to_num().flatten(0, 1), d.nan_to_num().flatten(0, 1))
        error = measured[:, None] - y.view(self.batch, h, h, -1).diagonal(dim1=1, dim2=2).mT
        good = torch.isfinite(error) & ~spoilt[..., None] & (torch.arange(h) < self._known - 1)[:, None]
        self._offset.learn(torch.where(good, error, torch.nan))

    def _goals(self, targets: Targets, free: Tensor) -> Tensor:
        ahead = np.minimum(np.arange(self.horizon), targets.values.shape[1] - 1)
        goals = _double(targets.values[:, ahead])
        if targets.left_out is not None:
            goals[..., torch.from_numpy(np.array(targets.left_out, bool))] = torch.nan
        now = self._history[:, 0, self._tuning.columns]
        for row in self._history[:, 1:, self._tuning.columns].unbind(1):
            now = torch.where(torch.isfinite(row), row, now)
        return self._tuning.reference(now, free[..., self._tuning.columns], goals.expand(self.batch, -1, -1))

    def _violation(self, moves: Tensor) -> Tensor:
        """By how many scales (batch,) a plan falls short of a guardrail at worst."""
        short = (self.config.guard - self._margins(self._predict(moves))).clamp(min=0)
        return short.amax((1, 2)) if self.config.guardrails and self._rails else torch.zeros(len(moves))

    def _solve(
        self, free: Tensor, goals: Tensor, zones: Tensor | None, rest: Tensor | None, previous: Tensor, low: Tensor, high: Tensor,
        rates: Tensor,
    ) -> Tensor:  # fmt: skip
        """The moves (batch x horizon x n_mv, scaled) that cost least; `free` (batch x horizon x n_measured) is predicted of
        moves held at `previous`, a target that is NaN is not asked for, and a rate of 0 is that of an MV that is not ours."""
        h, m, batch, c, t = self.horizon, len(self._span), self.batch, self.config, self._tuning
        ours = (rates > 0).double().repeat(h)
        gain = self._gain.view(h, -1, h * m)
        hold = previous.repeat(1, h)
        # (rows, offset, what a unit below and above zero costs)
        asked = (~goals[0].isnan()).double().flatten()
        error = ((free[..., t.columns] - goals) / t.scale).nan_to_num(0.0)
        unit = torch.ones_like(asked)
        rows = (gain[:, t.columns] / t.scale[:, None]).flatten(0, 1) * asked[:, None]
        terms = [(rows, error.flatten(1), -unit, unit)]
        for side, sign in ((1, 1.0), (0, -1.0)):
            if zones is None:
                break
            edge, at, scale = zones[..., side], t.zone_columns, sign * t.zone_scale
            closed = ~edge.isnan()
            past = torch.where(closed, (free[..., at] - edge) / scale, -1.0)
            unit = torch.ones(h * len(at)).double()
            rows = closed[0, ..., None] * gain[:, at] / scale[:, None]
            terms.append((rows.flatten(0, 1), past.flatten(1), 0 * unit, unit))
        if c.guardrails and self._rails:
            past, slope = c.guard - self._margins(free), self._sign / self._rail_scale
            rows, price = (gain[:, self._watched] * slope[:, None]).flatten(0, 1), self._price.repeat(h)
            terms.append((rows, past.flatten(1), 0 * price, price))
        eye, rate = torch.eye(h * m, dtype=torch.float64), rates.repeat(h).expand(batch, -1)
        bounds = [(eye, hold - high.repeat(h)), (-eye, low.repeat(h) - hold)]
        if bool((rates < 1.0).any()):
            bounds += [(self._difference, -rate), (-self._difference, -rate)]
        hard = torch.full((h * m,), _HARD, dtype=torch.float64)
        terms += [(rows, offset, 0 * hard, hard) for rows, offset in bounds]
        a, offset, least, most = (torch.cat(v, -1 if i == 1 else 0) for i, v in enumerate(zip(*terms, strict=True)))
        weight = torch.zeros(batch, m).double() if rest is None else torch.where(rest.isnan(), 0.0, 2 * t.effort)
        p = torch.diag_embed(weight.repeat(1, h) + 1e-6)
        p = p + 2 * self._difference.T * t.suppression.repeat(h) @ self._difference
        q = torch.zeros_like(hold) if rest is None else (weight * (previous - rest.nan_to_num(0.0))).repeat(1, h)
        a, least, most = (v.expand(batch, *v.shape) for v in (a * ours, least, most))
        x = qp.solve(p, q * ours, a, offset, least, most, _STEPS * c.iterations)
        moves = previous[:, None] + torch.nan_to_num(x).view(batch, h, m)
        moves = _inside(moves, previous, low, high, rates)
        return self._levels.rounded(moves, previous, low, high, rates, carried=True) if self._levels else moves

    def _margins(self, predicted: Tensor) -> Tensor:
        """Of predictions (batch x horizon x n_measured), in scales (batch x horizon x n_guardrail)."""
        rails = [g.margin(predicted[..., at]) for g, at in zip(self._rails, self._watched, strict=True)]
        return (torch.stack(rails, -1) if rails else predicted[..., :0]) / self._rail_scale

    def _decision(self, plan: Array, predicted: Tensor, sound: Tensor, beyond: Tensor, began: float) -> Decision:
        margins = self._margins(predicted) - self.config.guard
        violation = (-margins).clamp(min=0).amax((1, 2)) if self._rails else torch.zeros(self.batch)
        status = tuple(
            Status.INFEASIBLE if not ok else Status.RECOVERY if bad else Status.OPTIMAL
            for ok, bad in zip(sound.tolist(), ((violation > _BROKEN) | beyond).tolist(), strict=True)
        )
        return Decision(
            moves=plan[:, 0],
            plan=plan,
            predicted=predicted.numpy(),
            margins=(margins * self._rail_scale).numpy(),
            calibrated=(self.config.guard * self._rail_scale).expand(margins.shape[1:]).numpy(),
            guardrails=tuple(g.name for g in self._rails),
            status=status,
            violation=violation.numpy(),
            bias=self._offset.bias[:, 0].numpy(),
            solve_time_s=time.perf_counter() - began,
        )


def _inside(moves: Tensor, previous: Tensor, low: Tensor, high: Tensor, rate: Tensor) -> Tensor:
    """`moves` (batch x horizon x n_mv) cut to the limits and, step by step from the move in force, to the rate."""
    steps, last = [], previous
    for k in range(moves.shape[1]):
        last = torch.minimum(torch.maximum(moves[:, k].clamp(low, high), last - rate), last + rate)
        steps.append(last)
    return torch.stack(steps, 1)


def _double(values: object) -> Tensor:
    return torch.tensor(np.array(values, dtype=np.float64))
