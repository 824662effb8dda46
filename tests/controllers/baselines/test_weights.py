"""An identified model comes back from its folder as it was, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from controllers.baselines.linear_mpc import LinearMpc
from controllers.baselines.weights import load_linear, save_linear
from models.rivals.contract import Forecaster
from models.rivals.persistence import Persistence
from models.windows import Scale
from plant.errors import ModelError
from plant.spec import PlantSpec, load_spec


def test_comes_back_as_it_was(arx: Forecaster, bare: PlantSpec, tmp_path: Path, asked):
    save_linear(tmp_path / "m", arx)
    question = asked(bare, [0.86, 325.0], [299.0], 0.88)
    plans = [LinearMpc(m).decide(*question).plan for m in (arx, load_linear(tmp_path / "m", bare))]
    np.testing.assert_array_equal(plans[0], plans[1])


def test_refuses_what_is_not_its_own(arx: Forecaster, bare: PlantSpec, tmp_path: Path):
    with pytest.raises(ModelError, match="no arx or subspace here"):
        load_linear(tmp_path, bare)
    scale = Scale(np.ones(4), np.ones(4))
    with pytest.raises(ModelError, match="not linear"):
        save_linear(tmp_path, Persistence(bare, arx.config, scale))
    save_linear(tmp_path, arx)
    with pytest.raises(ModelError, match="another plant"):
        load_linear(tmp_path, load_spec("reactor"))


@pytest.mark.parametrize("damage", ["cut", "nan", "shape"])
def test_refuses_damage(arx: Forecaster, bare: PlantSpec, tmp_path: Path, damage: str):
    save_linear(tmp_path, arx)
    file = tmp_path / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    else:
        tensors = load_file(file)
        tensors["theta"] = tensors["theta"] * torch.nan if damage == "nan" else tensors["theta"][1:].contiguous()
        save_file(tensors, file)
    with pytest.raises(ModelError, match=r"damaged|not finite"):
        load_linear(tmp_path, bare)
