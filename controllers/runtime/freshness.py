"""Is the plant's scan alive? A server may answer long after its field bus has died; then what it serves is old, whatever the
stamps say. Three things tell: the plant's own heartbeat (the supervisor's matter), source times that no longer advance, and
noisy readings that no longer change."""

from __future__ import annotations

import math
from dataclasses import dataclass

from controllers.runtime.config import QualityConfig
from plant.link import Quality, Sample, Value
from plant.spec import PlantSpec, Tag

_CHANCE = math.log(1e-6)  # equal readings less likely than this are not chance
_BUSY_S = 0.5  # wall: how late the scan of a server that is merely busy may be
_MUTE = math.log(0.9)  # a tag whose readings are equal more often than this says nothing


def log_chance_of_repeat(tag: Tag) -> float:
    """Logarithm of the chance that two readings of a tag are equal though the plant lives: the density of the difference of two
    normal errors at 0, times the step of the reading. -inf where the reading has no steps, 0 where the tag has no noise."""
    if tag.noise == 0:
        return 0.0
    return math.log(min(1.0, tag.resolution / (2 * math.sqrt(math.pi) * tag.noise))) if tag.resolution else -math.inf


class Repeats:
    """How often in a row each noisy tag has read exactly the same, and all of them together."""

    def __init__(self, spec: PlantSpec, config: QualityConfig) -> None:
        chances = {t.name: log_chance_of_repeat(t) for t in spec.online}
        self._noisy = [t for t in spec.online if chances[t.name] < _MUTE]
        slow = {t.name: max(1.0, (t.period_s or 0.0) / spec.sample_time_s) for t in self._noisy}
        self.limits = {
            t.name: math.ceil(slow[t.name] * max(config.frozen_samples, _CHANCE / chances[t.name])) for t in self._noisy
        }
        """Equal readings in a row that make a tag frozen; a tag whose readings repeat by chance has none."""
        self._chances = {t.name: chances[t.name] for t in self._noisy if slow[t.name] <= 1.0}
        self._last: dict[str, Value] = {}
        self.counts = dict.fromkeys(self.limits, 0)
        self.together = 0
        """Reads in a row in which every noisy tag read what it had read before."""
        self.restamped = False
        """Whether each of them was said to be a new reading."""

    def follow(self, sample: Sample) -> None:
        """Take note of a sample."""
        equal, chance, moved, restamped = 0, 0.0, False, True
        for tag in self._noisy:
            last, value = self._last.get(tag.name), sample.values.get(tag.name)
            if value is None or value.quality is Quality.BAD:
                continue
            self._last[tag.name] = value
            same = last is not None and value.value == last.value
            # Without a new stamp a scanned tag has no new reading: it goes stale instead.
            if last is not None and (value.time_s != last.time_s or not tag.scanned):
                self.counts[tag.name] = self.counts[tag.name] + 1 if same else 0
            if tag.name in self._chances:
                equal, chance, moved = equal + same, chance + self._chances[tag.name], moved or not same
                restamped &= last is not None and value.time_s != last.time_s
        # One tag alone may be a coarse one that nobody declared; several are not.
        self.together = self.together + 1 if equal > 1 and not moved and chance <= _CHANCE else 0
        self.restamped = restamped

    def forget(self) -> None:
        """Nothing was read before."""
        self._last.clear()
        self.counts, self.together = dict.fromkeys(self.limits, 0), 0


def unwatched(spec: PlantSpec) -> str:
    """Why nothing would tell that the plant's scan has died; '' where something does."""
    alive = spec.handshake is not None and spec.handshake.alive is not None
    noisy = [t for t in spec.online if log_chance_of_repeat(t) < _MUTE]
    if alive or len(noisy) > 1 or any(t.scanned for t in spec.online):
        return ""
    return "nothing tells whether the plant's scan is alive: declare handshake.alive, tags with `stamps: scan`, or the noise of two tags"


@dataclass(frozen=True)
class Scan:
    """Why the readings of a sample are not new ones ('' when they are), and whether that has lasted."""

    standing: str = ""
    lasting: bool = False


class Freshness:
    """Judges whether each sample in turn holds new readings."""

    def __init__(self, spec: PlantSpec, config: QualityConfig, repeats: Repeats, speed: float = 1.0) -> None:
        self._limit, self._repeats, sample_s = config.scan_samples, repeats, spec.sample_time_s
        stale = [t.stale_s or config.stale_after * sample_s for t in spec.measured if t.critical and t.scanned]
        # The last look before readings would be older than the critical ones may be: two samples, or what `stale_s` allows. A
        # server that is merely busy is not that late.
        self._oldest_s = max(2.0 * sample_s, min(stale, default=math.inf)) - 1.25 * sample_s
        if sample_s < max(2.0 * spec.scan_time_s, _BUSY_S * speed):
            self._oldest_s = math.inf
        # Where two scans lie between two reads, values that are stamped anew and are the same are no late scan.
        self._limit_restamped = 1 if spec.sample_time_s >= 2 * spec.scan_time_s else config.scan_samples
        self._noisy = len(repeats.counts)

    def judge(self, standing: int, age_s: float) -> Scan:
        """`standing`: samples in a row without a newer source time, the newest of which came `age_s` plant seconds ago."""
        if standing:
            lasting = standing >= self._limit or age_s >= self._oldest_s
            return Scan(f"no reading is newer than {age_s:.0f} s, every source time stands", lasting)
        if together := self._repeats.together:
            text = f"all {self._noisy} noisy readings stand still since {together} reads, their source times run on"
            return Scan(text, together >= (self._limit_restamped if self._repeats.restamped else self._limit))
        return Scan()
