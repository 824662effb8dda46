"""From excitation to a checkpoint, for every kind of guardrail a plant can have: hidden, a minimum, labelled by hours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from historian import Historian
from homeostat import training
from homeostat.recording import excite_lockstep
from models.checkpoint import load
from models.config import ModelConfig, TrainingConfig
from models.dataset import load_runs
from plant.spec import load_spec
from simulators.scenario import Scenario, load_scenario


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["turbofan", "glucose"])
def test_a_short_training_leaves_a_checkpoint_that_loads(
    plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loops of the planner itself are few and last an hour of the glucose plant, a second of the engine."""
    torch.set_num_threads(1)

    def brief(name: str, spec) -> Scenario:
        return load_scenario(name, spec).model_copy(update={"duration_s": 12 * spec.sample_time_s})

    monkeypatch.setattr(training, "_EXECUTED_RUNS", (3, 3))
    monkeypatch.setattr(training, "load_scenario", brief)
    spec = load_spec(plant)
    with Historian(tmp_path / "historian.db", spec.name) as store:
        excite_lockstep(spec, store, 1_750_000_000.0, runs=12, incidents=0)
        runs = load_runs(store, spec)
        whole = load_scenario("excitation", spec).samples(spec)
        assert [len(r) for r in runs].count(whole) >= 11, "no run is cut in two, and hardly any ended"
        trained = training.train_plant(
            spec, store, tmp_path / "model", "test", ModelConfig(horizon=5), TrainingConfig(steps=30, batch=64)
        )
    assert trained is not None
    checkpoint = load(tmp_path / "model", spec)
    labelled = sum(g.fallback_tag is not None for g in spec.guardrails)
    assert labelled == (3 if plant == "turbofan" else 1)
    margins = checkpoint.calibration.margins
    assert margins.shape == (5, len(spec.guardrails) + labelled)
    assert torch.isfinite(margins).all()
    assert (margins > 0).any()
    assert sum(f.stat().st_size for f in (tmp_path / "model").glob("*.*") if f.suffix != ".html") < 1_000_000
