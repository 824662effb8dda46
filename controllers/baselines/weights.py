"""What a baseline has learned, in a folder: `config.json` + `model.safetensors`. Nothing in it is executed when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.checkpoint import signature
from models.config import ModelConfig
from models.rivals.arx import Arx
from models.rivals.contract import Forecaster
from models.rivals.subspace import Subspace
from models.windows import Scale
from plant.errors import ModelError
from plant.spec import PlantSpec

_LINEAR = {"arx": Arx, "subspace": Subspace}


def write(folder: Path, kind: str, spec: PlantSpec, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write weights; the folder is made. The config is written last: a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    kept = {"kind": kind, "signature": signature(spec), "config": dict(config)}
    (folder / "config.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def read(folder: Path, kinds: tuple[str, ...], spec: PlantSpec) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Kind, config and weights. Raises `ModelError` when they are missing, damaged, of another kind or another plant's."""
    try:
        kept = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        kind, stored, config = str(kept["kind"]), dict(kept["signature"]), dict(kept["config"])
    except FileNotFoundError as e:
        raise ModelError(f"no {' or '.join(kinds)} here", str(folder), "Train one and save it there.") from e
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as e:
        what = " ".join(f"it is damaged: {type(e).__name__} {e}".split())
        raise ModelError(what, str(folder), "Train it again.") from e
    if kind not in kinds:
        raise ModelError(f"it holds a {kind}, not {' or '.join(kinds)}", str(folder), "Give the right folder.")
    if different := [k for k, v in signature(spec).items() if v != stored.get(k)]:
        raise ModelError(f"it was trained on another {', '.join(different)}", str(folder), f"Train it on {spec.name}.")
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise ModelError("its weights are not finite", str(folder), "Train it again.")
    return kind, config, tensors


def save_linear(folder: Path, model: Forecaster) -> None:
    """Write an ARX or subspace model. Raises `ModelError` for another kind."""
    kind = next((k for k, v in _LINEAR.items() if isinstance(model, v)), None)
    if kind is None:
        raise ModelError(f"a {type(model).__name__} is not linear", str(folder), f"Save {' or '.join(_LINEAR)}.")
    write(folder, kind, model.spec, model.config.model_dump(), model.state_dict())


def load_linear(folder: Path, spec: PlantSpec) -> Forecaster:
    """Read what `save_linear` wrote. Raises `ModelError`."""
    kind, config, tensors = read(folder, tuple(_LINEAR), spec)
    try:
        scale = Scale(tensors.pop("channel_mean").numpy(), tensors.pop("channel_std").numpy())
        model = _LINEAR[kind](spec, ModelConfig(**config), scale).double()
        for name, value in tensors.items():
            setattr(model, name, nn.Parameter(value))
        # Whatever is missing or does not fit shows in one prediction.
        blank = torch.zeros(1, model.config.window, len(model.channel_mean))
        model.rollout(blank, torch.zeros(1, 2, len(spec.mvs)), torch.zeros(1, 2, len(spec.dvs)))
    except (AttributeError, KeyError, RuntimeError, ValueError) as e:
        raise ModelError(f"it is damaged: {str(e).splitlines()[0]}", str(folder), "Train it again.") from e
    return model.eval()
