"""What the rows share: where things are kept, how long runs are, the recorded plants and the models trained on them."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.outcomes import revision
from benchmarks.site.history import FOLDS, Part, fold_of, fold_s, history_of
from benchmarks.site.plants import PLANTS, history_scenario, site_plant
from historian import Historian
from homeostat.training import train_plant
from models.checkpoint import Checkpoint, load
from models.config import ModelConfig, TrainingConfig
from models.dataset import Source, Split, cut_finer, load_runs, split_runs
from models.rivals.contract import Forecaster
from models.rivals.registry import train_rival
from models.windows import Run
from plant.errors import ModelError
from plant.spec import PlantSpec, Role

LINEAR = ("arx", "subspace")


@dataclass(frozen=True)
class Settings:
    """`folds`: hours of recorded history and how many of its folds are held out in turn. `steps` of training (None: as shipped);
    `loop_hours` of closed loop, on the tanks `tank_hours`, and `loop_seeds` of it; `seeds` of everything else."""

    folds: tuple[tuple[float, int], ...] = ((10.0, FOLDS), (100.0, FOLDS), (200.0, 1))
    steps: int | None = None
    loop_hours: float = 48.0
    tank_hours: float = 12.0
    loop_seeds: int = 5
    seeds: int = 3

    @property
    def hours(self) -> tuple[float, ...]:
        return tuple(hours for hours, _ in self.folds)

    @property
    def most(self) -> float:
        """Of history that models for closed loops learn from: 100 h, or what there is."""
        return min(100.0, max(self.hours))


LONG = Settings(folds=((10.0, FOLDS), (100.0, FOLDS), (200.0, FOLDS)), tank_hours=48.0)
QUICK = Settings(folds=((40.0, 1),), steps=200, loop_hours=1.0, tank_hours=0.2, loop_seeds=1, seeds=1)


@dataclass(frozen=True)
class Bench:
    """`folder` holds everything that is made; `data` is where reference data are, None where they are not."""

    folder: Path
    settings: Settings
    seed: int = 0
    data: Path | None = None

    @property
    def plants(self) -> tuple[str, ...]:
        return tuple(PLANTS)

    def simulated(self, plant: str) -> PlantSpec:
        """The plant as it is, its simulator and its regulatory layer with it."""
        return site_plant(plant, self.folder)

    def spec(self, plant: str) -> PlantSpec:
        """The plant as its site knows it: no simulator, and no label of what only one could tell."""
        spec = self.simulated(plant)
        rails = tuple(g.model_copy(update={"fallback_tag": None}) for g in spec.guardrails)
        watched = {g.tag for g in rails}
        tags = tuple(t for t in spec.tags if t.role is not Role.HIDDEN or t.name in watched)
        return spec.model_copy(update={"simulator": None, "guardrails": rails, "tags": tags})

    @contextmanager
    def history(self, plant: str, hours: float, fold: int | None = None, *, held: bool = False) -> Iterator[Source]:
        """The plant's history of so many hours; of a `fold` all but it, or it alone where `held`."""
        spec = self.simulated(plant)
        path = self.folder / "history" / f"{plant}_{hours:g}.db"
        with self._alone(path):
            history_of(spec, history_scenario(plant, spec), hours, path, self._number(plant, hours))
        with Historian(path, spec.name, read_only=True) as store:
            yield store if fold is None else Part(store, fold, fold_s(spec, hours), inside=held)

    def runs(self, plant: str, hours: float, fold: int | None = None, *, held: bool = False) -> list[Run]:
        """The same as runs on the sample grid."""
        whole = _loaded(self, plant, hours)
        if fold is None:
            return list(whole)
        span_s = fold_s(self.spec(plant), hours)
        return [r for r in whole if (fold_of(r.start_s, span_s) == fold) == held]

    def split(self, plant: str, hours: float, fold: int | None = None) -> Split:
        """The runs as `train` splits them."""
        t, shape = self.training(), ModelConfig()
        runs = cut_finer(self.spec(plant), self.runs(plant, hours, fold), 3 * (shape.window + shape.horizon) // 2)
        return split_runs(runs, t.validation_share, t.calibration_share, t.seed)

    def training(self, seed: int = 0) -> TrainingConfig:
        shipped = TrainingConfig(seed=seed)
        steps = self.settings.steps
        return shipped if steps is None else shipped.model_copy(update={"steps": steps})

    def model(self, plant: str, hours: float, fold: int | None = None, seed: int = 0) -> Checkpoint:
        """What `homeostat train` deploys from that history, kept in the folder for as long as the revision is the same."""
        name = f"{plant}_{hours:g}" + ("" if fold is None else f"_without_{fold}") + (f"_seed{seed}" if seed else "")
        folder, spec = self.folder / "models" / name, self.spec(plant)
        with self._alone(folder):
            with contextlib.suppress(ModelError):
                known = load(folder, spec)
                if known.facts["revision"] == revision().removesuffix("+"):
                    return known
            with self.history(plant, hours, fold) as source:
                trained = train_plant(
                    spec, source, folder, "python -m benchmarks.site", ModelConfig(), self.training(seed)
                )
        assert trained is not None
        return trained.checkpoint

    def rival(self, name: str, plant: str, hours: float, fold: int | None = None) -> Forecaster:
        """A linear model of the same runs, as `--compare` fits it."""
        parts = self.split(plant, hours, fold)
        shipped = ModelConfig()
        shape = shipped.model_copy(update={"window": 2 * shipped.window})  # what linear candidates may look back
        return train_rival(name, self.spec(plant), parts.training, parts.validation, shape, self.training())

    def _number(self, plant: str, hours: float) -> int:
        """A seed of a history's own."""
        return int(np.random.SeedSequence([self.seed, self.plants.index(plant), int(hours)]).generate_state(1)[0])

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Nobody else makes `path` meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f"{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@cache
def _loaded(bench: Bench, plant: str, hours: float) -> tuple[Run, ...]:
    with bench.history(plant, hours) as source:
        return tuple(load_runs(source, bench.spec(plant)))
