"""A training run that was killed goes on where it was: everything it needs, in one file that is never half written."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.config import ModelConfig, TrainingConfig
from models.windows import WindowSet

log = logging.getLogger(__name__)


class TrainingState:
    """Keeps a training run in `path` (None: nowhere). What was kept under other settings or data is not used."""

    def __init__(self, path: Path | None, model: ModelConfig, training: TrainingConfig, data: WindowSet) -> None:
        digest = hashlib.sha256(json.dumps([model.model_dump(), training.model_dump()]).encode())
        for tensor in data.contents():
            digest.update(np.ascontiguousarray(tensor.numpy()).view(np.uint8).data if tensor.numel() else b"")
        self._path, self._signature = path, digest.hexdigest()

    def load(self) -> dict[str, Any] | None:
        """What was kept of this very run, or None."""
        if self._path is None or not self._path.exists():
            return None
        try:
            kept = torch.load(self._path, weights_only=True)
        except Exception as e:  # noqa: BLE001  (whatever a torn file makes the reader raise, the answer is the same)
            log.warning("%s cannot be read and is not used: %s", self._path, e)
            return None
        if kept.get("signature") != self._signature:
            log.info("%s is of other settings or data; training starts anew", self._path)
            return None
        log.info("training goes on at step %d of phase %d", kept["step"], kept["phase"] + 1)
        return kept

    def keep(self, phase: int, step: int, parts: dict[str, Any], generators: dict[str, torch.Generator]) -> None:
        """Keep the run after `step` steps of `phase`: `parts` have a state_dict each."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".part")
        random: dict[str, Tensor] = {name: g.get_state() for name, g in generators.items()}
        random["torch"] = torch.get_rng_state()
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save(
            {"signature": self._signature, "phase": phase, "step": step, "random": random, "parts": states}, unfinished
        )
        os.replace(unfinished, self._path)

    def forget(self) -> None:
        """The run is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def restore(kept: dict[str, Any], parts: dict[str, Any], generators: dict[str, torch.Generator]) -> None:
    """Put what was kept back into its parts."""
    for name, part in parts.items():
        part.load_state_dict(kept["parts"][name])
    for name, generator in generators.items():
        generator.set_state(kept["random"][name])
    torch.set_rng_state(kept["random"]["torch"])
