"""Checkpoints: `config.json` + `model.safetensors` + `card.md`. Nothing in them is executed when they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.calibration import Calibration
from models.config import ModelConfig
from models.plant_surprise import PlantSurprise
from models.windows import Scale
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

_SURPRISE = "surprise."


@dataclass(frozen=True)
class Checkpoint:
    """A trained, calibrated model. `facts` holds what the card says: data, training, diagnostics. `surprise` is None
    for one that was trained before there was any."""

    model: WorldModel
    calibration: Calibration
    facts: dict[str, Any]
    surprise: PlantSurprise | None = None


def signature(spec: PlantSpec) -> dict[str, Any]:
    """What a model is bound to: the tags it reads, in order, with units, the sample time and the guardrails."""
    bound = {
        "plant": spec.name,
        "sample_time_s": spec.sample_time_s,
        "measured": [[t.name, t.unit] for t in spec.measured],
        "dvs": [[t.name, t.unit] for t in spec.dvs],
        "mvs": [[t.name, t.unit] for t in spec.mvs],
        "guardrails": [[g.name, g.tag, g.sign, g.limit] for g in spec.guardrails],
    }
    if spec.constants:
        bound["constants"] = [[t.name, t.unit] for t in spec.constants]
    return bound


def save(
    folder: Path, model: WorldModel, calibration: Calibration, facts: dict[str, Any], card: str,
    surprise: PlantSurprise | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint; the folder is made. A reader never sees half of one: the config is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    tensors["calibration.margins"] = calibration.margins.float().contiguous()
    arrays, numbers = surprise.state() if surprise is not None else ({}, None)
    tensors |= {f"{_SURPRISE}{name}": torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "card.md").write_text(card, encoding="utf-8")
    config = {
        "signature": signature(model.spec),
        "model": model.config.model_dump(),
        "calibration": {"level": calibration.level, "runs": calibration.runs},
        "facts": facts,
        "surprise": numbers,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, spec: PlantSpec) -> Checkpoint:
    """Read a checkpoint for `spec`. Raises `ModelError` when it is missing, damaged, or was trained on another plant."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        stored, shape, facts = dict(config["signature"]), ModelConfig(**config["model"]), dict(config["facts"])
        calibration = _calibration(config["calibration"], tensors)
        surprise = _surprise(config.get("surprise"), tensors)
    except FileNotFoundError as e:
        raise ModelError(
            "no checkpoint here", str(folder), f"Train one: homeostat train {spec.name} --out {folder}"
        ) from e
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as e:
        what = " ".join(f"the checkpoint is damaged: {type(e).__name__} {e}".split())
        raise ModelError(what, str(folder), "Train it again.") from e
    wanted = signature(spec)
    if different := [k for k in {**wanted, **stored} if wanted.get(k) != stored.get(k)]:
        what = "; ".join(f"{k}: trained on {stored.get(k)}, the plant has {wanted.get(k)}" for k in different)
        raise ModelError(
            f"the checkpoint belongs to another plant ({what})", str(folder), f"Train one for {spec.name}."
        )
    unit = torch.ones(len(tensors.get("channel_mean", torch.ones(1))))
    model = WorldModel(spec, shape, Scale(unit.numpy(), unit.numpy()))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        raise ModelError(f"the weights do not fit: {str(e).splitlines()[0]}", str(folder), "Train it again.") from e
    if not all(bool(torch.isfinite(t).all()) for t in (*tensors.values(), calibration.margins)):
        raise ModelError("the weights or the margins are not finite", str(folder), "Train it again.")
    constraints = len(spec.guardrails) + sum(g.fallback_tag is not None for g in spec.guardrails)
    if calibration.margins.shape != (shape.horizon, constraints):
        raise ModelError(
            f"margins of shape {tuple(calibration.margins.shape)} do not fit {shape.horizon} steps of {constraints} limits",
            str(folder),
            "Train it again.",
        )
    return Checkpoint(model.eval(), calibration, facts, surprise)


def _calibration(numbers: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Calibration:
    """The calibration out of a checkpoint; takes its tensors away from the weights."""
    return Calibration(tensors.pop("calibration.margins"), float(numbers["level"]), int(numbers["runs"]))


def _surprise(numbers: dict[str, Any] | None, tensors: dict[str, torch.Tensor]) -> PlantSurprise | None:
    """The surprise out of a checkpoint; takes its tensors away from the weights."""
    arrays = {n.removeprefix(_SURPRISE): tensors.pop(n).numpy() for n in list(tensors) if n.startswith(_SURPRISE)}
    return None if numbers is None else PlantSurprise.of_state(arrays, numbers)
