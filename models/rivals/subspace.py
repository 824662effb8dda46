"""A linear state-space model by subspace identification: what of the past matters to the whole future is the state.

N4SID in its regression form (Van Overschee & De Moor 1994; Qin, Computers & Chemical Engineering 30, 2006, section 3):
regress the future on the past window and the future inputs, keep the leading directions of the past's share of it, then fit
x(t+1) = A x(t) + B [u(t+1), d(t)] and y(t) = C x(t), both with a constant, by least squares. The past's share may also be
what an ARX model makes of it: then the state is that model's, reduced by a balanced truncation over the horizon.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.folds import FOLDS, fold_of
from models.rivals.arx import Arx, by_fold, least
from models.rivals.contract import Forecaster
from models.rivals.stretches import Stretches, rms, some_of, whole
from models.windows import WindowSet, all_known, filled
from plant.errors import ModelError

_SMALL = 1e-6  # of the mean square of a regressor: the ridge of regressions on states
_RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
_ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40)
_ROWS = 12_000  # regressions look at so many samples at most
_HELD = 400  # starts in each fold that orders and ridges are judged on


class Subspace(Forecaster):
    """`state` (window * channels + 1 x n): from a window to x. `step` (n + n_mv + n_dv + 1 x n), `read` (n + 1 x n_measured)."""

    state: nn.Parameter
    step: nn.Parameter
    read: nn.Parameter

    def learn(self, data: WindowSet, arx: Arx | None = None) -> None:
        """Order and ridge are those with the least error over the horizon on held-out folds of time (`models.folds`), with
        `arx` the order alone. Readings between those of a slow tag are taken to lie between them where states are looked
        for; what a state reads as is fitted to the readings themselves. `data` is made of runs in the order of time. Raises
        `ModelError` when no whole window is followed by a whole horizon of known moves."""
        self.double()
        starts = some_of(_followed(data, whole(data)), _ROWS)
        if not len(starts):
            raise ModelError(
                "no whole window is followed by a whole horizon of known moves", "subspace", "Record longer runs."
            )
        rows, folds = _Rows(self, data, starts), fold_of(data)
        held = [Stretches.of(data, some_of(s, _HELD)).double() for s in by_fold(whole(data), folds)]
        shares = _RIDGES if arx is None else (0.0,)
        choices, scores = [], []
        for ridge in shares:
            found = []
            for f in range(FOLDS):
                some = folds[starts] != f
                some = some if bool(some.any()) else ~some
                states = rows.states(some, ridge, arx)
                orders = [n for n in _ORDERS if n <= states.shape[1]]
                found.append([self._error(rows.fit(some, states[:, -n:]), held[f]) for n in orders])
            scores += [torch.stack(e).mean() for e in zip(*found, strict=True)]
            choices += [(ridge, n) for n in _ORDERS][: len(found[0])]
        ridge, order = choices[least(scores)]
        every = torch.ones(len(starts), dtype=torch.bool)
        self.keep(*rows.fit(every, rows.states(every, ridge, arx)[:, -order:]))

    @property
    def order(self) -> int:
        """How many states there are."""
        return self.state.shape[1]

    def _error(self, fitted: tuple[Tensor, Tensor, Tensor], part: Stretches) -> Tensor:
        self.keep(*fitted)
        with torch.no_grad():
            return rms(self.roll(part.values, part.mask, part.u, part.d), part).mean()

    def keep(self, state: Tensor, step: Tensor, read: Tensor) -> None:
        """Answer by these from now on."""
        for name, value in (("state", state), ("step", step), ("read", read)):
            setattr(self, name, nn.Parameter(value))

    def past(self, values: Tensor, mask: Tensor) -> Tensor:
        """What the state may depend on: the window, less the disturbances now, which are inputs of the step ahead."""
        window = filled(values, mask).clone()
        window[:, -1, self.n_measured : self.n_measured + self.n_dv] = 0.0
        return _one(window.flatten(1))

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        x = self.past(values, mask) @ self.state
        steps = []
        for i in range(u.shape[1]):
            x = _one(torch.cat([x, u[:, i], d[:, i]], 1)) @ self.step
            steps.append(_one(x) @ self.read)
        return torch.stack(steps, 1)


class _Rows:
    """Regressors and what follows them at `starts`."""

    def __init__(self, model: Subspace, data: WindowSet, starts: Tensor) -> None:
        part = Stretches.of(data, starts).double()
        index, _ = data.sequence(starts)
        self._model = model
        self._past = model.past(part.values, part.mask)
        later = Stretches.of(data, index[:, 1], steps=1).double()
        self._later = model.past(later.values, later.mask)  # the window one sample on
        self._inputs = torch.cat([part.u.flatten(1), part.d.flatten(1)], 1)
        self._move = torch.cat([part.u[:, 0], part.d[:, 0]], 1)
        self._future = _bridged(data).double()[index[:, 1:]].flatten(1)
        self._next, self._seen = part.y[:, 0], part.counted[:, 0] > 0

    def states(self, some: Tensor, ridge: float, arx: Arx | None) -> Tensor:
        """Maps from the past to states (any x n), those that matter most last."""
        past = self._past[some]
        if arx is None:
            both = torch.cat([past, self._inputs[some]], 1)
            share = _ridge(both, self._future[some], ridge)[: past.shape[1]]
        else:
            share = _free(arx)
        gram = share.T @ (past.T @ past / len(past)) @ share
        _, directions = torch.linalg.eigh(gram)  # ascending
        return share @ directions[:, -max(_ORDERS) :]

    def fit(self, some: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(state, step, read) by least squares on `some` of the rows. States come out with a mean square of one."""
        x = self._past[some] @ state
        size = x.square().mean(0).sqrt().clamp(min=1e-9)
        state, x = state / size, x / size
        x_next = self._later[some] @ state
        inputs = _one(torch.cat([x, self._move[some]], 1))
        step = _ridge(inputs, x_next, _SMALL)
        ahead, y, seen = _one(inputs @ step), self._next[some], self._seen[some]
        read = torch.zeros(ahead.shape[1], y.shape[1], dtype=y.dtype)
        patterns, group = seen.T.unique(dim=0, return_inverse=True)
        for p, pattern in enumerate(patterns):
            if bool(pattern.any()):
                read[:, group == p] = _ridge(ahead[pattern], y[pattern][:, group == p], _SMALL)
        return state, step, read


def _free(arx: Arx) -> Tensor:
    """What an ARX model makes of each part of the past if nothing is done (window * channels + 1 x k * n_measured)."""
    window, channels, k = arx.config.window, arx.channels, arx.config.horizon
    unit = torch.eye(window * channels, dtype=torch.float64).view(-1, window, channels)
    now = slice(arx.n_measured, arx.n_measured + arx.n_dv)
    unit[:, -1, now] = 0.0
    unit = torch.cat([unit, torch.zeros_like(unit[:1])])
    u, d = (torch.zeros(len(unit), k, n, dtype=torch.float64) for n in (arx.n_mv, arx.n_dv))
    with torch.no_grad():
        y = arx.roll(unit, torch.ones_like(unit), u, d).flatten(1)
    return torch.cat([y[:-1] - y[-1:], torch.zeros_like(y[:1])])


def _followed(data: WindowSet, starts: Tensor) -> Tensor:
    """Those of `starts` that a whole horizon with known moves follows."""
    index, alive = data.sequence(starts)
    known = all_known(data.mask[index][:, 1:, data.n_measured + data.n_dv :]) * alive[:, 1:]
    return starts[known.amin(1) > 0]


def _bridged(data: WindowSet) -> Tensor:
    """Readings (n_samples x n_measured) with straight lines through their gaps; before a run's first and after its last, those."""
    n = data.n_measured
    at = torch.arange(len(data.rows))[:, None].expand(-1, n)
    seen = data.mask[:, :n] > 0
    before = torch.where(seen, at, -1).cummax(0).values
    after = torch.where(seen, at, len(data.rows)).flip(0).cummin(0).values.flip(0)
    before = torch.where(before < data.first[:, None], -1, before)
    after = torch.where(after > data.last[:, None], -1, after)
    before, after = torch.where(before < 0, after, before), torch.where(after < 0, before, after)
    none = before < 0
    before, after = before.clamp(min=0), after.clamp(min=0)
    y = data.rows[:, :n]
    share = (at - before) / (after - before).clamp(min=1)
    line = torch.lerp(y.gather(0, before), y.gather(0, after), share.clamp(0.0, 1.0).to(y.dtype))
    return torch.where(none, 0.0, line)


def _one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    gram = x.T @ x / len(x)
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    return torch.linalg.solve(gram + penalty, x.T @ y / len(x))
