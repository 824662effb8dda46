"""Extended Kalman filter over a simulator's own equations: hidden states, drifting parameters, unmeasured disturbances.

The state is augmented by what drifts, as a random walk (Pannocchia & Rawlings, AIChE J. 49, 2003): the named parameters and
disturbances, or, when none is named, an additive disturbance on every state that a tag reads. At rest the model then
reads what the plant reads, whatever is wrong with it: a controller that plans with it ends without offset.
"""

from __future__ import annotations

from dataclasses import dataclass

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Observation
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.contract import Simulator
from simulators.integrators import rk4
from simulators.namespaces import CasadiNamespace

Array = NDArray[np.float64]

_UNSEEN = 0.1  # of its usual value: how far off a state that no tag reads may be at the start
_DRIFT = 0.02  # of its usual value a sample: how fast a named parameter may wander
_RESTLESS = 0.2  # of the noise of the tag that reads it, a sample: the same of an additive disturbance
_LEAST_NOISE = 1e-4  # of a tag's range: a sensor without noise still has a last digit


class Equations:
    """A simulator's equations at the sample time of `spec`, as CasADi functions of (x, u, d, p).

    `advance` -> x one sample later, `read` -> the measured tags without their dead time, in the spec's order. `reader`
    maps a state to the column of the tag that shows it as it is; `delay` (n_measured,) counts samples of dead time.
    Raises `ControlError` for a plant that jumps at ticks.
    """

    def __init__(self, spec: PlantSpec, simulator: Simulator, substeps: int) -> None:
        if simulator.tick_s is not None:
            raise ControlError(
                "its equations jump at ticks", f"NMPC of {spec.name}", "Only a plant that flows can be planned with."
            )
        names, xp = simulator.names, CasadiNamespace()
        sizes = (len(names.x), len(names.u), len(names.d), len(names.p))
        x, u, d, p = symbols = tuple(ca.SX.sym(s, n) for s, n in zip("xudp", sizes, strict=True))
        xs, us, ds, ps = ([v[i] for i in range(n)] for v, n in zip(symbols, sizes, strict=True))
        dt = spec.sample_time_s / simulator.time_unit_s
        step = rk4(lambda s: simulator.derivative(s, us, ds, ps, xp), xs, dt, substeps)
        shown = simulator.outputs(xs, us, ds, ps, xp)
        tags = [t.name for t in spec.measured]
        if missing := [n for n in tags if n not in names.y]:
            raise ControlError(
                f"the equations give no {', '.join(missing)}", f"NMPC of {spec.name}", "Check the plant."
            )
        y = [ca.SX(shown[names.y.index(n)]) for n in tags]
        self.names, self.sizes = names, sizes
        self.advance = ca.Function("advance", [x, u, d, p], [ca.vertcat(*step)])
        self.read = ca.Function("read", [x, u, d, p], [ca.vertcat(*y)])
        self.reader = {j: i for j, s in enumerate(xs) for i, out in enumerate(y) if ca.is_equal(out, s)}
        self.delay = [round(simulator.dead_time_s.get(n, 0.0) / spec.sample_time_s) for n in tags]


@dataclass(frozen=True)
class Estimate:
    """For `batch` plants: states `x` (batch x n_x), disturbances `d` and parameters `p` (batch x n each), and the
    additive disturbance `drift` (batch x n_x) of a sample."""

    x: Array
    d: Array
    p: Array
    drift: Array


class Ekf:
    """**Arguments:** `estimate`, names of parameters or disturbances that drift; `parameters` (batch x n_p) what is
    believed of them, the simulator's usual ones by default; `restless` scales how fast anything may drift.

    A missing reading corrects nothing. Raises `ControlError` for an unknown name, a disturbance that is measured, or more
    names than measurements: their sum could not be told apart.
    """

    def __init__(
        self,
        spec: PlantSpec,
        simulator: Simulator,
        *,
        estimate: tuple[str, ...] = (),
        parameters: Array | None = None,
        restless: float = 1.0,
        substeps: int = 40,
    ) -> None:
        self.spec, self._simulator = spec, simulator
        self.equations = eq = Equations(spec, simulator, substeps)
        self._believed = np.atleast_2d(np.array(simulator.p0 if parameters is None else parameters, float))
        names = eq.names
        measured_dvs = [t.name for t in spec.dvs]
        unknown = [n for n in estimate if n not in (*names.d, *names.p) or n in measured_dvs]
        if unknown or len(estimate) > len(spec.measured):
            free = [n for n in (*names.d, *names.p) if n not in measured_dvs]
            raise ControlError(
                f"cannot estimate {', '.join(unknown or estimate)}", f"EKF of {spec.name}",
                f"Choose at most {len(spec.measured)} from {', '.join(free)}.",
            )  # fmt: skip
        self._dvs = [(names.d.index(n), i) for i, n in enumerate(measured_dvs) if n in names.d]
        tags = spec.measured
        noise = np.array([max(t.noise, _LEAST_NOISE * (t.range[1] - t.range[0])) for t in tags])
        usual = dict(zip((*names.d, *names.p), (*simulator.d0, *simulator.p0), strict=True))
        self._read_states = sorted(eq.reader)
        self._walks = list(estimate) or [names.x[j] for j in self._read_states]
        wander = [_DRIFT * max(abs(usual[n]), 1e-3) for n in estimate] or [
            _RESTLESS * noise[eq.reader[j]] for j in self._read_states
        ]
        self._nw, self._named = len(self._walks), estimate
        self._late = [(i, n) for i, n in enumerate(eq.delay) if n > 0]
        self._trace()
        self._mapped: dict[tuple[str, int], ca.Function] = {}
        start = [
            noise[eq.reader[j]] if j in eq.reader else _UNSEEN * max(abs(v), 1e-3) for j, v in enumerate(simulator.x0)
        ]
        old = [noise[i] for i, n in self._late for _ in range(n)]
        self._start = np.diag(np.square([*start, *(5 * restless * np.array(wander)), *old]))
        move = [0.3 * noise[eq.reader[j]] if j in eq.reader else 0.01 * v for j, v in enumerate(start)]
        self._process = np.diag(np.square([*move, *(restless * np.array(wander)), *np.zeros(len(old))]))
        self._noise = np.square(noise)
        self.reset()

    def _trace(self) -> None:
        """The augmented step and reading with their Jacobians. The augmented state: x, what walks, and for every tag with
        dead time what it is still going to show, newest first."""
        eq = self.equations
        (nx, nu, nd, np_), nw = eq.sizes, self._nw
        n = nx + nw + sum(k for _, k in self._late)
        s, u, d, p = ca.SX.sym("s", n), ca.SX.sym("u", nu), ca.SX.sym("d", nd), ca.SX.sym("p", np_)
        x, w = s[:nx], s[nx : nx + nw]
        d_in, p_in, drift = ca.SX(d), ca.SX(p), ca.SX.zeros(nx)
        for i, name in enumerate(self._named):
            if name in eq.names.d:
                d_in[eq.names.d.index(name)] = w[i]
            else:
                p_in[eq.names.p.index(name)] = w[i]
        if not self._named:
            for i, j in enumerate(self._read_states):
                drift[j] = w[i]
        shown = eq.read(x, u, d_in, p_in)
        later, reading, at = [eq.advance(x, u, d_in, p_in) + drift, w], [], nx + nw
        last = {}
        for i, k in self._late:
            later += [shown[i], s[at : at + k - 1]]
            last[i] = s[at + k - 1]
            at += k
        reading = ca.vertcat(*(last.get(i, shown[i]) for i in range(len(eq.delay))))
        after = ca.vertcat(*later)
        self._step = ca.Function("step", [s, u, d, p], [after, ca.jacobian(after, s)])
        self._see = ca.Function("see", [s, u, d, p], [reading, ca.jacobian(reading, s), shown])

    def reset(self) -> None:
        self._s: Array | None = None

    def update(self, observation: Observation) -> Estimate:
        """What is believed after the reading of one sample. Called once a sample, in order."""
        y, u = observation.measured, observation.applied
        p = np.broadcast_to(self._believed, (len(y), self.equations.sizes[3]))
        if self._s is None:
            s = self._begin(y, u, p)
        else:
            self._u = np.where(np.isfinite(u), u, self._u)
            s, f = self._call(self._step, self._s, self._u, self._d, p)
            self._cov = f @ self._cov @ f.transpose(0, 2, 1) + self._process
        for j, i in self._dvs:
            self._d[:, j] = np.where(np.isfinite(observation.dvs[:, i]), observation.dvs[:, i], self._d[:, j])
        expected, h, _ = self._call(self._see, s, self._u, self._d, p)
        good = np.isfinite(y)
        innovation = np.where(good, y - expected, 0.0)
        h = h * good[..., None]
        joint = h @ self._cov @ h.transpose(0, 2, 1) + np.eye(y.shape[1]) * np.where(good, self._noise, 1.0)[:, None]
        gain = np.linalg.solve(joint, h @ self._cov).transpose(0, 2, 1)
        self._s = s + (gain @ innovation[..., None])[..., 0]
        cov = (np.eye(s.shape[1]) - gain @ h) @ self._cov
        self._cov = 0.5 * (cov + cov.transpose(0, 2, 1))
        return self._estimate(self._s, p)

    def _begin(self, y: Array, u: Array, p: Array) -> Array:
        """The augmented state at the first sample: states as read, what no tag reads as it usually is."""
        eq, batch = self.equations, len(y)
        names, (nx, _, _, _) = eq.names, eq.sizes
        self._u = np.where(np.isfinite(u), u, self._simulator.u0)
        self._d = np.tile(np.array(self._simulator.d0, float), (batch, 1))
        x = self._simulator.initial(self._u, self._d, p)
        for j, i in eq.reader.items():
            x[:, j] = np.where(np.isfinite(y[:, i]), y[:, i], x[:, j])
        walks = np.zeros((batch, self._nw))
        for i, name in enumerate(self._named):
            walks[:, i] = p[:, names.p.index(name)] if name in names.p else self._d[:, names.d.index(name)]
        s = np.hstack([x, walks, np.zeros((batch, sum(k for _, k in self._late)))])
        shown = self._call(self._see, s, self._u, self._d, p)[2]
        at = nx + self._nw
        for i, k in self._late:
            s[:, at : at + k] = shown[:, [i]]
            at += k
        self._cov = np.tile(self._start, (batch, 1, 1))
        return s

    def _estimate(self, s: Array, p: Array) -> Estimate:
        (nx, _, _, _), names = self.equations.sizes, self.equations.names
        x, walks = s[:, :nx], s[:, nx : nx + self._nw]
        d, p, drift = self._d.copy(), p.copy(), np.zeros_like(x)
        for i, name in enumerate(self._named):
            if name in names.d:
                d[:, names.d.index(name)] = walks[:, i]
            else:
                p[:, names.p.index(name)] = walks[:, i]
        if not self._named:
            drift[:, self._read_states] = walks
        return Estimate(x.copy(), d, p, drift)

    def _call(self, function: ca.Function, *arguments: Array) -> list[Array]:
        """`_step` or `_see` for a batch: vectors (batch x n), and their Jacobian (batch x n x n_s) second."""
        batch = len(arguments[0])
        key = (function.name(), batch)
        if key not in self._mapped:
            self._mapped[key] = function.map(batch)
        found = []
        for i, value in enumerate(self._mapped[key](*(a.T for a in arguments))):
            rows, columns = function.size_out(i)
            full = np.array(value).reshape(rows, batch, columns).transpose(1, 0, 2)
            found.append(full if i == 1 else full[..., 0])
        return found
