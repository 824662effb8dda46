"""The reactor with parameters beyond those of any training run: the model's error over its best rival's, all of them trained on the
excitation and the incidents of `benchmarks.world_model`, for as many steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.outcomes import Outcome, shown
from benchmarks.site.bench import Bench
from benchmarks.world_model_rows import CORE, DEFAULT, QUICK, SEEDLESS, WORLD_MODEL, Job, Row, measured
from benchmarks.world_model_scores import STEPS

TITLE = "Reactor, drift: error over the best rival's, trained with incidents"
RATIO, NOMINAL = 0.95, 1.05
JUDGED = (15, 30)
RIVALS = ("arx", "subspace", "gru", "reconstruction")


def cases(bench: Bench) -> Mapping[str, Callable[[], list[Outcome]]]:
    return {"reactor": lambda: case(bench)}


def case(bench: Bench) -> list[Outcome]:
    sizes = QUICK if bench.settings.seeds == 1 else CORE
    rows = [Row(DEFAULT, WORLD_MODEL), *(Row(name, name) for name in RIVALS)]
    found: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        seeds = 1 if row.kind in SEEDLESS else bench.settings.seeds
        facts = [measured(Job("reactor", row, seed, sizes), bench.folder / "world_model") for seed in range(seeds)]
        found[row.name] = {
            runs: np.array([np.mean(f["nrmse"][runs], 1) for f in facts]).mean(0) for runs in ("drift", "held-out")
        }
    outcomes = []
    for runs, bar in (("drift", RATIO), ("held-out", NOMINAL)):
        ratios = {}
        for k in JUDGED:
            at = STEPS.index(k)
            best = min(RIVALS, key=lambda name: found[name][runs][at])
            ratios[k] = (found[DEFAULT][runs][at] / found[best][runs][at], best)
        worst = max(ratios.values())[0]
        said = ", ".join(f"k {k}: {r:.3f} of {best}'s" for k, (r, best) in ratios.items())
        outcomes.append(Outcome(f"{runs}, worst of k = 15 and 30", float(worst), bar, note=said))
    outcomes.append(shown("error in drift at k = 15", float(found[DEFAULT]["drift"][STEPS.index(15)])))
    return outcomes
