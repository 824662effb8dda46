"""What the plant's handshake says from sample to sample: its sign of life, and whether it still names who holds it."""

from __future__ import annotations

import math

from plant.link import Sample
from plant.spec import PlantSpec

_UNKNOWN = 2  # samples in which who holds the plant may be unknown
_BACKWARDS = 2  # in a row: a counter may begin again once


class Signs:
    """Follows the handshake's readings. `patience`: samples in a row for which the sign of life may stand still."""

    def __init__(self, spec: PlantSpec, patience: int) -> None:
        self._handshake = spec.handshake
        alive = spec.handshake.alive if spec.handshake else None
        period_s = (alive.period_s if alive else None) or spec.scan_time_s
        self._patience = max(patience, math.ceil(period_s / spec.sample_time_s) + 1)
        self._counter = alive is None or alive.form == "counter"
        self._beat: float | None = None
        self._moves = self._still = self._backwards = self._unknown = 0

    def follow(self, sample: Sample | None) -> None:
        """Take note of a sample; None: the plant did not answer."""
        if sample is None:
            self._moves = 0
            return
        beat, before = sample.heartbeat, self._beat
        self._still = self._still + 1 if beat is not None and beat == before else 0
        self._moves += beat != before
        if beat is not None and before is not None and beat != before:
            self._backwards = self._backwards + 1 if self._counter and beat < before else 0
        self._beat = beat
        self._unknown = self._unknown + 1 if self._says_nothing(sample) else 0

    @property
    def still(self) -> str:
        """Why the plant's sign of life is none; '' while it is one."""
        if self._backwards >= _BACKWARDS:
            return f"The plant's heartbeat runs backwards, it is now {self._beat:g}"
        return "The plant's heartbeat stands still" if self._still else ""

    @property
    def dead(self) -> bool:
        """Whether that has lasted."""
        return self._still >= self._patience or self._backwards >= _BACKWARDS

    @property
    def unknown(self) -> str:
        """Why the plant does not count as ours, though nobody says it is another's; '' when that is known, or only just not."""
        return "the plant does not say any more who holds it" if self._unknown >= _UNKNOWN else ""

    def blockers(self, sample: Sample) -> list[str]:
        """Why nobody may rely on the plant's sign of life yet."""
        if sample.heartbeat is None:
            return []
        if self.still or self._moves < 2:
            return [self.still if self._backwards >= _BACKWARDS else "the plant's heartbeat has not been seen to move"]
        return []

    def _says_nothing(self, sample: Sample) -> bool:
        shake = self._handshake
        if shake is None:
            return False
        return (shake.granted is not None and sample.mode is None) or (shake.owner is not None and sample.owned is None)
