"""`homeostat control`, `evaluate`, `dashboard`, `status` and `demo`: the loop, judged and watched."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from homeostat.commands.common import (
    DATA,
    Config,
    ControllerUrl,
    DataDir,
    Endpoint,
    Json,
    PlantName,
    err,
    historian_path,
    load_plant,
    out,
)
from plant.controller_nodes import CONTROLLER_ENDPOINT
from plant.spec import builtin_plants

app = typer.Typer(rich_markup_mode="markdown")


class Tier(StrEnum):
    """How much an evaluation covers."""

    CORE = "core"
    FULL = "full"


@app.command(epilog="Example: `homeostat control reactor --mode advisory`")
def control(
    plant: PlantName,
    mode: Annotated[
        str, typer.Option(help="off, advisory or auto; AUTO is entered once its conditions are met.")
    ] = "advisory",
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: trained, else shipped.")] = None,
    config: Config = None,
    endpoint: Endpoint = None,
    data_dir: DataDir = DATA,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the merged configuration and stop.")
    ] = False,
) -> None:
    """Close the loop over OPC UA: plan, supervise, write; and serve the controller's own nodes.

    The controller's YAML may name a file of coming targets and zones (`schedule: week.csv`: time, tag, value or low and high), and
    what is expected of a DV (`forecast: {FEED: {file: feed.csv}}`, or `{node: "p:s=FeedAhead", step_s: 600}`): docs/wants.md.
    """
    import torch
    import yaml

    from controllers.contracts import Mode
    from controllers.runtime.config import config_for
    from homeostat import live
    from homeostat.checkpoints import load_checkpoint, watch_of
    from homeostat.chosen import controller_of, doubts_about, needs_model

    spec = load_plant(plant)
    settings = config_for(spec.name, config)
    if show_config:
        typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)
        return
    if mode.upper() not in (Mode.OFF, Mode.ADVISORY, Mode.AUTO):
        raise typer.BadParameter(
            f"'{mode}' is not a mode to start in; choose off, advisory or auto", param_hint="--mode"
        )
    torch.set_num_threads(1)  # one small plan at a time: a second thread only adds jitter
    if checkpoint is not None and not needs_model(settings):
        raise typer.BadParameter(
            "this controller has no world model; `filter.forecast` in its YAML names what it learned",
            param_hint="--checkpoint",
        )
    loaded = load_checkpoint(spec, checkpoint, data_dir) if needs_model(settings) else None
    controller = controller_of(spec, settings, loaded)
    live.run_until_signal(
        lambda stop: live.control_live(
            spec, stop, config=settings, controller=controller, endpoint=endpoint,
            historian=historian_path(data_dir, spec), mode=Mode(mode.upper()),
            watch=watch_of(loaded) if loaded else None, doubts=doubts_about(settings, loaded),
        )
    )  # fmt: skip


@app.command(epilog="Example: `homeostat evaluate reactor --runs 50 --config mine.yaml --config other.yaml`")
def evaluate(
    plant: PlantName,
    config: Annotated[
        list[Path] | None, typer.Option(help="Controller YAML, a row each; default: the plant's own.", metavar="FILE")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: trained, else shipped.")] = None,
    scenario: Annotated[str, typer.Option(help="What the plants live through.")] = "operation",
    tier: Annotated[
        Tier, typer.Option(help="core: that scenario; full: the plant's others and three times the noise, too.")
    ] = Tier.CORE,
    runs: Annotated[int, typer.Option(min=1, help="Plants a seed, all at once.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds: start states, disturbances, noise, targets.")] = 5,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    noise: Annotated[float, typer.Option(min=0.0, help="The sensors' noise is multiplied by this.")] = 1.0,
    preview: Annotated[bool, typer.Option("--preview", help="Controllers see targets ahead.")] = False,
    schedule: Annotated[
        Path | None,
        typer.Option(
            help="Targets and zones from this schedule file, its first row being the start; seen ahead.", metavar="FILE"
        ),
    ] = None,
    nmpc: Annotated[bool, typer.Option("--nmpc", help="A row of NMPC with the simulator's own equations.")] = False,
    target: Annotated[Path | None, typer.Option("--out", help="Folder of the report.", metavar="DIR")] = None,
    data_dir: DataDir = DATA,
) -> None:
    """Controllers beside each other on the simulator: the same plants, disturbances, noise and targets for each."""
    import torch

    from homeostat import evaluate as evaluation
    from homeostat.checkpoints import load_checkpoint

    spec = load_plant(plant)
    torch.set_num_threads(1)
    folder = target or data_dir / spec.name / "evaluation"
    with err.status("evaluating") as status:
        text = evaluation.run(
            spec, load_checkpoint(spec, checkpoint, data_dir), folder, configs=config or [], scenario=scenario,
            tier=tier, runs=runs, seeds=seeds, first_seed=seed, noise=noise, preview=preview, nmpc=nmpc, schedule=schedule,
            progress=status.update,
        )  # fmt: skip
    typer.echo(text, nl=False)
    err.print(f"report: {folder / ('*' if tier is Tier.FULL else '') / 'evaluation.html'}", soft_wrap=True)


@app.command(epilog="Example: `homeostat dashboard reactor --port 8501`")
def dashboard(
    plant: PlantName,
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8501,
    host: Annotated[str, typer.Option(help="Interface to bind; only this machine by default.")] = "127.0.0.1",
    controller: ControllerUrl = CONTROLLER_ENDPOINT,
    endpoint: Endpoint = None,
    data_dir: DataDir = DATA,
) -> None:
    """Serve the operator page."""
    from dashboard.launch import command, page_url

    spec = load_plant(plant)
    err.print(f"operator page: {page_url(port, host)}")
    argv = command(port, host, plant, historian_path(data_dir, spec), controller, endpoint)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)  # we become the page: a signal to us reaches it, and it cannot outlive us


@app.command(epilog="Example: `homeostat status reactor --json`")
def status(
    plant: PlantName, controller: ControllerUrl = CONTROLLER_ENDPOINT, data_dir: DataDir = DATA, as_json: Json = False
) -> None:
    """Mode, sample age, margins, solve time and historian size of a running controller."""
    from homeostat.status import read_status

    spec = load_plant(plant)
    facts = read_status(spec, controller, historian_path(data_dir, spec))
    if as_json:
        out.print_json(json.dumps(facts))
    else:
        table = Table("", plant)
        for name, value in facts.items():
            table.add_row(name, escape(json.dumps(value) if isinstance(value, dict | list) else str(value)))
        out.print(table)
    if facts["controller"] != "reachable":
        raise typer.Exit(1)


@app.command(epilog="Example: `homeostat demo --train`; Ctrl-C ends it.")
def demo(
    plant: Annotated[str, typer.Argument(help="A built-in plant with a simulator.", metavar="[PLANT]")] = "reactor",
    train_first: Annotated[bool, typer.Option("--train", help="Excite, record and train from nothing first.")] = False,
    config: Config = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.01, help="Plant seconds per second; default: a decision in a second or two."),
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the operator page.")] = 8501,
    plant_port: Annotated[int, typer.Option(help="Port of the simulated plant.")] = 4840,
    controller_port: Annotated[int, typer.Option(help="Port of the controller's nodes.")] = 4841,
    seed: Annotated[int, typer.Option(help="Seed of the simulated plant.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Stop by itself after this many minutes.")] = None,
    data_dir: DataDir = DATA,
) -> None:
    """Simulated plant, historian, trained model, closed loop in AUTO and operator page, in one command."""
    from controllers.runtime.config import config_for
    from homeostat.chosen import needs_model
    from homeostat.demo import Demo, speed_of, told
    from homeostat.jobs import excite_into, train_into
    from homeostat.train_config import TrainFile

    if plant not in builtin_plants():
        raise typer.BadParameter(
            f"'{plant}' is not a built-in plant ({', '.join(builtin_plants())})", param_hint="PLANT"
        )
    spec = load_plant(plant)
    settings = told(spec, config_for(spec.name, config), seed)
    if train_first and not needs_model(settings):
        raise typer.BadParameter(
            f"the controller of {spec.name} has no world model to train; give one that plans by --config",
            param_hint="--train",
        )
    show = Demo(spec, settings, data_dir, speed or speed_of(spec), seed, plant_port, controller_port, port)
    with show.lock():
        if train_first:
            path = data_dir / spec.name / "training.db"
            path.unlink(missing_ok=True)
            excite_into(spec, path, 1200, None, 0)
            training = TrainFile.read(None, steps=None, seed=None)
            if train_into(spec, path, data_dir / spec.name / "model", training):
                raise typer.Exit(1)
        raise typer.Exit(show.run(minutes))
