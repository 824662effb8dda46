"""The same quadruple tank as a simulator of ours, `examples/quadruple_tank`, for rows that need no clock: its plug-in, its
data, a world model and a linear one trained on them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.foreign.bench import Bench
from benchmarks.plug_in import plug_in
from controllers.baselines.linear_mpc import LinearMpc
from controllers.planning.mpc import JepaMpc
from historian import Historian
from homeostat.recording import excite_lockstep
from homeostat.training import train_plant
from models.checkpoint import Checkpoint, load
from models.config import ModelConfig, TrainingConfig
from models.dataset import load_runs, split_runs
from models.rivals.contract import Forecaster
from models.rivals.registry import train_rival
from plant.errors import ModelError
from plant.spec import PlantSpec, load_spec

EXAMPLE = Path(__file__).parents[2] / "examples" / "quadruple_tank"
_RUNS, _LENGTHS = 240, 60


def example_plant(folder: Path) -> PlantSpec:
    """Make the example's simulator known in this process as pip would, from `folder`; its spec."""
    known = {"quadruple_tank": "quadruple_tank:QuadrupleTank", "slow_tank": "benchmarks.foreign.slow_tank:SlowTank"}
    plug_in(folder, "quadruple-tank", known, EXAMPLE)
    return load_spec(EXAMPLE / "quadruple_tank.yaml")


@dataclass(frozen=True)
class Example:
    """The plant, its checkpoint, and an ARX model of the same runs."""

    spec: PlantSpec
    checkpoint: Checkpoint
    linear: Forecaster

    def jepa(self, batch: int) -> JepaMpc:
        """The default planner."""
        return JepaMpc(self.checkpoint.model, None, self.checkpoint.calibration, batch=batch)

    def linear_mpc(self, batch: int) -> LinearMpc:
        """Linear MPC with the same energy and limits."""
        return LinearMpc(self.linear, batch=batch)


@cache
def example(bench: Bench) -> Example:
    """The example trained on lock-step excitation; kept in the bench's folder."""
    spec = example_plant(bench.folder / "plug_in")
    folder = bench.folder / "example"
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "historian.db"
    if not data.exists():
        part = folder / "part.db"
        part.unlink(missing_ok=True)
        with Historian(part, spec.name) as store:
            excite_lockstep(spec, store, 1.7e9, runs=_RUNS, incidents=0, seed=bench.seed)
        part.rename(data)
    model, training = ModelConfig(), TrainingConfig(steps=bench.settings.steps, seed=bench.seed)
    with Historian(data, spec.name, read_only=True) as store:
        runs = load_runs(store, spec)
        parts = split_runs(runs, training.validation_share, training.calibration_share, training.seed)
        linear = train_rival("arx", spec, parts.training, parts.validation, model, training)
        with contextlib.suppress(ModelError):
            return Example(spec, load(folder / "model", spec), linear)
        trained = train_plant(spec, store, folder / "model", "python -m benchmarks.foreign", model, training)
    assert trained is not None
    return Example(spec, trained.checkpoint, linear)
