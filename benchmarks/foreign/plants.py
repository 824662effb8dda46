"""The YAML files an integrator writes for the foreign plant: `tanks.yaml`, its other setting, and without a handshake."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import yaml

from plant.spec import PlantSpec, load_spec
from plant.yaml_file import read_yaml

TANKS = Path(__file__).with_name("tanks.yaml")
ALIVE_S = 0.2  # wall seconds between two turns of its alive bit, whatever the speed
MINIMUM, NONMINIMUM = "minimum", "nonminimum"
# Johansson's operating points: levels in cm, flows (pump gain times voltage) in cm3/s.
NOMINAL = {
    MINIMUM: {"LT1": 12.4, "LT2": 12.7, "LT3": 1.8, "LT4": 1.4, "FC1": 9.99, "FC2": 10.05},
    NONMINIMUM: {"LT1": 12.6, "LT2": 13.0, "LT3": 4.8, "LT4": 4.9, "FC1": 9.89, "FC2": 10.36},
}

# Identification moves: cm3/s to each side, seconds held. Where the plant first answers the wrong way it is waited for.
TEST = {MINIMUM: {"step": 0.9, "hold_s": 75.0}, NONMINIMUM: {"step": 0.8, "hold_s": 120.0}}


def write(
    path: Path, setting: str, *, speed: float, bare: bool = False, lease: bool = False, **changes: Any
) -> PlantSpec:
    """Write the plant's YAML to `path` and return it as read. `speed`: plant seconds per wall second, as acceptance rigs
    run. `bare`: the plant has no handshake. `changes` replace keys of the file's top."""
    facts: dict[str, Any] = copy.deepcopy(read_yaml(TANKS))
    for tag in facts["tags"]:
        tag["nominal"] = NOMINAL[setting][tag["name"]]
        if "move" in tag:
            tag["move"]["test"] = TEST[setting]
        if bare and "move" in tag:
            for key in ("write_node", "mode"):
                del tag["move"][key]
    for target in facts["targets"]:
        target["value"] = NOMINAL[setting][target["tag"]]
    if bare:
        facts["handshake"] = {"speed": speed}
    else:
        facts["handshake"]["speed"] = speed
        facts["handshake"]["alive"]["period_s"] = ALIVE_S * speed
        if lease:
            facts["handshake"]["owner"]["form"] = "session"
    facts.update(changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{threading.get_ident()}")  # cases that run side by side write the same file
    part.write_text(yaml.safe_dump(facts, sort_keys=False))
    part.replace(path)
    return load_spec(path)
