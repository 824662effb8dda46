"""What a planner is given and what it returns; the energy and the ranking every planner shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.world_model import WorldModel


@dataclass(frozen=True)
class Problem:
    """One planning problem for `batch` plants. MVs are scaled 0..1 over [low, high] of the spec (`span` apart).

    `z` (batch x latent) now; `dvs` (batch x horizon x n_dv, normalised) expected disturbances; `previous` (batch x n_mv)
    moves in force; `low`, `high` (n_mv) limits of this plan, as operators set them; `rate` (n_mv) largest move a sample, 0 for an
    MV that is not ours to move and stays where it is; `fallback` (n_mv) the safe moves; `targets` (batch x horizon x n_target),
    NaN where nothing is asked, and `bias` (batch x horizon x n_measured), added to what the model reads
    out, in the tags' units; `required` (batch x horizon x n_constraint) the least admissible margin, in scales of its
    guardrail. `conditions` (batch x
    2 * n_constant) what holds, as `WorldModel.condition` answers; None where the model has none. `goal` (batch x horizon x
    latent) the latents to be near to, `asked` (batch x horizon x n_mv) the moves to be near to; None where nobody asks for
    them.
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
    conditions: Tensor | None = None
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
        own = {k: v for k, v in vars(self).items() if v is not None and k not in ("low", "high", "rate", "fallback")}
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
    """The best plan found. `violation` (batch x rank), in scales, summed over the horizon, rank 1 first; `energy` (batch,) task
    energy; `terms` its parts; `converged` (batch,) whether the last iterations agreed; `late` whether time ran out."""

    rollout: Rollout
    violation: Tensor
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
        short = (required - margins).clamp(min=0).sum(1)
        return torch.stack([short[:, self.rank == r].sum(-1) for r in self.ranks], dim=-1)


class Convex(NamedTuple):
    """What an energy asks of one convex subproblem in the change x of the moves (batch x n): sum |rows x + offset| + x'p x / 2 +
    q'x. `rows` (batch x any x n), `offset` (batch x any), `p` (batch x n x n), `q` (batch x n)."""

    rows: Tensor
    offset: Tensor
    p: Tensor
    q: Tensor


class Energy:
    """The task energy of `PlannerConfig`: tracking + effort + suppression, and unrest where it is priced, each (batch,).
    Tracking is the decoded one: of the measurements read out, their offset corrected, from the targets."""

    def __init__(
        self,
        columns: list[int],
        scale: Tensor,
        effort: float,
        effort_low: Tensor,
        effort_span: Tensor,
        suppression: float,
        steady: float = 0.0,
    ) -> None:
        self.columns, self.scale, self.effort, self.suppression = columns, scale, effort, suppression
        self.steady = steady
        self.effort_low, self.effort_span = effort_low, effort_span

    @property
    def plain(self) -> bool:
        """Whether it is no more than the sum of |target error| / `scale`, `weights` * (moves - `reference`)^2, suppression
        and unrest, which is what the compiled planner knows."""
        return type(self) is Energy

    def weights(self, problem: Problem) -> Tensor:
        """What a move costs (horizon x n_mv) times the square of its distance from `reference`."""
        return (self.effort / self.effort_span**2).expand(problem.targets.shape[1], problem.previous.shape[1])

    def reference(self, problem: Problem) -> Tensor:
        """(horizon x n_mv), or for every plant."""
        return self.effort_low.expand(problem.targets.shape[1], problem.previous.shape[1])

    def terms(self, rollout: Rollout, problem: Problem) -> dict[str, Tensor]:
        effort = ((rollout.moves - self.effort_low) / self.effort_span) ** 2
        before = torch.cat([problem.previous[:, None], rollout.moves[:, :-1]], dim=1)
        terms = {
            "tracking": self.tracking(rollout, problem),
            "effort": self.effort * effort.sum((1, 2)),
            "suppression": self.suppression * ((rollout.moves - before) ** 2).sum((1, 2)),
        }
        return {**terms, "unrest": self._unrest(rollout, problem).abs().sum(1)} if self.steady else terms

    def tracking(self, rollout: Rollout, problem: Problem) -> Tensor:
        """(batch,), summed over the horizon."""
        return self._error(rollout, problem).abs().sum((1, 2))

    def convex(self, rollout: Rollout, problem: Problem, sensitivity: Tensor, read_out: Tensor) -> Convex:
        """`tracking` and unrest around `rollout`; `sensitivity` (batch x horizon x latent x n) of the latents to the moves,
        `read_out` (n_measured x latent) of the measurements to the latents."""
        batch, n = sensitivity.shape[0], sensitivity.shape[-1]
        rows = ((read_out[self.columns] / self.scale[:, None]) @ sensitivity * _asked(problem)[..., None]).flatten(1, 2)
        last, offset = self.end(rollout, problem, sensitivity, read_out)
        return Convex(
            torch.cat([rows, last], 1),
            torch.cat([self._error(rollout, problem).flatten(1), offset], 1),
            rows.new_zeros(batch, n, n),
            rows.new_zeros(batch, n),
        )

    def end(self, rollout: Rollout, problem: Problem, sensitivity: Tensor, read_out: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and offset of the unrest, as in `Convex`; none where it costs nothing."""
        if not self.steady:
            none = sensitivity[:, 0, :0]
            return none, none[..., 0]
        slope = (read_out[self.columns] / self.scale[:, None]) @ sensitivity[:, -2:].diff(dim=1).sum(1)
        return self.steady * slope * _asked(problem)[:, -1, :, None], self._unrest(rollout, problem)

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


def rank_key(violation: Tensor, energy: Tensor) -> Tensor:
    """One number (batch,) that orders plans as the guardrails demand: rank-1 violation, then rank 2, ..., then energy.

    A hundredth of a scale of violation decides; below that the next criterion does. Beyond 50 scales less and less does, but
    the smaller violation always comes first. What is not a number comes last.
    """
    counted = (violation.nan_to_num(torch.inf) * 100).floor()
    counted = torch.where(counted > 5000, 10000 - 5000**2 / counted.clamp(min=1), counted)
    scale = 1e4 ** torch.arange(violation.shape[-1], 0, -1, dtype=energy.dtype, device=energy.device)
    return (counted.clamp(max=9999) * scale).sum(-1) + torch.nan_to_num(energy, nan=9e3).clamp(max=9e3)
