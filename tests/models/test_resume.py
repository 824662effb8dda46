"""Killed at any step, a training run ends as if nothing had happened."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import models.training as training
from models.training import train
from models.windows import Run
from plant.spec import PlantSpec

from .conftest import QUICK, TINY

ROOT = Path(__file__).parents[2]
BRIEF = QUICK.model_copy(update={"steps": 24, "batch": 32})


class Killed(Exception):
    pass


def weights(model) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize(
    ("order", "anti_collapse", "at"), [("joint", "sigreg", 17), ("decoupled", "ema", 9), ("decoupled", "vicreg", 21)]
)
def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    order: str, anti_collapse: str, at: int, spec: PlantSpec, recorded: list[Run], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(training, "_KEEP_EVERY", 4)
    config = BRIEF.model_copy(update={"order": order, "anti_collapse": anti_collapse})
    whole = weights(train(spec, recorded, recorded[:4], TINY, config))
    count, real = 0, training.WindowSet.draw

    def draw(self, batch: int, *rest):
        nonlocal count
        count += batch == config.batch
        if count == at:
            raise Killed
        return real(self, batch, *rest)

    state = tmp_path / "training.state"
    monkeypatch.setattr(training.WindowSet, "draw", draw)
    with pytest.raises(Killed):
        train(spec, recorded, recorded[:4], TINY, config, state=state)
    assert state.exists()
    resumed = weights(train(spec, recorded, recorded[:4], TINY, config, state=state))
    assert count < at + 24, "it did not start anew"
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)
    assert not state.exists(), "what is over is forgotten"


def test_a_state_of_other_settings_or_none_at_all_is_not_used(
    spec: PlantSpec, recorded: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(training, "_KEEP_EVERY", 4)
    state = tmp_path / "training.state"
    kept = training.TrainingState.forget
    monkeypatch.setattr(training.TrainingState, "forget", lambda self: None)
    train(spec, recorded, recorded[:4], TINY, BRIEF, state=state)
    assert state.exists()
    monkeypatch.setattr(training.TrainingState, "forget", kept)
    other = BRIEF.model_copy(update={"seed": 5})
    fresh = weights(train(spec, recorded, recorded[:4], TINY, other))
    with caplog.at_level(logging.INFO):
        again = weights(train(spec, recorded, recorded[:4], TINY, other, state=state))
    assert "other settings or data" in caplog.text
    assert all(torch.equal(fresh[n], again[n]) for n in fresh)
    state.write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        torn = weights(train(spec, recorded, recorded[:4], TINY, other, state=state))
    assert "cannot be read" in caplog.text
    assert all(torch.equal(fresh[n], torn[n]) for n in fresh)


_SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
import models.training as training
from homeostat.lockstep import excitation_run, split
from models.config import ModelConfig, TrainingConfig
from models.windows import Run
from plant.spec import load_spec
import numpy as np
training._KEEP_EVERY = 10
spec = load_spec("reactor_bare")
runs = []
for v in split(excitation_run(spec, 12, 40, seed=1)):
    parts = [np.stack([v[t.name] for t in tags], 1) for tags in (spec.measured, spec.dvs, spec.mvs)]
    runs.append(Run("excitation", 0.0, *parts, np.stack([v[g.fallback_tag] for g in spec.guardrails if g.fallback_tag] * len(spec.guardrails), 1)))
config = ModelConfig(window=4, latent=8, encoder_width=32, predictor_width=32, head_width=16, horizon=6)
model = training.train(spec, runs, runs[:3], config, TrainingConfig(steps=120, batch=32, sigreg_slices=16, spread_samples=128),
    lambda step, steps, terms: print(step, flush=True), Path(sys.argv[1]))
save_file({n: t.contiguous() for n, t in model.state_dict().items()}, sys.argv[2])
"""


@pytest.mark.slow
def test_sigkill_and_again(tmp_path: Path) -> None:
    """A real process, really killed; the next one ends with the weights of one that was left alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(state: str, out: str) -> subprocess.Popen:
        argv = [sys.executable, "-c", _SCRIPT, str(tmp_path / state), str(tmp_path / out)]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)

    assert start("a.state", "a.safetensors").wait(120) == 0
    victim = start("b.state", "b.safetensors")
    deadline = time.monotonic() + 60
    while not (tmp_path / "b.state").exists():
        assert time.monotonic() < deadline
        assert victim.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.wait(10)
    assert not (tmp_path / "b.safetensors").exists()
    assert start("b.state", "b.safetensors").wait(120) == 0
    whole, resumed = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)
