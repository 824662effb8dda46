"""The import table: a package imports only the packages above it. Read from the source, so that nothing has to run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "plant": set(),
    "simulators": {"plant"},
    "historian": {"plant"},
    "models": {"plant", "historian"},
    "controllers": {"plant", "simulators", "historian", "models"},
    "dashboard": {"plant", "historian"},
    "homeostat": {"plant", "simulators", "historian", "models", "controllers", "dashboard"},
}
OURS = {*ALLOWED, "tests", "benchmarks"}
RUNTIME = "controllers.runtime"
NOT_IN_RUNTIME = ("simulators", "controllers.evaluation")


@dataclass(frozen=True)
class Import:
    """One import of one of our modules: where it stands and the dotted name it asks for."""

    module: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def sources(root: Path) -> Iterator[tuple[str, bool, ast.Module]]:
    """Every module of our packages below `root`: dotted name, whether it is a package, its syntax tree."""
    for package in ALLOWED:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            yield name, is_package, ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(root: Path) -> list[Import]:
    """Every import of our own code below `root`, wherever in a module it stands."""
    found = []
    for module, is_package, tree in sources(root):
        for node in ast.walk(tree):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    here = module.split(".")
                    here = here[: len(here) - node.level + is_package]
                    base = ".".join([*here, *([base] if base else [])])
                targets = [f"{base}.{a.name}" for a in node.names]
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                    targets = [node.args[0].value]
            found += [Import(module, node.lineno, t) for t in targets if t.split(".")[0] in OURS]  # type: ignore[attr-defined]
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def violations(root: Path) -> list[str]:
    """Every import that the table forbids, in words."""
    wrong = []
    for found in imports(root):
        package, target = found.module.split(".")[0], found.target.split(".")[0]
        forbidden = target != package and target not in ALLOWED[package]
        if within(found.module, RUNTIME) and any(within(found.target, p) for p in NOT_IN_RUNTIME):
            forbidden = True
        if forbidden:
            wrong.append(str(found))
    return wrong


def test_packages_import_only_what_the_table_allows() -> None:
    assert violations(ROOT) == []


def test_runtime_does_not_reach_simulators_through_others() -> None:
    """What runs a real plant loads no simulator, not even through a module in between."""
    edges: dict[str, set[str]] = {name: set() for name, _, _ in sources(ROOT)}
    for found in imports(ROOT):
        target = found.target
        while target and target not in edges:
            target = target.rpartition(".")[0]
        if target:
            edges[found.module].add(target)
    reached, todo = set(), [m for m in edges if within(m, RUNTIME)]
    assert todo
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo += edges[module]
    assert sorted(m for m in reached if any(within(m, p) for p in NOT_IN_RUNTIME)) == []


def test_every_package_is_looked_at() -> None:
    seen = {name.split(".")[0] for name, _, _ in sources(ROOT)}
    assert seen == set(ALLOWED)
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    assert folders == set(ALLOWED), "a new top-level package needs a row in the table"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("plant/a.py", "from simulators.plant import SimulatedPlant"),
        ("simulators/a.py", "import historian"),
        ("historian/deep/a.py", "from models.windows import Run"),
        ("models/a.py", "import controllers.contracts as c"),
        ("controllers/a.py", "from dashboard import app"),
        ("controllers/runtime/a.py", "from simulators import plant"),
        ("controllers/runtime/a.py", "from controllers import evaluation"),
        ("controllers/runtime/a.py", "from ..evaluation import closed_loop"),
        ("controllers/runtime/__init__.py", "from ..evaluation.reactor import tracking"),
        ("dashboard/a.py", "def f():\n    from models import config"),
        ("dashboard/a.py", "if 0:\n    import controllers.runtime.state"),
        ("models/a.py", "from homeostat import recording"),
        ("homeostat/a.py", "import benchmarks.reactor"),
        ("homeostat/a.py", "from tests import anything"),
        ("plant/a.py", "import importlib\nimportlib.import_module('models.config')"),
    ],
)
def test_checker_finds_a_violation(tmp_path: Path, path: str, line: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("plant/a.py", "import yaml\nfrom plant.spec import Role"),
        ("controllers/a.py", "from simulators.plant import SimulatedPlant\nfrom models import windows"),
        ("controllers/evaluation/a.py", "from . import closed_loop"),
        ("controllers/runtime/a.py", "from . import state\nfrom ..planning import mpc"),
        ("controllers/runtime/a.py", "import simulators_of_others"),
        ("homeostat/a.py", "import controllers, dashboard, models"),
    ],
)
def test_checker_lets_the_rest_pass(tmp_path: Path, path: str, line: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    assert violations(tmp_path) == []
