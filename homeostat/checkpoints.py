"""Where checkpoints are: those that come with Homeostat, and those trained here."""

from __future__ import annotations

import logging
from importlib import resources
from pathlib import Path

from models import forecast_checkpoint
from models.checkpoint import Checkpoint, load
from models.forecast_checkpoint import ForecastCheckpoint
from models.plant_surprise import Watch
from plant.spec import PlantSpec

log = logging.getLogger(__name__)


def shipped(plant: str) -> Path:
    """The folder of the checkpoint that comes with Homeostat for a built-in plant."""
    return Path(str(resources.files("models"))) / "library" / plant


def load_checkpoint(spec: PlantSpec, folder: Path | None = None, data_dir: Path | None = None) -> Checkpoint:
    """The checkpoint in `folder`; else the one trained into `data_dir`; else the shipped one. Raises `ModelError`; why it does
    not deserve AUTO is logged."""
    trained = data_dir / spec.name / "model" if data_dir else None
    if folder is None and trained is not None and (trained / "config.json").exists():
        folder = trained
    folder = folder or shipped(spec.name)
    checkpoint = load(folder, spec)
    for doubt in checkpoint.doubts:
        log.warning("the model in %s does not deserve AUTO: %s", folder, doubt)
    return checkpoint


def load_forecast(name: str) -> ForecastCheckpoint:
    """The forecast in the folder `name`, or the one of that name that comes with Homeostat. Raises `ModelError`; why it does not
    deserve AUTO is logged."""
    folder = shipped(name) if Path(name).name == name and shipped(name).is_dir() else Path(name)
    checkpoint = forecast_checkpoint.load(folder)
    for doubt in checkpoint.doubts:
        log.warning("the forecast in %s does not deserve AUTO: %s", folder, doubt)
    return checkpoint


def watch_of(checkpoint: Checkpoint) -> Watch | None:
    """What watches whether a plant follows the model of `checkpoint`; None where it was never calibrated."""
    return None if checkpoint.surprise is None else Watch(checkpoint.model, checkpoint.surprise)
