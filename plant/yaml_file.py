"""YAML files read strictly, and what is wrong with them said in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from plant.errors import SpecError

M = TypeVar("M", bound=BaseModel)


def validate_yaml(model: type[M], path: Path, hint: str = "") -> M:
    """Read and validate a YAML file as `model`; `SpecError` names the file, the field and what was expected."""
    try:
        return model.model_validate(read_yaml(path, hint))
    except ValidationError as e:
        raise SpecError(describe(e), str(path), "Correct the file; unknown keys are errors.") from e


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: each field's path, what was expected, what was found."""
    lines = []
    for e in error.errors():
        where = ".".join(str(p) for p in e["loc"]) or "file"
        message = e["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]  # no class of ours
        if e["type"] == "extra_forbidden":
            message = "unknown key"
        found = e.get("input")
        shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) else ""
        lines.append(f"{where}: {message}{shown}")
    return "; ".join(lines)


class _OneOfEach(yaml.SafeLoader):
    """A safe loader that refuses a key given twice: YAML keeps the last in silence, and a guardrail would be gone. Keys are
    text: YAML 1.1 would read `on` and `off` as truth values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, hint: str = "") -> Any:
    """The parsed YAML of a file; `SpecError` when it is missing, unreadable or not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _OneOfEach)
    except FileNotFoundError:
        raise SpecError("no such file", str(path), f"Check the path. {hint}".strip()) from None
    except (OSError, UnicodeDecodeError) as e:
        raise SpecError(f"cannot be read: {e}", str(path), "Check its permissions and encoding (UTF-8).") from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise SpecError(f"not valid YAML: {getattr(e, 'problem', e)}", place, "Fix that line.") from e
