"""Random input sequences, the plants' answer to them, and a reference solution by SciPy to hold it against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from benchmarks.peers.environment import run_peer
from plant.spec import PlantSpec
from simulators.conditions import Schedule
from simulators.contract import Simulator
from simulators.namespaces import NumpyNamespace
from simulators.plant import SimulatedPlant
from simulators.stepping import Stepper

Array = NDArray[np.float64]
_XP = NumpyNamespace()
_LONGEST_S = 0.25


@dataclass(frozen=True)
class Sequences:
    """What n plants start from and meet: x0 (n x n_x), moves and disturbances (samples x n x ...), p (n x n_p)."""

    spec: PlantSpec
    x0: Array
    u: Array
    d: Array
    p: Array

    def __len__(self) -> int:
        return len(self.x0)

    def lived(self, stepper: Stepper | None = None) -> tuple[Array, SimulatedPlant]:
        """States (samples + 1 x n x n_x) as the simulated plant lives them, a sample at a time, and the plant itself."""
        times = np.arange(len(self.u), dtype=np.float64) * self.spec.sample_time_s
        conditions = Schedule(times, self.d, self.p)
        plant = SimulatedPlant(self.spec, 0, len(self), conditions, 0.0, self.x0, self.u[0], stepper)
        states = [plant.x]
        for u in self.u:
            plant.advance(u, self.spec.sample_time_s)
            states.append(plant.x)
        return np.array(states), plant

    def cost_ns(self, stepper: Stepper, copies: int = 10) -> float:
        """Nanoseconds a plant-step of one control sample takes in a batch of `copies` times these sequences."""
        p, u, d = np.tile(self.p, (copies, 1)), np.tile(self.u, (1, copies, 1)), np.tile(self.d, (1, copies, 1))
        taken_s = []
        for _ in range(5):
            x, codes = np.tile(self.x0, (copies, 1)), np.zeros(len(p), np.int64)
            began = perf_counter()
            for k in range(len(u)):
                x, codes = stepper.advance(x, u[k], d[k], p, self.spec.sample_time_s, codes)
            taken_s.append(perf_counter() - began)
        return 1e9 * float(np.median(taken_s)) / (len(u) * len(p))

    def reference(self, simulator: Simulator, rtol: float = 1e-13) -> Reference:
        """DOP853, all plants as one system: its steps are as short as the worst of them needs."""
        return Reference(self, simulator, rtol)

    def by_peer(self, name: str, requirements: list[str], script: str, folder: Path) -> dict[str, Array]:
        """The same sequences by a peer's own integrator: what its script wrote."""
        given, written = folder / f"{name}_in.npz", folder / f"{name}_out.npz"
        np.savez(given, x0=self.x0, u=self.u, d=self.d, p=self.p, dt_s=self.spec.sample_time_s)
        run_peer(name, requirements, script, "replay", given, written)
        with np.load(written) as stored:
            return dict(stored)


class Reference:
    """`states` (samples + 1 x n x n_x) at the samples. `times_s` and `path` (steps x n x n_x) hold every solver step."""

    def __init__(self, sequences: Sequences, simulator: Simulator, rtol: float) -> None:
        unit_s, dt_s = simulator.time_unit_s, sequences.spec.sample_time_s
        shape, p = sequences.x0.shape, sequences.p.T
        states, times, path = [sequences.x0], [np.zeros(1)], [sequences.x0[None]]
        for k, (u, d) in enumerate(zip(sequences.u, sequences.d, strict=True)):

            def field(_: float, flat: Array, held: Any = (u.T, d.T, p, _XP)) -> Array:
                return np.stack(simulator.derivative(flat.reshape(shape).T, *held), 1).ravel()

            span = dt_s / unit_s
            # The error norm is a mean over all plants: rtol is that much tighter than what one of them needs. The longest
            # step keeps the path dense enough to interpolate.
            done = solve_ivp(
                field, (0.0, span), states[-1].ravel(), method="DOP853", rtol=rtol, atol=1e-3 * rtol,
                max_step=_LONGEST_S / unit_s,
            )  # fmt: skip
            assert done.success, done.message
            states.append(done.y[:, -1].reshape(shape))
            times.append(k * dt_s + done.t[1:] * unit_s)
            path.append(done.y.T[1:].reshape(-1, *shape))
        self.states = np.array(states)
        self.times_s, self.path = np.concatenate(times), np.concatenate(path)


def held(rng: np.random.Generator, samples: int, n: int, low: float, high: float, mean: float) -> Array:
    """Levels (samples x n) uniform in low..high, each held for `mean` samples on average."""
    levels = rng.uniform(low, high, (samples, n))
    new = rng.random((samples, n)) < 1.0 / mean
    for k in range(1, samples):
        levels[k] = np.where(new[k], levels[k], levels[k - 1])
    return levels


def crossing_s(times_s: Array, values: Array, level: float) -> Array:
    """When each column of `values` (steps x n) first passes `level` upwards, by linear interpolation; NaN if never."""
    above = values > level
    first = np.where(above.any(0), above.argmax(0), 0)
    columns = np.arange(values.shape[1])
    before = np.maximum(first - 1, 0)
    low, high = values[before, columns], values[first, columns]
    with np.errstate(invalid="ignore", divide="ignore"):
        at = times_s[before] + (level - low) / (high - low) * (times_s[first] - times_s[before])
    return np.where(above.any(0) & (first > 0), at, np.nan)


def relative_error(states: Array, truth: Array) -> Array:
    """|x - truth| / |truth| at its worst component: (samples + 1 x n)."""
    return (np.abs(states - truth) / np.abs(truth)).max(-1)
