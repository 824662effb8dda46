"""NMPC with the plant's own equations (CasADi, IPOPT): the yardstick. It knows what no learned model is told."""

from __future__ import annotations

import time

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from controllers.contracts import Decision, Observation, Status, Targets
from plant.spec import PlantSpec
from simulators.contract import Simulator
from simulators.integrators import rk4
from simulators.namespaces import CasadiNamespace

Array = NDArray[np.float64]


class NmpcController:
    """Multiple shooting over the simulator's equations, for plants whose states are all measured, in the spec's order.

    Minimises sum |target error| / scale + effort (u scaled 0..1 over `effort_range`)^2; guardrails are soft with a price
    nothing else can pay. Warm-started. Plants of a batch are solved one after another. `parameters` (batch x n_p) are
    the true ones, or wrong ones on purpose. Disturbances are held at their last reading.
    """

    def __init__(
        self,
        spec: PlantSpec,
        simulator: Simulator,
        *,
        horizon: int = 15,
        effort: float = 0.001,
        effort_range: tuple[float, float] | None = None,
        parameters: Array | None = None,
        guardrails: bool = True,
        substeps: int = 40,
    ) -> None:
        self.spec, self.horizon, self._simulator = spec, horizon, simulator
        self._p = np.atleast_2d(simulator.p0 if parameters is None else parameters)
        names, h = simulator.names, horizon
        nx, nu, nd, np_ = len(names.x), len(names.u), len(names.d), len(names.p)
        xp = CasadiNamespace()
        x, u, d, p = (ca.SX.sym(s, n) for s, n in (("x", nx), ("u", nu), ("d", nd), ("p", np_)))
        us, ds, ps = ([v[i] for i in range(v.shape[0])] for v in (u, d, p))
        step = rk4(
            lambda s: simulator.derivative(s, us, ds, ps, xp),
            [x[i] for i in range(nx)],
            spec.sample_time_s / simulator.time_unit_s,
            substeps,
        )
        advance = ca.Function("advance", [x, u, d, p], [ca.vertcat(*step)])

        nt, ng = len(spec.targets), len(spec.guardrails) if guardrails else 0
        big_x, big_u = ca.MX.sym("X", nx, h), ca.MX.sym("U", nu, h)
        error, slack = ca.MX.sym("E", max(nt, 1), h), ca.MX.sym("S", max(ng, 1), h)
        x0, dp, pp = ca.MX.sym("x0", nx), ca.MX.sym("d", nd), ca.MX.sym("p", np_)
        goal = ca.MX.sym("goal", max(nt, 1), h)
        low, high = effort_range or spec.mvs[0].move.limits  # type: ignore[union-attr]
        measured = [t.name for t in spec.measured]
        column = {t.name: measured.index(t.name) for t in spec.measured}
        before = ca.horzcat(x0, big_x[:, :-1])
        dynamics = advance.map(h)(before, big_u, ca.repmat(dp, 1, h), ca.repmat(pp, 1, h)) - big_x
        rows, objective = [ca.vec(dynamics)], effort * ca.sumsqr((big_u - low) / (high - low))
        bounds = [(np.zeros(nx * h), np.zeros(nx * h))]
        for i, t in enumerate(spec.targets):
            gap = big_x[column[t.tag], :] - goal[i, :]
            rows += [ca.vec(gap - error[i, :]), ca.vec(-gap - error[i, :])]
            bounds += [(np.full(h, -np.inf), np.zeros(h))] * 2
            objective += ca.sum2(error[i, :]) / t.scale
        for i, g in enumerate(spec.guardrails[:ng]):
            rows.append(ca.vec(g.sign * (big_x[column[g.tag], :] - g.limit) - slack[i, :]))
            bounds.append((np.full(h, -np.inf), np.zeros(h)))
            objective += 10.0 * ca.sum2(slack[i, :])
        self._shape = (nx, nu, max(nt, 1), max(ng, 1))
        self._lbg = np.concatenate([b[0] for b in bounds])
        self._ubg = np.concatenate([b[1] for b in bounds])
        self._solver = ca.nlpsol(
            "nmpc",
            "ipopt",
            {
                "x": ca.vertcat(ca.vec(big_x), ca.vec(big_u), ca.vec(error), ca.vec(slack)),
                "p": ca.vertcat(x0, dp, pp, ca.vec(goal)),
                "f": objective,
                "g": ca.vertcat(*rows),
            },
            {
                "ipopt.print_level": 0,
                "ipopt.sb": "yes",
                "print_time": False,
                "show_eval_warnings": False,  # a trial step may overflow; IPOPT shortens it
                "ipopt.max_iter": 200,
                "ipopt.warm_start_init_point": "yes",
                "ipopt.mu_init": 1e-3,
            },
        )
        self.reset()

    def reset(self) -> None:
        self._guess: dict[int, Array] = {}

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        batch = len(observation.measured)
        h, (nx, nu, nt, ng) = self.horizon, self._shape
        plan, predicted, status = np.empty((batch, h, nu)), np.empty((batch, h, nx)), []
        names = self._simulator.names
        usual = dict(zip(names.d, self._simulator.d0, strict=True))
        for b in range(batch):
            d = [observation.dvs[b, [t.name for t in self.spec.dvs].index(n)]
                 if n in [t.name for t in self.spec.dvs] else usual[n] for n in names.d]  # fmt: skip
            p = self._p[b if len(self._p) > 1 else 0]
            x0 = observation.measured[b]
            goal = targets.values[b][np.minimum(np.arange(h), targets.values.shape[1] - 1)]
            guess = self._guess.get(b)
            if guess is None:
                guess = np.concatenate([np.tile(x0, h), np.tile(observation.applied[b], h), np.zeros((nt + ng) * h)])
            low = np.concatenate([np.tile([0.0, 250.0][:nx], h), np.tile(targets.move_low, h), np.zeros((nt + ng) * h)])
            high = np.concatenate([np.full(nx * h, 600.0), np.tile(targets.move_high, h), np.full((nt + ng) * h, 1e4)])
            answer = self._solver(
                x0=np.clip(guess, low, high), p=np.concatenate([x0, d, p, goal.ravel()]), lbx=low, ubx=high,
                lbg=self._lbg, ubg=self._ubg,
            )  # fmt: skip
            w = np.array(answer["x"]).ravel()
            ok = bool(self._solver.stats()["success"])
            status.append(Status.OPTIMAL if ok else Status.FEASIBLE)
            self._guess[b] = w if ok else guess
            predicted[b], plan[b] = w[: nx * h].reshape(h, nx), w[nx * h : (nx + nu) * h].reshape(h, nu)
        rails = tuple(g.name for g in self.spec.guardrails)
        column = [[t.name for t in self.spec.measured].index(g.tag) for g in self.spec.guardrails]
        sign = np.array([g.sign for g in self.spec.guardrails])
        limit = np.array([g.limit for g in self.spec.guardrails])
        margins = sign * (limit - predicted[..., column])
        return Decision(
            moves=np.clip(plan[:, 0], targets.move_low, targets.move_high),
            plan=plan,
            predicted=predicted,
            margins=margins,
            calibrated=np.zeros(margins.shape[1:]),
            guardrails=rails,
            status=tuple(status),
            violation=np.maximum(-margins, 0).max((1, 2), initial=0.0),
            surprise=np.zeros(batch),
            bias=np.zeros_like(observation.measured),
            solve_time_s=time.perf_counter() - began,
        )
