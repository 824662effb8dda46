"""A real rig's public data: the cascaded tanks (Schoukens, Mattsson, Wigren & Noel 2016), an overflow and all.

The one default recipe of `homeostat train`, given the estimation record; then the validation record is simulated from its first
window to its end, told nothing but the pump's voltage.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.candidates import choose
from models.config import ModelConfig, TrainingConfig
from models.rivals.latent import LatentForecaster
from models.windows import Run
from plant.spec import PlantSpec

SAMPLE_S = 4.0
GOALS_V = (0.45, 0.33)
IN_PRINT = {"linear": 0.75, "Volterra": 0.54, "GP state space": 0.45, "NLSS2": 0.34, "neural state space": 0.33}
_TAGS = (
    {"name": "LT", "role": "CV", "range": [0.0, 12.0], "nominal": 5.0, "noise": 0.02, "critical": True},
    {"name": "PV", "role": "MV", "range": [0.0, 10.0], "nominal": 3.0, "move": {"limits": [0.0, 10.0], "rate_per_s": 10.0, "safe": 0.0}},
)  # fmt: skip


def spec() -> PlantSpec:
    """The rig: the lower tank's level and the pump, both in volts."""
    tags = [{**t, "unit": "V", "description": t["name"], "node_id": f"ns=1;s={t['name']}"} for t in _TAGS]
    return PlantSpec.model_validate(
        {
            "name": "cascaded_tanks",
            "description": "Two tanks, one above the other, the upper one overflows",
            "endpoint": "opc.tcp://127.0.0.1:0/none",
            "sample_time_s": SAMPLE_S,
            "scan_time_s": SAMPLE_S,
            "tags": tags,
        }
    )


def records(data: Path) -> dict[str, Run]:
    """The estimation and the validation record; the voltage that acts until a sample stands beside it."""
    with (data / "cascaded_tanks.csv").open(encoding="utf-8") as file:
        rows = [{k.strip(): v for k, v in row.items() if k} for row in csv.DictReader(file)]
    found = {}
    for name in ("Est", "Val"):
        u, y = (np.array([float(row[f"{of}{name}"]) for row in rows])[:, None] for of in "uy")
        before = np.concatenate([np.full((1, 1), np.nan), u[:-1]])
        found[name] = Run("recorded", 0.0, y, np.empty((len(y), 0)), before, np.empty((len(y), 0)))
    return found


def simulated(model: LatentForecaster, run: Run) -> NDArray[np.float64]:
    """The level of all of `run` after its first window, told the moves alone (samples,)."""
    w = model.config.window
    rows = torch.tensor(np.concatenate([run.measured, run.dvs, run.applied], 1))
    with torch.no_grad():
        y = model.rollout(rows[None, :w], rows[None, w:, 1:], rows[None, w:, :0])
    return y[0, :, 0].double().numpy()


def rows(data: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[dict[str, Any]]:
    """One row a seed: `seed`, `model` (what was chosen), `rmse_V` on the validation record."""
    runs, found = records(data), []
    for seed in seeds:
        choice = choose(spec(), [runs["Est"]], [], ModelConfig(), TrainingConfig(seed=seed))
        model = LatentForecaster(choice.model)
        error = simulated(model, runs["Val"]) - runs["Val"].measured[model.config.window :, 0]
        found.append({"seed": seed, "model": choice.said, "rmse_V": round(float(np.sqrt((error**2).mean())), 4)})
    return found


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with cascaded_tanks.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    for row in rows(given.data, given.seeds):
        sys.stdout.write(f"seed {row['seed']}: {row['rmse_V']:.3f} V ({row['model']})\n")
    told = ", ".join(f"{name} {v:g}" for name, v in IN_PRINT.items())
    sys.stdout.write(f"goals {GOALS_V[0]:g} and {GOALS_V[1]:g} V; in print: {told}\n")


if __name__ == "__main__":
    main()
