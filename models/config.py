"""Every choice of a world model and its training, with its default stated once."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """Shape of the world model. `window` and `horizon` count samples."""

    window: Count = 8
    latent: Count = 16
    encoder_width: Count = 128
    predictor_width: Count = 96
    head_width: Count = 48
    horizon: Count = 15


class TrainingConfig(_Strict):
    """How it is trained. Weights multiply mean losses of normalised quantities.

    `sigreg` times the sketched statistic per embedding; `steady_share` caps windows in which nothing happens; `danger_share` of
    them start where the labelled fallback ends near a guardrail or beyond it; `padded_share` of the windows are cut short, as at start-up.
    """

    steps: Count = 5000
    batch: Count = 256
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-5
    prediction: NonNegative = 1.0
    sigreg: NonNegative = 0.0002
    sigreg_slices: Count = 128
    sigreg_samples: Count = 512
    inverse: NonNegative = 0.05
    read_out: NonNegative = 1.0
    guardrail: NonNegative = 0.5
    padding: NonNegative = 0.1
    steady_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    danger_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    padded_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    calibration_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    seed: int = 0
