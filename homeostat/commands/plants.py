"""`homeostat simulate`, `check` and `record`: a plant, what its endpoint has, what it did."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from homeostat.commands.common import (
    DATA,
    DataDir,
    Endpoint,
    Json,
    PlantName,
    disclaimer_of,
    err,
    historian_path,
    load_plant,
    out,
)
from plant.spec import builtin_plants, load_spec

app = typer.Typer(rich_markup_mode="markdown")


@app.command(epilog="Example: `homeostat simulate reactor --speed 20` or `homeostat simulate turbofan --plot run.png`")
def simulate(
    plant: Annotated[
        str | None, typer.Argument(help="A built-in plant, or the path of a plant's YAML file.", metavar="PLANT")
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(help="A scenario's name or YAML file.", show_default="day"),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.01, help="Plant seconds per second.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of noise and scenario.")] = 0,
    endpoint: Endpoint = None,
    noise: Annotated[float, typer.Option(min=0.0, help="Scale of the sensor noise.")] = 1.0,
    start: Annotated[
        float | None, typer.Option(help="Plant time to start from, s since the Unix epoch; default: now.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Run the scenario at once, draw it to a .png, .svg or .pdf, and stop.", metavar="FILE"),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List plants and their scenarios, and stop.")] = False,
) -> None:
    """Serve a simulated plant over OPC UA, with its own regulatory layer, living through a scenario."""
    from simulators.scenario import load_scenario

    if list_all:
        _list_plants(plant)
        return
    if plant is None:
        raise typer.BadParameter(f"name a plant: {', '.join(builtin_plants())}, or a YAML file", param_hint="PLANT")
    spec = load_plant(plant)
    chosen = load_scenario(scenario or "day", spec)
    if plot is not None:
        from homeostat.lockstep import rehearse
        from homeostat.picture import draw

        run = rehearse(spec, chosen, seed, noise)
        draw(spec, chosen, run, plot, disclaimer_of(spec))
        ended = f", ended early: {run.reason}" if run.reason else ""
        err.print(f"{spec.name}, {chosen.name}: {run.time_s[-1]:g} s of plant time in {plot}{escape(ended)}")
        return
    from homeostat import live

    live.run_until_signal(
        lambda stop: live.simulate(
            spec, stop, endpoint=endpoint, speed=speed, seed=seed, scenario=chosen, noise=noise, start_s=start
        )
    )


def _list_plants(plant: str | None) -> None:
    """The plants that can be simulated (or one), with their scenarios."""
    from simulators.scenario import load_scenario, scenarios_of

    table = Table("plant", "scenario", "what happens")
    for name in [plant] if plant else builtin_plants():
        spec = load_spec(name)
        table.add_row(f"[bold]{escape(spec.name)}[/bold]", "", escape(spec.about))
        for scenario in scenarios_of(spec):
            table.add_row("", scenario, escape(load_scenario(scenario, spec).description))
    out.print(table)


@app.command(epilog="Example: `homeostat check reactor`")
def check(
    plant: PlantName,
    endpoint: Endpoint = None,
    watchdog: Annotated[
        bool,
        typer.Option(
            "--watchdog",
            help="Prove the plant's watchdog, too: ask for the MVs, fall silent, see that the plant takes them. Moves nothing.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Connect to an endpoint and compare it with the plant's YAML. Writes nothing."""

    from plant.opcua.check import Severity
    from plant.opcua.check import check as compare
    from plant.opcua.proof import prove_watchdog

    spec = load_plant(plant)
    findings = asyncio.run(compare(spec, endpoint))
    if watchdog and not any(f.severity is Severity.ERROR for f in findings):
        findings += asyncio.run(prove_watchdog(spec, endpoint))
    if as_json:
        out.print_json(json.dumps([vars(f) | {"severity": str(f.severity)} for f in findings]))
    elif not findings:
        out.print(f"{endpoint or spec.endpoint}: every tag of {spec.name} is there as described.")
    else:
        table = Table("severity", "tag", "what", "what to do")
        for f in findings:
            table.add_row(*(escape(cell) for cell in (str(f.severity), f.tag, f.what, f.fix)))
        out.print(table)
    if any(f.severity is Severity.ERROR for f in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: `homeostat record reactor`")
def record(plant: PlantName, endpoint: Endpoint = None, data_dir: DataDir = DATA) -> None:
    """Record a plant into its historian until interrupted."""
    from homeostat import live

    spec = load_plant(plant)
    path = historian_path(data_dir, spec)
    err.print(f"recording {spec.name} into {path}; Ctrl-C ends it")
    live.run_until_signal(lambda stop: live.record_live(spec, stop, endpoint=endpoint, historian=path))
