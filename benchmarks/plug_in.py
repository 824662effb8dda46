"""Simulators of a benchmark's own, made known in this process as an installed package would make them known."""

from __future__ import annotations

import sys
from pathlib import Path


def plug_in(folder: Path, package: str, simulators: dict[str, str], *paths: Path) -> None:
    """`simulators` (name -> module:class) become what a plant's `simulator:` may name. `folder` takes the package's metadata;
    `paths` are what its modules are imported from beside the usual."""
    info = folder / f"{package.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    lines = "".join(f"{name} = {target}\n" for name, target in simulators.items())
    (info / "entry_points.txt").write_text(f"[homeostat.simulators]\n{lines}")
    for path in map(str, (folder, *paths)):
        if path not in sys.path:
            sys.path.insert(0, path)
