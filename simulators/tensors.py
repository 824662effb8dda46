"""Plants as tensors: the same fixed steps in torch, on any device and dtype, differentiable end to end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from simulators.compiled import schedule
from simulators.contract import Simulator
from simulators.integrators import rk4
from simulators.namespaces import NumpyNamespace, TorchNamespace

_XP = TorchNamespace()


class TensorStepper:
    """Advances a batch of plants held as tensors: jumps at ticks, RK4 of `step_s` between them, and members that leave the
    envelope stay where they were. With `fused` each step is compiled by `torch.compile` (seconds to minutes, once).

    Gradients flow through x, u, d and p. The device and dtype are those of x.
    """

    def __init__(self, simulator: Simulator, fused: bool = False) -> None:
        self._simulator = simulator
        usual = (simulator.x0, simulator.u0, simulator.d0, simulator.p0)
        self.reasons = [*simulator.envelope(*usual, NumpyNamespace()), "a state that is not finite"]
        self._step: Callable[..., tuple[Tensor, Tensor]] = torch.compile(self._one_step) if fused else self._one_step

    def advance(
        self, x: Tensor, u: Tensor, d: Tensor, p: Tensor, dt_s: float, ended: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (... x n_x) after `dt_s` plant seconds with u, d, p (... x n each) held, and the codes (...) of members that
        ended: 0 alive, else `reasons[code - 1]` says why."""
        simulator = self._simulator
        names = simulator.names
        for what, v, n in (("x", x, names.x), ("u", u, names.u), ("d", d, names.d), ("p", p, names.p)):
            if v.shape != (*x.shape[:-1], len(n)):
                raise ValueError(f"{what} has shape {tuple(v.shape)}; expected {(*x.shape[:-1], len(n))}")
        codes = torch.zeros(x.shape[:-1], dtype=torch.int64, device=x.device) if ended is None else ended
        ticks, steps = schedule(simulator, dt_s)
        h = dt_s / simulator.time_unit_s / ticks / steps
        for _ in range(ticks):
            jumped = simulator.on_sample(x.unbind(-1), u.unbind(-1), d.unbind(-1), p.unbind(-1), _XP)
            x = torch.where((codes == 0).unsqueeze(-1), _stacked(jumped, x), x)
            for _ in range(steps):
                x, codes = self._step(x, u, d, p, h, codes)
        return x, codes

    def _one_step(self, x: Tensor, u: Tensor, d: Tensor, p: Tensor, h: float, codes: Tensor) -> tuple[Tensor, Tensor]:
        held = (u.unbind(-1), d.unbind(-1), p.unbind(-1), _XP)
        new = _stacked(rk4(lambda s: self._simulator.derivative(s, *held), x.unbind(-1), h), x)
        why = torch.zeros_like(codes)
        margins = self._simulator.envelope(new.unbind(-1), *held)
        for k, margin in reversed(list(enumerate(margins.values(), 1))):
            why = torch.where(margin > 0, why, k)
        why = torch.where(torch.isfinite(new).all(-1), why, len(self.reasons))
        codes = torch.where(codes == 0, why, codes)
        return torch.where((codes == 0).unsqueeze(-1), new, x), codes


def _stacked(components: tuple, like: Tensor) -> Tensor:
    """Components as (... x n), constant ones spread."""
    spread = [c if isinstance(c, Tensor) else torch.full_like(like[..., 0], float(c)) for c in components]
    return torch.stack([c.expand(like.shape[:-1]) for c in spread], -1)
