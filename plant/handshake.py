"""How a plant says who holds it: `handshake` in a plant's YAML. Nothing here is derived from a plant's name.

Node ids are written as `alias:i=3001` (an alias of the plant's `namespaces`), `nsu=URI;s=Name`, or `ns=2;s=Name`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Plain = bool | int | float | str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Permit(_Strict):
    """Asking for the MVs and giving them back: `on` and `off` are written to `node`, or are the one argument of `method` of
    `object`. A method may answer with a text: '' grants, anything else is the reason of a refusal."""

    node: str | None = None
    method: str | None = None
    object: str | None = None
    on: Plain = True
    off: Plain = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.node is None) == (self.method is None):
            raise ValueError("give either node (written) or method with object (called)")
        if (self.method is None) != (self.object is None):
            raise ValueError("a method needs the object it belongs to, a node has none")
        if self.on == self.off:
            raise ValueError(f"on and off must differ; both are {self.on!r}")
        return self


class Granted(_Strict):
    """How we know that the MVs are ours: the node reads `equals`. Anything else, or nothing usable, is not ours."""

    node: str
    equals: Plain = True


class Watchdog(_Strict):
    """What the plant watches of us: every `period_s` wall seconds we write a number that rises (`counter`), a bit that turns
    (`toggle`), or `value` again, which the plant counts down (`countdown`). After `misses` periods without it the plant takes
    the MVs. `none`: the plant watches nothing, and nobody notices a controller that dies."""

    node: str | None = None
    form: Literal["counter", "toggle", "countdown", "none"] = "counter"
    value: float | None = None
    period_s: Positive = 1.0
    misses: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.node is None) != (self.form == "none"):
            raise ValueError(f"form {self.form} {'has no' if self.form == 'none' else 'needs a'} node")
        if (self.value is None) == (self.form == "countdown"):
            raise ValueError("value is what a countdown is set to; only a countdown has one")
        return self

    @property
    def patience_s(self) -> float:
        """Wall seconds without us after which the plant takes the MVs."""
        return self.period_s * self.misses


class Alive(_Strict):
    """The plant's own sign of life: a `counter` that rises (and may begin again at 0) or a `toggle` that turns, at least
    every `period_s` plant seconds (default: the scan time)."""

    node: str
    form: Literal["counter", "toggle"] = "counter"
    period_s: Positive | None = None


class Owner(_Strict):
    """Whose lease it is. `session`: the node names the session that holds the plant, and ours must be in it. `token`: we
    write a secret of our own when we ask, and it must still be there at every sample."""

    node: str
    form: Literal["session", "token"] = "session"


class NodeOf(_Strict):
    """A node that holds a value."""

    node: str


class Handshake(_Strict):
    """Who holds the plant, and how each side knows that the other lives. What a plant does not have is left out. `speed`:
    plant seconds per wall second, 1 for a real plant, or the node that says it. `reason`: a text, why the plant last took the
    MVs; `interlock`: true while an interlock holds an MV; `scenario`: a text, what a simulated plant lives through."""

    permit: Permit | None = None
    granted: Granted | None = None
    watchdog: Watchdog = Watchdog(form="none")
    alive: Alive | None = None
    owner: Owner | None = None
    speed: Positive | NodeOf = 1.0
    reason: NodeOf | None = None
    interlock: NodeOf | None = None
    scenario: NodeOf | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.permit is not None and self.granted is None:
            raise ValueError("a permit that is asked for needs `granted`, which says whether it was given")
        return self

    @property
    def own_date(self) -> bool:
        """Whether plant time may be on a date of its own: a simulator's may, and a real plant's is wall time."""
        return isinstance(self.speed, NodeOf) or self.speed != 1.0

    @property
    def nodes(self) -> dict[str, str]:
        """Every node id by the field that names it: `permit.node`, `granted.node`, ..."""
        found = {}
        for name in type(self).model_fields:
            part = getattr(self, name)
            for field in ("node", "method", "object"):
                if (node := getattr(part, field, None)) is not None:
                    found[f"{name}.{field}"] = node
        return found


def simulated(value: Any) -> Any:
    """The layer that Homeostat's own plant server has, where a YAML says no more than `handshake: simulated`."""
    return SIMULATED if value == "simulated" else value


def _at(name: str) -> str:
    return f"nsu=urn:homeostat:plant;s=Regulatory.{name}"


SIMULATED = Handshake(
    permit=Permit(method=_at("RequestMode"), object="nsu=urn:homeostat:plant;s=Regulatory", on=1, off=0),
    granted=Granted(node=_at("Mode"), equals=1),
    watchdog=Watchdog(node=_at("ControllerHeartbeat")),
    alive=Alive(node=_at("Heartbeat")),
    owner=Owner(node=_at("Owner")),
    speed=NodeOf(node=_at("ClockSpeed")),
    reason=NodeOf(node=_at("ShedReason")),
    interlock=NodeOf(node=_at("Interlock")),
    scenario=NodeOf(node=_at("Scenario")),
)
