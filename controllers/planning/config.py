"""How a plan is made: every default stated once."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class PlannerConfig(BaseModel):
    """`horizon` counts samples and may not exceed what the model was validated to.

    The task energy of a step is sum |target error| / scale + sum of what lies outside the zones / scale + `effort` * (distance
    from the resting value / span)^2, for MVs that have one, + `suppression` * (move / span)^2. Targets and zones
    of the first rank weigh four times those of the last, ranks between by equal factors; but only beyond a funnel around them, two
    scales wide at the plan's start and closed at its end: on the way all weigh alike, ranks decide what cannot be had together. `effort_range` makes of every MV one that rests at its low end, its span the range's. `iterations` are the convexified subproblems solved a plan. `bias_filter` is the
    largest share of each new prediction error let into the offset correction; `guard`, in scales of each guardrail
    (`PlantSpec.scale`), is kept from every limit, whatever margin is calibrated: by default a twentieth of what counts as one unit of
    violation, more than the hundredth that ranking tells apart. `guardrails: false` is for showing what they prevent. `energy: goal` measures the target error
    in the latent instead, from the latent of a plant at rest at its targets (`controllers.planning.goal`).

    Tuning by meaning: `response_s` of a CV is the time constant, plant seconds, with which its reading is to approach its target
    from where it is and the way it goes, after its dead time: the error is counted from that course. Without it, as fast as moves may. `work` of an MV,
    0 to 1: a move of that share of its limits within a sample costs as much as a target missed by one scale for a sample; it
    stands in place of `suppression`, which is 1 / work^2.

    `name`: second-order shooting (`scp`), or one of the samplers, which draw `candidates` plans in the first iteration from
    `seed`. `blocks`: lengths in samples of the stretches over which moves are held, the last one to the end of the horizon;
    none: a move every sample. `steady` times sum |target error's change over the last sample| / scale prices a plan whose end
    is no rest. `calm`: the surprise (a multiple of its limit) up to which margins stay as calibrated; they grow in proportion
    beyond.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Literal["scp", "icem", "mppi"] = "scp"
    energy: Literal["decoded", "goal"] = "decoded"
    horizon: Count = 15
    blocks: tuple[Count, ...] = ()
    iterations: Count = 4
    candidates: Annotated[int, Field(ge=16)] = 256
    seed: int = 0
    effort: NonNegative = 0.001
    effort_range: tuple[float, float] | None = None
    suppression: NonNegative = 0.5
    response_s: dict[str, Positive] = {}
    work: dict[str, Share] = {}
    steady: NonNegative = 0.0
    bias_filter: Annotated[float, Field(ge=0, le=1)] = 0.1
    calm: Positive = 1.0
    guard: NonNegative = 0.05
    guardrails: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.effort_range is not None and not self.effort_range[0] < self.effort_range[1]:
            raise ValueError(f"effort_range must be [low, high] with low < high, not {list(self.effort_range)}")
        if sum(self.blocks) > self.horizon:
            raise ValueError(
                f"blocks of {sum(self.blocks)} samples in all are longer than the horizon of {self.horizon}"
            )
        return self


class FilterConfig(BaseModel):
    """What "nearest" means to a guardrail filter: sum over the horizon and the MVs of weight * (move less the one asked for,
    as a share of the MV's limits)^2. `weights` by MV, 1 where it names none; moves after the first count `later` times as
    much: only the first one is made, the others show that a safe way goes on from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weights: dict[str, Positive] = {}
    later: Annotated[float, Field(gt=0, le=1)] = 0.01
