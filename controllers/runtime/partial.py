"""Partial service: an MV that drops out alone, a CV that is lost, and a word for the state of each tag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from controllers.runtime.config import QualityConfig
from controllers.runtime.quality import Inputs
from plant.link import PlantMode, Sample
from plant.spec import PlantSpec, Role


class Word(StrEnum):
    """What a tag is to the controller. An MV: ON is ours to move, DROPPED is not for now, AT HIGH and AT LOW stand at an operator
    limit. A measurement: ON is believed; HELD, its last good value stands in; PREDICTED, the model alone says what it reads; BAD,
    nothing does. AT HIGH and AT LOW are at an end of its range."""

    ON = "ON"
    HELD = "HELD"
    DROPPED = "DROPPED"
    PREDICTED = "PREDICTED"
    BAD = "BAD"
    AT_HIGH = "AT HIGH"
    AT_LOW = "AT LOW"


class PartialService:
    """Which MVs are ours to move. An optional one drops out when its loop leaves the modes that take our moves, when its
    read-back is lost, or when somebody else moves it; the rest goes on, and it is a measured disturbance.

    An MV that is `unknown` (and why: the model never saw it move) is never moved.

    It comes back by itself only where that is certain not to fight a person: when the loop that had left came back, or the
    read-back is good again, for `rearm_samples`. One that somebody moved waits for a person, who asks for AUTO once more.
    """

    def __init__(
        self, spec: PlantSpec, quality: QualityConfig, rearm_samples: int, unknown: Mapping[str, str] | None = None
    ) -> None:
        self._spec, self._quality, self._rearm_samples = spec, quality, rearm_samples
        self._mvs = {t.name: t.move for t in spec.mvs if t.move is not None}
        self._asked_for = spec.handshake is not None and spec.handshake.permit is not None
        self._unknown = dict(unknown or {})
        self._taken: dict[str, str] = {}  # by somebody; only a person gives it back
        self._away: dict[str, str] = {}  # by its loop, or without a read-back
        self._back = dict.fromkeys(self._mvs, 0)
        self.unable: dict[str, str] = {}
        """MVs that do not take our moves, and why; those of them that are not optional are not to be done without."""

    @property
    def dropped(self) -> dict[str, str]:
        """MVs that are not ours to move, and why: optional ones, and those of which nobody knows what they do."""
        return {**self._unknown, **self._away, **self._taken}

    def follow(self, sample: Sample, inputs: Inputs, strayed: Mapping[str, str]) -> None:
        """Take note of a sample. `strayed`: MVs that for long enough have not gone where they were sent. A plant that is asked
        for its MVs and has not granted them has its loops to itself: they turn to us with the grant."""
        theirs = self._asked_for and sample.mode is not PlantMode.REMOTE
        away = {mv: self._loop_away(mv, sample) for mv in self._mvs}
        self.unable = {} if theirs else {mv: why for mv, why in away.items() if why}
        bad = {f.tag: f.text for f in inputs.faults}
        for mv, move in self._mvs.items():
            if not move.optional:
                continue
            why = self.unable.get(mv) or bad.get(mv, "")
            self._back[mv] = 0 if why else self._back[mv] + 1
            if why:
                self._away[mv] = why
            elif self._back[mv] >= self._rearm_samples:
                self._away.pop(mv, None)
            if mv in strayed:
                self._taken.setdefault(mv, f"{strayed[mv]}: somebody else moves it; ask for AUTO again to take it back")

    def refused(self, refused: Mapping[str, str], sent: Mapping[str, float]) -> bool:
        """Moves the plant refused, of those `sent`. True when only optional MVs drop out of it and others are left."""
        alone = all(mv in self._mvs and self._mvs[mv].optional for mv in refused) and len(refused) < len(sent)
        if refused and alone:
            self._taken |= {
                mv: f"{mv} is refused: {why}; ask for AUTO again to take it back" for mv, why in refused.items()
            }
        return bool(refused) and alone

    def rearm(self) -> None:
        """A person wants every MV back that can be had."""
        self._taken.clear()

    def given_up(self, inputs: Inputs) -> set[str]:
        """Tags whose reading has been missing for longer than it may be held and predicted."""
        longest = self._quality.hold_samples + self._quality.predict_samples
        return {tag for tag, samples in inputs.missing.items() if samples > longest}

    def words(self, inputs: Inputs, limits: Mapping[str, tuple[float, float]]) -> dict[str, str]:
        """A word for each tag on the endpoint. `limits`: of the MVs, as they hold now."""
        out = {}
        for tag in self._spec.online:
            value, missing = inputs.values.get(tag.name, math.nan), inputs.missing.get(tag.name, 0)
            low, high = limits.get(tag.name, tag.range)
            slack = 1e-3 * (high - low) if tag.role is Role.MV else 0.0
            if tag.name in self.dropped or tag.name in self.unable:
                word = Word.DROPPED
            elif missing and math.isfinite(value):
                word = Word.HELD
            elif missing:
                predicted = (
                    tag.role in (Role.CV, Role.AUX) and tag.name not in self.given_up(inputs) and not tag.critical
                )
                word = Word.PREDICTED if predicted else Word.BAD
            elif value >= high - slack:
                word = Word.AT_HIGH
            elif value <= low + slack:
                word = Word.AT_LOW
            else:
                word = Word.ON
            out[tag.name] = word.value
        return out

    def _loop_away(self, mv: str, sample: Sample) -> str:
        mode = self._mvs[mv].mode
        if sample.loops.get(mv, mode is None):
            return ""
        return f"the loop under {mv} does not take our moves{f' (it does in {_either(mode.accepts)})' if mode else ''}"


def _either(values: Sequence[object]) -> str:
    return " or ".join(map(str, values))
