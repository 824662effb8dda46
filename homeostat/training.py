"""historian -> runs -> world model -> calibration on held-out and executed runs -> checkpoint with its card."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from controllers.evaluation.executed import executed_runs
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from homeostat.train_report import History
from homeostat.train_report import write as write_report
from models import ranks
from models.calibration import Calibration, calibrate
from models.candidates import choose, compared
from models.checkpoint import FILES, REPORT, Checkpoint, doubts_of, needs_room, save
from models.config import ModelConfig, TrainingConfig
from models.counts import Counts
from models.data_check import DataReport, check_runs
from models.dataset import Source, Split, cut_finer, iter_runs, split_runs
from models.diagnostics import diagnose, suspicions
from models.gain_estimate import gains_of
from models.manifest import seal
from models.plant_surprise import PlantSurprise
from models.rivals.latent import LatentForecaster
from models.streaming import keep_runs, some_of
from models.training import Report
from models.windows import Run, channel_scale, constant_scale, usual_of
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec
from simulators.drawn import Drawn
from simulators.plant import SimulatedPlant
from simulators.scenario import Scenario, load_scenario

Stage = Callable[[str], None]
_HELD_OUT = 100_000  # samples that calibration and diagnosis look at, at most: they hold them all in memory
_EXECUTED_RUNS = (60, 100)  # first round, second round


@dataclass(frozen=True)
class Trained:
    """What a training run left: the checkpoint and why it is suspect, if it is."""

    checkpoint: Checkpoint
    suspect: list[str]


def train_plant(
    spec: PlantSpec,
    source: Source,
    out: Path,
    command: str,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    report: Report | None = None,
    stage: Stage = lambda text: None,
    checked: Callable[[DataReport], None] = lambda report: None,
    stream: bool = False,
) -> Trained | None:
    """Train, calibrate, diagnose and save to `out`; None in all but the first process of a `torchrun`. Splits are by run;
    nothing reported was trained or calibrated on.

    `checked` is told what was found in the data before training begins. With `stream` the data live in a work folder of
    `out` until all is done and need not fit into memory; what comes out is the same. Raises `ModelError` when the history
    cannot teach anything, or breaks the recording policy.
    """
    model, training = model or ModelConfig(), training or TrainingConfig()
    if not spec.measured:
        raise ModelError(
            "no tag is a CV or an AUX: there is nothing to predict",
            f"plant {spec.name}",
            "Give what is measured its role.",
        )
    needs_room(out)
    with ExitStack() as stack:
        work = None
        if stream:
            out.mkdir(parents=True, exist_ok=True)
            work = Path(stack.enter_context(TemporaryDirectory(prefix="work-", dir=out)))
        return _train(spec, source, out, command, model, training, report, stage, checked, work)


def _train(
    spec: PlantSpec, source: Source, out: Path, command: str, model: ModelConfig, training: TrainingConfig,
    report: Report | None, stage: Stage, checked: Callable[[DataReport], None], work: Path | None,
) -> Trained | None:  # fmt: skip
    if spec.simulator:  # what margins are calibrated on must be there before a history is read
        SimulatedPlant(spec, conditions=Drawn(load_scenario("operation", spec)))
    stage("reading the historian")
    counts = Counts()
    reading = iter_runs(source, spec, counts=counts)
    runs = list(reading) if work is None else keep_runs(reading, work)
    found = check_runs(spec, runs, model, counts)
    checked(found)
    found.refuse()
    _enforce_policy(spec, runs)
    runs = cut_finer(spec, runs, 3 * (model.window + model.horizon) // 2)
    parts = split_runs(runs, training.validation_share, training.calibration_share, training.seed)
    rest = replace(parts, calibration=some_of(parts.calibration, _HELD_OUT), test=some_of(parts.test, _HELD_OUT))
    _rehearse(spec, rest, model)
    began, history = time.perf_counter(), History()

    def reported(step: int, steps: int, terms: dict[str, float]) -> None:
        history.add(step, terms)
        if report:
            report(step, steps, terms)

    stage("training")
    choice = choose(
        spec, parts.training, parts.validation, model, training, reported, stage, out / "training.state", work
    )
    world = choice.model
    seconds = time.perf_counter() - began
    rank, _ = ranks.join()
    ranks.leave()
    if rank > 0:
        return None  # the first process does the rest
    parts = rest
    stage("calibrating on held-out runs")
    calibration = calibrate(world, parts.calibration, model.horizon)
    executed: list[list[Run]] = []
    if _plans(spec):
        calibration, executed = executed_calibration(spec, world, calibration, parts.calibration, training.seed, stage)
    fitted, held_out = ([run for runs in rounds for run in runs] for rounds in (executed[:1], executed[1:]))
    usual = [*some_of(parts.validation, _HELD_OUT), *fitted]
    surprise = PlantSurprise.of_runs(world, usual, [*parts.calibration, *held_out])
    stage("diagnosing")
    facts = _facts(spec, parts, world, training, command, seconds, calibration.runs)
    if not choice.inverse:
        facts["diagnostics"].pop("inverse_r2", None)
    suspect = suspicions(facts["diagnostics"])
    facts["suspect"] = suspect
    facts["choice"] = choice.facts(usual_of(parts.test))
    facts["gains"] = gain_facts(spec, parts, world)
    save(out, world, calibration, facts, _card(spec, facts, calibration.margins), surprise)
    stage("writing the report")
    write_report(out / REPORT, world, calibration, surprise, parts.test, facts, history)
    seal(out, (*FILES, REPORT))
    doubts = doubts_of(spec, calibration, facts, surprise)
    return Trained(Checkpoint(world, calibration, facts, surprise, doubts), suspect)


def gain_facts(spec: PlantSpec, parts: Split, world: WorldModel) -> dict[str, Any] | None:
    """What the data and `world` say of the plant's gains, for a checkpoint; None for a plant that nothing moves."""
    if not spec.mvs:
        return None
    runs = [*some_of(parts.training, _HELD_OUT), *parts.validation, *parts.calibration, *parts.test]
    return gains_of(spec, runs, LatentForecaster(world)).facts()


def _plans(spec: PlantSpec) -> bool:
    """Whether there are loops of the planner itself to calibrate on."""
    return bool(spec.simulator and spec.mvs)


def _rehearse(spec: PlantSpec, parts: Split, config: ModelConfig) -> None:
    """What comes after training, with a model that has learned nothing: what these data or this plant do not allow is said
    before hours are spent on it. Raises what calibration, closed loops and diagnosis raise."""
    with torch.random.fork_rng(devices=[]):
        scales = channel_scale(spec, parts.training), constant_scale(spec, parts.training)
        world = WorldModel(spec, config, *scales).eval()
    calibration = calibrate(world, parts.calibration, config.horizon)
    diagnose(world, parts.test)
    if _plans(spec):
        scenario = load_scenario("operation", spec).model_copy(update={"duration_s": 3 * spec.sample_time_s})
        controller = JepaMpc(world, PlannerConfig(horizon=config.horizon), calibration, batch=1)
        executed_runs(spec, controller, scenario, 1, 0)


def executed_calibration(
    spec: PlantSpec, world: WorldModel, calibration: Calibration, held_out: list[Run], seed: int, stage: Stage,
    scenario: Scenario | None = None,
) -> tuple[Calibration, list[list[Run]]]:  # fmt: skip
    """Calibrate on the planner's own closed loops of `scenario` (default: the plant's `operation`), twice: margins change what
    is executed, so those that stay are measured on plans made with them. What the first round learned of lost states is
    kept, since the second hardly meets any. Also returns the runs of both rounds."""
    rounds: list[list[Run]] = []
    scenario = scenario or load_scenario("operation", spec)
    count, horizon = len(spec.guardrails), world.config.horizon
    for number, batch in enumerate(_EXECUTED_RUNS, start=1):
        stage(f"calibrating on executed plans, round {number} of {len(_EXECUTED_RUNS)}")
        controller = JepaMpc(world, PlannerConfig(horizon=horizon), calibration, batch=batch)
        runs = executed_runs(spec, controller, scenario, batch, 1000 * seed + number)
        rounds.append(runs)
        last, calibration = calibration, calibrate(world, [*held_out, *runs], horizon)
        calibration.margins[:, count:] = torch.maximum(calibration.margins[:, count:], last.margins[:, count:])
    return calibration, rounds


def _enforce_policy(spec: PlantSpec, runs: list) -> None:
    """Recorded excitation never passes a recording limit; only what is marked as a simulated incident may."""
    names = [t.name for t in spec.measured]
    for guard in (g for g in spec.guardrails if g.recording_limit is not None and g.tag in names):
        unit = spec.tag(guard.tag).unit
        for run in runs:
            past = guard.sign * (run.measured[:, names.index(guard.tag)] - guard.recording_limit)
            if run.kind == "excitation" and np.nanmax(past, initial=-np.inf) > 10 * spec.tag(guard.tag).noise:
                raise ModelError(
                    f"an excitation run went {np.nanmax(past):.1f} {unit} past {guard.recording_limit:g} {unit}",
                    f"historian of {spec.name}, run at {run.start_s:.0f} s, tag {guard.tag}",
                    "The recording policy forbids it; leave that run out.",
                )


def _facts(
    spec: PlantSpec, parts: Split, world: Any, training: TrainingConfig, command: str, seconds: float, runs: int
) -> dict[str, Any]:
    everything = [*parts.training, *parts.validation, *parts.calibration, *parts.test]
    hours = {
        kind: round(sum(len(r) for r in everything if r.kind == kind) * spec.sample_time_s / 3600, 1)
        for kind in sorted({r.kind for r in everything})
    }
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "revision": _revision(),
        "torch": torch.__version__,
        "plant_hours": hours,
        "runs": {k: len(getattr(parts, k)) for k in ("training", "validation", "calibration", "test")},
        "calibration_runs": runs,
        "data": parts.digest,
        "training": training.model_dump(),
        "seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in world.parameters()),
        "diagnostics": {k: round(v, 4) for k, v in diagnose(world, parts.test).items()},
    }


def _revision() -> str:
    """The git revision this runs from, '' outside a checkout."""
    folder = Path(__file__).parent
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def _card(spec: PlantSpec, facts: dict[str, Any], margins: torch.Tensor) -> str:
    hours = ", ".join(f"{h:g} h of {kind}" for kind, h in facts["plant_hours"].items())
    rows = "\n".join(f"| {name} | {value:g} |" for name, value in facts["diagnostics"].items())
    steps = [0, len(margins) // 2, len(margins) - 1]
    kept = "\n".join(f"| {k + 1} | " + " | ".join(f"{v:.3g}" for v in margins[k].tolist()) + " |" for k in steps)
    names = [g.name for g in spec.guardrails] + [f"{g.name} (fallback)" for g in spec.guardrails if g.fallback_tag]
    table = f"""Calibrated margins, engineering units:

| step | {" | ".join(names)} |
|---|{"---|" * len(names)}
{kept}"""
    limits = " and ".join(
        f"{g.recording_limit:g} {spec.tag(g.tag).unit} on {g.tag}"
        for g in spec.guardrails
        if g.recording_limit is not None
    )
    beyond = "What lies beyond was only ever simulated, and is counted above as incidents."
    policy = f" It never passes\n{limits}. {beyond}" if limits else ""
    suspect = "; ".join(facts["suspect"]) if facts["suspect"] else "no"
    return f"""# World model of {spec.name}

{spec.about}

Made by `{facts["command"]}` on {facts["date"]} (revision {facts["revision"]}, torch {facts["torch"]}) in
{facts["seconds"]:g} s of training. Data {facts["data"]}: {hours}. Runs: {facts["runs"]["training"]} for training,
{facts["runs"]["validation"]} for validation, {facts["runs"]["calibration"]} for calibration, {facts["runs"]["test"]}
for the figures below; margins come from {facts["calibration_runs"]} held-out and executed runs.

Policy: recorded excitation runs under the plant's regulatory layer with its interlocks armed.{policy}

{compared(facts["choice"])}

Suspect: {suspect}. Seed {facts["training"]["seed"]}, {facts["parameters"]} parameters.

| diagnostic (held-out runs) | value |
|---|---|
{rows}

{table if names else "The plant has no guardrails, and nothing was calibrated."}
"""
