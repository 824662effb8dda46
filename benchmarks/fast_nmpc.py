"""The fast NMPC the planners are held against: a few full SQP steps a sample, warm-started, on the same program as
`NmpcController`; with one step the real-time iteration (Diehl, Bock & Schloeder, SIAM J. Control Optim. 43, 2005)."""

from __future__ import annotations

from typing import Any

import casadi as ca

from controllers.baselines.nmpc import NmpcController

_RIDGE = (
    1e-4  # as the planner's own subproblems have: the energy alone is flat in most directions, and DAQP needs a slope
)


class SqpNmpcController(NmpcController):
    """Linearises the equations around the last plan, shifted, and solves the QP by DAQP's dual active set, three times. The
    energy's own curvature is the QP's (Gauss-Newton): the targets are linear in the slacks."""

    iterations = 3

    def _nlp_solver(self, nlp: dict[str, ca.MX]) -> Any:
        x, p = nlp["x"], nlp["p"]
        hessian = ca.hessian(nlp["f"], x)[0] + _RIDGE * ca.MX(ca.DM.eye(x.shape[0]))
        multipliers = ca.MX.sym("lam_f"), ca.MX.sym("lam_g", nlp["g"].shape[0])
        options = {
            "max_iter": self.iterations,
            "hess_lag": ca.Function("hess_lag", [x, p, *multipliers], [hessian]),
            "qpsol": "daqp",
            "qpsol_options": {"error_on_fail": False},
            "print_header": False,
            "print_iteration": False,
            "print_status": False,
            "print_time": False,
        }
        return _Stopped(ca.nlpsol("nmpc_sqp", "sqpmethod", nlp, options))


class RtiNmpcController(SqpNmpcController):
    """One iteration a sample."""

    iterations = 1


class _Stopped:
    """A solver that is stopped after its iterations on purpose, and has not failed by that."""

    def __init__(self, solver: ca.Function) -> None:
        self._solver = solver

    def __call__(self, **arguments: Any) -> Any:
        return self._solver(**arguments)

    def stats(self) -> dict[str, Any]:
        return {**self._solver.stats(), "success": True}
