"""Conformal calibration: how far a guardrail head may be wrong, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.windows import Run, WindowSet, all_known
from models.world_model import WorldModel
from plant.errors import ModelError

_ENOUGH = 100  # stretches near a guardrail, to tell how far its head may be wrong there
UNCHANGED = 0.3  # normalised: a measured disturbance that moved less than this has not changed


def unchanged(model: WorldModel, dvs: Tensor) -> Tensor:
    """Which samples (batch x steps) of normalised `dvs` (batch x steps x n_dv) still read as the first did: closer than
    `UNCHANGED`, or than its sensor's noise explains."""
    at = model.n_measured
    noise = torch.tensor([t.noise for t in model.spec.dvs]) / model.channel_std[at : at + model.n_dv]
    return ((dvs - dvs[:, :1]).abs() < (6 * noise).clamp(min=UNCHANGED)).all(-1)


@dataclass(frozen=True)
class Calibration:
    """`margins` (horizon x n_constraint), engineering units: what is kept in hand at each step of a plan. `level` is the
    nominal coverage, `runs` how many runs it came from."""

    margins: Tensor
    level: float
    runs: int

    @staticmethod
    def none(horizon: int, constraints: int) -> Calibration:
        """No margins at all: for a model that has not been calibrated."""
        return Calibration(torch.zeros(horizon, constraints), 0.0, 0)


def conformal_quantile(scores: Tensor, level: float) -> Tensor:
    """The split-conformal quantile of `scores` (n, ...) along the first axis: rank ceil((n + 1) * level), or the
    largest when n is too small to promise `level`."""
    n = scores.shape[0]
    rank = min(n, int(-(-(n + 1) * level // 1)))
    return scores.sort(dim=0).values[rank - 1]


def joint_margins(errors: Tensor, level: float) -> Tensor:
    """Margins that hold at all steps at once with probability `level`.

    `errors` (samples x horizon x n_constraint): predicted margin less true margin (> 0 is optimistic); samples should
    come from many runs. Each constraint's steps are scaled by their own spread, and the quantile is taken of the
    largest scaled error over the horizon. A step that no sample reached gets the widest margin of the others. Returns
    (horizon x n_constraint), never negative; raises `ModelError` when no sample says anything about a constraint.
    """
    scale = errors.abs().nanquantile(0.9, dim=0)
    scale = torch.where(torch.isfinite(scale), scale, scale.nan_to_num(0.0).amax(0))
    # Steps that are never wrong are told by those that are, whatever the unit.
    scale = torch.maximum(scale, 1e-6 * scale.amax(0)).clamp(min=torch.finfo(scale.dtype).tiny)
    worst = (errors / scale).nan_to_num(-torch.inf).amax(dim=1)
    if not bool(torch.isfinite(worst).any(0).all()):
        raise ModelError(
            "no held-out sample shows a guardrail's tag", "calibration", "Record more runs, with that tag."
        )
    # A sample of which nothing is known is no evidence of a small error.
    quantile = torch.stack([conformal_quantile(w[torch.isfinite(w)], level) for w in worst.T])
    return (quantile * scale).clamp(min=0)


def step_margins(errors: Tensor, run: Tensor, level: float) -> Tensor:
    """Margins that each hold, at their own step, with probability `level`: a split-conformal quantile for every step and
    guardrail. A plan is watched at many steps at once; `joint_margins` promises for all of them together.

    `errors` (samples x horizon x n_constraint): predicted margin less true margin (> 0 is optimistic), NaN where unknown
    or not asked about; `run` (samples,) the run each came from. Runs are exchangeable, samples within one are not: the
    quantile is of the pooled samples, its rank that of as many scores as there are runs (Dunn, Wasserman & Ramdas 2022,
    pooled). A step that no sample reached gets the widest margin of the others. Returns (horizon x n_constraint), never
    negative; raises `ModelError` when no sample says anything about a constraint.
    """
    known = torch.isfinite(errors)
    if not bool(known.any(0).any(0).all()):
        raise ModelError(
            "no held-out sample shows a guardrail's tag", "calibration", "Record more runs, with that tag."
        )
    margins = torch.zeros(errors.shape[1:], dtype=errors.dtype)
    for k, j in known.any(0).nonzero().tolist():
        scores = errors[:, k, j][known[:, k, j]].sort().values
        runs = int(run[known[:, k, j]].unique().numel())
        share = min(1.0, -(-(runs + 1) * level // 1) / runs)
        margins[k, j] = scores[max(0, int(-(-share * len(scores) // 1)) - 1)]
    return torch.where(known.any(0), margins, margins.amax(0)).clamp(min=0)


@dataclass(frozen=True)
class Errors:
    """What a model got wrong on runs it was not trained on, with the moves and disturbances that really happened.

    `predicted`, `true` (samples x horizon x n_constraint): signed margins, squashed as the heads of hidden quantities and of
    the fallback are; NaN where nobody labelled the truth. `run` (samples,): which run each came from; `history` (samples,): how many samples of it came before;
    `lost` (samples,): whether not even the fallback could have saved the plant any more, as labelled.
    """

    predicted: Tensor
    true: Tensor
    run: Tensor
    history: Tensor
    lost: Tensor

    @property
    def optimism(self) -> Tensor:
        """Predicted less true margin (samples x horizon x n_constraint): > 0 is the dangerous side."""
        return self.predicted - self.true


def errors_on(model: WorldModel, runs: Sequence[Run], horizon: int) -> Errors:
    """Roll `model` from every sample of `runs` over `horizon` samples and compare; NaN past the end of a run, past a
    move that nobody knows, and past a change of a measured disturbance, which no plan could foresee (recoverability
    stands for that). Raises `ModelError` when no run is long enough."""
    scale = model.scale()
    data = WindowSet(runs, scale, model.config.window, horizon, constant=model.constant_scale())
    nm, nd = data.n_measured, data.n_dv
    starts = data.starts
    index, alive = data.sequence(starts)
    alive = alive[:, 1:] * all_known(data.mask[index][:, 1:, nm + nd :])
    if nd:
        dvs = data.rows[index][..., nm : nm + nd]
        alive = alive * unchanged(model, dvs)[:, 1:]
    alive = alive.cumprod(1) > 0
    rails = model.spec.guardrails
    fallback = [i for i, g in enumerate(rails) if g.fallback_tag]
    column = model.watched
    sign, limit = torch.tensor([g.sign for g in rails]), torch.tensor([g.limit for g in rails])
    squashed = squashes(model)
    dtype = model.channel_mean.dtype
    rows, labels, hidden = data.rows.to(dtype), data.labels.to(dtype), data.hidden.to(dtype)
    with torch.inference_mode():
        values, mask = data.gather(starts)
        c = data.conditions(starts)
        c = None if c is None else c.to(dtype)
        z = model.encode_normalised(values.to(dtype), mask.to(dtype), c)
        predicted, true = [], []
        for k in range(1, horizon + 1):
            now, before = rows[index[:, k]], rows[index[:, k - 1]]
            z = model.advance_normalised(z, now[:, nm + nd :], before[:, nm : nm + nd], c)
            y = model.denormalise(now[:, :nm], "measured")
            predicted.append(
                torch.cat([model.limit_margins(z)[:, : len(rails)], model.fallback_margins(z)[:, fallback]], -1)
            )
            watched = [hidden[index[:, k], i] if c is None else y[:, c] for i, c in enumerate(column)]
            value = torch.cat([torch.stack(watched, -1) if watched else y[:, :0], labels[index[:, k]][:, fallback]], -1)
            both = list(range(len(rails))) + fallback
            margin = sign[both] * (limit[both] - value)
            scale_k = model.margin_scale[both]
            true.append(torch.where(squashed, scale_k * torch.tanh(margin / scale_k), margin))
    reached = alive[..., None]
    return Errors(
        torch.where(reached, torch.stack(predicted, 1), torch.nan),
        torch.where(reached, torch.stack(true, 1), torch.nan),
        data.first[starts],
        starts - data.first[starts],
        (sign[fallback] * (limit[fallback] - labels[starts][:, fallback]) < 0).any(-1),
    )


def calibrate(model: WorldModel, runs: Sequence[Run], horizon: int, level: float = 0.99) -> Calibration:
    """Margins for every step of a plan.

    A limit head's margin holds jointly over the horizon on `level` of the stretches that come near the guardrail, or nearest
    where hardly any does, of plans that were executed (runs of kind "control") where there are any, else of all but the simulated incidents.
    A fallback head answers a yes-or-no question (past the edge a plant runs away, it does not overshoot a little), so its
    margin is what `level` of the truly lost states do not reach: at most 1 - level of them are taken for recoverable,
    among executed plans and among all other runs alike. It counts states with half a window of history at least; a loop
    that has just started knows less.
    """
    executed = [r for r in runs if r.kind == "control"]
    others = [r for r in runs if r.kind != "control"]
    usual = errors_on(model, executed or [r for r in others if r.kind != "incident"] or runs, horizon)
    count = len(model.spec.guardrails)
    margins = torch.zeros(horizon, usual.predicted.shape[-1], dtype=usual.predicted.dtype)
    near, tells = near_guardrail(model, usual), telling(model, usual)
    for j in range(count):
        optimism = usual.optimism[..., j : j + 1]
        if int(near[:, j].sum()) >= _ENOUGH:
            optimism = torch.where(tells[..., j : j + 1], optimism, torch.nan)[near[:, j]]
        else:
            optimism = optimism[nearest(usual.predicted[..., j])]
        margins[:, j : j + 1] = joint_margins(optimism, level)
    for some in (executed, others):
        if some and margins.shape[1] > count:
            errors = errors_on(model, some, horizon)
            warm = errors.history >= model.config.window // 2
            for j in range(count, margins.shape[1]):
                kept = _missed_danger(errors.predicted[warm][..., j], errors.true[warm][..., j], level)
                margins[:, j] = torch.maximum(margins[:, j], kept)
    return Calibration(margins, level, int(usual.run.unique().numel()))


def calibrate_steps(model: WorldModel, errors: Errors, level: float) -> Tensor:
    """`step_margins` (horizon x n_constraint) of predictions that came near their guardrail at that very step. A guardrail
    with fewer than 100 of those at some step takes all predictions there: it was hardly ever near."""
    close = near_at_step(model, errors.predicted)
    enough = (close & torch.isfinite(errors.optimism)).sum(0) >= 100
    return step_margins(torch.where(close | ~enough, errors.optimism, torch.nan), errors.run, level)


def squashes(model: WorldModel) -> Tensor:
    """Which constraints (n_constraint,) have margins that are squashed: limits of hidden quantities, and all fallbacks."""
    fallbacks = sum(1 for g in model.spec.guardrails if g.fallback_tag)
    return torch.tensor([at is None for at in model.watched] + [True] * fallbacks, dtype=torch.bool)


def nearness(model: WorldModel) -> Tensor:
    """How close to its guardrail a margin (n_constraint,) counts as near, in the tags' units: one `margin_scale`, as the heads
    say it."""
    rails = model.spec.guardrails
    both = list(range(len(rails))) + [i for i, g in enumerate(rails) if g.fallback_tag]
    scale = model.margin_scale[both]
    return torch.where(squashes(model), scale * torch.tanh(torch.ones(())), scale)


def near_at_step(model: WorldModel, predicted: Tensor) -> Tensor:
    """Which predicted margins (..., n_constraint) lie near their guardrail; the error of what lies further away says nothing
    about it."""
    return predicted.abs() < nearness(model)


def nearest(predicted: Tensor) -> Tensor:
    """Which stretches (samples,) of predicted margins (samples x horizon) came nearest to a guardrail that hardly any came near
    to: a fifth of those that say anything, a hundred at least, all where there are fewer."""
    lowest = predicted.nan_to_num(torch.inf).amin(1)
    known = int(torch.isfinite(lowest).sum())
    if not known:
        return torch.ones_like(lowest, dtype=torch.bool)
    return lowest <= lowest.sort().values[min(known, max(_ENOUGH, known // 5)) - 1]


def _missed_danger(predicted: Tensor, true: Tensor, level: float) -> Tensor:
    """The margin that at most 1 - level of the truly lost states (true < 0) are predicted to have one step ahead, for
    every step (horizon,): each later step is decided again when it is the next one. Fewer than 100 lost states promise
    less than `level`; the largest seen is taken then."""
    lost = predicted[:, 0][true[:, 0] < 0]
    kept = conformal_quantile(lost, level) if len(lost) else torch.zeros((), dtype=predicted.dtype)
    return kept.clamp(min=0).expand(predicted.shape[1])


def near_guardrail(model: WorldModel, errors: Errors) -> Tensor:
    """Which stretches (samples x n_constraint) come near a guardrail at some step, from a state that could still be saved: the
    rest say nothing about how far a head may be trusted where it matters."""
    return telling(model, errors).any(1) & ~errors.lost[:, None]


def telling(model: WorldModel, errors: Errors) -> Tensor:
    """Which errors (samples x horizon x n_constraint) tell how far a prediction may be trusted: of what is predicted near its
    guardrail, or is beyond it unforeseen. No plan is let past a limit by any other."""
    unforeseen = (errors.true < 0) & (errors.predicted > 0)
    return near_at_step(model, errors.predicted) | unforeseen
