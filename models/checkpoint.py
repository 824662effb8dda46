"""Checkpoints: `config.json` + `model.safetensors` + `card.md`, and `manifest.json` with the SHA-256 of each.

Nothing in them is executed when they are read. A folder that is not what its manifest says is refused, and so are numbers
that no training leaves; what may be looked at but not trusted with a plant is told in `Checkpoint.doubts`. Hashes are no
signature (`models.manifest`).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save_file

from models.calibration import Calibration
from models.config import ModelConfig
from models.diagnostics import suspicions
from models.manifest import contents, present_in, seal
from models.plant_surprise import PlantSurprise
from models.windows import Scale
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

FILES = ("config.json", "model.safetensors", "card.md")
REPORT = "report.html"
_SURPRISE = "surprise."
_POSITIVE = ("channel_std", "constant_std", "margin_scale")  # of the weights' tensors
_FURTHEST_LIMIT = 25.0  # logarithm of a residual limit: statistics of clipped errors cannot get so far from their tails


@dataclass(frozen=True)
class Checkpoint:
    """A trained, calibrated model. `facts` holds what the card says: data, training, diagnostics. `surprise` is None
    for one that was trained before there was any.

    `doubts`: why it does not deserve AUTO, a sentence each; such a model may advise and be evaluated. The record of a
    commissioning that was not passed, or is missing, belongs among them."""

    model: WorldModel
    calibration: Calibration
    facts: dict[str, Any]
    surprise: PlantSurprise | None = None
    doubts: tuple[str, ...] = ()


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
    """Write a checkpoint; the folder is made. A reader never sees half of one: the manifest is written last."""
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
    (folder / REPORT).unlink(missing_ok=True)  # of an older one
    seal(folder, FILES)


def needs_room(folder: Path) -> None:
    """Refuse, as a `ModelError`, a folder that cannot be written, or holds anything but a checkpoint: it could not be told from
    an addition."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ModelError(
            f"nothing can be written in {there}", str(folder), "Choose another folder, or its permissions."
        )
    if folder.is_dir() and (strange := sorted(present_in(folder) - {*FILES, REPORT})):
        raise ModelError(
            f"the folder holds {', '.join(strange[:3])}, which is no part of a checkpoint",
            str(folder),
            "Choose a folder for the checkpoint alone.",
        )


def load(folder: Path, spec: PlantSpec) -> Checkpoint:
    """Read a checkpoint for `spec`. Raises `ModelError` when it is missing, damaged or changed since it was written, when it
    holds numbers that no training leaves, or was trained on another plant."""
    try:
        files, sealed = contents(folder, FILES[:2])
        config = json.loads(files["config.json"])
        tensors = tensors_of(files["model.safetensors"])
        stored, shape, facts = dict(config["signature"]), ModelConfig(**config["model"]), dict(config["facts"])
        calibration = _calibration(config["calibration"], tensors)
        surprise = _surprise(config.get("surprise"), tensors)
    except FileNotFoundError as e:
        raise ModelError(
            "no checkpoint here", str(folder), f"Train one: homeostat train {spec.name} --out {folder}"
        ) from e
    except (OSError, KeyError, TypeError, ValueError, IndexError, RecursionError, SafetensorError) as e:
        what = " ".join(f"the checkpoint is damaged: {type(e).__name__} {e}".split())
        raise ModelError(what, str(folder), "Train it again.") from e
    wanted = signature(spec)
    if different := [k for k in {**wanted, **stored} if wanted.get(k) != stored.get(k)]:
        what = "; ".join(f"{k}: trained on {stored.get(k)}, the plant has {wanted.get(k)}" for k in different)
        raise ModelError(
            f"the checkpoint belongs to another plant ({what})", str(folder), f"Train one for {spec.name}."
        )
    if wrong := _misfit(spec, shape, tensors) or _implausible(spec, shape, tensors, calibration, surprise):
        raise ModelError(wrong, str(folder), "Train it again.")
    unit = torch.ones(len(tensors["channel_mean"])).numpy()
    model = WorldModel(spec, shape, Scale(unit, unit))
    model.load_state_dict(tensors)
    doubts = doubts_of(spec, calibration, facts, surprise)
    if not sealed:
        doubts = ("it has no manifest.json: nobody can tell whether its files are as they were written", *doubts)
    return Checkpoint(model.eval(), calibration, facts, surprise, doubts)


def doubts_of(
    spec: PlantSpec, calibration: Calibration, facts: dict[str, Any], surprise: PlantSurprise | None
) -> tuple[str, ...]:
    """Why a model that can be loaded should not move a plant by itself, a sentence each."""
    found = []
    suspect = facts.get("suspect")
    try:
        measured = suspicions({"measured_rank": 1.0, **facts["diagnostics"]})  # older checkpoints did not compare
    except (KeyError, TypeError, ValueError):
        measured, suspect = [], None
    if not isinstance(suspect, list):
        found.append("it does not say how its training went")
    elif both := dict.fromkeys([*map(str, suspect), *measured]):
        found.append(f"its training is suspect: {'; '.join(both)}")
    if spec.guardrails and not calibration.runs:
        found.append("its guardrails were never calibrated")
    elif empty := [g.name for i, g in enumerate(spec.guardrails) if not bool(calibration.margins[:, i].any())]:
        found.append(f"it keeps no margin to {', '.join(empty)}")
    if surprise is None:
        found.append("nothing watches whether the plant follows it: no surprise was calibrated")
    return tuple(found)


def _misfit(spec: PlantSpec, shape: ModelConfig, tensors: dict[str, torch.Tensor]) -> str:
    """Why the weights do not fit the plant and the configuration; '' where they do. Nothing of that size is allocated."""
    channels = np.ones(len(spec.measured) + len(spec.dvs) + len(spec.mvs))
    with torch.device("meta"):
        state = WorldModel(spec, shape, Scale(channels, channels)).state_dict()
    wanted, found = (
        {n: f"{t.dtype} {list(t.shape)}".removeprefix("torch.") for n, t in some.items()} for some in (state, tensors)
    )
    wrong = [n for n in {**wanted, **found} if wanted.get(n) != found.get(n)]
    if not wrong:
        return ""
    name = wrong[0]
    return f"the weights do not fit: {name} is {found.get(name, 'missing')}, expected {wanted.get(name, 'none')}"


def _implausible(
    spec: PlantSpec, shape: ModelConfig, tensors: dict[str, torch.Tensor], calibration: Calibration,
    surprise: PlantSurprise | None,
) -> str:  # fmt: skip
    """What no training leaves, in words; '' where nothing is found."""
    margins = calibration.margins
    if not bool((tensors["z_low"] < tensors["z_high"]).all()):
        return "the latents have no room between z_low and z_high"
    if not all(bool(torch.isfinite(t).all()) for t in (*tensors.values(), margins)):
        return "the weights or the margins are not finite"
    if not_positive := [n for n in _POSITIVE if n in tensors and not bool((tensors[n] > 0).all())]:
        return f"{not_positive[0]} is not positive"
    constraints = len(spec.guardrails) + sum(g.fallback_tag is not None for g in spec.guardrails)
    if margins.shape != (shape.horizon, constraints):
        return f"margins of shape {tuple(margins.shape)} do not fit {shape.horizon} steps of {constraints} limits"
    if bool((margins < 0).any()):
        return f"a margin is below zero ({float(margins.min()):g}): a plan could pass its guardrail by that much"
    if calibration.runs < 0 or (calibration.runs and not 0.0 < calibration.level < 1.0):
        return f"margins of level {calibration.level:g} from {calibration.runs} runs are none"
    if not calibration.runs and (calibration.level or bool(margins.any())):
        return "margins that no run was calibrated on"
    return "" if surprise is None else _implausible_surprise(len(spec.measured), shape, surprise)


def _implausible_surprise(measured: int, shape: ModelConfig, surprise: PlantSurprise) -> str:
    """As `_implausible`, of the surprise of a plant with so many measured tags."""
    residual, density = surprise.limits
    if not (abs(residual) < _FURTHEST_LIMIT and 0.0 < density < math.inf):
        return f"the limits of the surprise are {residual:g} and {density:g}: nothing, or everything, would pass them"
    if not 0.0 < surprise.rate <= 1.0:
        return f"the surprise promises a rate of {surprise.rate:g}"
    steps = surprise.steps
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] > shape.horizon:
        return f"the surprise looks {list(steps)} steps ahead, the horizon is {shape.horizon}"
    if surprise.settle != shape.window + steps[-1]:
        return f"the surprise judges after {surprise.settle} samples, not after {shape.window + steps[-1]}"
    s, errors = surprise.statistics, len(steps) * measured
    means, variances, latent = len(s.config.means), len(s.config.variances), shape.latent
    shapes = {
        "mean_square": (s.mean_square, (errors,)), "mean_roots": (s.mean_roots, (means, errors, errors)),
        "variance_std": (s.variance_std, (variances, errors)), "centre": (s.centre, (means + variances,)),
        "spread": (s.spread, (means + variances,)), "tails": (surprise.tails, (means + variances,)),
        "covariance": (surprise.errors.covariance, (errors, errors)), "latent_mean": (surprise.latents.mean, (latent,)),
        "latent_std": (surprise.latents.std, (latent,)), "latent_matrix": (surprise.latents.matrix, (latent, latent)),
    }  # fmt: skip
    for name, (array, wanted) in shapes.items():
        if array.shape != wanted:
            return f"the surprise's {name} is {array.shape}, expected {wanted}"
        if name in ("mean_square", "variance_std", "spread", "latent_std") and not (array > 0).all():
            return f"the surprise's {name} is not positive"
    return ""


def _calibration(numbers: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Calibration:
    """The calibration out of a checkpoint; takes its tensors away from the weights."""
    return Calibration(tensors.pop("calibration.margins"), float(numbers["level"]), int(numbers["runs"]))


def _surprise(numbers: dict[str, Any] | None, tensors: dict[str, torch.Tensor]) -> PlantSurprise | None:
    """The surprise out of a checkpoint; takes its tensors away from the weights."""
    arrays = {n.removeprefix(_SURPRISE): tensors.pop(n).numpy() for n in list(tensors) if n.startswith(_SURPRISE)}
    return None if numbers is None else PlantSurprise.of_state(arrays, numbers)
