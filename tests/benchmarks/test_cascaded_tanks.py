"""The public record as runs, and a simulation that is told the moves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.site.cascaded_tanks import records, simulated, spec
from models.config import ModelConfig
from models.rivals.latent import LatentForecaster
from models.windows import Scale
from models.world_model import WorldModel


def test_the_voltage_that_acts_until_a_sample_stands_beside_it(tmp_path: Path) -> None:
    rows = "\n".join(f"{i}.0,{10 + i}.0,{20 + i}.0,{30 + i}.0," for i in range(40))
    (tmp_path / "cascaded_tanks.csv").write_text('"uEst","uVal","yEst","yVal","Ts",\n' + rows + "\n")
    runs = records(tmp_path)
    assert np.isnan(runs["Val"].applied[0, 0])
    assert runs["Val"].applied[1:4, 0].tolist() == [10.0, 11.0, 12.0]
    assert runs["Est"].measured[:3, 0].tolist() == [20.0, 21.0, 22.0]
    model = LatentForecaster(WorldModel(spec(), ModelConfig(window=4, latent=4), Scale(np.zeros(2), np.ones(2))).eval())
    told = simulated(model, runs["Val"])
    runs["Val"].measured[4:] = np.nan
    assert told.shape == (36,)
    np.testing.assert_array_equal(simulated(model, runs["Val"]), told)
    assert torch.isfinite(torch.from_numpy(told)).all()
