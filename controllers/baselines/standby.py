"""A controller behind another: what `LinearMpc`, `NmpcController` or a PID is as the fallback of a planner."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from controllers.contracts import Controller, Decision, Observation, Status, Targets


class Standby:
    """`main` decides; where it has no answer at all (INFEASIBLE) and `second` has one, `second`'s move is the answer, with
    status FALLBACK and no prediction.

    Both are asked at every sample, so that `second` follows the moves in force and takes over without a bump.
    """

    def __init__(self, main: Controller, second: Controller) -> None:
        self.main, self.second, self.horizon = main, second, main.horizon

    def reset(self) -> None:
        self.main.reset()
        self.second.reset()

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        decision, other = self.main.decide(observation, targets), self.second.decide(observation, targets)
        taken = np.array([
            mine is Status.INFEASIBLE and its is not Status.INFEASIBLE
            for mine, its in zip(decision.status, other.status, strict=True)
        ])  # fmt: skip
        if not taken.any():
            return dataclasses.replace(decision, solve_time_s=time.perf_counter() - began)
        rows = taken[:, None, None]
        plan = np.where(rows, other.moves[:, None], decision.plan)  # held
        return dataclasses.replace(
            decision,
            moves=plan[:, 0],
            plan=plan,
            predicted=np.where(rows, np.nan, decision.predicted),
            margins=np.where(rows, np.nan, decision.margins),
            violation=np.where(taken, 0.0, decision.violation),
            status=tuple(Status.FALLBACK if t else s for t, s in zip(taken.tolist(), decision.status, strict=True)),
            solve_time_s=time.perf_counter() - began,
        )
