"""A simulator's equations as a compiled kernel: traced once through CasADi, written out as C, built by the C compiler.

The kernel advances a batch by fixed-step RK4, or by Dormand-Prince steps that each member controls by its own error, jumps
at ticks, and ends members that leave the envelope. It works on blocks of members at a time: one block's states stay in the
first-level cache and every line of the equations is a vector instruction. What does not depend on the state (parameters, altitude) is computed once a call, not four times a step.
"""

from __future__ import annotations

import ctypes
import math
import os
from importlib import resources

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from plant import native
from simulators.contract import Simulator
from simulators.namespaces import CasadiNamespace

Array = NDArray[np.float64]
Watch = tuple[tuple[str, float], ...]

_LEAST_PER_THREAD = 256
ATOL_SHARE = 0.01  # absolute tolerance a relative one
_BINARY = {
    ca.OP_ADD: "{0} + {1}", ca.OP_SUB: "{0} - {1}", ca.OP_MUL: "{0} * {1}", ca.OP_DIV: "{0} / {1}",
    ca.OP_POW: "pow({0}, {1})", ca.OP_CONSTPOW: "pow({0}, {1})", ca.OP_FMIN: "({0} < {1} ? {0} : {1})",
    ca.OP_FMAX: "({0} > {1} ? {0} : {1})", ca.OP_LT: "({0} < {1} ? 1.0 : 0.0)", ca.OP_LE: "({0} <= {1} ? 1.0 : 0.0)",
    ca.OP_EQ: "({0} == {1} ? 1.0 : 0.0)", ca.OP_NE: "({0} != {1} ? 1.0 : 0.0)",
    ca.OP_AND: "({0} != 0.0) * ({1} != 0.0) * 1.0", ca.OP_OR: "({0} + {1} != 0.0 ? 1.0 : 0.0)",
    ca.OP_IF_ELSE_ZERO: "({0} != 0.0 ? {1} : 0.0)",
}  # fmt: skip
_UNARY = {
    ca.OP_NEG: "-{0}", ca.OP_SQ: "{0} * {0}", ca.OP_TWICE: "2.0 * {0}", ca.OP_INV: "1.0 / {0}", ca.OP_SQRT: "sqrt({0})",
    ca.OP_EXP: "exp({0})", ca.OP_LOG: "log({0})", ca.OP_FABS: "fabs({0})", ca.OP_ASSIGN: "{0}",
    ca.OP_NOT: "({0} == 0.0 ? 1.0 : 0.0)", ca.OP_TANH: "(1.0 - 2.0 / (exp(2.0 * {0}) + 1.0))",
}  # fmt: skip
_HEAD = """
typedef long long int64;
SIMD double exp(double);
SIMD double log(double);
SIMD double pow(double, double);
double sqrt(double);
double fabs(double);
"""
_STEPS = resources.files("simulators").joinpath("kernel.c")


class Kernel:
    """The compiled steps of one simulator for a batch. Raises `CompilerError` of `plant.native` where that is not possible.

    `reasons[k - 1]` says why a member ended with code k; code 0 is a member that lives. `peak` follows the maxima of what
    `watch` lists: names of outputs, each with the factor it is taken by (-1 for a minimum).
    """

    def __init__(self, simulator: Simulator, watch: Watch = ()) -> None:
        self._simulator, self._watched = simulator, max(len(watch), 1)
        source, self.reasons = write_source(simulator, watch)
        library, pointer = ctypes.CDLL(str(native.build(source))), ctypes.c_void_p
        self._advance, self._outputs = library.advance, library.outputs
        self._advance.restype = self._outputs.restype = None
        self._outputs.argtypes = [ctypes.c_int64, *[pointer] * 5]
        self._advance.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_double] + [pointer] * 7
        self._sizes = tuple(map(len, (simulator.names.x, simulator.names.u, simulator.names.d, simulator.names.p)))

    def advance(
        self, x: Array, u: Array, d: Array, p: Array, dt_s: float, ended: NDArray[np.int64] | None = None
    ) -> tuple[Array, NDArray[np.int64]]:
        """x (batch x n_x) after `dt_s` plant seconds with u, d, p (batch x n each) held, and the codes (batch,) of members
        that ended: they keep their last state inside the envelope. `ended` are the codes so far."""
        codes = np.zeros(len(x), np.int64) if ended is None else ended.astype(np.int64, copy=True)
        top = np.empty((len(x), self._watched))
        return self._run(x, u, d, p, dt_s, codes, np.full(self._watched, np.inf), top), codes

    def peak(self, x: Array, u: Array, d: Array, p: Array, dt_s: float, ceiling: Array) -> tuple[Array, Array]:
        """x after `dt_s`, and the highest values (batch x n_watched) on the way, up to `ceiling` (n_watched,); a member
        stops when all are there."""
        top, ceiling = np.full((len(x), self._watched), -np.inf), np.array(ceiling, np.float64)
        new = self._run(x, u, d, p, dt_s, np.zeros(len(x), np.int64), ceiling, top)
        return new, np.minimum(top, ceiling)

    def outputs(self, x: Array, u: Array, d: Array, p: Array) -> Array:
        """Every output (batch x n_y) of x, u, d, p (batch x n each)."""
        held = self._checked(x, u, d, p)
        y = np.empty((len(x), len(self._simulator.names.y)))
        self._outputs(len(x), y.ctypes.data, *(v.ctypes.data for v in held))
        return y

    def _checked(self, *arrays: Array) -> list[Array]:
        arrays_c = [np.ascontiguousarray(v, np.float64) for v in arrays]
        batch = len(arrays_c[0])
        for name, v, size in zip("xudp", arrays_c, self._sizes, strict=True):
            if v.shape != (batch, size):
                raise ValueError(f"{name} has shape {v.shape}; expected ({batch}, {size})")
        return arrays_c

    def _run(
        self, x: Array, u: Array, d: Array, p: Array, dt_s: float, codes: NDArray[np.int64], ceiling: Array, top: Array
    ) -> Array:
        batch = len(x)
        new = np.array(x, np.float64, order="C")
        inputs = self._checked(new, u, d, p)[1:]
        ticks, steps = schedule(self._simulator, dt_s)
        span = dt_s / self._simulator.time_unit_s / ticks
        threads = min(os.cpu_count() or 1, max(1, batch // _LEAST_PER_THREAD))
        cuts = [batch * k // threads for k in range(threads + 1)]

        def part(k: int) -> None:
            rows = slice(cuts[k], cuts[k + 1])
            pointers = [v[rows].ctypes.data for v in (new, *inputs, codes)]
            self._advance(
                cuts[k + 1] - cuts[k], ticks, steps, span, *pointers, ceiling.ctypes.data, top[rows].ctypes.data
            )

        if threads == 1:
            part(0)
        else:
            list(native.threads().map(part, range(threads)))
        return new


def schedule(simulator: Simulator, dt_s: float) -> tuple[int, int]:
    """Ticks in `dt_s`, and fixed steps a tick. `ValueError` when `dt_s` is not a whole number of ticks."""
    if not dt_s > 0:
        raise ValueError(f"dt_s must be positive, not {dt_s}")
    tick_s = simulator.tick_s or dt_s
    ticks = round(dt_s / tick_s)
    if ticks < 1 or abs(ticks * tick_s - dt_s) > 1e-6 * tick_s:
        raise ValueError(f"{dt_s} s is not a whole number of ticks of {tick_s} s")
    return ticks, max(1, math.ceil(tick_s / simulator.step_s - 1e-9))


def write_source(simulator: Simulator, watch: Watch = ()) -> tuple[str, list[str]]:
    """The kernel as C, and the reasons for which it ends a member."""
    names, xp = simulator.names, CasadiNamespace()
    groups = {"X": names.x, "U": names.u, "D": names.d, "P": names.p}
    symbols = [ca.SX.sym(k, max(len(v), 1)) for k, v in groups.items()]
    x, u, d, p = ([s[i] for i in range(len(v))] for s, v in zip(symbols, groups.values(), strict=True))
    margins = simulator.envelope(x, u, d, p, xp)
    jumped = [ca.SX(v) for v in simulator.on_sample(x, u, d, p, xp)]
    jumps = any(not ca.is_equal(new, old) for new, old in zip(jumped, x, strict=True))
    bodies = {
        "flow": [ca.SX(v) for v in simulator.derivative(x, u, d, p, xp)],
        "jump": jumped,
        "envelope": [ca.SX(v) for v in margins.values()] or [ca.SX(1.0)],
        "read": [ca.SX(v) for v in simulator.outputs(x, u, d, p, xp)],
    }
    if watch:
        bodies["watch"] = [factor * bodies["read"][names.y.index(output)] for output, factor in watch]
    writer = _Writer(symbols, list(groups))
    functions = [writer.function(name, outputs) for name, outputs in bodies.items()]
    rtol = simulator.rtol or 1.0
    sizes = {f"N{k}": max(len(v), 1) for k, v in groups.items()} | {
        "NV": max(len(writer.prepared), 1), "NY": len(names.y), "NG": max(len(margins), 1), "ENDS": len(margins),
        "JUMPS": int(jumps), "WATCHES": int(bool(watch)), "NW": max(len(watch), 1), "ADAPTS": int(simulator.rtol is not None),
        "RTOL": rtol, "ATOL": rtol * ATOL_SHARE,
        "B": 64 if len(names.x) <= 8 else 16,  # vectors wide enough, and one plant alone does not pay for many
    }  # fmt: skip
    defines = "\n".join(f"#define {k} {v}" for k, v in sizes.items())
    nobody = f"static void watch({_Writer.ARGUMENTS}, const double V[NV][B], double R[][B]) {{}}"
    idle = "" if watch else nobody
    source = "\n".join([_HEAD, defines, writer.prepare(), *functions, idle, _STEPS.read_text()])
    return source, [*margins, "a state that is not finite"]


class _Writer:
    """Writes traced expressions as loops over a block. Subexpressions of U, D and P alone are collected in `prepared`
    and computed by `prepare` before anything moves."""

    ARGUMENTS = "const double X[NX][B], const double U[NU][B], const double D[ND][B], const double P[NP][B]"

    def __init__(self, symbols: list[ca.SX], letters: list[str]) -> None:
        self._symbols, self._letters = symbols, letters
        self._fixed_lines: list[str] = []
        self._known: dict[str, str] = {}  # the expression that is fixed -> its name in `prepare`
        self.prepared: dict[str, int] = {}  # name in `prepare` -> row of V

    def function(self, name: str, outputs: list[ca.SX]) -> str:
        f = ca.Function(name, self._symbols, [ca.vertcat(*outputs)], {"cse": True})
        lines, slot, count = [], {}, 0
        for k in range(f.n_instructions()):
            op, into, out = f.instruction_id(k), f.instruction_input(k), f.instruction_output(k)
            if op == ca.OP_OUTPUT:
                lines.append(f"R[{out[1]}][l] = {self._shown(slot[into[0]])};")
                continue
            if op == ca.OP_INPUT:
                text, fixed = f"{self._letters[into[0]]}[{into[1]}][l]", into[0] != 0
                slot[out[0]] = (text, fixed, True)
                continue
            if op == ca.OP_CONST:
                slot[out[0]] = (f"({f.instruction_constant(k)!r})", True, True)
                continue
            arguments = [slot[i] for i in into]
            fixed = all(a[1] for a in arguments)
            form = (_UNARY if len(into) == 1 else _BINARY).get(op)
            if form is None:
                raise native.CompilerError(f"operation {op} of CasADi has no form in C")
            if fixed:
                text = form.format(*(a[0] for a in arguments))
                if text not in self._known:
                    self._known[text] = f"f{len(self._known)}"
                    self._fixed_lines.append(f"const double {self._known[text]} = {text};")
                slot[out[0]] = (self._known[text], True, False)
            else:
                lines.append(f"const double w{count} = {form.format(*map(self._shown, arguments))};")
                slot[out[0]] = (f"w{count}", False, True)
                count += 1
        return self._loop(f"{name}({self.ARGUMENTS}, const double V[NV][B], double R[][B])", lines)

    def prepare(self) -> str:
        lines = [*self._fixed_lines, *(f"V[{row}][l] = {name};" for name, row in self.prepared.items())]
        return self._loop(f"prepare({self.ARGUMENTS.partition(', ')[2]}, double V[][B])", lines)

    def _shown(self, value: tuple[str, bool, bool]) -> str:
        """How a value is written where the state is at hand: a fixed subexpression by its row of V."""
        text, fixed, plain = value
        if not fixed or plain:
            return text
        return f"V[{self.prepared.setdefault(text, len(self.prepared))}][l]"

    @staticmethod
    def _loop(signature: str, lines: list[str]) -> str:
        body = "\n    ".join(lines)
        return (
            f"static void {signature}\n{{\n  #pragma omp simd\n  for (int l = 0; l < B; l++) {{\n    {body}\n  }}\n}}"
        )
