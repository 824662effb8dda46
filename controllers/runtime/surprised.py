"""Whether the plant does what its model expects, in an operator's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from controllers.contracts import Array
from models.plant_surprise import Verdict

_NAMED = 0.25  # a tag with a smaller share of the blame is not named


class Watching(Protocol):
    """Something that judges each sample as it comes, in order: `models.plant_surprise.Watch`."""

    def see(self, measured: Array, dvs: Array, applied: Array, constants: Array | None = None) -> Verdict: ...
    def reset(self) -> None: ...


@dataclass(frozen=True)
class Surprised:
    """One sample: `score` as a multiple of its limit, `text` for operators, shares of the blame by tag, the largest first."""

    score: float
    text: str
    tags: Mapping[str, float] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        """Whether there was enough history to judge; a score of exactly 0 is none."""
        return self.score > 0


def surprised(verdict: Verdict, tags: Sequence[str]) -> Surprised:
    """The verdict on one plant (1 sample) whose measurements are `tags`."""
    residual, density = float(verdict.residual[0]), float(verdict.density[0])
    shares = sorted(zip(tags, verdict.blame[0].tolist(), strict=True), key=lambda s: -s[1])
    if density > residual:
        text, away = f"The model never learned from a state like this: {density:.1f} x its limit", verdict.away
        if away is not None:
            i = int(away[0].argmax())
            text += f"; {tags[i]} is farthest, {away[0, i]:.1f} deviations from where it mostly was"
        return Surprised(density, text, dict(shares))
    named = [tag for tag, share in shares if share >= _NAMED] or [tag for tag, _ in shares[:1]]
    verb = "does" if len(named) == 1 else "do"
    text = f"{' and '.join(named)} {verb} not follow the model: residual {residual:.1f} x its limit"
    return Surprised(residual, text, dict(shares))
