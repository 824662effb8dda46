"""`Scenario`: what happens to a plant, as data. One YAML file; the same in batch, live over OPC UA and in the evaluator.

A value is a number, or [low, high]: then each plant draws its own, once, from the run's seed. Times are plant seconds from
the start of the run.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from plant.errors import SpecError
from plant.spec import PlantSpec, describe, validate_yaml
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


def builtin_scenarios(spec: PlantSpec) -> dict[str, Path | None]:
    """The scenarios that come with a plant: name -> YAML file (None: `steady`, which every plant has)."""
    folder = Path(str(resources.files("simulators"))) / "scenarios"
    files = sorted((folder / str(spec.simulator)).glob("*.yaml"))
    return {"steady": None, **{p.stem: p for p in files}}


def load_scenario(scenario: str | Path, spec: PlantSpec) -> Scenario:
    """A scenario of `spec` by name, or from a YAML file. Raises `SpecError`: no such file, unknown keys, tags or levels
    the plant does not have."""
    known = builtin_scenarios(spec)
    if str(scenario) == "steady":
        return STEADY
    path = known.get(str(scenario)) or Path(scenario)
    loaded = validate_yaml(Scenario, path, hint=f"Scenarios of {spec.name}: {', '.join(known)}.")
    loaded.check(spec, str(path))
    return loaded


def scenario_of(facts: dict) -> Scenario:
    """A scenario from plain data, as a run's record holds it. Raises `SpecError`."""
    try:
        return Scenario.model_validate(facts)
    except ValidationError as e:
        raise SpecError(describe(e), "scenario", "Correct the data; unknown keys are errors.") from e
