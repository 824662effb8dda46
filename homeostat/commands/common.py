"""What every subcommand of `homeostat` shares: the consoles, and the arguments that recur."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from plant.errors import SpecError
from plant.spec import PlantSpec, load_spec

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

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
DATA = Path(".homeostat")


def historian_path(data_dir: Path, spec: PlantSpec) -> Path:
    """Where a plant's history is kept."""
    return data_dir / spec.name / "historian.db"


def load_plant(plant: str) -> PlantSpec:
    """The plant's spec; what it, or its simulator, must always be seen with goes to stderr."""
    spec = load_spec(plant)
    if disclaimer := disclaimer_of(spec):
        err.print(f"[bold]{escape(disclaimer)}[/bold]", soft_wrap=True)
    return spec


def disclaimer_of(spec: PlantSpec) -> str:
    """What the plant, or its simulator, must always be seen with; nothing of a simulator that is not installed here: a plant is
    watched and controlled without it."""
    from simulators.registry import simulator_of

    if not spec.disclaimer and spec.simulator:
        with contextlib.suppress(SpecError):
            return simulator_of(spec).disclaimer
    return spec.disclaimer
