"""The plants of the site: two that come with Homeostat, and the column and the tanks that come with this benchmark as plug-ins."""

from __future__ import annotations

from pathlib import Path

from benchmarks.plug_in import plug_in
from controllers.runtime.config import ControllerConfig, load_config
from plant.spec import PlantSpec, Test, load_spec
from simulators.scenario import Scenario, load_scenario

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


# Step tests that operations would allow on the two plants that say nothing of their own: the MV's unit to each side, seconds held.
_TESTS = {
    "reactor": {"TC101": Test(step=2.0, hold_s=300.0)},
    "vandevusse": {"F": Test(step=3.0, hold_s=240.0), "Qdot": Test(step=400.0, hold_s=240.0)},
}


def site_plant(name: str, folder: Path) -> PlantSpec:
    """A plant of the benchmark by name. `folder` takes the metadata that make the plug-ins known."""
    plug_in(folder / "plug_in", "site-plants", _SIMULATORS)
    spec, tests = load_spec(PLANTS[name]), _TESTS.get(name, {})
    tags = (
        t.model_copy(update={"move": t.move.model_copy(update={"test": tests[t.name]})})
        if t.move and t.name in tests
        else t
        for t in spec.tags
    )
    return spec.model_copy(update={"tags": tuple(tags)}) if tests else spec


def history_scenario(name: str, spec: PlantSpec) -> Scenario:
    """What a plant lives through while it is recorded."""
    path = _HERE / "histories" / f"{name}.yaml"
    return load_scenario(path if path.exists() else "history", spec)


def controller_config(name: str) -> ControllerConfig:
    """How AUTO is run on a plant: the YAML that comes with it, else every default."""
    plant = PLANTS[name]
    beside = plant.with_name("controller.yaml") if isinstance(plant, Path) else None
    return load_config(beside) if beside is not None else ControllerConfig()
