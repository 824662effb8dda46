"""`homeostat export` and `train`: from a history to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homeostat.commands.common import DATA, DataDir, PlantName, err, historian_path, load_plant

app = typer.Typer(rich_markup_mode="markdown")


@app.command(epilog="Example: `homeostat export reactor history/`, then `homeostat train reactor --parquet history/`")
def export(
    plant: PlantName,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="DIR")],
    data_dir: DataDir = DATA,
) -> None:
    """Write a plant's history into a folder of Parquet files."""
    from historian import Historian
    from historian.parquet import export as write

    spec = load_plant(plant)
    with Historian(historian_path(data_dir, spec), spec.name, read_only=True) as store:
        count = write(store, folder)
    err.print(f"{count} samples in {folder}", soft_wrap=True)


@app.command(epilog="Example: `homeostat train reactor --out models/reactor`")
def train(
    plant: PlantName,
    data_dir: DataDir = DATA,
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
    compare: Annotated[bool, typer.Option("--compare", help="Print the errors of every model that was tried.")] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the merged configuration and stop.")
    ] = False,
) -> None:
    """Train models of several kinds from the historian and keep the one that errs least on held-out time; calibrate its
    guardrails, and write a checkpoint with its card and a report."""
    import yaml

    from homeostat.jobs import train_into
    from homeostat.train_config import TrainFile

    spec = load_plant(plant)
    settings = TrainFile.read(config, steps=steps, seed=seed)
    if show_config:
        typer.echo(yaml.safe_dump(settings.model_dump(), sort_keys=False), nl=False)
        return
    target = checkpoint or data_dir / spec.name / "model"
    if train_into(spec, parquet or historian_path(data_dir, spec), target, settings, parquet is not None, compare):
        raise typer.Exit(1)
