"""`homeostat excite`: what a world model learns from."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from homeostat.commands.common import (
    DATA,
    DataDir,
    Endpoint,
    Json,
    PlantName,
    err,
    historian_path,
    load_plant,
    out,
)
from homeostat.identification import Form
from plant.errors import ControlError
from plant.spec import PlantSpec

if TYPE_CHECKING:  # slow to import
    from homeostat.expected import Expected
    from homeostat.guest import Guest
    from homeostat.identification import TestPlan
    from homeostat.visit import Visit

app = typer.Typer(rich_markup_mode="markdown")


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
    data_dir: DataDir = DATA,
    as_json: Json = False,
) -> None:
    """Identification moves, recorded as what a world model learns from. On a live plant a guest: moves around where the MVs
    stand, watched, and put back."""
    spec = load_plant(plant)
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
