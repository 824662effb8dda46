"""Homeostat: run a plant by a learned world model. The names a plug-in needs, loaded when they are first used."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "PlantSpec": "plant.spec",
    "load_spec": "plant.spec",
    "Link": "plant.link",
    "Process": "plant.process",
    "HomeostatError": "plant.errors",
    "Simulator": "simulators.contract",
    "Names": "simulators.contract",
    "Scenario": "simulators.scenario",
    "load_scenario": "simulators.scenario",
    "SimulatedPlant": "simulators.plant",
    "Historian": "historian",
    "WorldModel": "models.world_model",
    "load_checkpoint": "homeostat.checkpoints",
    "Controller": "controllers.contracts",
    "Decision": "controllers.contracts",
    "JepaMpc": "controllers.planning.mpc",
    "GuardrailFilter": "controllers.planning.guardrail_filter",
}

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'homeostat' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*_PUBLIC, "__version__"]
