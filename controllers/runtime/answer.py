"""Is a controller's answer one that may be looked at? Shapes and finite numbers, before anybody believes a status."""

from __future__ import annotations

import numpy as np

from controllers.contracts import Decision, Status
from plant.spec import PlantSpec


class AnswerCheck:
    """Remembers what a controller answers: one that predicts, or has margins, may never fall silent; one that does not may leave
    them NaN throughout (a PID both; one behind a forecast that speaks of a guardrail alone the predictions)."""

    def __init__(self, spec: PlantSpec) -> None:
        self._n_mv, self._n_measured = len(spec.mvs), len(spec.measured)
        self._answers = {"predicted": False, "margins": False}

    def defect(self, decision: object) -> str:
        """What is wrong with an answer; '' when nothing is."""
        if not isinstance(decision, Decision):
            return f"it is a {type(decision).__name__}, not a Decision"
        try:
            return self._defect(decision)
        except (TypeError, ValueError, AttributeError) as e:
            return f"it cannot be read: {e}"

    def _defect(self, d: Decision) -> str:
        if len(d.status) != 1 or not isinstance(d.status[0], Status):
            return f"its status is {d.status!r}"
        if d.why and (len(d.why) != 1 or not isinstance(d.why[0], str)):
            return f"what it says of its plan is {d.why!r}"
        plan = np.asarray(d.plan, dtype=np.float64)
        horizon = plan.shape[1] if plan.ndim == 3 else 0
        wanted = {
            "moves": (1, self._n_mv),
            "plan": (1, max(horizon, 1), self._n_mv),
            "predicted": (1, max(horizon, 1), self._n_measured),
            "margins": (1, max(horizon, 1), len(d.guardrails)),
            "violation": (1,),
        }
        arrays = {name: np.asarray(getattr(d, name), dtype=np.float64) for name in wanted}
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                return f"its {name} have shape {arrays[name].shape}, not {shape}"
        if d.status[0] is Status.INFEASIBLE:
            return ""  # an honest "no answer" need not have numbers: it is never sent
        fallback = d.status[0] is Status.FALLBACK  # of another controller, which may not predict
        for name in ("moves", "plan", "violation"):
            if not np.isfinite(arrays[name]).all():
                return f"its {name} are not finite"
        if not np.allclose(arrays["plan"][:, 0], arrays["moves"]):
            return "its plan does not begin with its moves"
        for name, answered in self._answers.items():
            finite = np.isfinite(arrays[name])
            if not finite.all() and (finite.any() or (answered and not fallback)):
                return f"its {'predictions' if name == 'predicted' else name} are not finite"
            self._answers[name] = answered or bool(finite.all() and finite.size)
        return ""
