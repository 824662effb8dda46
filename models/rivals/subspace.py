"""A linear state-space model by subspace identification: what of the past matters to the whole future is the state.

N4SID in its regression form (Van Overschee & De Moor 1994; Qin, Computers & Chemical Engineering 30, 2006, section 3):
regress the future on the past window and the future inputs, keep the leading directions of the past's share of it, then fit
x(t+1) = A x(t) + B [u(t+1), d(t)] and y(t) = C x(t), both with a constant, by least squares; then the error over the
horizon itself, as prediction-error methods do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.rivals.contract import Forecaster
from models.rivals.stretches import Stretches, filled, multi_step_error, whole
from models.windows import WindowSet
from plant.errors import ModelError

_RIDGE = 1e-6
_ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12)


class Subspace(Forecaster):
    """`state` (window * channels + 1 x n): from a window to x. `step` (n + n_mv + n_dv + 1 x n), `read` (n + 1 x n_measured)."""

    state: nn.Parameter
    step: nn.Parameter
    read: nn.Parameter

    def learn(self, data: WindowSet, validation: WindowSet) -> None:
        """The order is the one with the least multi-step error on the validation runs. Raises `ModelError` when no whole
        window is followed by a whole horizon."""
        self.double()
        starts = whole(data)
        part = Stretches.of(data, starts).double()
        good = part.counted.flatten(1).amin(1) > 0
        if not good.any():
            raise ModelError("no whole window is followed by a whole horizon", "subspace", "Record longer runs.")
        past = self._past(part.values, part.mask)
        inputs = torch.cat([part.u.flatten(1), part.d.flatten(1)], 1)
        both = torch.cat([past, inputs], 1)[good]
        share = _ridge(both, part.y[good].flatten(1))[: past.shape[1]]
        free = past[good] @ share
        _, directions = torch.linalg.eigh(free.T @ free)  # ascending
        held = Stretches.of(validation, whole(validation)).double()
        # The window one step on: the same samples less the oldest, and the next row.
        after, paired = _next(data, starts)
        later = self._past(*after)
        paired &= part.counted[:, 0].amin(-1) > 0
        best, kept = math.inf, None
        for order in (n for n in _ORDERS if n <= free.shape[1]):
            state = share @ directions[:, -order:]
            x, x_next = (past @ state)[paired], (later @ state)[paired]
            step = _ridge(_one(torch.cat([x, part.u[paired, 0], part.d[paired, 0]], 1)), x_next)
            ahead = _one(torch.cat([x, part.u[paired, 0], part.d[paired, 0]], 1)) @ step
            self._keep(state, step, _ridge(_one(ahead), part.y[paired, 0]))
            error = multi_step_error(self, held)
            if error < best or kept is None:
                best, kept = error, tuple(p.detach() for p in (self.state, self.step, self.read))
        assert kept is not None
        self._keep(*kept)

    def _keep(self, state: Tensor, step: Tensor, read: Tensor) -> None:
        for name, value in (("state", state), ("step", step), ("read", read)):
            setattr(self, name, nn.Parameter(value))

    def _past(self, values: Tensor, mask: Tensor) -> Tensor:
        """What the state may depend on: the window, less the disturbances now, which are inputs of the step ahead."""
        window = filled(values, mask).clone()
        window[:, -1, self.n_measured : self.n_measured + self.n_dv] = 0.0
        return _one(window.flatten(1))

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        x = self._past(values, mask) @ self.state
        steps = []
        for i in range(u.shape[1]):
            x = _one(torch.cat([x, u[:, i], d[:, i]], 1)) @ self.step
            steps.append(_one(x) @ self.read)
        return torch.stack(steps, 1)


def _next(data: WindowSet, starts: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The windows one sample on (values and mask, double), and which of them exist."""
    index, alive = data.sequence(starts)
    part = Stretches.of(data, index[:, 1]).double()
    return (part.values, part.mask), alive[:, 1] > 0


def _one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    gram = x.T @ x / len(x)
    penalty = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    return torch.linalg.solve(gram + penalty, x.T @ y / len(x))
