"""Two processes on half a batch each are one process on the whole: the same loss, the same gradient."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

_SCRIPT = """
import json, os, sys
import numpy as np, torch
torch.set_num_threads(1)
from homeostat.lockstep import excitation_run, split
from models import ranks
from models.config import ModelConfig, TrainingConfig
from models.objectives import losses
from models.training import train
from models.windows import Run, WindowSet, channel_scale
from models.world_model import WorldModel
from plant.spec import load_spec

spec = load_spec("reactor_bare")
runs = []
for v in split(excitation_run(spec, 8, 40, seed=1)):
    parts = [np.stack([v[t.name] for t in tags], 1) for tags in (spec.measured, spec.dvs, spec.mvs)]
    runs.append(Run("excitation", 0.0, *parts, np.full((len(parts[0]), len(spec.guardrails)), np.nan)))
model = ModelConfig(window=4, latent=6, encoder_width=24, predictor_width=24, head_width=12, horizon=5)
training = TrainingConfig(steps=8, batch=32, sigreg=0.01, sigreg_slices=16, spread_samples=10_000, inverse=0.0, padded_share=0.0)
rank, size = ranks.join()
scale = channel_scale(spec, runs)
data = WindowSet(runs, scale, model.window, model.horizon, shortest=model.horizon)
torch.manual_seed(0)
world = WorldModel(spec, model, scale)
starts = data.starts[:32]
mine = losses(world, data, starts[rank::size], training, torch.Generator().manual_seed(1))
total = ranks.mean(mine.total(training).detach())
mine.total(training).backward()
used = [p for p in world.parameters() if p.grad is not None]
ranks.share(used)
gradient = torch.cat([p.grad.flatten() for p in used]).tolist()
long = [r for r in runs if len(r) == 40]
trained = train(spec, long, long[:2], model, training)
weights = torch.cat([p.detach().flatten() for p in trained.parameters()])
apart = float((ranks.mean(weights) - weights).abs().max())
ranks.leave()
threads = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
left = sum("gloo" in name for name in threads)
if rank == 0:
    with open(sys.argv[1], "w") as f:
        json.dump({"size": size, "loss": float(total), "sigreg": float(mine.spread.detach()), "gradient": gradient, "apart": apart, "left": left}, f)
"""


def run(tmp_path: Path, processes: int) -> dict:
    script, out = tmp_path / "script.py", tmp_path / f"{processes}.json"
    script.write_text(_SCRIPT)
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(out)], env=environment, capture_output=True, text=True, timeout=150,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def test_two_processes_are_one(tmp_path: Path) -> None:
    one, two = run(tmp_path, 1), run(tmp_path, 2)
    assert (one["size"], two["size"]) == (1, 2)
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert two["sigreg"] == pytest.approx(one["sigreg"], abs=1e-4), "each process sees all embeddings, not its half"
    assert two["gradient"] == pytest.approx(one["gradient"], rel=1e-3, abs=1e-5)
    assert max(map(abs, one["gradient"])) > 0.1
    assert two["left"] == 0, "a thread of the group that outlives the interpreter aborts the process"
    assert two["apart"] < 1e-7, "after training both hold the same weights"
