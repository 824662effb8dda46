"""`CompiledScpPlanner`: sequential convex programming on a processor, in C (`scp_*.c`); the same steps as `scp.py`."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from functools import cache
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from controllers.planning.config import PlannerConfig
from controllers.planning.problem import Energy, Plan, Problem, Rollout, late_weights
from controllers.planning.scp import BACK_OFF, HARD, PRICE, PROXIMAL, ScpPlanner
from models.world_model import Mlp, WorldModel
from plant import native

_LANES, _LEAST_PER_THREAD = 8, 4
_PARTS = ("scp_network.c", "scp_roll.c", "scp_subproblem.c", "scp.c")
_Double, _Int = ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_int64)
_NET = ("w1", "w2", "w3", "t1", "t2", "t3", "b1", "b2", "b3", "linear", "linear_t")
_SIZES = (
    "horizon", "latent", "moves", "extra", "measured", "targets", "zones", "constraints", "limits", "ranks", "blocks",
    "iterations", "guarded",
)  # fmt: skip
_PROBLEM = (
    "z", "extra", "previous", "low", "high", "rate", "fallback", "target", "bias", "required", "calibrated", "zone", "weight",
    "reference", "warm",
)  # fmt: skip


class _Net(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in ("in", "width", "out")] + [(n, _Double) for n in _NET]


class _Setup(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int64) for n in _SIZES),
        ("steady", ctypes.c_double),
        ("predictor", _Net),
        ("head", _Net * 2),
        *(
            (n, _Double)
            for n in (
                "scale_u",
                "shift_u",
                "z_low",
                "z_high",
                "gain",
                "level",
                "suppression",
                "target_scale",
                "zone_scale",
                "late",
            )
        ),
        *((n, _Int) for n in ("target_column", "zone_column", "block", "length", "which", "row", "rank")),
        *((n, _Double) for n in ("margin_scale", "price")),
    ]


class _Problem(ctypes.Structure):
    _fields_ = [(n, _Double) for n in _PROBLEM]


class CompiledScpPlanner(ScpPlanner):
    """`ScpPlanner` in C: for float64 world models on a processor and energies that are `plain`. A plan whose moves no longer
    change stops early. Of a deadline every plant of a batch gets an equal share. A batch is divided among
    `torch.get_num_threads()` threads.

    Raises `native.CompilerError` where nothing can be compiled.
    """

    def __init__(
        self, model: WorldModel, config: PlannerConfig, energy: Energy, scale_u: Tensor, shift_u: Tensor
    ) -> None:
        super().__init__(model, config, energy, scale_u, shift_u)
        self._compiled = _library()
        self._kept: list[np.ndarray] = []  # what C points to
        self._setup = self._set_up()

    def _within(self, problem: Problem, warm: Tensor, deadline: float | None, trust_fallback: bool) -> Plan:
        budget = math.inf if deadline is None else deadline - time.perf_counter()
        return self._run(problem, warm, budget, int(trust_fallback))

    def assess(self, problem: Problem, moves: Tensor) -> Plan:
        return self._run(problem, self.legal(problem, moves) if self.levels else moves, math.inf, -1)

    def _run(self, problem: Problem, warm: Tensor, budget: float, trust: int) -> Plan:
        n, h, m, s = len(problem.z), self.config.horizon, self.model.n_mv, self._setup
        parts = [problem.dvs]
        if self.model.n_constant:
            c = problem.conditions
            if c is None:
                nominal = torch.tensor([t.nominal for t in self.model.spec.constants], dtype=torch.float64)
                c = self.model.condition(nominal).expand(n, -1)
            parts.append(c[:, None].expand(-1, h, -1))
        given = {
            "z": problem.z, "extra": torch.cat(parts, -1), "previous": problem.previous, "low": problem.low,
            "high": problem.high, "rate": problem.rate, "fallback": problem.fallback,
            "target": problem.targets[..., : s.targets], "bias": problem.bias,
            "required": problem.required.expand(n, h, -1), "calibrated": problem.calibrated, "zone": problem.zones,
            "weight": self.energy.weights(problem), "reference": self.energy.reference(problem).expand(n, h, m), "warm": warm,
        }  # fmt: skip
        arrays = {k: np.ascontiguousarray(v.numpy(), np.float64) for k, v in given.items() if v is not None}
        c_problem = _Problem(*(_pointer(arrays[name]) if name in arrays else None for name in _PROBLEM))
        moves, z = np.empty((n, h, m)), np.empty((n, h + 1, s.latent))
        measured, margins = np.empty((n, h, s.measured)), np.empty((n, h, s.constraints))
        converged, late = np.zeros(n, np.int64), np.zeros(n, np.int64)
        outputs = [_pointer(v) for v in (moves, z, measured, margins)]
        flags = [v.ctypes.data_as(_Int) for v in (converged, late)]

        def part(first: int, end: int) -> None:
            if self._compiled(s, c_problem, first, end, budget, trust, *outputs, *flags):
                raise MemoryError(f"planning for {n} plants")

        threads = min(torch.get_num_threads(), max(1, n // _LEAST_PER_THREAD))
        cuts = [n * k // threads for k in range(threads + 1)]
        if threads == 1:
            part(0, n)
        else:
            list(native.threads().map(part, cuts[:-1], cuts[1:]))
        rollout = Rollout(*map(torch.from_numpy, (moves, z, measured, margins)))
        return self._worth(problem, rollout, torch.from_numpy(converged).bool(), bool(late.any()))

    def _set_up(self) -> _Setup:
        model, config, energy, rails = self.model, self.config, self.energy, self.constraints
        s, h = _Setup(), config.horizon
        sizes = {
            "horizon": h, "latent": model.config.latent, "moves": model.n_mv, "extra": model.n_dv + 2 * model.n_constant,
            "measured": model.n_measured, "targets": len(energy.columns), "zones": len(energy.zone_columns),
            "constraints": len(rails), "limits": len(rails.limit),
            "ranks": len(rails.ranks), "blocks": len(self._lengths), "iterations": config.iterations,
            "guarded": int(config.guardrails),
        }  # fmt: skip
        for name, size in sizes.items():
            setattr(s, name, size)
        s.steady = energy.steady if h > 1 else 0.0
        s.predictor = self._net(model.predictor)
        s.head[0], s.head[1] = self._net(model.limit_heads), self._net(model.fallback_heads)
        std, mean = model.channel_std[: model.n_measured], model.channel_mean[: model.n_measured]
        doubles = {
            "scale_u": self.scale_u, "shift_u": self.shift_u, "z_low": model.z_low, "z_high": model.z_high,
            "gain": _padded(model.read_out_head.weight * std[:, None], rows=False),
            "level": model.read_out_head.bias * std + mean,
            "suppression": energy.suppression, "target_scale": energy.scale, "zone_scale": energy.zone_scale,
            "late": late_weights(torch.empty(1, h, dtype=torch.float64)),
            "margin_scale": model.margin_scale[rails.guardrail].double() / rails.scale,
            "price": torch.tensor([PRICE[min(int(r), 3) - 1] for r in rails.rank]),
        }  # fmt: skip
        integers = {
            "target_column": energy.columns, "zone_column": energy.zone_columns, "block": self._block.numpy(), "length": self._lengths.numpy(),
            "which": [0] * len(rails.limit) + [1] * len(rails.fallback), "row": rails.guardrail,
            "rank": [rails.ranks.index(int(r)) for r in rails.rank],
        }  # fmt: skip
        for name, value in doubles.items():
            setattr(s, name, self._doubles(value))
        for name, value in integers.items():
            self._kept.append(np.array(value, np.int64))
            setattr(s, name, self._kept[-1].ctypes.data_as(_Int))
        return s

    def _net(self, mlp: Mlp) -> _Net:
        w = [_padded(layer.weight) for layer in (mlp.first, mlp.second, mlp.last)]
        b = [_padded(layer.bias[:, None])[:, 0] for layer in (mlp.first, mlp.second, mlp.last)]
        linear = _padded(mlp.linear.weight)
        arrays = [*w, *(v.T for v in w), *b, linear, linear.T]
        return _Net(w[0].shape[1], w[0].shape[0], w[2].shape[0], *map(self._doubles, arrays))

    def _doubles(self, value: Tensor) -> ctypes._Pointer:
        self._kept.append(_aligned(value.detach().double().numpy()))
        return _pointer(self._kept[-1])


@cache
def _library() -> Callable[..., int]:
    shared = f"#define HARD {HARD}\n#define BACK_OFF {BACK_OFF}\n#define PROXIMAL {PROXIMAL}\n"
    source = shared + "".join(resources.files("controllers.planning").joinpath(part).read_text() for part in _PARTS)
    function = ctypes.CDLL(str(native.build(source))).plan
    function.restype = ctypes.c_int64
    sizes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_double, ctypes.c_int64]
    function.argtypes = [
        ctypes.POINTER(_Setup), ctypes.POINTER(_Problem), *sizes, *[_Double] * 4, *[_Int] * 2
    ]  # fmt: skip
    return function


def _pointer(array: np.ndarray) -> ctypes._Pointer:
    return array.ctypes.data_as(_Double)


def _padded(matrix: Tensor, rows: bool = True) -> Tensor:
    """`matrix` with zeros up to whole lanes, in both directions or along its rows only."""
    more = [-size % _LANES for size in matrix.shape]
    return torch.nn.functional.pad(matrix, (0, more[1], 0, more[0] if rows else 0))


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy at the start of a vector's worth of bytes."""
    room = np.empty(array.size + _LANES, np.float64)
    start = -(room.ctypes.data // 8) % _LANES
    copy = room[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy
