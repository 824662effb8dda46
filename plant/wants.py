"""What a plant is wanted to do: targets to meet, zones to stay in, prices to pay. Guardrails stand above all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from plant.strict import Bounds, Strict

Rank = Annotated[int, Field(ge=1)]


class Target(Strict):
    """A CV's target: its usual value, the range operators may ask for, and the error that counts as one unit. Where not all
    can be had, those of a lower `rank` are kept first."""

    tag: str
    value: float
    limits: Bounds
    scale: Annotated[float, Field(gt=0)]
    rank: Rank = 1


class Zone(Strict):
    """Where a CV or AUX may be at no cost: `low`, `high`, either of which may be missing; operators set them inside `limits`, the
    engineer's. Soft, always: the guardrails come first, and `rank` says what is given up last where zones and targets fight.
    `scale`: what counts as one unit outside, in the tag's unit; by default a hundredth of its range."""

    tag: str
    low: float | None = None
    high: float | None = None
    limits: Bounds
    rank: Rank = 1
    scale: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Zone:
        if not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits must be [low, high] with low < high, not {list(self.limits)}")
        if refusal := zone_refusal(self, self.low, self.high, ""):
            raise ValueError(refusal)
        return self


def zone_refusal(zone: Zone, low: float | None, high: float | None, unit: str) -> str:
    """Why `low` and `high` (the tag's unit; None: no such side) are no zone; '' where they are one."""
    bottom, top = zone.limits
    if low is None and high is None:
        return f"the zone of {zone.tag} needs low, high or both"
    if low is not None and high is not None and not low < high:
        return f"the zone of {zone.tag} has low {low:g} and high {high:g} {unit}".rstrip() + ": low must be below high"
    for side, value in (("low", low), ("high", high)):
        if value is not None and not bottom <= value <= top:
            return f"{side} {value:g} of the zone of {zone.tag} is outside [{bottom:g}, {top:g}] {unit}".rstrip()
    return ""


class Price(Strict):
    """What an MV or a measurement costs while it is where it is: `per_unit` in `currency` an hour for each unit of the tag above
    zero; below 0: what it earns."""

    tag: str
    per_unit: float
    currency: Annotated[str, Field(min_length=1)]


def unlike(prices: Sequence[Price]) -> str:
    """Why prices cannot be added up; '' where they can."""
    found = {p.currency: p.tag for p in prices}
    if len(found) > 1:
        listed = ", ".join(f"{tag} in {currency}" for currency, tag in found.items())
        return f"prices must share one currency: {listed}"
    return ""
