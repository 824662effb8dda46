"""Identification moves: what `homeostat excite` asks of a plant so that its history holds the answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plant.spec import PlantSpec

Array = NDArray[np.float64]
_SHARE = (0.5, 1.2)  # of the feed-forward


class Excitation:
    """Random multi-level moves around a slowly changing base, for a batch of plants.

    Each plant holds a random level for a geometric number of samples (mean `hold`), drawn around a base that itself
    changes every `base_hold` samples on average; a random share of the present error of each local loop's PV is fed
    back, so that hot and cold regions are both visited for long enough to be learned. Every move lies inside the MV's
    excitation range, with a random share of its feed-forward (a meal's bolus, too small or too large) up to its limit; the
    plant's own rate limits and interlocks still apply. Seeded.
    """

    def __init__(self, spec: PlantSpec, batch: int, seed: int, hold: float = 4.0, base_hold: float = 25.0) -> None:
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 0xE7C17E]))
        self._spec, self._batch, self._hold, self._base_hold = spec, batch, hold, base_hold
        n = len(spec.mvs)
        self._low, self._high = np.array([t.move.excited for t in spec.mvs if t.move]).T
        self._nominal = np.array([t.nominal for t in spec.mvs])
        self._loops = [(i, lp) for i, t in enumerate(spec.mvs) for lp in spec.regulatory.loops if lp.mv == t.name]
        self._base = self._draw_base(batch)
        self._offset = np.zeros((batch, n))
        self._pull = np.zeros((batch, n))
        self._high_limit = np.array([t.move.limits[1] for t in spec.mvs if t.move])
        self._feed = [(i, *f) for i, t in enumerate(spec.mvs) if t.move for f in t.move.feed_forward.items()]
        self._share = np.random.default_rng(np.random.SeedSequence([seed, 0xFEED])).uniform(*_SHARE, (batch, n))
        self._point = {lp.pv: np.full(batch, lp.set_point) for _, lp in self._loops}

    def _draw_base(self, count: int) -> Array:
        span = self._high - self._low
        centre = self._nominal - 0.15 * span
        return np.clip(centre + 0.2 * span * self._rng.standard_normal((count, len(span))), self._low, self._high)

    def next(self, measured: dict[str, Array]) -> Array:
        """Moves (batch x n_mv) for the next sample, given the latest reading (tag -> (batch,)) of the plant."""
        rng, span = self._rng, self._high - self._low
        new = rng.random(self._batch) < 1 / self._base_hold
        if new.any():
            self._base[new] = self._draw_base(int(new.sum()))
            self._pull[new] = np.where(
                rng.random((int(new.sum()), 1)) < 0.5, rng.uniform(0, 1, (int(new.sum()), 1)), 0.0
            )
            for _, lp in self._loops:
                tag = self._spec.tag(lp.pv)
                spread = 0.02 * (tag.range[1] - tag.range[0])
                self._point[lp.pv][new] = lp.set_point + spread * rng.standard_normal(int(new.sum()))
        step = rng.random(self._batch) < 1 / self._hold
        if step.any():
            self._offset[step] = 0.2 * span * rng.standard_normal((int(step.sum()), len(span)))
        moves = self._base + self._offset
        for i, lp in self._loops:
            error = self._point[lp.pv] - measured[lp.pv]
            moves[:, i] += self._pull[:, i] * lp.gain * np.where(np.isfinite(error), error, 0.0)
        moves = np.clip(moves, self._low, self._high)
        for i, dv, gain in self._feed:
            more = np.maximum(np.nan_to_num(measured[dv] - self._spec.tag(dv).nominal), 0.0)
            moves[:, i] = np.minimum(moves[:, i] + self._share[:, i] * gain * more, self._high_limit[i])
        return moves
