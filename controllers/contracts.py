"""What a controller sees, what it is asked for, and what it answers. Arrays lead with the batch dimension (1 live)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plant.spec import PlantSpec

Array = NDArray[np.float64]


class Status(StrEnum):
    """What a plan is worth, best first."""

    OPTIMAL = "OPTIMAL"  # converged, every guardrail kept
    FEASIBLE = "FEASIBLE"  # not converged, every guardrail kept
    DEADLINE = "DEADLINE"  # the best found when time ran out
    TIGHT = (
        "TIGHT"  # every limit is kept, not every calibrated margin: as little of it is given up, and as late, as can be
    )
    RECOVERY = "RECOVERY"  # no plan keeps every limit: this one breaks the least, lowest rank first
    INFEASIBLE = "INFEASIBLE"  # no answer at all: use the fallback
    FALLBACK = "FALLBACK"  # the fallback's own move


class Mode(StrEnum):
    """Who decides. OFF: nothing is computed. MANUAL: an operator moves the MVs through the controller. ADVISORY: plans
    are shown, not sent. AUTO: plans are sent. SHED: AUTO gave up; the plant's regulatory layer has the MVs."""

    OFF = "OFF"
    MANUAL = "MANUAL"
    ADVISORY = "ADVISORY"
    AUTO = "AUTO"
    SHED = "SHED"


@dataclass(frozen=True)
class Observation:
    """One sample of `batch` plants. Tag order is the spec's.

    `time_s` plant time; `measured` (batch x n_measured) CVs and AUX; `dvs` (batch x n_dv); `applied` (batch x n_mv) the
    time mean of what was in force since the last sample, as a model learned it; `position` (batch x n_mv): where the MVs are
    now, which plans start from, None where they stood there all the while. NaN marks a value that is missing or bad. `constants` (batch x
    n_constant): COND tags as they read; None, or NaN before the first reading, stands for their nominal values.
    `forecast` (batch x k x n_dv): what is expected of the DVs at the next k samples (announced meals, a weather
    forecast), NaN where nothing is; None, NaN and what lies past k hold what came before.
    `surprise` (batch,): how far the plants are from what a model knows, as a multiple of the calibrated limit; None where
    nothing watches.
    """

    time_s: float
    measured: Array
    dvs: Array
    applied: Array
    constants: Array | None = None
    forecast: Array | None = None
    surprise: Array | None = None
    position: Array | None = None

    @property
    def standing(self) -> Array:
        """Where the MVs are now (batch x n_mv)."""
        return self.applied if self.position is None else self.position


@dataclass(frozen=True)
class Targets:
    """`values` (batch x horizon x n_target): targets at the next samples, in the order of the spec's `targets`. With no
    preview every step repeats the present target. `move_low`, `move_high` (n_mv): operator limits, inside the spec's; they bar
    no way to the safe side. `dropped` (n_mv, bool): MVs that are not ours to move; each stays at its move in force, a measured
    disturbance. `left_out` (n_target, bool): targets whose CV can no longer be predicted; they cost nothing. None: no such.

    `zones` (n_zone x 2): low and high as operators have set them, NaN where a side is open (both: nothing is asked); None: the spec's. `prices` (n_price):
    as they hold now, by unit and hour; None: the spec's. `rest` (batch x n_mv): where the MVs are to rest, NaN where nowhere in
    particular; None: the spec's `move.rest`."""

    values: Array
    move_low: Array
    move_high: Array
    dropped: NDArray[np.bool_] | None = None
    left_out: NDArray[np.bool_] | None = None
    zones: Array | None = None
    prices: Array | None = None
    rest: Array | None = None


@dataclass(frozen=True)
class Decision:
    """A controller's whole answer, for `batch` plants.

    - `moves` (batch x n_mv): what to hold until the next sample.
    - `plan` (batch x horizon x n_mv): the moves it expects to make; `plan[:, 0] == moves`.
    - `predicted` (batch x horizon x n_measured): measurements expected at the next samples.
    - `margins` (batch x horizon x n_guardrail): predicted distance to each guardrail less its calibrated margin,
      in its tag's unit, > 0 is safe; where the status is TIGHT, the worst one below 0 is what of that margin is given up.
      Guardrails are named by `guardrails`.
    - `calibrated` (horizon x n_guardrail): the calibrated margins subtracted above.
    - `status` (batch,): one `Status` per plant; `violation` (batch,): worst accepted violation of a limit itself, or of what must
      be left for the fallback to save the plant, in the guardrail's scales (`PlantSpec.scale`; 0: none, as under a TIGHT plan).
    - `energy`: energy terms by name, (batch,) each.
    - `bias` (batch x n_measured): the filtered prediction error added to the predictions.
    - `solve_time_s`: wall time of the whole decision.
    - `why` (batch,): what an operator should know about the plan, in a sentence; '' or nothing where there is nothing.
    - `rest` (batch x n_mv): where the steady-state layer lets the MVs rest, NaN where nowhere in particular; None: no such layer.
    - `active` (batch,): what holds the plant at its economic best and at what price, in a sentence; '' where nothing does.
    """

    moves: Array
    plan: Array
    predicted: Array
    margins: Array
    calibrated: Array
    guardrails: tuple[str, ...]
    status: tuple[Status, ...]
    violation: Array
    bias: Array
    solve_time_s: float
    energy: Mapping[str, Array] = field(default_factory=dict)
    why: tuple[str, ...] = ()
    rest: Array | None = None
    active: tuple[str, ...] = ()

    @classmethod
    def of_moves(cls, spec: PlantSpec, moves: Array, solve_time_s: float) -> Decision:
        """The answer of a controller that predicts nothing: `FEASIBLE`, or `INFEASIBLE` where a move is not finite;
        predictions and margins are NaN."""
        batch, rails, n = len(moves), tuple(g.name for g in spec.guardrails), len(spec.measured)
        return cls(
            moves=moves,
            plan=moves[:, None],
            predicted=np.full((batch, 1, n), np.nan),
            margins=np.full((batch, 1, len(rails)), np.nan),
            calibrated=np.zeros((1, len(rails))),
            guardrails=rails,
            status=tuple(Status.FEASIBLE if np.isfinite(row).all() else Status.INFEASIBLE for row in moves),
            violation=np.zeros(batch),
            bias=np.zeros((batch, n)),
            solve_time_s=solve_time_s,
        )


class Controller(Protocol):
    """Anything that can run a plant: JEPA-MPC, NMPC, PID, a user's own."""

    horizon: int

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        """The next move. Called once a sample, in order; keeps its own history."""
        ...

    def reset(self) -> None:
        """Forget the history (a new run, or a gap in the samples)."""
        ...
