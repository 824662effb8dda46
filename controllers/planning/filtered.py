"""`Filter`: any controller behind something that knows what is safe. Conformal margins and quantile forecasts are two such."""

from __future__ import annotations

import dataclasses
import logging
import time
from abc import ABC, abstractmethod

import numpy as np

from controllers.contracts import Array, Controller, Decision, Observation, Status, Targets
from plant.errors import ControlError
from plant.spec import PlantSpec

log = logging.getLogger(__name__)

_SAME = 1e-9  # of an MV's limits: scaling there and back
_GRAVE = (Status.INFEASIBLE, Status.RECOVERY, Status.TIGHT)


class Filter(ABC):
    """Lets `inner` run `batch` plants and changes its moves only where they are not safe, to the nearest that a subclass knows
    to be. A safe move is passed on bit for bit, with `inner`'s status and what it says. Filters may stand behind each other.

    Status: `FEASIBLE` where the move is changed (the subclass's own where that says less, `inner`'s own where that says more than
    `FEASIBLE`), `INFEASIBLE` and the safe move where `inner` fails, answers nothing finite or is `INFEASIBLE` itself. Energies
    are `inner`'s and `moved`: how far the move is from the one asked for, root of the sum of squares of shares of the MVs' limits,
    each times the root of its `weights`; 0 where it is unchanged, NaN where none was asked for; filters behind each other add up.
    A dropped MV stays at its move in force, whatever is asked of it, and counts as unchanged.

    `deadline_s`: wall time of a decision, None where there is no hurry; a filter that does not search may ignore it.
    """

    spec: PlantSpec
    inner: Controller
    batch: int
    horizon: int
    deadline_s: float | None = None
    _last_error: str = ""

    @abstractmethod
    def _nearest(self, observation: Observation, targets: Targets, answer: Decision | None, began: float) -> Decision:
        """What is safe and nearest to `answer`'s moves, for every plant. `answer` None: `inner` failed. `began`: of this decision,
        on `time.perf_counter()`."""

    @property
    def weights(self) -> Array:
        """(n_mv,): how much a change of each MV counts, as a share of its limits, squared."""
        return np.ones(len(self.spec.mvs))

    def reset(self) -> None:
        """Forget the history, `inner`'s too."""
        self.inner.reset()

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        """The next move; see `controllers.contracts.Controller`."""
        began = time.perf_counter()
        answer = self._ask(observation, targets)
        if answer is not None:
            answer = _left_alone(answer, observation, targets)
        nearest = _left_alone(self._nearest(observation, targets, answer, began), observation, targets)
        return self._passed_on(nearest, answer, began)

    def _ask(self, observation: Observation, targets: Targets) -> Decision | None:
        """What `inner` wants; None where it fails: an unusable answer must not take the guardrails with it."""
        try:
            answer = self.inner.decide(observation, targets)
            wanted = (self.batch, len(self.spec.mvs))
            shapes = np.shape(answer.moves), np.shape(answer.plan)[::2], (len(answer.status), wanted[1])
            if set(shapes) != {wanted}:
                raise ControlError(f"an answer of shapes {shapes}", f"controller of {self.spec.name}", f"Not {wanted}.")
        except Exception as e:
            # With its traceback once: a controller that always fails must not fill the disk.
            log.error("the filtered controller failed: %r", e, exc_info=repr(e) != self._last_error)
            self._last_error = repr(e)
            return None
        return answer

    def _passed_on(self, decision: Decision, answer: Decision | None, began: float) -> Decision:
        """`decision` with the very move of `inner` where it is as asked for, and `inner`'s word."""
        if answer is None:
            energy = {"moved": np.full(self.batch, np.nan)}
            return dataclasses.replace(decision, energy=energy, solve_time_s=time.perf_counter() - began)
        known = asked_for(answer)
        span = np.array([t.move.limits[1] - t.move.limits[0] for t in self.spec.mvs if t.move])
        off = (decision.moves - answer.moves) / span
        same = known & (np.abs(off) <= _SAME).all(-1)
        moved = np.where(same, 0.0, np.sqrt((self.weights * off**2).sum(-1)))
        if isinstance(self.inner, Filter):
            moved = moved + answer.energy["moved"]
        moves = np.where(same[:, None], answer.moves, decision.moves)
        silent = ("",) * self.batch
        return dataclasses.replace(
            decision,
            moves=moves,
            plan=np.concatenate([moves[:, None], decision.plan[:, 1:]], axis=1),
            violation=np.maximum(decision.violation, np.nan_to_num(answer.violation)),
            status=tuple(
                mine if mine in _GRAVE
                else its if unchanged or its not in (Status.OPTIMAL, Status.FEASIBLE)
                else Status.DEADLINE if mine is Status.DEADLINE else Status.FEASIBLE
                for mine, its, unchanged in zip(decision.status, answer.status, same.tolist(), strict=True)
            ),
            energy={**answer.energy, "moved": np.where(known, moved, np.nan)},
            solve_time_s=time.perf_counter() - began,
            why=tuple(
                mine if status in _GRAVE or not its else its
                for status, mine, its in zip(decision.status, decision.why or silent, answer.why or silent, strict=True)
            ),
        )  # fmt: skip


def asked_for(answer: Decision) -> np.ndarray:
    """For which plants (batch,) `answer` has moves at all."""
    sound = np.array([s is not Status.INFEASIBLE for s in answer.status])
    return sound & np.isfinite(np.asarray(answer.moves, dtype=np.float64)).all(-1)


def _left_alone(decision: Decision, observation: Observation, targets: Targets) -> Decision:
    """`decision` with the MVs that are not ours at their moves in force."""
    if targets.dropped is None:
        return decision
    held = np.asarray(targets.dropped, bool) & np.isfinite(observation.standing)
    plan = np.where(held[:, None], observation.standing[:, None], decision.plan)
    return dataclasses.replace(decision, moves=np.where(held, observation.standing, decision.moves), plan=plan)
