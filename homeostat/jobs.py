"""The jobs that take minutes, with a progress bar on stderr: recording in lock-step and training."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from historian import Historian
from historian.parquet import ParquetHistory
from homeostat.gain_report import table
from homeostat.recording import excite_lockstep
from homeostat.train_config import TrainFile
from homeostat.training import train_plant
from models.candidates import compared
from models.data_check import DataReport
from models.gains import Gains
from plant.spec import PlantSpec
from simulators.scenario import scenario_files

err = Console(stderr=True)


def progress() -> Progress:
    """A bar with counts and times, on stderr."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=err, transient=False,
    )  # fmt: skip


def excite_into(spec: PlantSpec, path: Path, runs: int, incidents: int | None, seed: int) -> None:
    """Lock-step excitation with a progress bar. `incidents` None: 600 where the plant has a scenario for them."""
    if incidents is None:
        incidents = 600 if "incident" in scenario_files(spec) else 0
    with Historian(path, spec.name) as store, progress() as bar:
        task = bar.add_task(f"exciting {spec.name} in lock-step (runs)", total=runs + incidents)
        hours = excite_lockstep(
            spec, store, time.time(), runs=runs, incidents=incidents, seed=seed,
            progress=lambda kind, done, _: bar.update(task, completed=done, description=f"{kind} of {spec.name} (runs)"),
        )  # fmt: skip
    err.print(f"{hours:.0f} plant-hours stored in {path}")


def train_into(
    spec: PlantSpec, path: Path, target: Path, settings: TrainFile, stream: bool = False, compare: bool = False
) -> bool:
    """Train from a historian's file, or with `stream` from a folder of Parquet files, with a progress bar. `compare` prints
    every model that was tried. Returns whether the run is suspect, and says so."""
    command = "homeostat " + " ".join(sys.argv[1:])
    with contextlib.ExitStack() as stack:
        store = ParquetHistory(path) if stream else stack.enter_context(Historian(path, spec.name, read_only=True))
        bar = stack.enter_context(progress())
        task = bar.add_task("reading the historian", total=settings.training.steps)

        def report(step: int, steps: int, losses: dict[str, float]) -> None:
            text = f"training: prediction {losses['prediction']:.4f}, read-out {losses['read_out']:.4f}"
            bar.update(task, completed=step + 1, total=steps, description=text)

        trained = train_plant(
            spec, store, target, command, settings.model, settings.training, report,
            lambda text: bar.update(task, description=text), _say_data, stream=stream,
        )  # fmt: skip
        bar.update(task, description="trained")
    if trained is None:
        return False
    choice = trained.checkpoint.facts["choice"]
    err.print(f"model: {choice['said']}", highlight=False, soft_wrap=True)
    if compare:
        sys.stdout.write(f"{compared(choice)}\n")
    d = trained.checkpoint.facts["diagnostics"]
    gain = f", action gain {d['action_gain']:.1f}" if "action_gain" in d else ""
    err.print(f"checkpoint in {target}: effective rank {d['effective_rank']:.1f}{gain}")
    if (gains := Gains.of_facts(trained.checkpoint.facts)) is not None:
        err.print(escape(table(gains)), highlight=False, soft_wrap=True)
    err.print(f"report: {target / 'report.html'}", soft_wrap=True)
    if trained.suspect:
        err.print(f"[bold]SUSPECT[/bold]: {'; '.join(trained.suspect)}. Do not close a loop with this model.")
    return bool(trained.suspect)


def _say_data(report: DataReport) -> None:
    """What a check found in training data: one line, then one for each finding; the error itself is said where it ends."""
    err.print(f"data: {report.summary}", highlight=False, soft_wrap=True)
    for finding in report.findings:
        if finding.severity is not finding.severity.ERROR:
            err.print(escape(f"  {finding}"), highlight=False, soft_wrap=True)
