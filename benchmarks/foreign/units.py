"""A tag's unit is nobody's business: three plants in billions or billionths of their units get the same moves."""

from __future__ import annotations

import shutil

import numpy as np

from benchmarks.foreign.bench import Bench
from benchmarks.foreign.fromtests import load
from benchmarks.outcomes import Case, Cases, Outcome, not_run, yes
from controllers.evaluation.closed_loop import limits_of
from plant.spec import load_spec

BAR_DIFFERENCE = 1e-6  # of an MV's limits
FACTORS = (1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9)
FORMS = (
    "compiled",
    "filter",
    "forecast",
    "linear",
)  # the samplers and the planner's other form take minutes: see the tests
_TESTS = "tests/controllers/planning/test_units.py"


def cases(bench: Bench) -> Cases:
    tests = load(_TESTS)

    def case(plant: str, form: str) -> Case:
        return lambda: scaled(plant, form)

    return {f"{plant}, {form}": case(plant, form) for plant in tests.PLANTS for form in FORMS if form in tests.FORMS}


def scaled(plant: str, form: str) -> list[Outcome]:
    """The largest difference of a plan, as a share of the limits, over all factors."""
    if form == "compiled" and not shutil.which("cc"):
        return [not_run("difference of a plan, of the limits", "no C compiler")]
    tests, spec = load(_TESTS), load_spec(plant)
    low, high = limits_of(spec)
    ours = tests.decisions(tests.FORMS[form](spec, 1.0), spec, 1.0)
    worst, statuses = 0.0, True
    for factor in FACTORS:
        theirs = tests.decisions(tests.FORMS[form](spec, factor), spec, factor)
        for one, other in zip(ours, theirs, strict=True):
            worst = max(worst, float(np.abs((other.plan / factor - one.plan) / (high - low)).max()))
            statuses &= one.status == other.status
    return [
        Outcome("difference of a plan, of the limits", worst, BAR_DIFFERENCE),
        yes("the same status", statuses),
    ]
