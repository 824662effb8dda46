"""The goal-embedding energy: how far each predicted latent lies from the latent of a plant at rest where it should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controllers.planning.problem import Convex, Energy, Problem, Rollout
from models.windows import Run
from models.world_model import WorldModel
from plant.errors import ControlError

_KEPT = 20_000  # samples of history, evenly spaced
_NEAREST = 256  # samples of history a goal is read from
_RIDGE = 1e-4  # of the samples' number, on features scaled to one
_FLOOR = 0.01  # of the mean variance of a latent dimension: directions that hardly move are not amplified beyond it

Windows = Callable[[Tensor, Tensor], Tensor]


class Goal:
    """What to steer to, and how distance to it is measured.

    `windows`: targets (n x n_target) and measured disturbances (n x n_dv), engineering units -> one sample (n x channels)
    of [measured, dvs, applied] each, in which the plant rests where the targets are met. `whiten` (latent x latent): latents
    times its transpose have unit covariance on training data; None: they are taken as they are.
    """

    def __init__(self, windows: Windows, whiten: Tensor | None = None) -> None:
        self.windows, self.whiten = windows, whiten

    @classmethod
    def from_runs(cls, model: WorldModel, runs: Sequence[Run]) -> Goal:
        """Goals as the history in `runs` has them (`RestingHistory`), distance by the covariance of its latents.

        Raises `ControlError` when `runs` hold too little to read a goal from.
        """
        return cls(RestingHistory(model, runs), whitening(model, runs))


class RestingHistory:
    """Reads from history what the rest of a plant is like when its targets are met and nothing changes.

    Of the samples nearest to that (targets, disturbances and the last change of every measurement, each in units of its own
    deviation) every other channel is fitted linearly in those, and read at the target and at no change: history need not
    hold a moment of rest, and what it holds of one counts most. Where it never went, it extrapolates.
    """

    def __init__(self, model: WorldModel, runs: Sequence[Run]) -> None:
        spec, nm, nd = model.spec, model.n_measured, model.n_dv
        names = [t.name for t in spec.measured]
        self._columns = [names.index(t.tag) for t in spec.targets]
        rows = [np.concatenate([r.measured, r.dvs, r.applied], 1) for r in runs]
        # What changed over a sample answers to the move in force during it, and to the disturbances before it.
        both = np.concatenate(
            [np.concatenate([r[1:], r[:-1, nm : nm + nd], np.diff(r[:, :nm], axis=0)], 1) for r in rows]
        )
        both = both[np.isfinite(both).all(1)]
        if len(both) < 2 * both.shape[1]:
            raise ControlError(
                f"{len(both)} whole samples of history", f"goal of {spec.name}", "Give more runs, or a goal window."
            )
        both = torch.from_numpy(both[:: -(-len(both) // _KEPT)])
        self._samples = both[:, : -nm - nd]
        self._features = torch.cat([self._samples[:, self._columns], both[:, -nm - nd :]], 1)
        self._given = [*self._columns, *range(nm, nm + nd)]
        deviation = self._features.std(0)
        self._scale = torch.where(deviation > 0, deviation, 1.0)
        moves = [t.move for t in spec.mvs if t.move]
        self._limits = torch.tensor([m.limits for m in moves]).double().T

    def __call__(self, targets: Tensor, dvs: Tensor) -> Tensor:
        still = targets.new_zeros(len(targets), self._features.shape[1] - len(self._given))
        at = torch.cat([targets, dvs, still], 1) / self._scale
        x = self._features / self._scale
        near = torch.cdist(at, x).topk(min(_NEAREST, len(x)), largest=False).indices
        offset = x[near] - at[:, None]
        design = torch.cat([torch.ones_like(offset[..., :1]), offset], 2)
        seen = self._samples[near]
        mean = seen.mean(1, keepdim=True)
        penalty = _RIDGE * near.shape[1] * torch.eye(design.shape[2]).double()
        penalty[0, 0] = 0.0
        fit = torch.linalg.solve(design.mT @ design + penalty, design.mT @ (seen - mean))
        found = fit[:, 0] + mean[:, 0]
        found[:, self._given] = torch.cat([targets, dvs], 1)
        moves = slice(-self._limits.shape[1], None)
        found[:, moves] = found[:, moves].clamp(self._limits[0], self._limits[1])
        return found


def whitening(model: WorldModel, runs: Sequence[Run]) -> Tensor:
    """(latent x latent): times the latents of all whole windows of `runs`, unit covariance, but for directions that hardly
    move."""
    w, parts = model.config.window, []
    for run in runs:
        if len(run) >= w:
            rows = torch.from_numpy(np.concatenate([run.measured, run.dvs, run.applied], 1))
            c = None if run.constants is None else torch.from_numpy(run.constants)
            with torch.no_grad():
                windows = rows.unfold(0, w, 1).mT.to(model.channel_mean.dtype)
                parts.append(model.encode(windows, c if c is None else c.to(windows.dtype).expand(len(windows), -1)))
    if not parts:
        raise ControlError(f"no run of {w} samples", f"goal of {model.spec.name}", "Give longer runs.")
    z = torch.cat(parts).double()
    values, vectors = torch.linalg.eigh(torch.cov(z.T).view(z.shape[1], -1))
    return vectors.T / values.clamp(min=_FLOOR * float(values.mean())).sqrt()[:, None]


class GoalEnergy(Energy):
    """Tracking by the latent: at each step (z - goal)' C^-1 (z - goal) / latent, summed over the horizon; two states of the
    training data drawn at random are about 2 apart. Effort and suppression as in `Energy`.

    Offset: `Problem.goal` is moved by how far the model's latents, predicted as long ago, missed those that came
    (`JepaMpc`), so a model that is wrong by a constant still ends at the goal. What it cannot do: where the plant's state
    at the target is not the one the goal window shows (an unmeasured disturbance, wear), no move reaches the goal, the
    latent's directions are traded for each other, and the target keeps an offset that the decoded energy would remove. Nor
    does it know that one target matters more than another: `scale` of the spec's targets is not looked at.
    """

    def __init__(self, whiten: Tensor, *decoded: Any) -> None:
        super().__init__(*decoded)
        self.whiten = whiten

    def tracking(self, rollout: Rollout, problem: Problem) -> Tensor:
        return self._distance(rollout, problem).square().sum((1, 2))

    def convex(self, rollout: Rollout, problem: Problem, sensitivity: Tensor, read_out: Tensor) -> Convex:
        latent = sensitivity.shape[2]
        slope = ((self.whiten / latent**0.5) @ sensitivity).flatten(1, 2)
        error = self._distance(rollout, problem).flatten(1)
        p, q = 2 * slope.mT @ slope, 2 * (slope.mT @ error[..., None])[..., 0]
        return self.soft(rollout, problem, sensitivity, read_out)._replace(p=p, q=q)

    def _distance(self, rollout: Rollout, problem: Problem) -> Tensor:
        assert problem.goal is not None
        return (rollout.z[:, 1:] - problem.goal) @ self.whiten.T / rollout.z.shape[-1] ** 0.5
