"""Guardrail margins that a running loop keeps honest: adaptive conformal inference, per step and guardrail."""

from __future__ import annotations

import torch
from torch import Tensor

from models.calibration import Errors, calibrate_steps, near_at_step, nearness, squashes, unchanged
from models.world_model import WorldModel
from plant.errors import ModelError

# Chosen on calibration runs of reactor, vandevusse and glucose (errors as they were, halved, doubled, shifted by a margin),
# for coverage after 150 samples and width, against quantile tracking, a PI controller of the quantile, and DtACI. Without
# offline scores beside the online ones, 100 of them forget at 99 % what a quiet plant seldom shows.
RATE, KEPT = 0.02, 100
_TRUE = 1e6  # scales at which a margin that is not squashed would be
_BEYOND = 20.0  # past the largest score: what each further unit of the level adds, as a share of that score


class AdaptiveMargins:
    """What is kept in hand at each step of a plan, corrected after each sample by what the last margins covered.

    Adaptive conformal inference (Gibbs & Candes 2021, eq. 2): each plant, step and guardrail has its own level, lowered
    by a miss and raised by a hit, and its margin is that level's quantile of `kept` errors of offline calibration and the
    last `kept` online (offline ones too, until there are so many). Long-run coverage tends to `level` whatever the plant
    turns into, as long as feedback comes; what is seldom near its guardrail learns slowly. Margins are never negative and
    at most 2 * `scale`, the widest error two squashed margins can have.

    Only what is measurable online can adapt: feedback is the observed margin of a guardrail's tag. A hidden quantity, or
    what a fallback would have led to, is never observed: its margin stays as calibrated offline, and so does its promise,
    which a shift of the plant may break. A late laboratory value is feedback like any other; between them pass NaN. A
    prediction far from its guardrail (past `near`) says nothing, and is no feedback.

    `base` (horizon x n_constraint): margins of `models.calibration.calibrate_steps`, in force until feedback comes;
    `scores` (n x horizon x n_constraint): the offline errors (predicted less true margin), NaN where none; `scale`,
    `near` (n_constraint,): where the heads squash, and how close a prediction must be to count; `plants`: how many loops.
    Raises `ModelError` for shapes that do not fit and for levels outside (0, 1).
    """

    def __init__(
        self, base: Tensor, scores: Tensor, scale: Tensor, near: Tensor, level: float, plants: int = 1,
        rate: float = RATE, kept: int = KEPT,
    ) -> None:  # fmt: skip
        if not 0 < level < 1:
            raise ModelError(f"the level is {level:g}", "adaptive margins", "Give a coverage in (0, 1), such as 0.9.")
        if scores.shape[1:] != base.shape or not scale.shape == near.shape == base.shape[1:]:
            raise ModelError(
                f"margins {tuple(base.shape)}, scores {tuple(scores.shape)}, scale {tuple(scale.shape)} do not fit",
                "adaptive margins",
                "Give horizon x n_constraint, n x horizon x n_constraint and n_constraint.",
            )
        self.base, self.scale, self.near, self.level, self.rate = base, scale, near, level, rate
        at = (torch.arange(kept) + 0.5) / kept
        known = _quantiles(scores, at)
        # In a random order, so that what new errors push out is a fair share of large and small.
        order = torch.randperm(kept, generator=torch.Generator().manual_seed(0))
        known = torch.where(torch.isfinite(known), known, base)[order]
        self._offline = known
        shape = (plants, *base.shape)
        self._kept = known.expand(plants, -1, -1, -1).clone()
        self._count = torch.zeros(shape, dtype=torch.long)
        self._miss = torch.full(shape, 1 - level, dtype=base.dtype)
        self._issued = torch.full((base.shape[0], *shape), torch.nan, dtype=base.dtype)
        self.margins = base.expand(shape).clone()
        self._issue()

    @staticmethod
    def of(model: WorldModel, errors: Errors, level: float, plants: int = 1) -> AdaptiveMargins:
        """From the `errors` of a model on calibration runs (`models.calibration.errors_on`)."""
        close = near_at_step(model, errors.predicted)
        rails = model.spec.guardrails
        scale = model.margin_scale[list(range(len(rails))) + [i for i, g in enumerate(rails) if g.fallback_tag]]
        scale = torch.where(squashes(model), scale, _TRUE * scale)
        scores = torch.where(close, errors.optimism, torch.nan)
        return AdaptiveMargins(calibrate_steps(model, errors, level), scores, scale, nearness(model), level, plants)

    def update(self, predicted: Tensor, observed: Tensor) -> Tensor:
        """One sample has come. `predicted` (plants x horizon x n_constraint): at [:, k - 1] the margin of this sample that was
        predicted k samples ago, given the moves that really happened (`Hindsight` makes them), NaN where unknown;
        `observed` (plants x n_constraint): its true signed margin, engineering units, NaN where nobody knows it. In a
        gap, pass NaN once for each sample missed (as many as the horizon has say all). Returns `margins`
        (plants x horizon x n_constraint) for the plan that is made now."""
        if predicted.shape != self.margins.shape or observed.shape != self.margins[:, 0].shape:
            raise ModelError(
                f"predictions {tuple(predicted.shape)} and observations {tuple(observed.shape)} do not fit",
                "adaptive margins",
                f"Give {tuple(self.margins.shape)} and {tuple(self.margins[:, 0].shape)}.",
            )
        steps = torch.arange(self.base.shape[0])
        in_force = self._issued[steps, :, steps].movedim(0, 1)  # [k - 1]: the k-th step's margin, issued k samples ago
        error = predicted - (self.scale * torch.tanh(observed / self.scale))[:, None]
        known = torch.isfinite(error) & torch.isfinite(in_force) & (predicted.abs() < self.near)
        missed = (error > in_force).to(error.dtype)
        moved = self._miss + self.rate * (1 - self.level - missed)
        self._miss = torch.where(known, moved.clamp(-0.1, 1.0), self._miss)
        if not bool(known.any()):
            self._issue()
            return self.margins
        slot = (self._count % self._kept.shape[1])[:, None]
        self._kept.scatter_(1, slot, torch.where(known[:, None], error[:, None], self._kept.gather(1, slot)))
        self._count += known
        adapted = self._quantile().clamp(min=0)
        self.margins = torch.where(self._count > 0, torch.minimum(adapted, 2 * self.scale), self.base)
        self._issue()
        return self.margins

    def _issue(self) -> None:
        self._issued = torch.cat([self.margins[None], self._issued[:-1]])

    def _quantile(self) -> Tensor:
        """The quantile of the kept errors at each level, between neighbours; past the largest, more than that."""
        scores = torch.cat([self._kept, self._offline.expand_as(self._kept)], 1).sort(dim=1).values
        n = scores.shape[1]
        rank = ((1 - self._miss) * (n + 1) - 1).clamp(min=0)
        low = rank.floor().long().clamp(max=n - 1)
        below, above = (scores.gather(1, i[:, None])[:, 0] for i in (low, (low + 1).clamp(max=n - 1)))
        inside = torch.lerp(below, above, (rank - low).clamp(0, 1))
        return inside + _BEYOND * (rank - (n - 1)).clamp(min=0) / n * inside.abs()

    def state(self) -> dict[str, Tensor]:
        """Everything learned since the start, as tensors (for safetensors)."""
        parts = {"kept": self._kept, "count": self._count, "miss": self._miss, "issued": self._issued}
        return {n: t.clone() for n, t in (parts | {"margins": self.margins}).items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state` of margins of the same calibration; raises `ModelError` where its shapes differ."""
        wanted = {n: t.shape for n, t in self.state().items()}
        if {n: t.shape for n, t in state.items()} != wanted:
            raise ModelError(
                "the state is of other margins", "adaptive margins", "Start anew, or load the model it came from."
            )
        self._kept, self._count, self._miss, self._issued, self.margins = (
            state[n].clone() for n in ("kept", "count", "miss", "issued", "margins")
        )


def _quantiles(scores: Tensor, at: Tensor) -> Tensor:
    """Quantiles `at` (m,) of `scores` (n x ...) along the first axis, NaN left out -> (m x ...)."""
    n = torch.isfinite(scores).sum(0)
    ranked = torch.where(torch.isfinite(scores), scores, torch.inf).sort(dim=0).values
    index = (at.view(-1, *[1] * n.ndim) * n).long()
    return torch.where(n > 0, ranked.gather(0, index.clamp(max=len(scores) - 1)), torch.nan)


class Hindsight:
    """What the model would have predicted of now, k samples ago, had it known the moves that were to come: the only
    predictions a closed loop can verify, since a plan's later moves are seldom made. One advance of `horizon` latents a
    sample; `plants` loops side by side."""

    def __init__(self, model: WorldModel, horizon: int, plants: int = 1) -> None:
        self.model = model
        rails = model.spec.guardrails
        self._fallback = [i for i, g in enumerate(rails) if g.fallback_tag]
        dtype = model.channel_mean.dtype
        self._z = torch.full((plants, horizon, model.config.latent), torch.nan, dtype=dtype)
        self._dv = torch.full((plants, horizon, model.n_dv), torch.nan, dtype=dtype)

    @torch.no_grad()
    def update(self, window: Tensor, constants: Tensor | None = None) -> Tensor:
        """`window` (plants x window x channels) that ends with the sample that has come, and `constants`, as
        `WorldModel.encode` takes them ->
        predictions of it (plants x horizon x n_constraint), limits first, then fallbacks, as the heads say them; NaN
        where too little came before, a move or disturbance is unknown, or a disturbance has changed since."""
        model, nm, nd = self.model, self.model.n_measured, self.model.n_dv
        horizon = self._z.shape[1]
        latest = window[:, -1:]
        dvs, moves = model.normalise(latest[..., nm : nm + nd], "dvs"), model.normalise(latest[..., nm + nd :], "mvs")
        u, d = (part.expand(-1, horizon, -1) for part in (moves, self._dv[:, :1]))
        c = None if constants is None or not model.n_constant else model.condition(constants)
        self._z = model.advance_normalised(self._z, u, d, c)
        if nd:
            now = dvs.expand(-1, horizon, -1)
            same = unchanged(model, torch.stack([self._dv, now], 2).flatten(0, 1))[:, 1].view(-1, horizon, 1)
            self._z = torch.where(same, self._z, torch.nan)
        predicted = torch.cat([model.limit_margins(self._z), model.fallback_margins(self._z)[..., self._fallback]], -1)
        self._z = torch.cat([model.encode(window, constants)[:, None], self._z[:, :-1]], 1)
        self._dv = torch.cat([dvs, self._dv[:, :-1]], 1)
        return predicted
