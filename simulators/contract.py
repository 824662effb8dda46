"""`Simulator`: a plant's equations, written once against a small namespace that numpy, torch and CasADi each satisfy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from plant.errors import SpecError
from simulators.sensors import GaussianSensor, Sensor

Components = Any  # a sequence of components: a tuple, or an array whose first axis they are
Array = NDArray[np.float64]


class Namespace(Protocol):
    """The functions an equation may use; each acts elementwise on the namespace's own arrays.

    Beside them: + - * / **, comparisons, and `*` of two comparisons for "and".
    """

    def exp(self, x: Any, /) -> Any: ...
    def log(self, x: Any, /) -> Any: ...
    def tanh(self, x: Any, /) -> Any: ...
    def sqrt(self, x: Any, /) -> Any: ...
    def where(self, condition: Any, yes: Any, no: Any, /) -> Any: ...
    def minimum(self, a: Any, b: Any, /) -> Any: ...
    def maximum(self, a: Any, b: Any, /) -> Any: ...


@dataclass(frozen=True)
class Names:
    """What each component of x (states), u (moves), d (disturbances), p (parameters) and the outputs is called."""

    x: tuple[str, ...]
    u: tuple[str, ...]
    d: tuple[str, ...]
    p: tuple[str, ...]
    y: tuple[str, ...]


class Simulator(ABC):
    """A first-principles plant.

    x, u, d and p are sequences of components, so the same lines serve arrays with any batch shape (numpy, torch) and
    CasADi scalars. Derivatives are per `time_unit_s` seconds. `x0`, `u0`, `d0`, `p0` describe the usual operating point.

    What is discrete (a meal's onset, a transport delay, a hold) is kept in components of x whose derivative is 0.0 and
    which `on_sample` sets, every `tick_s` plant seconds: between ticks the plant flows, at a tick it jumps. Moves and
    disturbances are constant between ticks.

    `step_s` is the fixed step at which RK4 keeps the accuracy `benchmarks.plants` prints. A plant that can run away says
    `rtol` as well: where steps can control their error they do, to that relative tolerance. `p_range` and `d_range` bound
    what a scenario may ask. `dead_time_s` lists the outputs that reach their sensor late, in plant seconds.
    """

    names: ClassVar[Names]
    time_unit_s: ClassVar[float]
    step_s: ClassVar[float]
    rtol: ClassVar[float | None] = None
    tick_s: ClassVar[float | None] = None
    x0: ClassVar[tuple[float, ...]]
    u0: ClassVar[tuple[float, ...]]
    d0: ClassVar[tuple[float, ...]]
    p0: ClassVar[tuple[float, ...]]
    d_range: ClassVar[dict[str, tuple[float, float]]] = {}
    p_range: ClassVar[dict[str, tuple[float, float]]] = {}
    dead_time_s: ClassVar[dict[str, float]] = {}
    disclaimer: ClassVar[str] = ""

    @abstractmethod
    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        """dx/dt, one component a state, per `time_unit_s`; 0.0 for a component that only jumps."""

    @abstractmethod
    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        """What the sensors would read without noise and dead time, one component a name in `names.y`."""

    def on_sample(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        """x after the jump at the start of a tick in which u and d will be in force."""
        return tuple(x)

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict[str, Any]:
        """Where the equations hold: reason -> margin, positive inside. A member that leaves ends, with that reason."""
        return {}

    def usual_moves(self, d: Array, p: Array) -> Array:
        """Moves (batch x n_u) at rest: the usual ones, unless plants differ (a patient's own basal rate)."""
        return np.tile(np.array(self.u0, float), (len(p), 1))

    def initial(self, u: Array, d: Array, p: Array) -> Array:
        """Start states (batch x n_x) that belong to these moves, disturbances and parameters (batch x n each).

        The usual state for every member, unless a plant knows better (a patient's fasting state, an engine's idle)."""
        return np.tile(np.array(self.x0, float), (len(p), 1))

    def population(self, batch: int, rng: np.random.Generator, **facts: str) -> Array:
        """Parameters (batch x n_p) of plants drawn from a described population. `SpecError` for one it does not know."""
        raise SpecError(f"{type(self).__name__} has no population", "scenario: population", "Leave it out.")

    def timetable(
        self, batch: int, rng: np.random.Generator, duration_s: float, **facts: str | float
    ) -> dict[str, Array]:
        """Disturbances that only the plant's own field can describe (meals): name -> levels (intervals x batch), equal
        intervals that fill `duration_s`. `SpecError` for facts it does not know."""
        raise SpecError(f"{type(self).__name__} has no timetable", "scenario: timetable", "Leave it out.")

    def settings(self, p: Array) -> dict[str, Array]:
        """What is written down of each plant `p` (batch x n_p), and a controller may therefore be told: name -> (batch,). Nothing,
        usually; a patient's basal rate and weight."""
        return {}

    def sensor(self, output: str, sigma: float) -> Sensor:
        """The sensor of one output, `sigma` its standard deviation in the output's unit."""
        return GaussianSensor(sigma, self.dead_time_s.get(output, 0.0))
