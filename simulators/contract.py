"""`Simulator`: a plant's equations, written once against a small namespace that numpy, torch and CasADi each satisfy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

Components = Any  # a sequence of components: a tuple, or an array whose first axis they are


class Namespace(Protocol):
    """The functions an equation may use; each acts elementwise on the namespace's own arrays."""

    def exp(self, x: Any, /) -> Any: ...
    def log(self, x: Any, /) -> Any: ...
    def tanh(self, x: Any, /) -> Any: ...
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
    `dead_time_s` lists the outputs that reach their sensor late, in plant seconds.
    """

    names: ClassVar[Names]
    time_unit_s: ClassVar[float]
    x0: ClassVar[tuple[float, ...]]
    u0: ClassVar[tuple[float, ...]]
    d0: ClassVar[tuple[float, ...]]
    p0: ClassVar[tuple[float, ...]]
    dead_time_s: ClassVar[dict[str, float]] = {}

    @abstractmethod
    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        """dx/dt, one component a state, per `time_unit_s`."""

    @abstractmethod
    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        """What the sensors would read without noise and dead time, one component a name in `names.y`."""
