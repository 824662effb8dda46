"""What the plant's handshake says from sample to sample: its sign of life, and whether it still names who holds it."""

from __future__ import annotations

import math

from plant.link import Sample
from plant.spec import PlantSpec

_UNKNOWN = 2  # samples in which who holds the plant may be unknown


class Signs:
    """Follows the handshake's readings. `patience`: samples in a row for which the sign of life may stand still."""

    def __init__(self, spec: PlantSpec, patience: int) -> None:
        self._handshake = spec.handshake
        alive = spec.handshake.alive if spec.handshake else None
        period_s = (alive.period_s if alive else None) or spec.scan_time_s
        self._patience = max(patience, math.ceil(period_s / spec.sample_time_s) + 1)
        self._beat: float | None = None
        self._moves = self._still = self._unknown = 0
        self._faults: tuple[str, ...] = ()

    def follow(self, sample: Sample | None) -> None:
        """Take note of a sample; None: the plant did not answer."""
        if sample is None:
            self._moves = 0
            return
        beat, before = sample.heartbeat, self._beat
        self._still = self._still + 1 if beat is not None and beat == before else 0
        self._moves += beat != before
        self._beat, self._faults = beat, self._faults_of(sample)
        self._unknown = self._unknown + 1 if self._faults else 0

    @property
    def still(self) -> str:
        """Why the plant's sign of life is none; '' while it is one."""
        return "the plant's heartbeat stands still" if self._still else ""

    @property
    def dead(self) -> bool:
        """Whether that has lasted."""
        return self._still >= self._patience

    @property
    def faults(self) -> str:
        """What the handshake does not say as the plant file has it; '' when it does."""
        return "; ".join(self._faults)

    @property
    def unknown(self) -> str:
        """The same once it has lasted: the plant does not count as ours any more."""
        return self.faults if self._unknown >= _UNKNOWN else ""

    @property
    def blockers(self) -> list[str]:
        """Why nobody may rely on the handshake yet."""
        if self._beat is not None and (self._still or self._moves < 2):
            return [*self._faults, "the plant's heartbeat has not been seen to move"]
        return list(self._faults)

    def _faults_of(self, sample: Sample) -> tuple[str, ...]:
        shake = self._handshake
        if shake is None or sample.faults:
            return sample.faults
        silent = {
            "granted": shake.granted is not None and sample.mode is None,
            "owner": shake.owner is not None and sample.owned is None,
            "alive": shake.alive is not None and sample.heartbeat is None,
        }
        return tuple(f"handshake.{field} says nothing that can be used" for field, is_so in silent.items() if is_so)
