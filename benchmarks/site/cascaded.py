"""The cascaded tanks of a real rig, by the one recipe: free simulation of the validation record."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.outcomes import Outcome, not_run, shown
from benchmarks.site.bench import Bench
from benchmarks.site.cascaded_tanks import GOALS_V, IN_PRINT, rows

TITLE = "Cascaded tanks: free simulation of the validation record"


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {"validation record": lambda: case(bench)}


def case(bench: Bench) -> list[Outcome]:
    if bench.data is None:
        return [not_run("RMSE, V", "give the folder of cascaded_tanks.csv as --data")]
    found = rows(bench.data, range(bench.settings.seeds))
    values = [row["rmse_V"] for row in found]
    each = "; ".join(f"seed {row['seed']}: {row['rmse_V']:.3f} ({row['model']})" for row in found)
    printed = ", ".join(f"{name} {v:g}" for name, v in IN_PRINT.items())
    return [
        Outcome("RMSE, V, worst seed", max(values), GOALS_V[0], note=f"mean {np.mean(values):.3f}; {each}"),
        shown("RMSE, V, of the best in print so far", GOALS_V[1], f"in print: {printed}"),
    ]
