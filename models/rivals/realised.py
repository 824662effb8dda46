"""An ARX model as a state space that gives its answers: what it remembers of its past is the state, less what hardly matters.

The observer form has a state for each tag and lag. A balanced truncation (Moore 1981), with the covariance of the states on the data
and what they do to the readings over the horizon as its two Gramians, leaves those out that change no answer by much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.rivals.arx import Arx
from models.rivals.stretches import Stretches, some_of, whole
from models.rivals.subspace import Subspace
from models.windows import WindowSet

_ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64)  # more cost the planner too much
_NEAR = 0.1  # of the ARX model's own error at that step: in squares a hundredth
_STARTS = 1000  # that both are compared at
_SMALL = 1e-7  # of the largest Hankel singular value: rounding


@torch.no_grad()
def realised(arx: Arx, data: WindowSet) -> Subspace:
    """`arx` with the fewest states that answer as it does on `data`, to a tenth of what it errs itself, at every step; with the
    most there may be where none do."""
    whole_one = _observer(arx)
    part = Stretches.of(data, some_of(whole(data), _STARTS)).double()
    own = arx.roll(part.values, part.mask, part.u, part.d)
    error = _apart(own, part.y, part)
    x = whole_one.past(part.values, part.mask) @ whole_one.state
    left, right = _balanced(whole_one, x, part.u.shape[1])
    most = min(_ORDERS[-1], left.shape[1])
    for n in (*(n for n in _ORDERS if n < most), most):
        less = _projected(whole_one, left[:, :n], right[:n], x.mean(0))
        if bool((_apart(less.roll(part.values, part.mask, part.u, part.d), own, part) <= _NEAR * error).all()):
            break
    return less


def _apart(one: Tensor, other: Tensor, part: Stretches) -> Tensor:
    """Root mean square difference at each step (k,), mean over tags, where a reading counts."""
    square = (one - other).square() * part.counted
    return (square.sum(0) / part.counted.sum(0).clamp(min=1.0)).sqrt().mean(1)


def _observer(arx: Arx) -> Subspace:
    """States [y, q_0 .. q_p-1]: q_j is what the samples so far, moves included, add to the readings j + 1 samples on, but for what
    the last readings and disturbances do themselves."""
    n, c, w, nd = arx.n_measured, arx.channels, arx.config.window, arx.n_dv
    theta = arx.theta.detach()
    lags = theta[: w * c].reshape(w, c, n).flip(0)  # newest first
    used = lags.abs().amax((1, 2)).nonzero()
    p = int(used[-1]) + 1 if len(used) else 1
    size = n * (p + 1)
    state = theta.new_zeros(w, c, size)
    step = theta.new_zeros(size + arx.n_mv + nd + 1, size)
    state[-1, :n, :n] = torch.eye(n, dtype=theta.dtype)
    u, d = slice(size, size + arx.n_mv), slice(size + arx.n_mv, size + arx.n_mv + nd)
    step[u, :n], step[-1, :n] = theta[w * c : -1], theta[-1]
    for j in range(p):
        q = slice(n * (j + 1), n * (j + 2))
        before = slice(n * j, n * (j + 1))  # where q_j goes, and what the readings and disturbances now do with it
        step[:n, before], step[d, before], step[q, before] = lags[j, :n], lags[j, n : n + nd], torch.eye(n).to(theta)
        step[u, q] = lags[j, n + nd :]
        state[-1, n + nd :, q] = lags[j, n + nd :]
        for i in range(j + 1, p):
            state[w - 1 - (i - j), :, q] = lags[i]
    read = torch.cat([torch.eye(n), torch.zeros(size - n + 1, n)]).to(theta)
    return _subspace(arx, torch.cat([state.flatten(0, 1), theta.new_zeros(1, size)]), step, read)


def _balanced(model: Subspace, x: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Maps from the states to balanced ones (n x any) and back (any x n), those that matter most first."""
    n, seen = model.order, model.read[:-1]
    spread, does = torch.cov(x.T).reshape(n, n), torch.zeros(n, n, dtype=x.dtype)
    for _ in range(horizon + 1):
        does += seen @ seen.T
        seen = model.step[:n] @ seen
    a, b = (_root(m) for m in (spread, does))
    left, values, right = torch.linalg.svd(a.T @ b)
    kept = values > _SMALL * values[0].clamp(min=1e-12)
    kept[0] = True
    scale = values[kept].clamp(min=1e-12).rsqrt()
    return b @ right[kept.nonzero()[:, 0]].T * scale, (a @ left[:, kept.nonzero()[:, 0]] * scale).T


def _root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0.0).sqrt()


def _projected(model: Subspace, to: Tensor, back: Tensor, mean: Tensor) -> Subspace:
    """`model` on the states x `to`; what they leave out stays at its mean."""
    n = model.order
    rest = mean - mean @ to @ back
    a, others, one = model.step[:n], model.step[n:-1], model.step[-1]
    step = torch.cat([back @ a, others, (rest @ a + one)[None]]) @ to
    read = torch.cat([back @ model.read[:-1], (rest @ model.read[:-1] + model.read[-1])[None]])
    return _subspace(model, model.state @ to, step, read)


def _subspace(like: Arx | Subspace, state: Tensor, step: Tensor, read: Tensor) -> Subspace:
    model = Subspace(like.spec, like.config, like.scale(), like.constant).double()
    model.keep(state, step, read)
    return model
