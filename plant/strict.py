"""What every part of a YAML file is: no unknown keys, no changes after it was read, no infinities."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Bounds = tuple[float, float]


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
