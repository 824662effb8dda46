"""`SimulatedPlant`: a simulator with sensors, dead time and disturbances, as a `plant.process.Process`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from plant.errors import SpecError
from plant.spec import Guardrail, PlantSpec
from simulators.conditions import Conditions, Steady
from simulators.registry import simulator_of
from simulators.stepping import Stepper, peak_of, stepper_of

Array = NDArray[np.float64]
log = logging.getLogger(__name__)


class SimulatedPlant:
    """`batch` plants of one spec, advanced together. Noise and disturbances come from `seed` alone.

    `x` (batch x n_x) is the true state; `time_s` plant seconds since the start. `noise` scales every sensor's standard
    deviation (0: perfect sensors). `moves` (batch x n_mv) were in force before the start, `x0` (batch x n_x) overrides
    the start states of the conditions. A member that leaves the simulator's envelope ends: `ended` is not 0, its state
    stays, it reads NaN, and `reason` says why. Raises `SpecError` where spec, conditions and simulator do not fit.
    """

    def __init__(
        self,
        spec: PlantSpec,
        seed: int = 0,
        batch: int = 1,
        conditions: Conditions | None = None,
        noise: float = 1.0,
        x0: Array | None = None,
        moves: Array | None = None,
        stepper: Stepper | None = None,
    ) -> None:
        self.spec, self.seed, self.batch, self.noise, self.time_s = spec, seed, batch, noise, 0.0
        self.simulator = simulator_of(spec)
        self._stepper = stepper or stepper_of(type(self.simulator))
        self.ended = np.zeros(batch, np.int64)
        sensors, noises = np.random.SeedSequence(seed).spawn(2)
        self._noise_rng = np.random.default_rng(sensors)
        self.conditions = conditions or Steady()
        self.conditions.start(self.simulator, batch, np.random.default_rng(noises))
        names = self.simulator.names
        wanted = [t for t in spec.online if t.move is None]
        if unknown := [t.name for t in wanted if t.name not in names.y]:
            raise SpecError(
                f"the simulator has no output {', '.join(unknown)}",
                f"plant {spec.name}",
                f"Its outputs are {', '.join(names.y)}.",
            )
        if [t.name for t in spec.mvs] != list(names.u):
            raise SpecError(
                f"the MVs are {[t.name for t in spec.mvs]}", f"plant {spec.name}", f"The simulator has {list(names.u)}."
            )
        self._check_ranges()
        self.moves = self._sized(
            "moves", self.simulator.usual_moves(self.d, self.p) if moves is None else moves, names.u
        )
        self.x = self._sized("x0", self.conditions.states(self.moves) if x0 is None else x0, names.x)
        self._sensors = {t.name: self.simulator.sensor(t.name, t.noise * noise) for t in wanted}
        for sensor in self._sensors.values():
            sensor.start(batch, self._noise_rng)
        self._show_sensors()

    def _sized(self, what: str, values: Array, names: tuple[str, ...]) -> Array:
        values = np.array(values, float)
        if values.shape != (self.batch, len(names)) or not np.isfinite(values).all():
            raise SpecError(
                f"{what} has shape {values.shape}" if np.isfinite(values).all() else f"{what} is not finite",
                f"plant {self.spec.name}", f"Give ({self.batch}, {len(names)}) finite values: {', '.join(names)}.",
            )  # fmt: skip
        return values

    def _check_ranges(self) -> None:
        simulator, names = self.simulator, self.simulator.names
        for what, values, keys, ranges in (
            ("disturbance", self.d, names.d, simulator.d_range),
            ("parameter", self.p, names.p, simulator.p_range),
        ):
            values = self._sized(f"{what}s", values, keys)
            for key, (low, high) in ranges.items():
                column = values[:, keys.index(key)]
                if not ((column >= low) & (column <= high)).all():
                    raise SpecError(
                        f"{what} {key} is {column.min():g}..{column.max():g}", f"plant {self.spec.name}",
                        f"Keep it in [{low:g}, {high:g}].",
                    )  # fmt: skip

    @property
    def d(self) -> Array:
        """True disturbances now (batch x n_d)."""
        return self.conditions.d

    @property
    def p(self) -> Array:
        """True parameters now (batch x n_p)."""
        return self.conditions.p

    def advance(self, moves: Array, dt_s: float) -> None:
        asked = np.broadcast_to(np.asarray(moves, float), (self.batch, len(self.simulator.names.u)))
        self.moves = self.conditions.actuated(asked, dt_s).copy()
        before = self.ended
        self.x, self.ended = self._stepper.advance(self.x, self.moves, self.d, self.p, dt_s, before)
        for member in np.flatnonzero((self.ended != 0) & (before == 0))[:3]:
            log.warning("%s: member %d ended at %.1f s: %s", self.spec.name, member, self.time_s, self.reason(member))
        self.time_s += dt_s
        self.conditions.advance(dt_s)
        self._show_sensors()

    def reason(self, member: int) -> str:
        """Why a member ended; '' while it lives."""
        code = self.ended[member]
        return self._stepper.reasons[code - 1] if code else ""

    def facts(self) -> str:
        """What made this run, as JSON for its record: simulator, scenario, seed, noise."""
        made = {"simulator": self.spec.simulator, "seed": self.seed, "noise": self.noise}
        return json.dumps(made | {"scenario": self.conditions.facts()})

    def true_outputs(self) -> dict[str, Array]:
        """Every output without noise or dead time: name -> (batch,)."""
        y = self._stepper.outputs(self.x, self.moves, self.d, self.p)
        return dict(zip(self.simulator.names.y, y.T, strict=True))

    def measure(self) -> dict[str, Array]:
        """Readings (batch,) by tag; NaN for a member that has ended."""
        lives = self.ended == 0
        shown = self.conditions.readings({name: sensor.read() for name, sensor in self._sensors.items()})
        return {name: np.where(lives, value, np.nan) for name, value in shown.items()}

    def _show_sensors(self) -> None:
        true = self.true_outputs()
        for name, sensor in self._sensors.items():
            sensor.see(self.time_s, true[name])

    def fallback_worst(self, guards: Sequence[Guardrail]) -> Array:
        """The true value (batch x n_guard) of each guardrail's tag nearest to its limit, or farthest past it, in the next
        `fallback_s` if every MV went to `safe` now and stayed. Disturbances are those one looks ahead with; a value past the
        end of the fallback tag's range reads as that end.

        An MV goes there at its rate limit; where no MV takes longer than a sample, they are there at once.
        """
        worst = np.empty((self.batch, len(guards)))
        for horizon_s in {g.fallback_s for g in guards}:
            mine = [i for i, g in enumerate(guards) if g.fallback_s == horizon_s]
            worst[:, mine] = self._worst([guards[i] for i in mine], horizon_s)
        return worst

    def _worst(self, guards: list[Guardrail], horizon_s: float) -> Array:
        kernel, sign = (
            peak_of(type(self.simulator), tuple((g.tag, g.sign) for g in guards)),
            np.array([g.sign for g in guards]),
        )
        ends = [self.spec.tag(g.fallback_tag or g.tag).range[g.sign > 0] for g in guards]
        true, ceiling = self.true_outputs(), np.multiply(sign, ends)
        x, worst = self.x, sign * np.stack([true[g.tag] for g in guards], 1)
        for span_s, d, moves in self._fallback(horizon_s):
            x, later = kernel.peak(x, moves, d, self.p, span_s, ceiling)
            worst = np.maximum(worst, later)
        return sign * np.minimum(worst, ceiling)

    def _fallback(self, horizon_s: float) -> Iterator[tuple[float, Array, Array]]:
        """The fallback as stretches of plant seconds in which disturbances (batch x n_d) and moves (batch x n_u) hold."""
        limits = [t.move for t in self.spec.mvs if t.move]
        safe, rate = np.array([m.safe for m in limits]), np.array([m.rate_per_s for m in limits])
        slow = any(np.ptp(m.limits) > m.reach(self.spec.sample_time_s) for m in limits)
        step_s = self.spec.scan_time_s if slow else np.inf
        moves = self.moves
        for left_s, d in self.conditions.ahead(horizon_s):
            while left_s > 1e-6:
                moves = np.clip(safe, moves - rate * step_s, moves + rate * step_s)
                span_s = left_s if (moves == safe).all() else min(step_s, left_s)
                yield span_s, d, moves
                left_s -= span_s
