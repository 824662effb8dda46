"""The plants of the site: two that come with Homeostat, and the column and the tanks that come with this benchmark as plug-ins."""

from __future__ import annotations

from pathlib import Path

from benchmarks.plug_in import plug_in
from plant.spec import PlantSpec, load_spec

_HERE = Path(__file__).parent
_SIMULATORS = {
    "site_column": "benchmarks.site.column.column:ColumnA",
    "site_tanks_minimum": "benchmarks.site.tanks.tanks:MinimumPhase",
    "site_tanks_nonminimum": "benchmarks.site.tanks.tanks:NonminimumPhase",
}
PLANTS: dict[str, str | Path] = {
    "reactor": "reactor",
    "vandevusse": "vandevusse",
    "tanks_minimum": _HERE / "tanks" / "minimum.yaml",
    "tanks_nonminimum": _HERE / "tanks" / "nonminimum.yaml",
    "column": _HERE / "column" / "column.yaml",
}


def site_plant(name: str, folder: Path) -> PlantSpec:
    """A plant of the benchmark by name. `folder` takes the metadata that make the plug-ins known."""
    plug_in(folder / "plug_in", "site-plants", _SIMULATORS)
    return load_spec(PLANTS[name])
