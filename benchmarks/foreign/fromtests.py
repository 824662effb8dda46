"""Constructions that the tests already have, so that they are written once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).parents[2]


def load(path: str) -> ModuleType:
    """A test file as a module; `path` from the root of the repository."""
    name = "benchmarks_" + path.removesuffix(".py").replace("/", "_")
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, _ROOT / path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module
