"""The configuration file of `homeostat train`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from models.config import ModelConfig, TrainingConfig
from plant.yaml_file import validate_yaml


class TrainFile(BaseModel):
    """Two sections, both optional; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    @staticmethod
    def read(path: Path | None, *, steps: int | None, seed: int | None) -> TrainFile:
        """The file (or the defaults) with `steps` and `seed` put over it. Raises `SpecError`."""
        settings = validate_yaml(TrainFile, path) if path else TrainFile()
        over = {k: v for k, v in (("steps", steps), ("seed", seed)) if v is not None}
        return settings.model_copy(update={"training": settings.training.model_copy(update=over)})
