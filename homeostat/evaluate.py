"""`homeostat evaluate`: controllers beside each other on the simulator, reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from controllers.contracts import Array, Decision, Observation, Targets
from controllers.evaluation.evaluation import Maker, evaluate
from controllers.runtime.config import ControllerConfig, config_for, load_config
from controllers.runtime.schedule import read_schedule
from homeostat.chosen import controller_of, true_nmpc
from homeostat.evaluation_report import write
from models.checkpoint import Checkpoint
from plant.errors import SpecError
from plant.spec import PlantSpec
from simulators.scenario import load_scenario, scenario_files

_RECORDING = ("steady", "excitation", "incident")  # nothing happens, or the moves are the scenario's own


class Held:
    """Every MV stays where it is: what the plant does by itself."""

    horizon = 1

    def __init__(self, spec: PlantSpec) -> None:
        self._spec, self._usual = spec, np.array([t.nominal for t in spec.mvs])

    def reset(self) -> None:
        """It remembers nothing."""

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        """The moves in force; an MV that is not known goes to its usual value."""
        moves: Array = np.where(np.isfinite(observation.standing), observation.standing, self._usual)
        return Decision.of_moves(self._spec, moves, 0.0)


def makers(spec: PlantSpec, checkpoint: Checkpoint, configs: Sequence[Path], nmpc: bool) -> dict[str, Maker]:
    """The rows of an evaluation by name: a controller for each YAML (the plant's own without any), NMPC with the true equations
    if asked for, and moves held. Raises `SpecError` for two of one name."""
    chosen = {path.stem: load_config(path) for path in configs}
    if len(chosen) < len(configs):
        raise SpecError("two controller files have one name", ", ".join(map(str, configs)), "Rename one of them.")

    if not chosen:
        own = config_for(spec.name)
        name = "planner" if own.filter is None else f"{own.filter.controller or 'pid'} behind guardrails"
        chosen = {name: own}

    def planned(config: ControllerConfig) -> Maker:
        return lambda plant: controller_of(spec, config, checkpoint, plant.batch, plant.simulator.settings(plant.p))

    made: dict[str, Maker] = {name: planned(config) for name, config in chosen.items()}
    if nmpc:
        made["NMPC, true equations"] = lambda plant: true_nmpc(spec, plant.batch)
    return made | {"moves held": lambda plant: Held(spec)}


def run(
    spec: PlantSpec,
    checkpoint: Checkpoint,
    out: Path,
    *,
    configs: Sequence[Path],
    scenario: str,
    tier: str,
    runs: int,
    seeds: int,
    first_seed: int,
    noise: float,
    preview: bool,
    nmpc: bool,
    schedule: Path | None = None,
    progress: Callable[[str], None],
) -> str:
    """Evaluate and report into `out`; returns the Markdown tables. `tier` core: `scenario`; full: with it every other scenario
    of the plant a controller meets, and `scenario` at three times the noise, each in a folder of its own below `out`. `schedule`: a
    schedule file, whose targets and zones are followed from its first row on, and seen ahead."""
    asked = [change for _, change in read_schedule(schedule, spec)] if schedule else []
    if schedule and not asked:
        raise SpecError("it has no rows", str(schedule), "Give it some; docs/wants.md shows one.")
    preview = preview or bool(asked)
    cases = {scenario: (scenario, noise)}
    if tier == "full":
        cases |= {name: (name, noise) for name in scenario_files(spec) if name not in _RECORDING}
        cases[f"{Path(scenario).stem}_noise_x_3"] = (scenario, 3 * noise)
    texts = []
    for case, (name, factor) in cases.items():
        chosen = load_scenario(name, spec)
        rows = evaluate(
            spec, makers(spec, checkpoint, configs, nmpc), chosen, runs=runs, seeds=range(first_seed, first_seed + seeds),
            preview=preview, noise=factor, schedule=asked, progress=lambda text, case=case: progress(f"{case}: {text}"),
        )  # fmt: skip
        about = {
            "scenario": chosen.name, "runs a seed": runs, "seeds": f"{first_seed}..{first_seed + seeds - 1}",
            "noise x": factor, "preview": "yes" if preview else "no", "model": checkpoint.facts.get("command", ""),
        }  # fmt: skip
        about |= {"targets of": schedule.name} if schedule else {}
        texts.append(write(out / Path(case).stem if tier == "full" else out, spec, rows, about))
    return "\n".join(texts)
