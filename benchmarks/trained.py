"""World models that several benchmarks ask about, trained once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.world_model_data import PlantData, plant_data
from benchmarks.world_model_rows import CORE, Sizes, data_digest, source_digest
from models.config import ModelConfig, TrainingConfig
from models.training import train
from models.windows import channel_scale
from models.world_model import WorldModel

recorded = cache(plant_data)


def trained(
    plant: str,
    seed: int,
    sizes: Sizes = CORE,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    folder: Path = Path(".homeostat/benchmarks/trained"),
) -> tuple[WorldModel, PlantData]:
    """The world model of `plant` from `seed` (the default's settings unless others are given) and the runs it learned from
    and is asked about. Trained on one thread, or read from `folder` when settings, data and code are the same."""
    torch.set_num_threads(1)
    logging.getLogger("simulators").setLevel(logging.ERROR)  # members that end are part of the data
    data = recorded(plant, sizes.runs, sizes.incidents, sizes.asked)
    model, training = model or ModelConfig(), training or TrainingConfig()
    training = training.model_copy(update={"seed": seed} | ({"steps": sizes.steps} if sizes.steps else {}))
    key = json.dumps(
        [plant, asdict(sizes), model.model_dump(), training.model_dump(), source_digest(), data_digest(data)],
        sort_keys=True,
    )
    path = folder / f"{plant}_{seed}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        made = WorldModel(data.spec, model, channel_scale(data.spec, data.training))
        made.load_state_dict(load_file(path))
        return made.eval(), data
    made = train(data.spec, data.training, data.validation, model, training)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({n: t.contiguous() for n, t in made.state_dict().items()}, part)
    part.replace(path)
    return made, data
