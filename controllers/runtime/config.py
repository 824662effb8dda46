"""How a controller is run: one YAML a controller, every default stated here once."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controllers.baselines.pid import PidLoop
from controllers.planning.config import FilterConfig, PlannerConfig
from controllers.planning.quantile_filter import BackOff
from plant.controller_nodes import CONTROLLER_ENDPOINT
from plant.yaml_file import validate_yaml

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class QualityConfig(_Strict):
    """When a measurement is no longer believed. All counts are samples.

    `bad_samples`, `stale_samples` and `frozen_samples`: how long a fault lasts before a critical tag sheds the loop
    (`frozen` counts exactly equal readings of a tag that has noise). `scan_samples`: reads in a row without anything new from
    the whole plant. `stale_after`: the age, in samples, at which a tag without a `stale_s` of its own is stale. `hold_samples`:
    how long the last good value stands in for a faulty one; after that, for `predict_samples`, the model alone says what a
    tag that is not critical reads, and then it is given up: its target costs nothing, a guardrail on it sheds.
    """

    bad_samples: Count = 2
    stale_samples: Count = 1
    frozen_samples: Count = 5
    scan_samples: Count = 2
    stale_after: Positive = 3.0
    hold_samples: Annotated[int, Field(ge=0)] = 5
    predict_samples: Annotated[int, Field(ge=0)] = 30


class SupervisorConfig(_Strict):
    """What AUTO needs and when it is given up. Counts are consecutive samples unless stated.

    - `fallback`: what SHED means. `regulatory`: the plant is given back. Where no local loop of its own then moves the MVs,
      they first go, at their rates, where their `move.fallback` says: a set-point that is left half-way is no fallback. That is
      left out where the cause forbids it (no link, not ours, no trustworthy readings). `moves`: for a plant that nobody else
      takes, each MV goes where its `move.fallback` says, and we hold it there; `hold` and `safe` say one word for all MVs.
    - `surprise_to_enter`, `surprise_to_shed` with `surprise_samples`: multiples of the surprise's calibrated limit. Above the
      first there is an alarm, too.
    - `readback_tolerance`: share of an MV's limits by which the move in force may miss the one sent.
    - `recovery_violation`: in scales of the guardrail that is broken the most (`guardrails[].scale`, by default a hundredth of
      the tag's range: about what a good instrument cannot tell). Up to it a RECOVERY plan is executed; above it the safe values
      are sent instead, and after `recovery_samples` the loop sheds.
    - `guardrail_samples`: readings past a guardrail of rank 2 or lower; rank 1 sheds at the first.
    - `near_limit`: in scales of a guardrail. A TIGHT plan keeps every limit, not every calibrated margin: it is executed, with a low
      alarm. Where a reading is nearer to its limit than this under such plans for `guardrail_samples`, the loop sheds.
    - `limit_ramp`: share of an MV's limits by which an operator limit moves a sample.
    - `rearm_samples`: samples after which an optional MV whose own loop took it away and came back is moved again.
    - `return_to_auto`: `automatic` returns by itself after `return_samples` samples that meet every condition, and after a
      restart too. `operator`: a person decides after every shed and every end that was not orderly.
    """

    fallback: Literal["regulatory", "moves", "hold", "safe"] = "regulatory"
    late_plans: Count = 3
    lost_samples: Count = 1
    heartbeat_samples: Count = 2
    surprise_to_enter: Positive = 1.0
    surprise_to_shed: Positive = 1.5
    surprise_samples: Count = 5
    readback_tolerance: Share = 0.02
    readback_samples: Count = 2
    recovery_violation: Annotated[float, Field(ge=0)] = 1.0
    recovery_samples: Count = 5
    near_limit: Annotated[float, Field(ge=0)] = 1.0
    guardrail_samples: Count = 3
    limit_ramp: Share = 0.05
    rearm_samples: Count = 2
    return_to_auto: Literal["operator", "automatic"] = "operator"
    return_samples: Count = 10


class LoopConfig(_Strict):
    """Time. A plan is late after `deadline_share` of a sample's wall time, and never later than `deadline_max_s` (wall).

    `read_timeout_s`: wall. `reset_after`: lost samples after which the controller forgets its history. `speed_tolerance`:
    share by which plant time may run faster or slower than the clock, judged over `speed_samples`. `clock_step_s`: wall; a
    plant's clock that jumps against ours by more, and by more than two samples, was set; after that AUTO waits for
    `settle_samples`. `stall_s`: wall; a controller that stood still for longer holds the plant no more. It is used where the
    plant has no watchdog, whose patience says the same.
    """

    deadline_share: Share = 0.5
    deadline_max_s: Positive = 10.0
    read_timeout_s: Positive = 5.0
    reset_after: Count = 3
    speed_tolerance: Share = 0.25
    speed_samples: Count = 10
    clock_step_s: Positive = 5.0
    settle_samples: Count = 20
    stall_s: Positive = 5.0

    def deadline_s(self, sample_time_s: float, speed: float) -> float:
        """Wall seconds a plan may take, for samples of `sample_time_s` plant seconds at `speed` plant seconds a second.
        In lock-step (`speed` inf) time waits for the plan, and only `deadline_max_s` holds."""
        if math.isinf(speed):
            return self.deadline_max_s
        return min(self.deadline_share * sample_time_s / speed, self.deadline_max_s)


class OtherConfig(_Strict):
    """A controller that is not the planner: `pid` loops, or a `controller` by name: `nmpc` (the simulator's own equations),
    `min_max` (an engine's), `pd_insulin_feedback` (a patient's; research and education only), or one from an installed package
    (entry point in the group `homeostat.controllers`: called with the `PlantSpec`, and `settings` as keywords, it answers a
    `Controller`). `settings`: what is known of this very plant (a patient's basal rate), and gains."""

    pid: tuple[PidLoop, ...] = ()
    controller: str = ""
    settings: dict[str, float] = {}

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.pid) == bool(self.controller):
            raise ValueError("give either pid loops or the name of a controller")
        return self


class FilteredConfig(FilterConfig, OtherConfig):
    """Another controller in the planner's place, behind guardrails: those of the planner's model, whose margins are calibrated; or,
    with `forecast`, the one guardrail that `back_off` names, whose margin is a quantile that a learned forecast answers.

    With the first, `weights` and `later` say what nearest means, and of `planner`, `horizon`, `iterations`, `bias_filter` and
    `guard` hold. `forecast` names one that comes with Homeostat, or its folder; moves that it changes are in whole `step`s of
    an MV from its safe value. `last_check`: limits without any model behind everything else: `insulin`.
    """

    forecast: str = ""
    back_off: BackOff | None = None
    step: dict[str, Positive] = {}
    last_check: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.forecast) != (self.back_off is not None):
            raise ValueError("a forecast needs a back_off, and a back_off a forecast")
        return self


class ForecastConfig(_Strict):
    """Where what is expected of a DV comes from: a `file` (CSV or Parquet: time, value; a value holds until the next time), or a
    `node` of the plant's endpoint that holds an array of coming values, `step_s` plant seconds apart, the first one step after the
    node's source time. A relative path counts from the controller's YAML."""

    file: Path | None = None
    node: str = ""
    step_s: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (not self.node):
            raise ValueError("give either a file or a node")
        if bool(self.node) != (self.step_s is not None):
            raise ValueError("a node needs step_s, and a file has none: it says its own times")
        return self


class ControllerConfig(_Strict):
    """A controller: its planner, its supervisor, its clockwork and where it serves its own nodes. `filter`: another
    controller decides, and the planner only mends what is not safe.

    `schedule`: a file (CSV or Parquet: time, tag, value of a target, or low and high of a zone) with what is to be asked for from a
    time on; a relative path counts from this YAML. `preview`: scheduled targets are shown to the planner before they are due.
    `forecast`: DV -> where what is expected of it comes from. `standby`: another controller whose moves are
    sent while the planner has no answer at all, fewer than `supervisor.recovery_samples` in a row; without any it sheds at once.
    """

    planner: PlannerConfig = PlannerConfig()
    filter: FilteredConfig | None = None
    preview: bool = True
    schedule: Path | None = None
    forecast: dict[str, ForecastConfig] = {}
    standby: OtherConfig | None = None
    quality: QualityConfig = QualityConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    loop: LoopConfig = LoopConfig()
    endpoint: str = CONTROLLER_ENDPOINT


def load_config(path: str | Path) -> ControllerConfig:
    """Read a controller YAML; paths in it count from its folder. Raises `SpecError` naming the file, the field and what was
    expected."""
    config, folder = validate_yaml(ControllerConfig, Path(path)), Path(path).absolute().parent
    forecast = {dv: f.model_copy(update={"file": f.file and folder / f.file}) for dv, f in config.forecast.items()}
    return config.model_copy(update={"schedule": config.schedule and folder / config.schedule, "forecast": forecast})


def shipped_configs() -> dict[str, Path]:
    """The controllers that come with Homeostat: plant -> YAML file."""
    folder = Path(str(resources.files("controllers"))) / "library"
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def config_for(plant: str, path: str | Path | None = None) -> ControllerConfig:
    """The controller in the YAML file `path`; without one, the one that comes with Homeostat for `plant`; where there is none,
    every default. Raises `SpecError` as `load_config` does."""
    chosen = path or shipped_configs().get(plant)
    return load_config(chosen) if chosen else ControllerConfig()
