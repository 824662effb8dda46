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
    """The simulator a spec names; `SpecError` when it names none, one that does not exist, one that cannot be used, or one
    whose ticks do not divide the spec's scans."""
    made = _made(spec)
    if made.tick_s is not None:
        ticks = spec.scan_time_s / made.tick_s
        if round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-6 * ticks:
            raise SpecError(
                f"scan_time_s ({spec.scan_time_s:g}) must be a whole number of the tick_s ({made.tick_s:g}) of simulator"
                f" '{spec.simulator}'",
                f"plant {spec.name}: scan_time_s",
                "Lengthen the scan, or shorten the tick.",
            )
    return made


def _made(spec: PlantSpec) -> Simulator:
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
