"""What a planner is given and what it returns; the energy and the ranking every planner shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.world_model import WorldModel

_SHARED = ("low", "high", "rate", "fallback")  # by all plants of a batch
_LATE = 4.0  # what is missing of a margin counts this much more at the first step of a plan than at the last


@dataclass(frozen=True)
class Problem:
    """One planning problem for `batch` plants. MVs are scaled 0..1 over [low, high] of the spec (`span` apart).

    `z` (batch x latent) now; `dvs` (batch x horizon x n_dv, normalised) expected disturbances; `previous` (batch x n_mv)
    moves in force; `low`, `high` (n_mv) limits of this plan, as operators set them; `rate` (n_mv) largest move a sample, 0 for an
    MV that is not ours to move and stays where it is; `fallback` (n_mv) the safe moves; `targets` (batch x horizon x n_target),
    NaN where nothing is asked, and `bias` (batch x horizon x n_measured), added to what the model reads
    out, in the tags' units; `required` (batch x horizon x n_constraint) the least admissible margin, in scales of its
    guardrail, and `calibrated` (like it, >= 0) what is to be kept beyond that where it can be; None: nothing. `conditions` (batch x
    2 * n_constant) what holds, as `WorldModel.condition` answers; None where the model has none. `zones` (batch x
    horizon x n_zone x 2) low and high, the tags' units, NaN where a side is open. `rest` (batch x n_mv) where the MVs rest, NaN where nowhere. `goal` (batch x
    horizon x latent) the latents to be near to, `asked` (batch x horizon x n_mv) the moves to be near to; None where nobody asks
    for them.
    """

    z: Tensor
    dvs: Tensor
    previous: Tensor
    low: Tensor
    high: Tensor
    rate: Tensor
    fallback: Tensor
    targets: Tensor
    bias: Tensor
    required: Tensor
    calibrated: Tensor | None = None
    conditions: Tensor | None = None
    zones: Tensor | None = None
    rest: Tensor | None = None
    goal: Tensor | None = None
    asked: Tensor | None = None

    def repeated(self, n: int) -> Problem:
        """Every plant's problem `n` times in a row."""
        return self._each(lambda v: v.repeat_interleave(n, 0))

    @property
    def narrow(self) -> bool:
        """Whether operators leave less than the spec does of an MV that is ours to move."""
        return bool((((self.low > 0) | (self.high < 1)) & (self.rate > 0)).any())

    def wide(self) -> Problem:
        """The same within the spec's limits alone: what the way to the safe side obeys."""
        return dataclasses.replace(self, low=torch.zeros_like(self.low), high=torch.ones_like(self.high))

    def part(self, plants: slice | Tensor) -> Problem:
        """The problems of some of the plants: a slice of them, or which ones."""
        return self._each(lambda v: v[plants])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Problem:
        own = {k: v for k, v in vars(self).items() if v is not None and k not in _SHARED}
        return dataclasses.replace(self, **{k: change(v) for k, v in own.items()})


@dataclass(frozen=True)
class Rollout:
    """A batch of plans played through the model.

    `moves` (batch x horizon x n_mv, scaled), `z` (batch x horizon+1 x latent), `measured` (batch x horizon x n_measured)
    with the bias added, `margins` (batch x horizon x n_constraint), in scales of the guardrails, before anything is required
    of them.
    """

    moves: Tensor
    z: Tensor
    measured: Tensor
    margins: Tensor


@dataclass(frozen=True)
class Plan:
    """The best plan found. `violation` (batch x rank) of what is required, in scales, summed over the horizon, rank 1 first;
    `shortfall` (batch x rank) of the calibrated margins beyond that, near steps counting more (`late_weights`); `energy` (batch,)
    task energy; `terms` its parts; `converged` (batch,) whether the last iterations agreed; `late` whether time ran out."""

    rollout: Rollout
    violation: Tensor
    shortfall: Tensor
    energy: Tensor
    terms: dict[str, Tensor]
    converged: Tensor
    late: bool


class Constraints:
    """Which head answers for which guardrail: a limit constraint each, and a recoverability constraint for those whose
    fallback was labelled. Column order of `margins` and `required`. Margins are counted in `scale` (n_constraint), what
    `PlantSpec.scale` says of the guardrail in its tag's unit: prices, guards and ranking know no unit."""

    def __init__(self, model: WorldModel) -> None:
        rails = model.spec.guardrails
        self.limit = list(range(len(rails)))
        self.fallback = [i for i, g in enumerate(rails) if g.fallback_tag]
        self.names = [rails[i].name for i in self.limit] + [f"{rails[i].name}_fallback" for i in self.fallback]
        self.guardrail = self.limit + self.fallback
        self.rank = torch.tensor([rails[i].rank for i in self.guardrail], dtype=torch.long)
        self.ranks = sorted({g.rank for g in rails})
        self.scale = torch.tensor([model.spec.scale(rails[i]) for i in self.guardrail], dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.guardrail)

    def margins(self, model: WorldModel, z: Tensor) -> Tensor:
        """z (..., latent) -> (..., n_constraint), in scales."""
        both = torch.cat([model.limit_margins(z)[..., self.limit], model.fallback_margins(z)[..., self.fallback]], -1)
        return both / self.scale.to(both)

    def jacobian(self, model: WorldModel, z: Tensor) -> Tensor:
        """d margins / d z at z (..., latent) -> (..., n_constraint, latent)."""
        limit = model.limit_heads.jacobian(z) * model.margin_scale[:, None]
        fallback = model.fallback_heads.jacobian(z) * model.margin_scale[:, None]
        both = torch.cat([limit[..., self.limit, :], fallback[..., self.fallback, :]], dim=-2)
        return both / self.scale.to(both)[:, None]

    def violation(self, margins: Tensor, required: Tensor) -> Tensor:
        """(batch x horizon x n_constraint) -> (batch x n_rank): shortfall summed over the horizon, by rank."""
        return self._by_rank((required - margins).clamp(min=0).sum(1))

    def levels(self, margins: Tensor, problem: Problem) -> Tensor:
        """What ranks before the energy (batch x 2 n_rank): `violation` of what is required, then what is missing of the calibrated
        margins, by rank."""
        hard = self.violation(margins, problem.required)
        if problem.calibrated is None:
            return torch.cat([hard, torch.zeros_like(hard)], -1)
        short = (problem.required + problem.calibrated - margins).clamp(min=0)
        short = torch.where(problem.calibrated > 0, short, 0.0)
        return torch.cat([hard, self._by_rank((short * late_weights(margins)[:, None]).sum(1))], -1)

    def _by_rank(self, short: Tensor) -> Tensor:
        return torch.stack([short[:, self.rank == r].sum(-1) for r in self.ranks], dim=-1)


def late_weights(like: Tensor) -> Tensor:
    """How much a shortfall counts at each step (horizon,) of plans `like` (batch x horizon x any): 1 on (geometric) average, so
    that what cannot be kept is given up as late as can be."""
    return _LATE ** torch.linspace(0.5, -0.5, like.shape[1], dtype=like.dtype, device=like.device)


class Convex(NamedTuple):
    """What an energy asks of one convex subproblem in the change x of the moves (batch x n): sum of max over low <= y <= high of
    y (rows x + offset), + x'p x / 2 + q'x. `rows` (batch x any x n), `offset`, `low`, `high` (batch x any), `p` (batch x n x n), `q`
    (batch x n)."""

    rows: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    p: Tensor
    q: Tensor


class Energy:
    """The task energy of `PlannerConfig`: tracking + zones + effort + suppression, and unrest where it is priced, each (batch,).
    Tracking is the decoded one: of the measurements read out, their offset corrected, from the targets.

    **Arguments:** `columns` of the targets among the measurements, `scale` (n_target) one unit of error;
    `zone_columns` and `zone_scale` (n_zone) alike, by its rank's weight; `effort` (n_mv) times the square of the distance from the resting value, where
    there is one; `suppression` (n_mv) times the square of a move, both of scaled moves; `steady` as in `PlannerConfig`.
    """

    def __init__(
        self,
        columns: list[int],
        scale: Tensor,
        effort: Tensor,
        suppression: Tensor,
        steady: float = 0.0,
        zone_columns: Sequence[int] = (),
        zone_scale: Tensor | None = None,
    ) -> None:
        self.columns, self.scale, self.effort, self.suppression = columns, scale, effort, suppression
        self.steady, self.zone_columns = steady, list(zone_columns)
        self.zone_scale = torch.ones(0, dtype=scale.dtype) if zone_scale is None else zone_scale

    @property
    def plain(self) -> bool:
        """Whether it is no more than the sum of |target error| / `scale`, what lies outside the zones / `zone_scale`, `weights` *
        (moves - `reference`)^2, suppression and unrest, which is what the compiled planner knows."""
        return type(self) is Energy

    def weights(self, problem: Problem) -> Tensor:
        """What a move costs (batch x horizon x n_mv) times the square of its distance from `reference`."""
        shape = *problem.targets.shape[:2], -1
        if problem.rest is None:
            return torch.zeros_like(problem.previous)[:, None].expand(shape)
        return torch.where(problem.rest.isnan(), 0.0, self.effort)[:, None].expand(shape)

    def reference(self, problem: Problem) -> Tensor:
        """(batch x horizon x n_mv)"""
        rest = torch.zeros_like(problem.previous) if problem.rest is None else problem.rest.nan_to_num(0.0)
        return rest[:, None].expand(*problem.targets.shape[:2], -1)

    def terms(self, rollout: Rollout, problem: Problem) -> dict[str, Tensor]:
        off = self.weights(problem) * (rollout.moves - self.reference(problem)) ** 2
        before = torch.cat([problem.previous[:, None], rollout.moves[:, :-1]], dim=1)
        terms = {
            "tracking": self.tracking(rollout, problem),
            "effort": off.sum((1, 2)),
            "suppression": (self.suppression * (rollout.moves - before) ** 2).sum((1, 2)),
        }
        if self.zone_columns:
            above, below = self._outside(rollout, problem)
            terms["zones"] = (above.clamp(min=0) + below.clamp(min=0)).sum((1, 2))
        return {**terms, "unrest": self._unrest(rollout, problem).abs().sum(1)} if self.steady else terms

    def tracking(self, rollout: Rollout, problem: Problem) -> Tensor:
        """(batch,), summed over the horizon."""
        return self._error(rollout, problem).abs().sum((1, 2))

    def convex(self, rollout: Rollout, problem: Problem, sensitivity: Tensor, read_out: Tensor) -> Convex:
        """`tracking`, zones and unrest around `rollout`; `sensitivity` (batch x horizon x latent x n) of the latents to the moves,
        `read_out` (n_measured x latent) of the measurements to the latents."""
        rows = ((read_out[self.columns] / self.scale[:, None]) @ sensitivity * _asked(problem)[..., None]).flatten(1, 2)
        rest = self.soft(rollout, problem, sensitivity, read_out)
        error = self._error(rollout, problem).flatten(1)
        one = torch.ones_like(error)
        return rest._replace(
            rows=torch.cat([rows, rest.rows], 1),
            offset=torch.cat([error, rest.offset], 1),
            low=torch.cat([-one, rest.low], 1),
            high=torch.cat([one, rest.high], 1),
        )

    def soft(self, rollout: Rollout, problem: Problem, sensitivity: Tensor, read_out: Tensor) -> Convex:
        """Zones and unrest as in `Convex`: what does not depend on how targets are tracked."""
        batch, n = sensitivity.shape[0], sensitivity.shape[-1]
        none = sensitivity[:, 0, :0]
        rows, offset, low, high = [none], [none[..., 0]], [none[..., 0]], [none[..., 0]]
        if self.zone_columns:
            slope = (read_out[self.zone_columns] / self.zone_scale[:, None]) @ sensitivity
            assert problem.zones is not None
            for side, outside in zip((1, 0), self._outside(rollout, problem), strict=True):
                closed = ~problem.zones[..., side].isnan()
                some, sign = closed.any(0).any(0), 1.0 if side else -1.0
                rows.append((sign * closed[..., None] * slope)[:, :, some].flatten(1, 2))
                offset.append(torch.where(closed, outside, -1.0)[..., some].flatten(1))
                low.append(torch.zeros_like(offset[-1]))
                high.append(torch.ones_like(offset[-1]))
        if self.steady:
            slope = (read_out[self.columns] / self.scale[:, None]) @ sensitivity[:, -2:].diff(dim=1).sum(1)
            rows.append(self.steady * slope * _asked(problem)[:, -1, :, None])
            offset.append(self._unrest(rollout, problem))
            low.append(torch.full_like(offset[-1], -1.0))
            high.append(torch.ones_like(offset[-1]))
        return Convex(
            rows=torch.cat(rows, 1),
            offset=torch.cat(offset, 1),
            low=torch.cat(low, 1),
            high=torch.cat(high, 1),
            p=sensitivity.new_zeros(batch, n, n),
            q=sensitivity.new_zeros(batch, n),
        )

    def _outside(self, rollout: Rollout, problem: Problem) -> tuple[Tensor, Tensor]:
        """How far past the high and past the low side of each zone (batch x horizon x n_zone); below 0 inside, -inf where the
        side is open."""
        assert problem.zones is not None
        low, high = problem.zones[..., 0].nan_to_num(-torch.inf), problem.zones[..., 1].nan_to_num(torch.inf)
        reading = rollout.measured[..., self.zone_columns]
        return (reading - high) / self.zone_scale, (low - reading) / self.zone_scale

    def _unrest(self, rollout: Rollout, problem: Problem) -> Tensor:
        """How far the targets' measurements still move at the end, priced (batch x n_target)."""
        change = rollout.measured[:, -2:, self.columns].diff(dim=1).sum(1)
        return self.steady * change / self.scale * _asked(problem)[:, -1]

    def _error(self, rollout: Rollout, problem: Problem) -> Tensor:
        error = (rollout.measured[..., self.columns] - problem.targets) / self.scale
        return torch.where(problem.targets.isnan(), 0.0, error)


def _asked(problem: Problem) -> Tensor:
    """1 where a target is asked for, else 0 (batch x horizon x n_target)."""
    return (~problem.targets.isnan()).to(problem.z)
