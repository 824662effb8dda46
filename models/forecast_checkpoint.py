"""A glucose forecast kept in a folder: `config.json`, `model.safetensors`, `card.md`, and the manifest that vouches for them.

Research and education only; not a medical device; not for dosing anyone; never connected to a pump or CGM.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save_file

from models.glucose_forecast import GlucoseConfig, GlucoseForecast
from models.manifest import MANIFEST, contents, seal
from plant.errors import ModelError

KIND = "glucose forecast"
FILES = ("config.json", "model.safetensors", "card.md")


@dataclass(frozen=True)
class ForecastCheckpoint:
    """A trained forecast; `facts` as its card has them; `doubts` why it does not deserve AUTO, a sentence each."""

    model: GlucoseForecast
    facts: dict[str, Any]
    doubts: tuple[str, ...] = ()


def save(folder: Path, model: GlucoseForecast, facts: dict[str, Any], card: str) -> None:
    """Write a forecast; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, folder / FILES[1])
    (folder / "card.md").write_text(card, encoding="utf-8")
    config = {"kind": KIND, "model": model.config.model_dump(), "facts": facts}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    seal(folder, FILES)


def load(folder: Path) -> ForecastCheckpoint:
    """Read a forecast. Raises `ModelError` when it is missing, damaged or changed since it was written, or no forecast."""
    try:
        files, sealed = contents(folder, FILES[:2])
        config = json.loads(files["config.json"])
        if config["kind"] != KIND:
            raise ModelError(f"a {config['kind']}, not a {KIND}", str(folder), "Name a forecast's folder.")
        model = GlucoseForecast(GlucoseConfig(**config["model"]))
        tensors, facts = tensors_of(files["model.safetensors"]), dict(config["facts"])
        model.load_state_dict(tensors)
    except FileNotFoundError as e:
        raise ModelError("no forecast here", str(folder), "Name its folder, or one that comes with Homeostat.") from e
    except (OSError, KeyError, TypeError, ValueError, RecursionError, RuntimeError, SafetensorError) as e:
        what = " ".join(f"the forecast is damaged: {type(e).__name__} {e}".split())
        raise ModelError(what[:300], str(folder), "Put back the folder as it was written, or train again.") from e
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise ModelError("the weights are not finite", str(folder), "Train it again.")
    doubts = () if sealed else (f"no {MANIFEST} vouches for its files",)
    return ForecastCheckpoint(model.eval(), facts, doubts)
