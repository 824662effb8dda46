"""NMPC with the plant's own equations (CasADi, IPOPT): the yardstick. It knows what no learned model is told."""

from __future__ import annotations

import dataclasses
import time

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from controllers.baselines.ekf import Ekf, Equations, Estimate
from controllers.contracts import Decision, Observation, Status, Targets
from controllers.planning.explained import contradiction
from plant.errors import ControlError
from plant.spec import PlantSpec
from simulators.contract import Simulator

Array = NDArray[np.float64]

_PRICE = 10.0  # price of a guardrail of the last rank, in energy per scale of it; ten times more for each rank above
_BROKEN = 0.01  # scales by which a plan passes a guardrail before it counts
_OPTIONS = {
    "ipopt.print_level": 0,
    "ipopt.sb": "yes",
    "print_time": False,
    "show_eval_warnings": False,  # a trial step may overflow; IPOPT shortens it
    "ipopt.max_iter": 200,
    "ipopt.warm_start_init_point": "yes",
    "ipopt.mu_init": 1e-3,
}


class NmpcController:
    """Multiple shooting over the simulator's equations.

    Minimises sum |target error| / scale + `effort` * (distance of u from its resting value / span)^2, for MVs that have one
    (`effort_range`, a pair for every MV alike, says where they rest and what counts as span) + `suppression` * (move / span)^2; guardrails are soft with a price by rank that nothing
    else can pay; limits and rates of the moves are hard. Warm-started by the last plan, shifted. Plants of a batch are
    solved one after another.

    Without an `estimator` the states are the measurements, and `parameters` (batch x n_p) are the true ones, or wrong
    ones on purpose. With one, states, parameters and disturbances are what it believes. Disturbances are held.

    A plant whose state is not known, or for which IPOPT finds nothing twice, gets INFEASIBLE and its safe moves.
    Raises `ControlError` where a state has no tag and there is no estimator, or a guardrail watches no measurement.
    """

    def __init__(
        self,
        spec: PlantSpec,
        simulator: Simulator,
        *,
        horizon: int = 15,
        effort: float = 0.001,
        effort_range: tuple[float, float] | None = None,
        suppression: float = 0.0,
        parameters: Array | None = None,
        guardrails: bool = True,
        substeps: int = 40,
        estimator: Ekf | None = None,
    ) -> None:
        self.spec, self.horizon, self._simulator, self._estimator = spec, horizon, simulator, estimator
        self._p = np.atleast_2d(np.array(simulator.p0 if parameters is None else parameters, float))
        eq = self._equations = Equations(spec, simulator, substeps) if estimator is None else estimator.equations
        names = [t.name for t in spec.measured]
        where = f"NMPC of {spec.name}"
        blind = [n for j, n in enumerate(eq.names.x) if j not in eq.reader or eq.delay[eq.reader[j]]]
        if blind and estimator is None:
            raise ControlError(f"no tag reads {', '.join(blind)} as it is now", where, "Give it an `Ekf`.")
        if parameters is not None and estimator is not None:
            raise ControlError("parameters beside an estimator", where, "Give them to the `Ekf`.")
        if hidden := [g.name for g in spec.guardrails if g.tag not in names]:
            raise ControlError(f"no measurement tells about {', '.join(hidden)}", where, "Guard it otherwise.")
        moves = [t.move for t in spec.mvs if t.move]
        self._low = np.array([m.limits[0] for m in moves])
        self._span = np.array([m.span for m in moves])
        self._rate = np.array([m.reach(spec.sample_time_s) for m in moves])
        self._safe = np.array([m.safe for m in moves])
        self._watched = [names.index(g.tag) for g in spec.guardrails]
        rest = np.array([np.nan if m.rest is None else m.rest for m in moves])
        low, width = (
            (rest, self._span) if effort_range is None else (effort_range[0], effort_range[1] - effort_range[0])
        )
        self._solver = self._program(effort, np.broadcast_to(low, rest.shape), width, suppression, guardrails)
        self._box = self._ranges()
        self._read = eq.read.map(horizon)
        self.reset()

    def reset(self) -> None:
        self._guess: dict[int, Array] = {}
        if self._estimator is not None:
            self._estimator.reset()

    def _program(
        self, effort: float, rest: Array, width: Array | float, suppression: float, guardrails: bool
    ) -> ca.Function:
        """The NLP in (states, moves, target errors, guardrail excess; both in scales) of the horizon, and the bounds of its rows."""
        spec, h, eq = self.spec, self.horizon, self._equations
        nx, nu, nd, np_ = eq.sizes
        nt, ng = len(spec.targets), len(spec.guardrails) if guardrails else 0
        big_x, big_u = ca.MX.sym("X", nx, h), ca.MX.sym("U", nu, h)
        error, slack = ca.MX.sym("E", max(nt, 1), h), ca.MX.sym("S", max(ng, 1), h)
        x0, u0, goal = ca.MX.sym("x0", nx), ca.MX.sym("u0", nu), ca.MX.sym("goal", max(nt, 1), h)
        d, p, drift = ca.MX.sym("d", nd), ca.MX.sym("p", np_), ca.MX.sym("drift", nx)
        held = [ca.repmat(v, 1, h) for v in (d, p, drift)]
        y = eq.read.map(h)(big_x, big_u, *held[:2])
        before, last = ca.horzcat(x0, big_x[:, :-1]), ca.horzcat(u0, big_u[:, :-1])
        names = [t.name for t in spec.measured]
        rows = [eq.advance.map(h)(before, big_u, *held[:2]) + held[2] - big_x]
        bounds = [(np.zeros(nx * h), np.zeros(nx * h))]
        weight = np.where(np.isnan(rest), 0.0, 1.0) / width
        objective = effort * ca.sumsqr((big_u - np.nan_to_num(rest)) * weight)
        objective += suppression * ca.sumsqr((big_u - last) / self._span)
        for i, t in enumerate(spec.targets):
            gap = (y[names.index(t.tag), :] - goal[i, :]) / spec.target_scale(t)
            rows += [gap - error[i, :], -gap - error[i, :]]
            objective += ca.sum2(error[i, :])
        ranks = sorted({g.rank for g in spec.guardrails}, reverse=True)
        for i, g in enumerate(spec.guardrails[:ng]):
            rows.append(-g.margin(y[self._watched[i], :]) / spec.scale(g) - slack[i, :])
            objective += _PRICE * 10.0 ** ranks.index(g.rank) * ca.sum2(slack[i, :])
        bounds += [(np.full(h, -np.inf), np.zeros(h))] * (2 * nt + ng)
        for i in np.flatnonzero(self._rate < self._span).tolist():
            rows.append(big_u[i, :] - last[i, :])
            bounds.append((np.full(h, -self._rate[i]), np.full(h, self._rate[i])))
        self._shape = (nx, nu, max(nt, 1), max(ng, 1))
        self._lbg, self._ubg = (np.concatenate(b) for b in zip(*bounds, strict=True))
        flat = ca.vertcat(*(ca.vec(v) for v in (big_x, big_u, error, slack)))
        given = ca.vertcat(x0, u0, d, p, drift, ca.vec(goal))
        nlp = {"x": flat, "p": given, "f": objective, "g": ca.vertcat(*(ca.vec(r) for r in rows))}
        return self._nlp_solver(nlp)

    def _nlp_solver(self, nlp: dict[str, ca.MX]) -> ca.Function:
        return ca.nlpsol("nmpc", "ipopt", nlp, _OPTIONS)

    def _ranges(self) -> tuple[Array, Array]:
        """Bounds of the states: half a tag's range to either side of it, and what cannot be negative is not."""
        low, high = np.full(self._shape[0], -np.inf), np.full(self._shape[0], np.inf)
        for j, i in self._equations.reader.items():
            bottom, top = self.spec.measured[i].range
            low[j] = 0.0 if bottom == 0.0 else bottom - 0.5 * (top - bottom)
            high[j] = top + 0.5 * (top - bottom)
        return low, high

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        batch, h, (_, nu, _, _) = len(observation.measured), self.horizon, self._shape
        now = self._estimator.update(observation) if self._estimator else self._as_read(observation)
        plan, predicted = np.empty((batch, h, nu)), np.empty((batch, h, len(self.spec.measured)))
        known = np.asarray(np.isfinite(np.hstack([now.x, observation.standing])).all(axis=1))
        known &= np.asarray(np.isfinite(observation.measured).any(axis=1))
        contradicted = contradiction(self.spec, targets)
        known &= not contradicted
        found = np.zeros(batch, bool)
        goals = targets.values[:, np.minimum(np.arange(h), targets.values.shape[1] - 1)]
        for b in range(batch):
            answer = self._solve(b, now, observation.standing[b], goals[b], targets) if known[b] else None
            found[b] = answer is not None
            x, plan[b] = (np.full((h, self._shape[0]), np.nan), self._safe) if answer is None else answer
            predicted[b] = np.array(self._read(x.T, plan[b].T, *(np.tile(v[b], (h, 1)).T for v in (now.d, now.p)))).T
        return dataclasses.replace(self._decision(plan, predicted, found, began), why=(contradicted,) * batch)

    def _solve(
        self, b: int, now: Estimate, applied: Array, goal: Array, targets: Targets
    ) -> tuple[Array, Array] | None:
        """States and moves (horizon x n each) of plant `b`, or None: warm-started first, then from rest."""
        h, (nx, nu, nt, ng) = self.horizon, self._shape
        low = np.concatenate([np.tile(self._box[0], h), np.tile(targets.move_low, h), np.zeros((nt + ng) * h)])
        high = np.concatenate([np.tile(self._box[1], h), np.tile(targets.move_high, h), np.full((nt + ng) * h, 1e4)])
        rest = np.concatenate([np.tile(now.x[b], h), np.tile(applied, h), np.zeros((nt + ng) * h)])
        given = np.concatenate([now.x[b], applied, now.d[b], now.p[b], now.drift[b], goal.ravel()])
        for guess in (self._guess.pop(b, None), rest):
            if guess is None:
                continue
            answer = self._solver(
                x0=np.clip(guess, low, high), p=given, lbx=low, ubx=high, lbg=self._lbg, ubg=self._ubg
            )
            w = np.array(answer["x"]).ravel()
            if self._solver.stats()["success"] and np.isfinite(w).all():
                cuts = np.cumsum([nx * h, nu * h, nt * h])
                blocks = [part.reshape(h, -1) for part in np.split(w, cuts)]
                self._guess[b] = np.concatenate([np.vstack([v[1:], v[-1:]]).ravel() for v in blocks])
                u = np.clip(blocks[1], targets.move_low, targets.move_high)
                u[0] = np.clip(u[0], applied - self._rate, applied + self._rate)
                return blocks[0], u
        return None

    def _as_read(self, observation: Observation) -> Estimate:
        """Full state feedback."""
        eq, batch = self._equations, len(observation.measured)
        x = observation.measured[:, [eq.reader[j] for j in range(eq.sizes[0])]]
        d = np.tile(np.array(self._simulator.d0, float), (batch, 1))
        for i, tag in enumerate(self.spec.dvs):
            if tag.name in eq.names.d:
                j = eq.names.d.index(tag.name)
                d[:, j] = np.where(np.isfinite(observation.dvs[:, i]), observation.dvs[:, i], d[:, j])
        p = np.broadcast_to(self._p, (batch, eq.sizes[3]))
        return Estimate(x, d, p, np.zeros_like(x))

    def _decision(self, plan: Array, predicted: Array, found: NDArray[np.bool_], began: float) -> Decision:
        rails = zip(self.spec.guardrails, self._watched, strict=True)
        each = [g.margin(predicted[..., at]) for g, at in rails]
        margins = np.stack(each, -1) if each else predicted[..., :0]
        scale = np.array([self.spec.scale(g) for g in self.spec.guardrails])
        violation = np.nan_to_num(np.maximum(-margins / scale, 0).max((1, 2), initial=0.0))
        status = tuple(
            Status.INFEASIBLE if not ok else Status.RECOVERY if bad else Status.OPTIMAL
            for ok, bad in zip(found.tolist(), (violation > _BROKEN).tolist(), strict=True)
        )
        return Decision(
            moves=plan[:, 0],
            plan=plan,
            predicted=predicted,
            margins=margins,
            calibrated=np.zeros(margins.shape[1:]),
            guardrails=tuple(g.name for g in self.spec.guardrails),
            status=status,
            violation=violation,
            bias=np.zeros((len(plan), len(self.spec.measured))),
            solve_time_s=time.perf_counter() - began,
        )
