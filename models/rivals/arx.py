"""Linear ARX, iterated: y(t+1) from the last samples and the move that follows, each tag fitted to its own readings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.folds import FOLDS, fold_of
from models.rivals.contract import Forecaster
from models.rivals.stretches import Stretches, rms, some_of, whole
from models.windows import WindowSet, filled
from plant.errors import ModelError

_RIDGES = (1e-10, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)  # of the mean square of a regressor
_ORDERS = (1, 2, 4, 8, 16, 32)
_ROWS = 60_000  # regressions look at so many samples at most
_HELD = 400  # starts in each fold that orders and ridges are judged on
_AT_ONCE = 8192


class Arx(Forecaster):
    """`theta` ((window * channels + n_mv + 1) x n_measured): the oldest sample first, then the move, then a constant."""

    theta: nn.Parameter

    def learn(self, data: WindowSet) -> None:
        """Least squares on one step, for each tag on the samples at which it has a reading: a slow analyser costs the others
        nothing. How many samples back a tag looks, and its ridge, are those with the least error over the horizon on
        held-out folds of time (`models.folds`): first the best for all tags together, then for each tag while the others go
        by those. `data` is made of runs in the order of time. Raises `ModelError` when a tag has no reading after a whole
        window."""
        self.double()
        starts = some_of(whole(data), _ROWS)
        sums = _Sums(self, data, starts)
        folds = fold_of(data)
        held = [Stretches.of(data, some_of(s, _HELD)).double() for s in by_fold(whole(data), folds)]
        orders = sorted({min(n, data.window) for n in _ORDERS})
        choices = [(order, ridge) for order in orders for ridge in _RIDGES]
        thetas = [[sums.solve(c, without=f) for c in choices] for f in range(FOLDS)]
        common = least([self._over([t[i] for t in thetas], held) for i in range(len(choices))])
        alone = torch.stack([self._alone(t, t[common], part) for t, part in zip(thetas, held, strict=True)])
        best = alone.sum(0).argmin(0).tolist()
        mixed = [torch.stack([t[b][:, j] for j, b in enumerate(best)], 1) for t in thetas]
        if not self._over(mixed, held) < self._over([t[common] for t in thetas], held):
            best = [common] * self.n_measured
        fitted = {b: sums.solve(choices[b]) for b in set(best)}
        self.theta = nn.Parameter(torch.stack([fitted[b][:, j] for j, b in enumerate(best)], 1))

    def _over(self, thetas: list[Tensor], held: list[Stretches]) -> Tensor:
        """The error of one `theta` a fold on what was held out, mean over tags and folds."""
        return torch.stack([self._errors(t, part).mean() for t, part in zip(thetas, held, strict=True)]).mean()

    def _errors(self, theta: Tensor, part: Stretches) -> Tensor:
        """Root mean square error of each tag (n_measured,), normalised, over all steps; inf for a model that runs away."""
        self.theta = nn.Parameter(theta, requires_grad=False)
        return rms(self.roll(part.values, part.mask, part.u, part.d), part)

    def _alone(self, thetas: list[Tensor], common: Tensor, part: Stretches) -> Tensor:
        """The errors (choices x n_measured) of each tag under each choice while all others go by `common`."""
        self.theta = nn.Parameter(common, requires_grad=False)
        x, y = self._path(part)
        own = torch.arange(self.n_measured)
        found = []
        for theta in thetas:
            guess = x @ theta
            # What a tag's own later regressors differ by, from the choice it is judged under: newest lag first.
            lags = [theta[own + (self.config.window - 1 - i) * self.channels, own] for i in range(self.config.window)]
            away = torch.zeros_like(guess)
            for k in range(guess.shape[1]):
                change = guess[:, k] - y[:, k]
                for i in range(min(k, self.config.window)):
                    change = change + lags[i] * away[:, k - 1 - i]
                away[:, k] = change
            found.append(rms(y + away, part))
        return torch.stack(found)

    def _path(self, part: Stretches) -> tuple[Tensor, Tensor]:
        """The regressors (batch x k x any) along a roll-out, and what it answers (batch x k x n_measured)."""
        window, xs, ys = filled(part.values, part.mask), [], []
        for i in range(part.u.shape[1]):
            xs.append(self._regressors(window, part.u[:, i]))
            ys.append(xs[-1] @ self.theta)
            if i + 1 < part.u.shape[1]:
                window = torch.cat([window[:, 1:], torch.cat([ys[-1], part.d[:, i + 1], part.u[:, i]], 1)[:, None]], 1)
        return torch.stack(xs, 1), torch.stack(ys, 1)

    def _regressors(self, window: Tensor, u: Tensor) -> Tensor:
        return torch.cat([window.flatten(1), u, u.new_ones(len(u), 1)], 1)

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        window = filled(values, mask)
        steps = []
        for i in range(u.shape[1]):
            y = self._regressors(window, u[:, i]) @ self.theta
            steps.append(y)
            if i + 1 < u.shape[1]:
                new = torch.cat([y, d[:, i + 1], u[:, i]], 1)
                window = torch.cat([window[:, 1:], new[:, None]], 1)
        return torch.stack(steps, 1)


class _Sums:
    """What least squares needs of `starts`, for each fold and each group of tags that are read at the same samples."""

    def __init__(self, model: Arx, data: WindowSet, starts: Tensor) -> None:
        self._model, folds = model, fold_of(data)
        counted = torch.cat([Stretches.of(data, some, steps=1).counted[:, 0] for some in starts.split(_AT_ONCE)])
        patterns, self._group = counted.T.unique(dim=0, return_inverse=True)
        if not bool(patterns.any(1).all()):
            names = [t.name for t, seen in zip(model.spec.measured, counted.any(0), strict=True) if not seen]
            raise ModelError(f"{', '.join(names)}: no reading follows a whole window", "ARX", "Record longer runs.")
        size = data.window * model.channels + model.n_mv + 1
        groups, exact = (len(patterns), FOLDS), torch.float64
        self._gram = torch.zeros(*groups, size, size, dtype=exact)
        self._cross = torch.zeros(*groups, size, model.n_measured, dtype=exact)
        self._count = torch.zeros(*groups, dtype=exact)
        at = 0
        for some in starts.split(_AT_ONCE):
            part = Stretches.of(data, some, steps=1).double()
            x = model._regressors(filled(part.values, part.mask), part.u[:, 0])
            y = torch.where(part.counted[:, 0] > 0, part.y[:, 0], 0.0)
            for f in range(FOLDS):
                mine = folds[some] == f
                for p, pattern in enumerate(patterns[:, at : at + len(some)]):
                    rows = mine & (pattern > 0)
                    self._gram[p, f] += x[rows].T @ x[rows]
                    self._cross[p, f] += x[rows].T @ y[rows]
                    self._count[p, f] += int(rows.sum())
            at += len(some)

    def solve(self, choice: tuple[int, float], without: int | None = None) -> Tensor:
        """`theta` of all tags with one order and ridge, without the samples of a fold."""
        order, ridge = choice
        used = [f for f in range(FOLDS) if f != without]
        model = self._model
        theta = torch.zeros(self._gram.shape[-1], model.n_measured, dtype=torch.float64)
        keep = torch.arange(len(theta))[-(order * model.channels + model.n_mv + 1) :]
        penalty = torch.full((len(keep),), ridge, dtype=torch.float64)
        penalty[-1] = 1e-12
        for p in range(len(self._gram)):
            tags = self._group == p
            count = self._count[p, used].sum().clamp(min=1.0)
            gram, cross = self._gram[p, used].sum(0) / count, self._cross[p, used].sum(0) / count
            part = torch.linalg.solve(gram[keep][:, keep] + penalty.diag(), cross[keep][:, tags])
            theta[keep[:, None], tags.nonzero()[:, 0]] = part
        return theta


def by_fold(starts: Tensor, folds: Tensor) -> list[Tensor]:
    parts = [starts[folds[starts] == f] for f in range(FOLDS)]
    return [p if len(p) else starts for p in parts]


def least(scores: list[Tensor]) -> int:
    return int(torch.stack(scores).nan_to_num(torch.inf).argmin())
