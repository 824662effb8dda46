"""The `homeostat` command: one subcommand for each step in the life of a deployment."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from homeostat.identification import Form
from plant.controller_nodes import CONTROLLER_ENDPOINT
from plant.errors import ControlError, HomeostatError
from plant.spec import PlantSpec, builtin_plants, load_spec

if TYPE_CHECKING:  # slow to import
    from homeostat.expected import Expected
    from homeostat.guest import Guest
    from homeostat.identification import TestPlan
    from homeostat.visit import Visit

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Run a plant by a learned world model: simulate, record, train, plan inside guardrails, control over OPC UA.",
)
out, err = Console(), Console(stderr=True)

PlantName = Annotated[str, typer.Argument(help="A built-in plant (reactor) or a plant YAML file.", metavar="PLANT")]
DataDir = Annotated[Path, typer.Option(help="Where histories and trained models are kept.", metavar="DIR")]
Endpoint = Annotated[
    str | None, typer.Option(help="The plant's OPC UA endpoint; default: the one in its YAML.", metavar="URL")
]
Config = Annotated[
    Path | None, typer.Option(help="Controller YAML; default: the one that comes with the plant.", metavar="FILE")
]
ControllerUrl = Annotated[str, typer.Option("--controller", help="The controller's OPC UA endpoint.", metavar="URL")]


class Tier(StrEnum):
    """How much an evaluation covers."""

    CORE = "core"
    FULL = "full"


Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
_DATA = Path(".homeostat")


def historian_path(data_dir: Path, spec: PlantSpec) -> Path:
    """Where a plant's history is kept."""
    return data_dir / spec.name / "historian.db"


def _load(plant: str) -> PlantSpec:
    """The plant's spec; what it, or its simulator, must always be seen with goes to stderr."""
    spec = load_spec(plant)
    if disclaimer := _disclaimer(spec):
        err.print(f"[bold]{escape(disclaimer)}[/bold]", soft_wrap=True)
    return spec


def _disclaimer(spec: PlantSpec) -> str:
    from simulators.registry import simulator_of

    return spec.disclaimer or (simulator_of(spec).disclaimer if spec.simulator else "")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and library logs.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if not debug:
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # our own link says what was lost, in one line
        logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ["HOMEOSTAT_DEBUG"] = "1" if debug else ""


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
    spec = _load(plant)
    chosen = load_scenario(scenario or "day", spec)
    if plot is not None:
        from homeostat.lockstep import rehearse
        from homeostat.picture import draw

        run = rehearse(spec, chosen, seed, noise)
        draw(spec, chosen, run, plot, _disclaimer(spec))
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
    import asyncio

    from plant.opcua.check import Severity
    from plant.opcua.check import check as compare
    from plant.opcua.proof import prove_watchdog

    spec = _load(plant)
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
def record(plant: PlantName, endpoint: Endpoint = None, data_dir: DataDir = _DATA) -> None:
    """Record a plant into its historian until interrupted."""
    from homeostat import live

    spec = _load(plant)
    path = historian_path(data_dir, spec)
    err.print(f"recording {spec.name} into {path}; Ctrl-C ends it")
    live.run_until_signal(lambda stop: live.record_live(spec, stop, endpoint=endpoint, historian=path))


@app.command(epilog="Example: `homeostat excite reactor --plan`, then `homeostat excite reactor --hours 2`")
def excite(
    plant: PlantName,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Show what would be moved, how far and for how long, and stop.")
    ] = False,
    mv: Annotated[
        list[str] | None, typer.Option("--mv", help="Move this MV (again for another); default: each.", metavar="TAG")
    ] = None,
    together: Annotated[int, typer.Option(min=1, help="MVs that move at a time.")] = 1,
    form: Annotated[
        Form, typer.Option(help="The signal: generalised binary noise, a sum of sines, or steps.")
    ] = Form.NOISE,
    hours: Annotated[
        float | None, typer.Option(min=0.01, help="Plant hours of the test; default: 40 holds of each MV.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="At a test limit, return, wait and go on with half the step; else stop.")
    ] = False,
    no_watchdog: Annotated[
        bool, typer.Option("--unguarded", help="Move a plant where nothing takes over should this command die.")
    ] = False,
    lock_step: Annotated[
        bool, typer.Option("--lock-step", help="Simulate as fast as possible, straight into the historian.")
    ] = False,
    runs: Annotated[int, typer.Option(min=1, help="Lock-step: runs of the scenario `excitation`.")] = 1200,
    incidents: Annotated[
        int | None, typer.Option(min=0, help="Lock-step: simulated incidents; default: 600 where the plant has them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the moves (and of the simulator).")] = 0,
    endpoint: Endpoint = None,
    data_dir: DataDir = _DATA,
    as_json: Json = False,
) -> None:
    """Identification moves, recorded as what a world model learns from. On a live plant a guest: moves around where the MVs
    stand, watched, and put back."""
    spec = _load(plant)
    if lock_step:
        from homeostat.jobs import excite_into

        if not spec.mvs:
            raise ControlError(
                "there is nothing to move", f"plant {spec.name} has no MV", "Record it instead (`record`)."
            )
        excite_into(spec, historian_path(data_dir, spec), runs, incidents, seed)
        return
    from homeostat.expected import expected, lags, settling
    from homeostat.identification import plan_test
    from homeostat.visit import unguarded

    found = lags(spec, historian_path(data_dir, spec))
    plan = plan_test(
        spec, mvs=mv or (), together=together, hours=hours, form=form, settling_s=settling(found), seed=seed
    )
    _show_plan(spec, plan, expected(spec, plan.tests, found, data_dir), as_json)
    if plan_only:
        return
    if (why := unguarded(spec)) and not no_watchdog:
        raise ControlError(
            f"nothing takes over should this command die: {why}", f"plant {spec.name}",
            "Describe its handshake, or stay beside it and say --unguarded.",
        )  # fmt: skip
    ended = _excited(spec, plan, endpoint, historian_path(data_dir, spec), go_on)
    for name, (before, after) in ended.restored.items():
        err.print(f"{name}: {before:g} before, {after:g} after", highlight=False)
    if ended.failed:
        err.print(f"[bold]stopped[/bold]: {escape(ended.reason)}", soft_wrap=True, highlight=False)
        raise typer.Exit(1)
    err.print(f"ended: {escape(ended.reason or 'as planned')}", soft_wrap=True, highlight=False)


def _excited(spec: PlantSpec, plan: TestPlan, endpoint: str | None, historian: Path, go_on: bool) -> Visit:
    """Carry a test out on a live plant, with a bar."""
    from homeostat import live
    from homeostat.jobs import progress

    ended: list[Visit] = []
    with progress() as bar:
        task = bar.add_task(f"exciting {spec.name} (plant minutes)", total=round(plan.duration_s / 60))

        def show(elapsed_s: float, guest: Guest) -> None:
            text = f"{guest.phase} {spec.name} (plant minutes)"
            bar.update(task, completed=min(round(elapsed_s / 60), round(plan.duration_s / 60)), description=text)

        async def work(stop: asyncio.Event) -> None:
            ended.append(
                await live.excite_live(
                    spec, stop, endpoint=endpoint, historian=historian, plan=plan, go_on=go_on, on_progress=show
                )
            )

        live.run_until_signal(work)
    return ended[0]


def _show_plan(spec: PlantSpec, plan: TestPlan, known: Expected, as_json: bool) -> None:
    """What a test would do: the groups in their order, and how far each CV should travel."""
    rows = [
        {
            "order": number, "mv": test.mv, "step": test.step, "unit": spec.tag(test.mv).unit, "hold_s": test.hold_s,
            "hold_known": test.known, "levels": list(test.levels),
            "travel": {cv.name: known.travel.get((test.mv, cv.name)) for cv in spec.measured},
        }
        for number, group in enumerate(plan.groups, start=1)
        for test in group
    ]  # fmt: skip
    if as_json:
        out.print_json(
            json.dumps({"form": plan.form, "duration_s": plan.duration_s, "travel_from": known.source, "tests": rows})
        )
        return
    table = Table("order", "MV", "around where it stands", "held about", "expected travel of CVs", title_justify="left")
    table.title = (
        f"{plan.form}, {plan.duration_s / 3600:.2g} plant hours after probing how soon the plant turns round; travel by"
        f" {known.source}"
    )
    for row in rows:
        step = f"levels {row['levels']}" if row["levels"] else f"± {row['step']:.4g} {row['unit']}"
        held = f"{row['hold_s']:.4g} s" + ("" if row["hold_known"] else " (a guess)")
        travel = ", ".join(
            f"{tag} {'unknown' if v is None else f'± {v:.3g} {spec.tag(tag).unit}'}" for tag, v in row["travel"].items()
        )
        table.add_row(str(row["order"]), row["mv"], escape(step), held, escape(travel))
    out.print(table)
    for g in spec.guardrails:
        unit = spec.tag(g.tag).unit
        out.print(
            f"turns back where {g.tag} heads for {spec.test_limit(g):.4g} {unit} ({g.name}: {g.limit:.4g} {unit})"
        )


@app.command(epilog="Example: `homeostat export reactor history/`, then `homeostat train reactor --parquet history/`")
def export(
    plant: PlantName,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="DIR")],
    data_dir: DataDir = _DATA,
) -> None:
    """Write a plant's history into a folder of Parquet files."""
    from historian import Historian
    from historian.parquet import export as write

    spec = _load(plant)
    with Historian(historian_path(data_dir, spec), spec.name, read_only=True) as store:
        count = write(store, folder)
    err.print(f"{count} samples in {folder}", soft_wrap=True)


@app.command(epilog="Example: `homeostat train reactor --out models/reactor`")
def train(
    plant: PlantName,
    data_dir: DataDir = _DATA,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the checkpoint; default: DATA_DIR/PLANT/model.", metavar="DIR"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with `model:` and `training:` sections.", metavar="FILE")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; overrides the configuration.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; overrides the configuration.")] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            help="Train from a folder that `homeostat export` wrote; it may be larger than memory.", metavar="DIR"
        ),
    ] = None,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the merged configuration and stop.")
    ] = False,
) -> None:
    """Train a world model from the historian, calibrate its guardrails, and write a checkpoint with its card and a report."""
    import yaml

    from homeostat.jobs import train_into
    from homeostat.train_config import TrainFile

    spec = _load(plant)
    settings = TrainFile.read(config, steps=steps, seed=seed)
    if show_config:
        typer.echo(yaml.safe_dump(settings.model_dump(), sort_keys=False), nl=False)
        return
    target = checkpoint or data_dir / spec.name / "model"
    if train_into(spec, parquet or historian_path(data_dir, spec), target, settings, stream=parquet is not None):
        raise typer.Exit(1)


@app.command(epilog="Example: `homeostat control reactor --mode advisory`")
def control(
    plant: PlantName,
    mode: Annotated[
        str, typer.Option(help="off, advisory or auto; AUTO is entered once its conditions are met.")
    ] = "advisory",
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; default: trained, else shipped.")] = None,
    config: Config = None,
    endpoint: Endpoint = None,
    data_dir: DataDir = _DATA,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the merged configuration and stop.")
    ] = False,
) -> None:
    """Close the loop over OPC UA: plan, supervise, write; and serve the controller's own nodes."""
    import torch
    import yaml

    from controllers.contracts import Mode
    from controllers.runtime.config import config_for
    from homeostat import live
    from homeostat.checkpoints import load_checkpoint, watch_of
    from homeostat.chosen import controller_of, doubts_about, needs_model

    spec = _load(plant)
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
    nmpc: Annotated[bool, typer.Option("--nmpc", help="A row of NMPC with the simulator's own equations.")] = False,
    target: Annotated[Path | None, typer.Option("--out", help="Folder of the report.", metavar="DIR")] = None,
    data_dir: DataDir = _DATA,
) -> None:
    """Controllers beside each other on the simulator: the same plants, disturbances, noise and targets for each."""
    import torch

    from homeostat import evaluate as evaluation
    from homeostat.checkpoints import load_checkpoint

    spec = _load(plant)
    torch.set_num_threads(1)
    folder = target or data_dir / spec.name / "evaluation"
    with err.status("evaluating") as status:
        text = evaluation.run(
            spec, load_checkpoint(spec, checkpoint, data_dir), folder, configs=config or [], scenario=scenario,
            tier=tier, runs=runs, seeds=seeds, first_seed=seed, noise=noise, preview=preview, nmpc=nmpc, progress=status.update,
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
    data_dir: DataDir = _DATA,
) -> None:
    """Serve the operator page."""
    from dashboard.launch import command, page_url

    spec = _load(plant)
    err.print(f"operator page: {page_url(port, host)}")
    argv = command(port, host, plant, historian_path(data_dir, spec), controller, endpoint)
    try:
        raise typer.Exit(subprocess.run(argv, check=False).returncode)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command(epilog="Example: `homeostat status reactor --json`")
def status(
    plant: PlantName, controller: ControllerUrl = CONTROLLER_ENDPOINT, data_dir: DataDir = _DATA, as_json: Json = False
) -> None:
    """Mode, sample age, margins, solve time and historian size of a running controller."""
    from homeostat.status import read_status

    spec = _load(plant)
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
    data_dir: DataDir = _DATA,
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
    spec = _load(plant)
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


def main() -> None:
    """Entry point: errors made on purpose are one line; anything else too, unless --debug."""
    try:
        code = app(standalone_mode=False)  # an exit status given by `typer.Exit` comes back as the result
    except typer.Abort:
        code = 130
    except HomeostatError as e:
        if os.environ.get("HOMEOSTAT_DEBUG"):
            raise
        code = say_error(str(e))
    except KeyboardInterrupt:
        code = 130
    except Exception as e:
        if hasattr(e, "format_message"):  # click's own usage errors; without a word where the help was the answer
            code = 2
            if message := e.format_message().rstrip("."):  # type: ignore[attr-defined]
                say_error(f"{message}. See --help.")
        elif os.environ.get("HOMEOSTAT_DEBUG"):
            raise
        else:
            code = say_error(f"{type(e).__name__}: {e}. Run again with --debug.", "internal error")
    sys.exit(code if isinstance(code, int) else 0)


def say_error(message: str, what: str = "error") -> int:
    """An error as one line on stderr; returns the exit status that goes with it."""
    line = escape(" ".join(message.split()))  # a message may hold [brackets], which are no markup
    err.print(f"[bold red]{what}[/bold red]: {line}", soft_wrap=True, highlight=False)
    return 1
