"""Comparison environments: peers with old pins live in virtual environments of their own, made once through pip."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from plant.errors import SpecError


def environment(name: str, requirements: list[str]) -> Path:
    """The Python of an environment that holds `requirements`, from the user's cache or made now (minutes, the first time).

    Raises `SpecError` with pip's own last words when it cannot be made; nothing half made is kept.
    """
    key = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "homeostat" / "peers" / f"{name}-{key}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        print(f"making the comparison environment {name}: {', '.join(requirements)}", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], name)
        _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements], name)
        ready.touch()
    return python


def run_peer(name: str, requirements: list[str], script: str, *arguments: object) -> None:
    """Run `benchmarks/peers/<script>` in the environment of a peer. Raises `SpecError` with its last words."""
    path = Path(__file__).parent / script
    _run([str(environment(name, requirements)), str(path), *map(str, arguments)], name)


def _run(command: list[str], name: str) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise SpecError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {said[-1] if said else done.returncode}",
            f"comparison environment {name}", "Check the network, or leave the peers out with --no-peers.",
        )  # fmt: skip
