"""`PlantSpec`: what a plant is, from one validated YAML file.

Tag roles in the field's words: MV manipulated, CV controlled, DV measured disturbance, AUX another measurement, HIDDEN a
quantity only a laboratory or a simulator can label (never on the endpoint, may be in the historian), COND what is constant
within a run (a batch, a patient, an engine's trim): it conditions the world model and is never predicted.
"""

from __future__ import annotations

import itertools
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from plant.errors import SpecError
from plant.handshake import Handshake, Plain, simulated
from plant.node_ids import NodeAddress, parse_node_id
from plant.strict import Bounds, Strict
from plant.wants import Price, Target, Zone, unlike
from plant.yaml_file import validate_yaml

NOISE = 3.0
"""Noise deviations of a tag below which no error or excess of it counts as one unit: chasing noise is worse than leaving it."""


class Role(StrEnum):
    MV = "MV"
    CV = "CV"
    DV = "DV"
    AUX = "AUX"
    HIDDEN = "HIDDEN"
    COND = "COND"


class LoopMode(Strict):
    """The mode of the loop under an MV: our moves count only while `node` reads one of `accepts`."""

    node: str
    accepts: Annotated[tuple[Plain, ...], Field(min_length=1)]


class Test(Strict):
    """An identification test of one MV: moves of about `step` (the MV's unit) to each side of where it stands, each held for
    about `hold_s` plant seconds."""

    __test__ = False  # no test case, whatever pytest makes of the name

    step: Annotated[float, Field(gt=0)] | None = None
    hold_s: Annotated[float, Field(gt=0)] | None = None


class Move(Strict):
    """What only an MV has. `rate_per_s` is the largest |change| per plant second; `safe` is the full fallback.

    - `levels`, or `step`: a discrete MV takes one of these values, or multiples of a step from the low limit on.
    - `write_node`: where moves are written, if not to the node that is read. `mode`: the loop under the MV.
    - `optional`: it may drop out of remote control alone, and the others go on. `fallback`: where it goes when AUTO is given
      up and no other layer takes it: back to what it was `before_auto`, to `safe`, nowhere (`hold`), or to a value.
    - `recorded`: whether the node that is read says where the MV is (`position`), or only where it was sent (`target`); then it
      is taken to go there at its rate.
    - `rest`: where it rests when nothing asks it to be elsewhere; None: nowhere in particular.
    - `test`: how an identification test moves it. Lock-step excitation stays in `excitation`, by default the limits; above that
      comes a random share of `feed_forward`: what a DV above its nominal value calls for, in the MV's unit a unit of the DV."""

    limits: Bounds
    rate_per_s: Annotated[float, Field(gt=0)]
    safe: float
    levels: tuple[float, ...] | None = None
    step: Annotated[float, Field(gt=0)] | None = None
    write_node: str | None = None
    mode: LoopMode | None = None
    optional: bool = False
    fallback: Literal["before_auto", "safe", "hold"] | float = "before_auto"
    recorded: Literal["position", "target"] = "position"
    rest: float | None = None
    test: Test = Test()
    excitation: Bounds | None = None
    feed_forward: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Move:
        if not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits must be [low, high] with low < high, not {list(self.limits)}")
        if not self.limits[0] <= self.safe <= self.limits[1]:
            raise ValueError(f"safe ({self.safe}) must lie inside limits {list(self.limits)}")
        low, high = self.excited
        if not self.limits[0] <= low < high <= self.limits[1]:
            raise ValueError(f"excitation {[low, high]} must be [low, high] inside limits {list(self.limits)}")
        if self.rest is not None and not self.limits[0] <= self.rest <= self.limits[1]:
            raise ValueError(f"rest ({self.rest}) must lie inside limits {list(self.limits)}")
        if not isinstance(self.fallback, str) and not self.limits[0] <= self.fallback <= self.limits[1]:
            raise ValueError(f"fallback ({self.fallback}) must lie inside limits {list(self.limits)}")
        if self.test.step is not None and self.test.step > self.span:
            raise ValueError(f"test.step ({self.test.step}) is larger than the limits {list(self.limits)}")
        return self

    @model_validator(mode="after")
    def _discrete(self) -> Move:
        if self.levels is not None and self.step is not None:
            raise ValueError("give levels or step, not both")
        if self.levels is not None:
            if len(self.levels) < 2 or list(self.levels) != sorted(set(self.levels)):
                raise ValueError(f"levels must be two or more rising values, not {list(self.levels)}")
            if self.levels[0] < self.limits[0] or self.levels[-1] > self.limits[1]:
                raise ValueError(f"levels {list(self.levels)} must lie inside limits {list(self.limits)}")
        if self.step is not None and not self.step <= self.span:
            raise ValueError(f"step ({self.step}) is larger than the limits {list(self.limits)}")
        for name, value in (("safe", self.safe), ("fallback", self.fallback)):
            far = [abs(value - v) for v in self.discrete] if not isinstance(value, str) else []
            if far and min(far) > 1e-9 * self.span:
                what = (
                    f"one of the levels {list(self.levels)}"
                    if self.levels
                    else f"a multiple of step from {self.limits[0]:g} on"
                )
                raise ValueError(f"{name} ({value}) must be {what}")
        return self

    @property
    def span(self) -> float:
        """High limit less low limit."""
        return self.limits[1] - self.limits[0]

    @property
    def excited(self) -> Bounds:
        """Where identification moves stay."""
        return self.excitation or self.limits

    @property
    def discrete(self) -> tuple[float, ...]:
        """The values a discrete MV takes, rising; empty for a continuous one."""
        if self.levels is not None:
            return self.levels
        if self.step is None:
            return ()
        count = int(self.span / self.step * (1 + 1e-12))
        return tuple(self.limits[0] + k * self.step for k in range(count + 1))

    def reach(self, seconds: float) -> float:
        """How far it may go in that many plant seconds."""
        return self.rate_per_s * seconds


class Tag(Strict):
    """One signal. `range` is the engineering range (EURange), `noise` the sensor's standard deviation, `nominal` the
    value at the usual operating point, all in `unit`. A `critical` tag that goes bad, stale or frozen sheds the loop.
    `period_s` is how often a CV or AUX slower than the sample time has a new value; between two it is missing, not held.
    `dead_time_s`: by how much its reading is late, where that is known; targets that are to be met at a time are asked of the
    reading that shows it. `stamps`: whether the source time is renewed at each `scan`, or only `on_change` (as MVs and what is
    constant do unless said otherwise). `over_range`: share of the range by which a reading may pass its ends and still be used;
    `resolution`: the smallest step of the reading, so that equal readings are not taken for a frozen one. `states`: names of the
    values of an enumeration."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
    role: Role
    description: str
    unit: str
    range: Bounds
    nominal: float
    noise: Annotated[float, Field(ge=0)] = 0.0
    node_id: str | None = None
    critical: bool = False
    stale_s: Annotated[float, Field(gt=0)] | None = None
    period_s: Annotated[float, Field(gt=0)] | None = None
    dead_time_s: Annotated[float, Field(ge=0)] = 0.0
    stamps: Literal["scan", "on_change"] | None = None
    over_range: Annotated[float, Field(ge=0)] = 0.02
    resolution: Annotated[float, Field(ge=0)] = 0.0
    states: dict[int, str] = Field(default_factory=dict)
    move: Move | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Tag:
        low, high = self.range
        if not low < high:
            raise ValueError(f"range must be [low, high] with low < high, not {list(self.range)}")
        if not low <= self.nominal <= high:
            raise ValueError(f"nominal ({self.nominal}) must lie inside range {list(self.range)}")
        if (self.role is Role.MV) != (self.move is not None):
            raise ValueError(f"an MV needs a `move` section and no other role has one (role is {self.role})")
        if self.move and not (low <= self.move.limits[0] and self.move.limits[1] <= high):
            raise ValueError(f"move.limits {list(self.move.limits)} must lie inside range {list(self.range)}")
        if (self.role is Role.HIDDEN) != (self.node_id is None):
            raise ValueError("every tag on the endpoint needs a node_id, and a HIDDEN tag has none")
        if self.period_s is not None and self.role not in (Role.CV, Role.AUX):
            raise ValueError(f"only a CV or an AUX has a period_s; a {self.role} holds until it changes")
        return self

    @property
    def span(self) -> float:
        """High end of the range less the low end."""
        return self.range[1] - self.range[0]

    @property
    def scanned(self) -> bool:
        """Whether its source time is renewed at each scan."""
        return (self.stamps or ("on_change" if self.role in (Role.MV, Role.COND) else "scan")) == "scan"


class Guardrail(Strict):
    """A limit that no objective may buy. Rank 1 is the last to be relaxed. Exactly one of `max` and `min`, in the tag's
    unit. `fallback_tag` names a HIDDEN tag that labels the worst value of `tag` within `fallback_s` plant seconds if the
    fallback took over now: long enough for the slowest creep past the limit. It stops at the end of that tag's range, for
    how far past the limit a lost plant goes is not asked. Recorded excitation never passes `recording_limit`; what lies
    beyond is only ever simulated. `allowed_s`: how long the limit may be passed at a time.
    `shown_by` names a CV or AUX that shows the tag late or noisily: what is mispredicted of it tightens the guardrail.
    `scale`: what counts as one unit of violation, by default a hundredth of the tag's range. `test_limit`: where identification
    tests of a live plant turn back, by default the recording limit, else four fifths of the way from nominal to the limit."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    tag: str
    max: float | None = None
    min: float | None = None
    rank: Annotated[int, Field(ge=1)] = 1
    fallback_tag: str | None = None
    fallback_s: Annotated[float, Field(gt=0)] = 1800.0
    recording_limit: float | None = None
    allowed_s: Annotated[float, Field(ge=0)] = 0.0
    shown_by: str | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    test_limit: float | None = None

    @model_validator(mode="after")
    def _one_sided(self) -> Guardrail:
        if (self.max is None) == (self.min is None):
            raise ValueError("give exactly one of max and min")
        for name in ("recording_limit", "test_limit"):
            value = getattr(self, name)
            if value is not None and self.margin(value) < 0:
                raise ValueError(f"{name} ({value}) lies past the limit ({self.limit})")
        return self

    @property
    def limit(self) -> float:
        return self.max if self.max is not None else self.min  # type: ignore[return-value]

    @property
    def sign(self) -> float:
        """+1 for a maximum, -1 for a minimum: margin = sign * (limit - value)."""
        return 1.0 if self.max is not None else -1.0

    def margin(self, value: Any) -> Any:
        """How far `value` (a number, or an array or tensor of any shape; the tag's unit) is from the limit; below 0 past it."""
        return self.sign * (self.limit - value)


class Loop(Strict):
    """A local PID: mv = bias + gain * (e + integral(e)/integral_s + derivative_s * de/dt), e = set_point - pv."""

    mv: str
    pv: str
    set_point: float
    gain: float
    integral_s: Annotated[float, Field(gt=0)]
    derivative_s: Annotated[float, Field(ge=0)] = 0.0


class Interlock(Strict):
    """Above `trip` (below it, when `trip < reset`) every MV in `moves` is driven to its value at its rate limit, until
    the tag is back past `reset`. A bad `tag` trips it too."""

    tag: str
    trip: float
    reset: float
    moves: dict[str, float]


class Regulatory(Strict):
    """The plant's own control layer: local loops and interlocks. It works when everything else is dead."""

    loops: tuple[Loop, ...] = ()
    interlocks: tuple[Interlock, ...] = ()


class PlantSpec(Strict):
    """A plant. `sample_time_s` is the control and model sample, `scan_time_s` the endpoint's own scan (plant seconds), a whole
    number of which make a sample. `namespaces`: alias -> namespace URI, for node ids written `alias:s=Name`. `handshake`: who
    holds the plant; without one it can be watched, and moved only by a controller whose fallback needs no other layer. A source
    time further than `stamp_window_s` from now is none. `disclaimer`: what must always be seen with the plant."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    description: str
    disclaimer: str = ""
    endpoint: str
    sample_time_s: Annotated[float, Field(gt=0)]
    scan_time_s: Annotated[float, Field(gt=0)]
    simulator: str | None = None
    namespaces: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")], Annotated[str, Field(min_length=1)]] = (
        Field(default_factory=dict)
    )
    handshake: Annotated[Handshake | None, BeforeValidator(simulated)] = None
    stamp_window_s: Annotated[float, Field(gt=0)] = 86400.0
    tags: Annotated[tuple[Tag, ...], Field(min_length=1)]
    guardrails: tuple[Guardrail, ...] = ()
    targets: tuple[Target, ...] = ()
    zones: tuple[Zone, ...] = ()
    prices: tuple[Price, ...] = ()
    regulatory: Regulatory = Regulatory()
    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _references(self) -> PlantSpec:
        names = [t.name for t in self.tags]
        if doubled := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"tag names must be unique; {', '.join(doubled)} appear twice")
        by_name = {t.name: t for t in self.tags}

        def need(tag: str, field: str, *roles: Role) -> Tag:
            if tag not in by_name:
                raise ValueError(f"{field} names '{tag}', which is not one of the tags: {', '.join(names)}")
            if roles and by_name[tag].role not in roles:
                raise ValueError(f"{field} names '{tag}', a {by_name[tag].role}; expected {' or '.join(roles)}")
            return by_name[tag]

        if self.scan_time_s > self.sample_time_s:
            raise ValueError(f"scan_time_s ({self.scan_time_s}) must not exceed sample_time_s ({self.sample_time_s})")
        scans = self.sample_time_s / self.scan_time_s
        if abs(scans - round(scans)) > 1e-6 * scans:
            raise ValueError(
                f"sample_time_s ({self.sample_time_s}) must be a whole number of scan_time_s ({self.scan_time_s}), not {scans:.4g}"
            )
        for mv in self.mvs:
            levels = mv.move.discrete if mv.move else ()
            gap = max((b - a for a, b in itertools.pairwise(levels)), default=0.0)
            if mv.move and mv.move.reach(self.sample_time_s) < gap * (1 - 1e-9):
                raise ValueError(
                    f"{mv.name}.move.rate_per_s ({mv.move.rate_per_s}) reaches no other level within a sample: levels are up to"
                    f" {gap:g} apart, so give {gap / self.sample_time_s:.4g} or more"
                )
            for dv in mv.move.feed_forward if mv.move else ():
                need(dv, f"{mv.name}.move.feed_forward", Role.DV)
        for i, g in enumerate(self.guardrails):
            need(g.tag, f"guardrails[{i}].tag")
            if g.shown_by:
                need(g.shown_by, f"guardrails[{i}].shown_by", Role.CV, Role.AUX)
            if g.fallback_tag:
                low, high = need(g.fallback_tag, f"guardrails[{i}].fallback_tag", Role.HIDDEN).range
                if not low < g.limit < high:
                    raise ValueError(
                        f"guardrails[{i}].fallback_tag names '{g.fallback_tag}', whose range {[low, high]} must reach past"
                        f" the limit {g.limit:g}"
                    )
        for i, t in enumerate(self.targets):
            need(t.tag, f"targets[{i}].tag", Role.CV)
            if not t.limits[0] <= t.value <= t.limits[1]:
                raise ValueError(f"targets[{i}].value ({t.value}) must lie inside its limits {list(t.limits)}")
        for i, z in enumerate(self.zones):
            low, high = need(z.tag, f"zones[{i}].tag", Role.CV, Role.AUX).range
            if not low <= z.limits[0] < z.limits[1] <= high:
                raise ValueError(
                    f"zones[{i}].limits {list(z.limits)} must lie inside the range {[low, high]} of {z.tag}"
                )
        for i, p in enumerate(self.prices):
            need(p.tag, f"prices[{i}].tag", Role.CV, Role.AUX, Role.MV)
        for field, wants in (("targets", self.targets), ("zones", self.zones), ("prices", self.prices)):
            tags = [want.tag for want in wants]
            if doubled := sorted({t for t in tags if tags.count(t) > 1}):
                raise ValueError(f"{field} name {', '.join(doubled)} twice")
        if why := unlike(self.prices):
            raise ValueError(why)
        for i, loop in enumerate(self.regulatory.loops):
            need(loop.mv, f"regulatory.loops[{i}].mv", Role.MV)
            need(loop.pv, f"regulatory.loops[{i}].pv", Role.CV, Role.AUX, Role.DV)
        for i, lock in enumerate(self.regulatory.interlocks):
            need(lock.tag, f"regulatory.interlocks[{i}].tag", Role.CV, Role.AUX, Role.DV)
            for mv, value in lock.moves.items():
                move = need(mv, f"regulatory.interlocks[{i}].moves", Role.MV).move
                assert move is not None
                if not move.limits[0] <= value <= move.limits[1]:
                    raise ValueError(
                        f"regulatory.interlocks[{i}].moves.{mv} ({value}) must lie inside {list(move.limits)}"
                    )
        return self

    @model_validator(mode="after")
    def _node_ids(self) -> PlantSpec:
        for field, text in self._node_texts().items():
            try:
                parse_node_id(text, self.namespaces)
            except ValueError as e:
                raise ValueError(f"{field}: {e}") from None
        return self

    def _node_texts(self) -> dict[str, str]:
        texts = {t.name: t.node_id for t in self.tags if t.node_id is not None}
        for mv in self.mvs:
            assert mv.move is not None
            if mv.move.write_node is not None:
                texts[f"{mv.name}.move.write_node"] = mv.move.write_node
            if mv.move.mode is not None:
                texts[f"{mv.name}.move.mode.node"] = mv.move.mode.node
        if self.handshake is not None:
            texts |= {f"handshake.{field}": node for field, node in self.handshake.nodes.items()}
        return texts

    @property
    def addresses(self) -> dict[str, NodeAddress]:
        """Every node of the endpoint by what names it: a tag, `TAG.move.write_node`, `TAG.move.mode.node`, `handshake.FIELD`."""
        return {field: parse_node_id(text, self.namespaces) for field, text in self._node_texts().items()}

    def tag(self, name: str) -> Tag:
        """The tag of that name; `SpecError` if there is none."""
        for t in self.tags:
            if t.name == name:
                return t
        known = ", ".join(t.name for t in self.tags)
        raise SpecError(f"no tag '{name}'", f"plant {self.name}", f"Its tags are {known}.")

    @property
    def about(self) -> str:
        """The description, and the disclaimer with it."""
        return f"{self.description.rstrip('.')}. {self.disclaimer}" if self.disclaimer else self.description

    @property
    def folder(self) -> Path | None:
        """Where its YAML lies; None for a plant that comes with Homeostat or was never a file."""
        return self._folder

    def with_role(self, *roles: Role) -> tuple[Tag, ...]:
        """Tags of these roles, in the file's order."""
        return tuple(t for t in self.tags if t.role in roles)

    def scale(self, guardrail: Guardrail) -> float:
        """One unit of violation of a guardrail, in its tag's unit."""
        return guardrail.scale if guardrail.scale is not None else self.tag(guardrail.tag).span / 100

    def target_scale(self, target: Target) -> float:
        """One unit of a target's error, in its tag's unit: what is no more than noise is no error worth a move."""
        return max(target.scale, NOISE * self.tag(target.tag).noise)

    def zone_scale(self, zone: Zone) -> float:
        """One unit outside a zone, in its tag's unit; the noise of the tag counts as in `target_scale`."""
        scale = zone.scale if zone.scale is not None else self.tag(zone.tag).span / 100
        return max(scale, NOISE * self.tag(zone.tag).noise)

    def test_limit(self, guardrail: Guardrail) -> float:
        """Where identification tests of a live plant turn back, in the tag's unit."""
        for limit in (guardrail.test_limit, guardrail.recording_limit):
            if limit is not None:
                return limit
        nominal = self.tag(guardrail.tag).nominal
        return nominal + 0.8 * (guardrail.limit - nominal) if guardrail.margin(nominal) > 0 else guardrail.limit

    @property
    def mvs(self) -> tuple[Tag, ...]:
        return self.with_role(Role.MV)

    @property
    def measured(self) -> tuple[Tag, ...]:
        """CV and AUX: what the world model predicts."""
        return self.with_role(Role.CV, Role.AUX)

    @property
    def dvs(self) -> tuple[Tag, ...]:
        return self.with_role(Role.DV)

    @property
    def constants(self) -> tuple[Tag, ...]:
        """COND: what the world model is conditioned on."""
        return self.with_role(Role.COND)

    @property
    def online(self) -> tuple[Tag, ...]:
        """Every tag on the endpoint."""
        return tuple(t for t in self.tags if t.role is not Role.HIDDEN)


def builtin_plants() -> dict[str, Path]:
    """The plants that come with Homeostat: name -> YAML file."""
    folder = Path(str(resources.files("plant"))) / "library"
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def load_spec(plant: str | Path) -> PlantSpec:
    """Read a `PlantSpec` from a YAML file, or by the name of a built-in plant. Raises `SpecError`."""
    builtin = builtin_plants()
    path = builtin.get(str(plant), Path(plant))
    spec = validate_yaml(PlantSpec, path, hint=f"Built-in plants: {', '.join(builtin)}.")
    if path not in builtin.values():
        spec._folder = path.resolve().parent
    return spec
