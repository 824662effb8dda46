"""A plug-in as pip would leave it: modules of a few lines, their entry points, and plants that name them."""

from __future__ import annotations

from pathlib import Path

import yaml

PLANT = {
    "name": "mill",
    "description": "One lag",
    "endpoint": "opc.tcp://127.0.0.1:4840/mill",
    "sample_time_s": 10.0,
    "scan_time_s": 2.0,
    "handshake": "simulated",
    "tags": [
        {"name": "Y", "role": "CV", "description": "y", "unit": "%", "range": [0, 100], "nominal": 50, "noise": 0.2,
         "node_id": "ns=2;s=mill.Y"},
        {"name": "U", "role": "MV", "description": "u", "unit": "%", "range": [0, 100], "nominal": 50,
         "node_id": "ns=2;s=mill.U", "move": {"limits": [0, 100], "rate_per_s": 10.0, "safe": 0}},
    ],
    "targets": [{"tag": "Y", "value": 50, "limits": [20, 80], "scale": 10}],
}  # fmt: skip
LAG = """
from homeostat import Names, Simulator

class Lag(Simulator):
    names = Names(x=("y",), u=("U",), d=("w",), p=("k",), y=("Y",))
    time_unit_s, step_s = 1.0, 1.0
    x0, u0, d0, p0 = (50.0,), (50.0,), (0.0,), (1.0,)
    d_range, p_range = {"w": (-10.0, 20.0)}, {"k": (0.5, 1.5)}

    def derivative(self, x, u, d, p, xp):
        return ((p[0] * u[0] + d[0] - x[0]) / 40.0,)

    def outputs(self, x, u, d, p, xp):
        return (x[0],)
"""


def installed(folder: Path, **entry_points: str) -> Path:
    """A folder in which a package with these entry points lies as pip would leave it."""
    info = folder / "plugin-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0.1\n")
    lines = "\n".join(f"{name} = {target}" for name, target in entry_points.items())
    (info / "entry_points.txt").write_text(f"[homeostat.simulators]\n{lines}\n")
    return folder


def plant_file(folder: Path, **changes: object) -> Path:
    """A plant's YAML in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mill.yaml"
    path.write_text(yaml.safe_dump(PLANT | changes))
    return path
