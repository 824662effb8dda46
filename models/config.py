"""Every choice of a world model and its training, with its default stated once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


Samples = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=8192)]  # more than any plant's model has use for, and less than fills a machine


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """Shape of the world model. `window` and `horizon` count samples. `filled`: gaps in a window hold the last value seen, as
    beside it the mask says; otherwise they read as the mean."""

    window: Samples = 8
    latent: Width = 16
    encoder_width: Width = 128
    predictor_width: Width = 96
    head_width: Width = 48
    horizon: Samples = 15
    filled: bool = True


class TrainingConfig(_Strict):
    """How it is trained. Weights multiply mean losses of normalised quantities. `matrix_rate` is the learning rate of the
    matrices that feed hidden layers, `learning_rate` that of all else.

    `order`: everything at once (joint), or the encoder first by masked latent prediction, then predictor and heads on it
    (decoupled). `anti_collapse`: SIGReg, variance and covariance (vicreg), or a slow target encoder (ema) that keeps
    `momentum` of itself a step. `masked_share` of the instants are hidden in masked prediction. `steady_share` caps windows in which nothing happens; `danger_share` of
    them start where the labelled fallback ends near a guardrail or beyond it; `padded_share` of the windows are cut short, as at start-up.
    `candidates`: which models `homeostat train` tries; none named: all that there are data enough for.
    """

    order: Literal["joint", "decoupled"] = "joint"
    anti_collapse: Literal["sigreg", "vicreg", "ema"] = "sigreg"
    steps: Count = 4000
    batch: Count = 256
    learning_rate: Positive = 1e-2
    matrix_rate: Positive = 1e-2
    weight_decay: NonNegative = 1e-5
    prediction: NonNegative = 0.3
    sigreg: NonNegative = 0.0002
    sigreg_slices: Count = 128
    vicreg: NonNegative = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    spread_samples: Count = 512
    masked_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    inverse: NonNegative = 0.05
    read_out: NonNegative = 3.0
    guardrail: NonNegative = 0.5
    padding: NonNegative = 0.1
    steady_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    danger_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    padded_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    calibration_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    candidates: tuple[Literal["persistence", "arx", "subspace", "trunk", "scratch"], ...] = ()
    seed: int = 0

    @property
    def spread(self) -> float:
        """The weight of the anti-collapse term chosen."""
        return {"sigreg": self.sigreg, "vicreg": self.vicreg, "ema": 0.0}[self.anti_collapse]
