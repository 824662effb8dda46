"""What lock-step recordings ask of simulated plants, so that a history holds the answers over the whole operating range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from homeostat.identification import move_of, mv_tests
from plant.spec import PlantSpec

Array = NDArray[np.float64]
_SHARE = (0.5, 1.2)  # of the feed-forward
_SPREAD = 2.0  # of the step: nothing but a simulator's interlocks is at stake, and what is far is learned as well
_BASE_HOLDS = 6  # holds that a base stays


class Excitation:
    """Random levels around bases that change more slowly, for a batch of plants.

    Each MV of each plant holds a level for a random time, about its `move.test.hold_s` (see `mv_tests`), twice its step around
    a base. Bases are spread over the MV's excitation range, densest at its nominal value. While a base stays, a random share of the
    present error of each local loop's PV is fed back to some of the plants, so that hot and cold regions are visited for long enough to be
    learned. A discrete MV visits its levels. Every move lies inside the excitation range, with a random share of its
    feed-forward (a meal's bolus, too small or too large) up to its limit; the plant's own rate limits and interlocks still apply.
    Seeded.
    """

    def __init__(self, spec: PlantSpec, batch: int, seed: int) -> None:
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 0xE7C17E]))
        self._spec, self._batch, tests = spec, batch, mv_tests(spec)
        n, moves = len(spec.mvs), [move_of(t) for t in spec.mvs]
        self._low, self._high = np.array([m.excited for m in moves]).reshape(n, 2).T
        self._high_limit = np.array([m.limits[1] for m in moves])
        self._nominal = np.clip([t.nominal for t in spec.mvs], self._low, self._high)
        self._spread = np.array([_SPREAD * test.step for test in tests])
        self._hold = np.maximum([test.hold_s / spec.sample_time_s for test in tests], 1.0)
        self._base_hold = _BASE_HOLDS * max(self._hold, default=1.0)
        self._discrete = [(i, np.array(m.discrete)) for i, m in enumerate(moves) if m.discrete]
        self._loops = [(i, lp) for i, t in enumerate(spec.mvs) for lp in spec.regulatory.loops if lp.mv == t.name]
        self._base = self.bases(batch)
        self._offset = np.zeros((batch, n))
        self._pull = np.zeros((batch, n))
        self._level = np.stack([self._rng.choice(v, batch) for _, v in self._discrete], 1) if self._discrete else None
        self._feed = [(i, *f) for i, m in enumerate(moves) for f in m.feed_forward.items()]
        self._share = np.random.default_rng(np.random.SeedSequence([seed, 0xFEED])).uniform(*_SHARE, (batch, n))
        self._point = {lp.pv: np.full(batch, lp.set_point) for _, lp in self._loops}

    def bases(self, count: int) -> Array:
        """Moves (count x n_mv) spread over the excitation range: half of them to either side of the nominal ones, densest there."""
        shape = (count, len(self._low))
        end = np.where(self._rng.random(shape) < 0.5, self._low, self._high)
        return self._nominal + (end - self._nominal) * (1 - np.sqrt(self._rng.random(shape)))

    def next(self, measured: dict[str, Array]) -> Array:
        """Moves (batch x n_mv) for the next sample, given the latest reading (tag -> (batch,)) of the plant."""
        rng, n = self._rng, len(self._low)
        new = rng.random(self._batch) < 1 / self._base_hold
        if new.any():
            count = int(new.sum())
            self._base[new] = self.bases(count)
            self._pull[new] = np.where(rng.random((count, 1)) < 0.5, rng.uniform(0, 1, (count, 1)), 0.0)
            for _, lp in self._loops:
                spread = 0.02 * self._spec.tag(lp.pv).span
                self._point[lp.pv][new] = lp.set_point + spread * rng.standard_normal(count)
        switch = rng.random((self._batch, n)) < 1 / self._hold
        self._offset = np.where(switch, self._spread * rng.standard_normal((self._batch, n)), self._offset)
        moves = self._base + self._offset
        for i, lp in self._loops:
            error = self._point[lp.pv] - measured[lp.pv]
            moves[:, i] += self._pull[:, i] * lp.gain * np.where(np.isfinite(error), error, 0.0)
        moves = np.clip(moves, self._low, self._high)
        for i, dv, gain in self._feed:
            more = np.maximum(np.nan_to_num(measured[dv] - self._spec.tag(dv).nominal), 0.0)
            moves[:, i] = np.minimum(moves[:, i] + self._share[:, i] * gain * more, self._high_limit[i])
        for k, (i, levels) in enumerate(self._discrete):
            assert self._level is not None
            self._level[:, k] = np.where(switch[:, i], rng.choice(levels, self._batch), self._level[:, k])
            moves[:, i] = self._level[:, k]
        return moves
