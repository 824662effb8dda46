"""`Scenario`: what happens to a plant, as data. One YAML file; the same in batch, live over OPC UA and in the evaluator.

A value is a number, or [low, high]: then each plant draws its own, once, from the run's seed. Times are plant seconds from
the start of the run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import import_module, resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from plant.errors import SpecError
from plant.spec import PlantSpec
from plant.yaml_file import describe, validate_yaml
from simulators.registry import simulator_of


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"[{value[0]:g}, {value[1]:g}] is not a range; write [low, high]")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_rising)]
Value = float | Range
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RandomLevels(_Strict):
    """Levels held for an exponential time of mean `hold_s`; each is the usual one with probability `rest`, else drawn
    evenly from `range`."""

    range: Range
    hold_s: Positive
    rest: Share = 0.5


class Signal(_Strict):
    """A quantity over time: exactly one of the ways. `steps` [at_s, level] hold from their time on, `ramp` [at_s, level]
    is straight between its points; before the first of them the usual level holds."""

    value: Value | None = None
    steps: tuple[tuple[Value, Value], ...] | None = None
    ramp: tuple[tuple[float, Value], ...] | None = None
    random: RandomLevels | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Signal:
        ways = ("value", "steps", "ramp", "random")
        given = [w for w in ways if getattr(self, w) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(ways)}, not {', '.join(given) or 'none'}")
        if self.ramp is not None and [t for t, _ in self.ramp] != sorted({t for t, _ in self.ramp}):
            raise ValueError("the times of a ramp must rise")
        return self


class Parameter(_Strict):
    """A parameter as a `factor` of its usual value, for the share of plants that is not `clean`; it then loses the
    fraction `loss_per_h` of itself an hour."""

    factor: Value = 1.0
    clean: Share = 0.0
    loss_per_h: Annotated[float, Field(lt=1)] = 0.0


class _Fault(_Strict):
    at_s: Value = 0.0
    for_s: Value | None = None  # None: until the end
    share: Share = 1.0  # of the plants


class SensorFault(_Fault):
    """`bias`: `size` is added; `drift`: `size` an hour; `freeze`: the last reading repeats; `dropout`: nothing is shown."""

    tag: str
    fault: Literal["bias", "drift", "freeze", "dropout"]
    size: Value | None = None

    @model_validator(mode="after")
    def _sized(self) -> SensorFault:
        if (self.size is None) == (self.fault in ("bias", "drift")):
            raise ValueError("bias and drift need a size, freeze and dropout have none")
        return self


class ActuatorFault(_Fault):
    """`stuck`: the move in force at `at_s` stays; `slow`: moves pass a first-order lag of `lag_s`."""

    mv: str
    fault: Literal["stuck", "slow"]
    lag_s: Value | None = None

    @model_validator(mode="after")
    def _lagged(self) -> ActuatorFault:
        if (self.lag_s is None) == (self.fault == "slow"):
            raise ValueError("slow needs lag_s, stuck has none")
        return self


class Start(_Strict):
    """Start states by name; the share `rare_share` of the plants starts in `rare` instead."""

    states: dict[str, Value] = {}
    rare: dict[str, Value] = {}
    rare_share: Share = 0.0


class Incident(_Strict):
    """A way to run a plant into its guardrail and sometimes out again, for simulated incidents alone: moves are pushed by
    `push` (share of the MV's limits, each for itself) away from the safe side, full fallback begins at `rescue` and ends at `release` below the limit, and
    the record stops at `stop` past it (these in the tag's unit)."""

    push: Range
    rescue: Range
    release: Positive
    stop: Positive


class Scenario(_Strict):
    """What happens to a plant. Keys of `disturbances`, `parameters` and `start` are the simulator's names; `set_points`,
    `sensors` and `actuators` name tags. `population` (a patients' cohort) and `timetable` (their meals) are handed to the
    simulator; a timetable begins again when `duration_s` is over."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    description: str
    duration_s: Positive
    set_points: dict[str, Signal] = {}
    disturbances: dict[str, Signal] = {}
    parameters: dict[str, Parameter] = {}
    population: dict[str, str] = {}
    timetable: dict[str, str | float] = {}
    start: Start = Start()
    sensors: tuple[SensorFault, ...] = ()
    actuators: tuple[ActuatorFault, ...] = ()
    incident: Incident | None = None

    def samples(self, spec: PlantSpec) -> int:
        """How many samples of `spec` fill `duration_s`."""
        return max(1, round(self.duration_s / spec.sample_time_s))

    def check(self, spec: PlantSpec, where: str = "") -> None:
        """`SpecError` naming every key and value that this plant does not have or does not allow."""
        simulator = simulator_of(spec)
        names = simulator.names
        tags = [t.name for t in spec.online if t.move is None]
        wrong: list[str] = []

        def known(key: str, field: str, among: tuple[str, ...] | list[str]) -> bool:
            if key not in among:
                wrong.append(f"{field} names '{key}'; {spec.name} has {', '.join(among) or 'none'}")
            return key in among

        def inside(values: list[float], field: str, bounds: tuple[float, float] | None) -> None:
            if bounds and not all(bounds[0] <= v <= bounds[1] for v in values):
                wrong.append(f"{field} reaches {min(values):g}..{max(values):g}, outside {list(bounds)}")

        for key, signal in self.set_points.items():
            if known(key, "set_points", tags):
                inside(_levels(signal), f"set_points.{key}", spec.tag(key).range)
        for key, signal in self.disturbances.items():
            if known(key, "disturbances", names.d):
                inside(_levels(signal), f"disturbances.{key}", simulator.d_range.get(key))
        for key, parameter in self.parameters.items():
            if known(key, "parameters", names.p):
                usual = simulator.p0[names.p.index(key)]
                values = [usual * f for f in _ends(parameter.factor)]
                inside(values, f"parameters.{key}", simulator.p_range.get(key))
        for key in {**self.start.states, **self.start.rare}:
            known(key, "start", names.x)
        for i, fault in enumerate(self.sensors):
            known(fault.tag, f"sensors.{i}.tag", tags)
        for i, fault in enumerate(self.actuators):
            known(fault.mv, f"actuators.{i}.mv", [t.name for t in spec.mvs])
        if wrong:
            raise SpecError("; ".join(wrong), where or f"scenario {self.name}", "Correct the scenario.")


def _ends(value: Value) -> list[float]:
    return list(value) if isinstance(value, tuple) else [value]


def _levels(signal: Signal) -> list[float]:
    """Every level a signal can reach."""
    if signal.value is not None:
        return _ends(signal.value)
    if signal.random is not None:
        return list(signal.random.range)
    return [v for _, level in signal.steps or signal.ramp or () for v in _ends(level)]


STEADY = Scenario(name="steady", description="Nothing happens", duration_s=3600.0)
_BESIDE = re.compile(r"[a-z][a-z0-9_]*")
_MOST_BYTES = 65536  # a scenario is a page


def scenario_files(spec: PlantSpec) -> dict[str, Path]:
    """The scenarios that somebody wrote for a plant: name -> YAML file. They lie in `scenarios/SIMULATOR/` of the package
    that brings the simulator, in `scenarios/` beside the plant's YAML, or beside it (`NAME.yaml` or `NAME`); of two of one
    name the last counts."""
    package = type(simulator_of(spec)).__module__.partition(".")[0]
    found: dict[str, Path] = {}
    if hasattr(import_module(package), "__path__"):  # a single module has no folder of its own
        found |= _named((Path(str(resources.files(package))) / "scenarios" / str(spec.simulator)).glob("*.yaml"))
    if spec.folder is not None:
        found |= _named((spec.folder / "scenarios").glob("*.yaml"))
        found |= _named(p for p in spec.folder.glob("*") if p.suffix in ("", ".yaml") and _looks_like_one(p))
    return found


def _named(files: Iterable[Path]) -> dict[str, Path]:
    return {p.stem: p for p in sorted(files)}


def _looks_like_one(path: Path) -> bool:
    """Whether a file beside a plant's YAML is a scenario: nothing else there has a duration."""
    try:
        if not _BESIDE.fullmatch(path.stem) or not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return False
        return any(line.startswith("duration_s:") for line in path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return False


def scenarios_of(spec: PlantSpec) -> list[str]:
    """The names of a plant's scenarios: `steady`, those somebody wrote for it, and those every simulated plant has."""
    return sorted({*scenario_files(spec), *DEFAULTS}, key=lambda name: (name != "steady", name))


def load_scenario(scenario: str | Path, spec: PlantSpec) -> Scenario:
    """A scenario of `spec` by name, or from a YAML file. Raises `SpecError`: no such file, unknown keys, tags or levels
    the plant does not have."""
    name, files = str(scenario), scenario_files(spec)
    if name not in files and name in DEFAULTS:
        return DEFAULTS[name](spec)
    path = files.get(name, Path(scenario))
    loaded = validate_yaml(Scenario, path, hint=f"Scenarios of {spec.name}: {', '.join(scenarios_of(spec))}.")
    loaded.check(spec, str(path))
    return loaded


def scenario_of(facts: dict) -> Scenario:
    """A scenario from plain data, as a run's record holds it. Raises `SpecError`."""
    try:
        return Scenario.model_validate(facts)
    except ValidationError as e:
        raise SpecError(describe(e), "scenario", "Correct the data; unknown keys are errors.") from e


def _around(spec: PlantSpec, name: str, description: str, samples: int, share: float, worn: float) -> Scenario:
    """Disturbances that wander through `share` of the way from usual to either end of what the simulator allows, and plants
    whose parameters lie within `worn` of that way."""
    simulator = simulator_of(spec)
    names = simulator.names

    def within(usual: float, ends: tuple[float, float], part: float) -> tuple[float, float]:
        return usual + part * min(ends[0] - usual, 0.0), usual + part * max(ends[1] - usual, 0.0)

    usual_d, usual_p = dict(zip(names.d, simulator.d0, strict=True)), dict(zip(names.p, simulator.p0, strict=True))
    disturbances = {
        key: Signal(random=RandomLevels(range=within(usual_d[key], ends, share), hold_s=_HELD * spec.sample_time_s))
        for key, ends in simulator.d_range.items()
    }
    parameters = {}
    for key, ends in simulator.p_range.items():
        if worn and usual_p[key] != 0.0:
            low, high = sorted(v / usual_p[key] for v in within(usual_p[key], ends, worn))
            parameters[key] = Parameter(factor=(low, high), clean=0.5)
    return Scenario(
        name=name, description=description, duration_s=samples * spec.sample_time_s, disturbances=disturbances,
        parameters=parameters,
    )  # fmt: skip


def _day(spec: PlantSpec) -> Scenario:
    """One plant as it usually is, for long; set-points move through the middle third of what operators may ask for."""
    usual = _around(spec, "day", "Disturbances and set-points that come and go", 1000, 0.25, 0.0)
    points = {}
    for target in spec.targets:
        low, high = (
            min(max(target.value + (end - target.value) / 3, t), u)
            for end in target.limits
            for t, u in [spec.tag(target.tag).range]
        )
        points[target.tag] = Signal(
            random=RandomLevels(range=(low, high), hold_s=5 * _HELD * spec.sample_time_s, rest=0.0)
        )
    return usual.model_copy(update={"set_points": points})


_HELD = 20  # samples that a disturbance stays on average
DEFAULTS: dict[str, Callable[[PlantSpec], Scenario]] = {
    "steady": lambda spec: STEADY,
    "excitation": lambda spec: _around(
        spec,
        "excitation",
        "Disturbances up to a quarter of what they may be, plants that differ a little",
        60,
        0.25,
        0.1,
    ),
    "operation": lambda spec: _around(
        spec, "operation", "Disturbances up to a half of what they may be, plants that differ", 60, 0.5, 0.25
    ),
    "day": _day,
}
