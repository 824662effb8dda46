"""The regulatory layer at the plant, as a PLC or DCS has one: local PID loops, interlocks, limits, mode and watchdog.

It works when everything above it is dead. No I/O and no clock inside: plant time steps and wall time are arguments. A
leading batch dimension lets lock-step recording run many plants through one layer; mode and watchdog are one for all.

REMOTE is a lease of the holder that asked for it: whoever else beats, moves or asks for a mode is refused, with the holder
named, until the holder gives it back, is lost (`watch`, `lost`) or the operator at the plant takes it (`take_local`). A
controller that was paused and wakes up can therefore neither move the plant of its successor nor take it from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from plant.errors import SpecError
from plant.handshake import Handshake
from plant.link import PlantMode
from plant.spec import PlantSpec

Array = NDArray[np.float64]


class Refusal(StrEnum):
    """Why a move is not taken."""

    UNKNOWN = "no such MV"
    NOT_FINITE = "not a finite number"
    OUT_OF_LIMITS = "outside its limits"
    LOCAL = "the plant is in LOCAL; request REMOTE first"
    INTERLOCK = "an interlock holds it"
    HELD = "another session holds the plant"


class RegulatoryLayer:
    """Turns measurements and remote moves into the moves in force, for `batch` plants of one spec.

    **Arguments:**

    - `outputs`: moves in force at the start, MV -> value or (batch,); an MV not named starts at its nominal value.

    Order of precedence at each scan: interlock, then the remote move (REMOTE) or the local loop (LOCAL; an MV without a
    loop, or whose PV is bad, holds). Every output keeps its absolute and rate limits whoever asks. Where two tripped
    interlocks move one MV, the first in the spec wins. Loops that are not in charge track the output in force, so that
    they take over without a bump.
    """

    def __init__(self, spec: PlantSpec, batch: int = 1, outputs: Mapping[str, float | Array] | None = None) -> None:
        self._spec, self._batch = spec, batch
        self._mvs = [t.name for t in spec.mvs]
        moves = [t.move for t in spec.mvs if t.move is not None]
        self._low = np.array([m.limits[0] for m in moves])
        self._high = np.array([m.limits[1] for m in moves])
        self._rate = np.array([m.rate_per_s for m in moves])

        start = np.tile(np.array([t.nominal for t in spec.mvs], dtype=np.float64), (batch, 1))
        for name, value in (outputs or {}).items():
            start[:, self._column(name)] = value
        self._outputs: Array = np.clip(start, self._low, self._high)
        self._remote: Array = self._outputs.copy()

        loops = spec.regulatory.loops
        self._loop_mv = [self._column(loop.mv) for loop in loops]
        if len(set(self._loop_mv)) < len(loops):
            raise SpecError("two loops drive one MV", f"plant {spec.name}: regulatory.loops", "Keep one loop an MV.")
        self._loop_pv = [loop.pv for loop in loops]
        self._pv_range = [spec.tag(loop.pv).range for loop in loops]
        self._gain = np.array([loop.gain for loop in loops])
        self._integral_s = np.array([loop.integral_s for loop in loops])
        self._derivative_s = np.array([loop.derivative_s for loop in loops])
        self._set_point = np.tile(np.array([loop.set_point for loop in loops], dtype=np.float64), (batch, 1))
        self._integral: Array = np.zeros((batch, len(loops)))
        self._last_pv: Array = np.full((batch, len(loops)), np.nan)
        self._in_charge = np.zeros((batch, len(loops)), dtype=bool)

        self._tripped = np.zeros((batch, len(spec.regulatory.interlocks)), dtype=bool)
        self._mode = PlantMode.LOCAL
        self._holder = ""
        self._shed_reason = ""
        self._watchdog = (spec.handshake or Handshake()).watchdog
        self._beat_counter: int | None = None
        self._beat_wall_s = 0.0

    @property
    def mode(self) -> PlantMode:
        return self._mode

    @property
    def outputs(self) -> Array:
        """The moves in force (batch x n_mv), engineering units. A copy."""
        return self._outputs.copy()

    @property
    def interlock(self) -> NDArray[np.bool_]:
        """Whether any interlock is tripped (batch,)."""
        return np.asarray(self._tripped.any(axis=1))

    @property
    def shed_reason(self) -> str:
        """Why the layer last took the MVs from the remote controller; '' once it was asked to give or take them."""
        return self._shed_reason

    @property
    def holder(self) -> str:
        """Who holds REMOTE; '' in LOCAL."""
        return self._holder if self._mode is PlantMode.REMOTE else ""

    def request_mode(self, mode: PlantMode | int, wall_s: float, who: str = "") -> str:
        """`who` asks for REMOTE, or gives it back with LOCAL. Returns '' or why not. `wall_s`: monotonic wall time, s."""
        try:
            wanted = PlantMode(mode)
        except ValueError:
            return f"unknown mode {mode}; 0 is LOCAL, 1 is REMOTE"
        if self._mode is PlantMode.REMOTE and who != self._holder:
            return f"held by {self._holder}; it or the operator at the plant must give it back first"
        if wanted is PlantMode.REMOTE and self._mode is PlantMode.LOCAL:
            if active := self._active_tags():
                return f"interlock active on {', '.join(active)}; wait until it has reset"
            self._remote = self._outputs.copy()
            self._beat_counter, self._beat_wall_s = None, wall_s
        self._mode, self._holder = wanted, who
        self._shed_reason = ""
        return ""

    def take_local(self, why: str) -> None:
        """The operator at the plant takes the MVs, whoever holds them. Never refused; `why` is what the holder reads."""
        if self._mode is PlantMode.REMOTE:
            self._mode, self._shed_reason = PlantMode.LOCAL, why

    def lost(self, who: str) -> bool:
        """`who` is gone for good. True when this call took the MVs from it."""
        if self._mode is not PlantMode.REMOTE or who != self._holder:
            return False
        self.take_local(f"the session of {who} ended")
        return True

    def beat(self, counter: int, wall_s: float, who: str = "") -> bool:
        """The holder's heartbeat; False from anybody else. Only a change of the counter counts."""
        if self._mode is not PlantMode.REMOTE or who != self._holder:
            return False
        if counter != self._beat_counter:
            self._beat_counter, self._beat_wall_s = counter, wall_s
        return True

    def watch(self, wall_s: float) -> bool:
        """Shed to LOCAL if the controller's heartbeat has stood still too long. True when this call shed.

        Every scan watches too; a server whose scans are slower than the heartbeat calls this in between.
        """
        silent = wall_s - self._beat_wall_s
        if self._watchdog.form == "none" or self._mode is not PlantMode.REMOTE or silent < self._watchdog.patience_s:
            return False
        self.take_local(f"controller heartbeat lost for {silent:.1f} s")
        return True

    def refusal(self, name: str, value: float | Array, who: str = "") -> tuple[Refusal, str] | None:
        """Why a remote move of `who` would be refused now, with the sentence to show; None if it would be taken."""
        if name not in self._mvs:
            return Refusal.UNKNOWN, f"{name} is not an MV; the MVs are {', '.join(self._mvs)}"
        i = self._mvs.index(name)
        if not np.all(np.isfinite(value)):
            return Refusal.NOT_FINITE, f"{name}: {Refusal.NOT_FINITE}"
        if np.any(value < self._low[i]) or np.any(value > self._high[i]):
            return Refusal.OUT_OF_LIMITS, f"{name}: {Refusal.OUT_OF_LIMITS} [{self._low[i]:g}, {self._high[i]:g}]"
        if self._mode is PlantMode.LOCAL:
            return Refusal.LOCAL, f"{name}: {Refusal.LOCAL}"
        if who != self._holder:
            return Refusal.HELD, f"{name}: {Refusal.HELD}: {self._holder}"
        forced, target = self._forced()
        if np.all(forced[:, i] & (target[:, i] != value)):  # who asks for what the interlock does anyway agrees with it
            return Refusal.INTERLOCK, f"{name}: {Refusal.INTERLOCK} ({', '.join(self._active_tags())})"
        return None

    def write(self, moves: Mapping[str, float | Array], who: str = "") -> dict[str, str]:
        """Remote moves of `who`, MV -> value or (batch,), in force from the next scan. Returns those refused, with reasons.

        A member whose MV is held by an interlock ignores the move and waits for a new one after the reset; a move that is what
        the interlock drives the MV to is taken.
        """
        rejected: dict[str, str] = {}
        for name, value in moves.items():
            if why := self.refusal(name, value, who):
                rejected[name] = why[1]
            else:
                self._remote[:, self._mvs.index(name)] = value
        return rejected

    def set_local(self, pv_set_point: Mapping[str, float | Array]) -> None:
        """Set-points of the local loops, by PV, value or (batch,). `SpecError` for a PV without a loop or a value outside its range."""
        for pv, value in pv_set_point.items():
            if pv not in self._loop_pv:
                known = ", ".join(self._loop_pv) or "none"
                raise SpecError(f"no local loop controls '{pv}'", f"plant {self._spec.name}", f"Loops: {known}.")
            low, high = self._spec.tag(pv).range
            if not (np.all(value >= np.asarray(low)) and np.all(value <= np.asarray(high))):
                raise SpecError(f"set-point {value} of '{pv}'", f"plant {self._spec.name}", f"Stay in [{low}, {high}].")
            self._set_point[:, [i for i, name in enumerate(self._loop_pv) if name == pv]] = np.reshape(value, (-1, 1))

    def scan(self, measurements: Mapping[str, Array], dt_s: float, wall_s: float) -> Array:
        """One scan: the moves (batch x n_mv) to hold for the next `dt_s` plant seconds.

        `measurements`: tag -> (batch,), NaN where bad; a tag that is missing counts as bad. `wall_s`: monotonic, s.
        """
        if not dt_s > 0:
            raise ValueError(f"dt_s must be positive, not {dt_s}")
        self.watch(wall_s)
        self._scan_interlocks(measurements)
        forced, target = self._forced()

        wanted = self._remote.copy() if self._mode is PlantMode.REMOTE else self._outputs.copy()
        pv = self._loop_inputs(measurements)
        if pv is not None:
            local = self._mode is PlantMode.LOCAL
            able = np.isfinite(pv) & ~forced[:, self._loop_mv] & local
            asked, proportional = self._pid(pv, dt_s, able)
            wanted[:, self._loop_mv] = np.where(able, asked, wanted[:, self._loop_mv])
        wanted = np.where(forced, target, wanted)

        step = self._rate * dt_s
        limited = np.clip(wanted, self._outputs - step, self._outputs + step)
        self._outputs = np.clip(limited, self._low, self._high)
        if pv is not None:
            self._unwind(pv, asked, proportional, able, dt_s)
        if self._mode is PlantMode.LOCAL:
            self._remote = self._outputs.copy()
        else:
            self._remote = np.where(forced, self._outputs, self._remote)
        return self.outputs

    def _pid(self, pv: Array, dt_s: float, able: NDArray[np.bool_]) -> tuple[Array, Array]:
        """What the loops ask (batch x n_loop), and the part of it that is not the integral. Derivative on PV."""
        error = np.where(np.isfinite(pv), self._set_point - pv, 0.0)
        slope = np.where(np.isfinite(self._last_pv) & np.isfinite(pv), (pv - self._last_pv) / dt_s, 0.0)
        proportional = self._gain * (error - self._derivative_s * slope)
        # A loop that takes charge starts from the output in force: no bump, whoever moved it before.
        takes_over = able & ~self._in_charge
        held = self._outputs[:, self._loop_mv]
        integrated = self._integral + self._gain * error * dt_s / self._integral_s
        self._integral = np.where(takes_over, held - proportional, np.where(able, integrated, self._integral))
        self._in_charge = able
        return self._integral + proportional, proportional

    def _unwind(self, pv: Array, asked: Array, proportional: Array, able: NDArray[np.bool_], dt_s: float) -> None:
        """Anti-windup by back-calculation, tracking time = integral time (Astrom & Hagglund, PID Controllers, 3.5)."""
        given = self._outputs[:, self._loop_mv]
        correction = (given - asked) * np.minimum(1.0, dt_s / self._integral_s)
        self._integral = np.where(able, self._integral + correction, self._integral)
        self._last_pv = pv

    def _scan_interlocks(self, measurements: Mapping[str, Array]) -> None:
        for k, lock in enumerate(self._spec.regulatory.interlocks):
            pv = self._pv(measurements, lock.tag)
            sign = 1.0 if lock.trip >= lock.reset else -1.0
            past_trip = ~(sign * pv <= sign * lock.trip)  # negated, so that NaN trips
            back = sign * pv < sign * lock.reset
            self._tripped[:, k] = past_trip | (self._tripped[:, k] & ~back)

    def _forced(self) -> tuple[NDArray[np.bool_], Array]:
        """Which outputs an interlock holds, and where it drives them (batch x n_mv each)."""
        forced = np.zeros_like(self._outputs, dtype=bool)
        target = np.zeros_like(self._outputs)
        for k, lock in reversed(list(enumerate(self._spec.regulatory.interlocks))):
            for mv, value in lock.moves.items():
                i = self._mvs.index(mv)
                forced[:, i] |= self._tripped[:, k]
                target[self._tripped[:, k], i] = value
        return forced, target

    def _loop_inputs(self, measurements: Mapping[str, Array]) -> Array | None:
        """PVs (batch x n_loop), held to one span beyond the engineering range: an absurd reading must not overflow."""
        if not self._loop_pv:
            return None
        low, high = np.array(self._pv_range).T
        pv = np.stack([self._pv(measurements, name) for name in self._loop_pv], axis=1)
        return np.clip(pv, 2 * low - high, 2 * high - low)

    def _pv(self, measurements: Mapping[str, Array], name: str) -> Array:
        value = np.asarray(measurements.get(name, np.nan), dtype=np.float64)
        return np.where(np.isfinite(value), value, np.nan) * np.ones(self._batch)

    def _active_tags(self) -> list[str]:
        return [k.tag for k, hit in zip(self._spec.regulatory.interlocks, self._tripped.T, strict=True) if hit.any()]

    def _column(self, mv: str) -> int:
        if mv not in self._mvs:
            raise SpecError(f"no MV '{mv}'", f"plant {self._spec.name}", f"Its MVs are {', '.join(self._mvs)}.")
        return self._mvs.index(mv)
