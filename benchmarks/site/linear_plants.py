"""Random linear plants of known static gains, and archives of them as a site has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import ModelConfig
from models.rivals.contract import Forecaster
from models.windows import Run, channel_scale
from plant.spec import Move, PlantSpec, Role, Tag

Array = NDArray[np.float64]
SAMPLE_S = 60.0
_LIMIT = 20.0  # of every MV, both ways


@dataclass(frozen=True)
class LinearPlant:
    """First-order lags with dead time, one for each pair: `gain` (n_cv x n_mv, a unit a unit), `lag` and `delay` in samples;
    an `integrating` CV goes on by its gain an hour. `dv_gain` (n_cv x n_dv); drifts of the CVs are first-order noise of
    `drift` and `drift_lag` (n_cv), mixed by `mixing` (n_cv x n_cv); `noise` and `period` (samples) are the sensors'."""

    spec: PlantSpec
    gain: Array
    lag: Array
    delay: NDArray[np.int64]
    integrating: NDArray[np.bool_]
    dv_gain: Array
    drift: Array
    drift_lag: Array
    mixing: Array
    noise: Array
    period: NDArray[np.int64]
    loops: tuple[tuple[int, int, float, float], ...]  # (mv, cv, gain, integral samples)


def plant_of(seed: int, n_mv: int = 4, n_cv: int = 6) -> LinearPlant:
    """A plant of random gains, a third of them zero; one CV integrates, a third of them are read by slow analysers. Its loops
    are stable: of those drawn, the first that does not drive an MV to its limit."""
    for attempt in range(100):
        plant = _drawn(np.random.default_rng([seed, attempt, 0x6A15]), n_mv, n_cv)
        if np.abs(archive(plant, 60.0, seed)[0].applied).max() < _LIMIT:
            return plant
    raise ValueError(f"no stable plant from seed {seed}")


def _drawn(rng: np.random.Generator, n_mv: int, n_cv: int) -> LinearPlant:
    gain = rng.choice([-1, 1], (n_cv, n_mv)) * rng.uniform(0.3, 2.0, (n_cv, n_mv)) * (rng.random((n_cv, n_mv)) > 0.33)
    lag = np.exp(rng.uniform(np.log(2), np.log(40), (n_cv, n_mv)))
    delay = rng.integers(0, 9, (n_cv, n_mv))
    integrating = np.zeros(n_cv, bool)
    integrating[-1] = True
    gain[-1, 0] = rng.choice([-1, 1]) * rng.uniform(0.5, 2.0)
    lag[-1], delay[-1] = 1.0, rng.integers(0, 4, n_mv)
    gain[-1] *= 2.0  # an hour, a unit
    period = np.ones(n_cv, np.int64)
    slow = rng.choice(n_cv - 1, n_cv // 3, replace=False)
    period[slow] = rng.integers(3, 9, len(slow))
    mixing = np.eye(n_cv) + 0.5 * rng.standard_normal((n_cv, n_cv)) * (rng.random((n_cv, n_cv)) < 0.3)
    loops = []
    gain[0, 1] = rng.choice([-1, 1]) * rng.uniform(0.5, 2.0)
    for mv, cv in ((0, n_cv - 1), (1, 0)):
        g = gain[cv, mv]
        if integrating[cv]:
            loops.append((mv, cv, 2.0 / g, 90.0))
        else:
            t = lag[cv, mv]
            loops.append((mv, cv, 0.3 * t / (g * (delay[cv, mv] + 0.3 * t + 2 * period[cv])), max(t, 5.0)))
    tags = [
        Tag(name=f"Y{i}", role=Role.CV, description="reading", unit="u", range=(-100, 100), nominal=0.0, noise=0.1,
            node_id=f"ns=2;s=Y{i}", period_s=float(period[i]) * SAMPLE_S if period[i] > 1 else None)
        for i in range(n_cv)
    ]  # fmt: skip
    tags += [
        Tag(name=f"U{j}", role=Role.MV, description="move", unit="u", range=(-_LIMIT, _LIMIT), nominal=0.0, node_id=f"ns=2;s=U{j}",
            move=Move(limits=(-_LIMIT, _LIMIT), rate_per_s=1.0, safe=0.0))
        for j in range(n_mv)
    ]  # fmt: skip
    tags.append(
        Tag(
            name="D0",
            role=Role.DV,
            description="feed",
            unit="u",
            range=(-_LIMIT, _LIMIT),
            nominal=0.0,
            node_id="ns=2;s=D0",
        )
    )
    spec = PlantSpec(
        name="linear", description="A random linear plant", endpoint="opc.tcp://localhost:4840", sample_time_s=SAMPLE_S,
        scan_time_s=SAMPLE_S, tags=tuple(tags),
    )  # fmt: skip
    return LinearPlant(
        spec, gain, lag, delay, integrating, rng.standard_normal((n_cv, 1)) * (rng.random((n_cv, 1)) < 0.6),
        rng.uniform(0.2, 1.0, n_cv), np.exp(rng.uniform(np.log(10), np.log(150), n_cv)), mixing,
        rng.uniform(0.05, 0.3, n_cv), period, tuple(loops),
    )  # fmt: skip


def archive(
    plant: LinearPlant, hours: float, seed: int, tests_h: float = 10.0, together: tuple[int, int] | None = None,
    still: tuple[int, ...] = (),
) -> list[Run]:  # fmt: skip
    """So many hours of the plant's own operation, of which `tests_h` are step tests of one MV after the other: loops with
    set-point changes, other MVs moved by hand now and then, a feed that changes. `together`: an MV that only ever moves with another, in a
    fixed ratio; `still`: MVs that never move."""
    rng = np.random.default_rng([seed, 0xA2C4])
    n = round(hours * 3600 / SAMPLE_S)
    n_cv, n_mv = plant.gain.shape
    horizon = int(plant.delay.max()) + 2
    u, d = np.zeros((n + horizon, n_mv)), np.zeros(n + horizon)
    d[horizon:] = _steps(rng, n, 200, 1.0)
    hand = np.stack([_steps(rng, n, 150, 1.0) for _ in range(n_mv)], 1)
    points = np.stack([_steps(rng, n, 240, 1.5) for _ in range(n_cv)], 1)
    tests = np.zeros((n, n_mv))
    length = round(tests_h * 3600 / SAMPLE_S)
    begin = int(rng.integers(0, max(n - length, 1))) if length else 0
    each = max(length // n_mv, 1)
    for j in range(n_mv):
        at = begin + j * each
        hold = max(each // 6, 1)
        for k in range(6 if length else 0):
            tests[at + k * hold : at + (k + 1) * hold, j] = 1.5 * (-1) ** k
    state, dv_state, level = np.zeros((n_cv, n_mv)), np.zeros(n_cv), np.zeros(n_cv)
    drift, integral = np.zeros(n_cv), np.zeros(n_mv)
    decay, slow = np.exp(-1 / plant.lag), np.exp(-1 / plant.drift_lag)
    kicks = rng.standard_normal((n, n_cv)) * plant.drift * np.sqrt(1 - slow**2)
    noise = rng.standard_normal((n, n_cv)) * plant.noise
    y, read = np.full((n, n_cv), np.nan), np.zeros(n_cv)
    in_loop = {mv: (cv, gain, ti) for mv, cv, gain, ti in plant.loops}
    cols = np.arange(n_mv)
    for t in range(n):
        now = t + horizon
        for j in range(n_mv):
            if j in in_loop:
                cv, gain, ti = in_loop[j]
                e = points[t, cv] - read[cv]
                integral[j] += e / ti
                u[now, j] = np.clip(gain * (e + integral[j]) + tests[t, j], -_LIMIT, _LIMIT)
            else:
                u[now, j] = hand[t, j] + tests[t, j]
        for j in still:
            u[now, j] = 0.0
        if together:
            u[now, together[1]] = 0.8 * u[now, together[0]]
        late = u[now - plant.delay, cols]
        state = decay * state + (1 - decay) * plant.gain * late
        dv_state = 0.95 * dv_state + 0.05 * plant.dv_gain[:, 0] * d[now]
        drift = slow * drift + kicks[t]
        level += (plant.gain * late).sum(1) * SAMPLE_S / 3600
        level += (0.2 * (plant.mixing @ drift) + plant.dv_gain[:, 0] * d[now]) * SAMPLE_S / 3600
        true = np.where(plant.integrating, level, state.sum(1) + dv_state + plant.mixing @ drift)
        seen = (t % plant.period) == 0
        read = np.where(seen, true + noise[t], read)
        y[t, seen] = read[seen]
    none = np.empty((n, 0))
    return [Run("recorded", 0.0, y, d[horizon:, None], u[horizon:], none)]


def _steps(rng: np.random.Generator, n: int, hold: float, size: float) -> Array:
    """Values held for about `hold` samples each."""
    change = rng.random(n) < 1 / hold
    values = rng.standard_normal(n) * size
    at = np.maximum.accumulate(np.where(change, np.arange(n), 0))
    return values[at]


class Believer(Forecaster):
    """A model that knows the plant, but takes some gains, of a CV to an MV each, for their opposites."""

    def __init__(self, plant: LinearPlant, runs: list[Run], wrong: Sequence[tuple[int, int]]) -> None:
        super().__init__(plant.spec, ModelConfig(), channel_scale(plant.spec, runs))
        gain = torch.tensor(plant.gain).float()
        for pair in wrong:
            gain[pair] *= -1
        n = self.n_measured
        self.gain = gain * self.channel_std[n + self.n_dv :] / self.channel_std[:n, None]
        self.integrating = torch.tensor(plant.integrating)

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        y = u @ self.gain.T
        return torch.where(self.integrating, (y * SAMPLE_S / 3600).cumsum(1), y)
