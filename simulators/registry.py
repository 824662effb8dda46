"""Which simulators there are: those that come with Homeostat, and those other packages bring by an entry point."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from plant.errors import SpecError
from plant.spec import PlantSpec
from simulators.contract import Simulator

GROUP = "homeostat.simulators"
_BUILT_IN = {
    "reactor": "simulators.reactor:DressedReactor",
    "reactor_bare": "simulators.reactor:BareReactor",
    "vandevusse": "simulators.vandevusse:VanDeVusse",
    "turbofan": "simulators.turbofan:Turbofan",
    "glucose": "simulators.glucose:Glucose",
}


def simulators() -> list[str]:
    """The names a plant's `simulator:` may give."""
    return [*_BUILT_IN, *sorted(e.name for e in entry_points(group=GROUP) if e.name not in _BUILT_IN)]


def simulator_of(spec: PlantSpec) -> Simulator:
    """The simulator a spec names; `SpecError` when it names none, one that does not exist, or one that cannot be used."""
    where = f"plant {spec.name}: simulator"
    known = f"Known simulators: {', '.join(simulators())}."
    if spec.simulator in _BUILT_IN:
        module, name = _BUILT_IN[spec.simulator].split(":")
        return getattr(import_module(module), name)()
    found = [e for e in entry_points(group=GROUP) if e.name == spec.simulator]
    if not found:
        raise SpecError(f"{spec.simulator!r} is not a simulator", where, known)
    if len(found) > 1:
        raise SpecError(f"{spec.simulator!r} is brought by {len(found)} packages", where, "Uninstall all but one.")
    try:
        made = found[0].load()()
    except Exception as e:  # whatever a plug-in raises is its own fault, and is said so
        raise SpecError(
            f"{found[0].value} cannot be loaded: {type(e).__name__}: {e}", where, "Mend the plug-in."
        ) from e
    if not isinstance(made, Simulator):
        raise SpecError(
            f"{found[0].value} makes no Simulator", where, "Its class must derive from homeostat.Simulator."
        )
    return made
