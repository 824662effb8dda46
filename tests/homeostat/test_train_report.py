"""The report of a training run: every picture is there, nothing is fetched, a suspect run says so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from homeostat.lockstep import excitation_run, split
from homeostat.train_report import History, write
from models.calibration import calibrate
from models.config import ModelConfig, TrainingConfig
from models.diagnostics import diagnose, roll_outs, suspicions
from models.plant_surprise import PlantSurprise
from models.training import train
from models.windows import Run
from plant.spec import load_spec

SPEC = load_spec("reactor_bare")
TINY = ModelConfig(window=4, latent=6, encoder_width=24, predictor_width=24, head_width=12, horizon=6)


@pytest.fixture(scope="module")
def made() -> tuple:
    """A world model, its calibration and surprise, runs it has not seen, and how its training went."""
    torch.set_num_threads(1)
    runs = []
    for v in split(excitation_run(SPEC, 30, 40, seed=3)):
        parts = [np.stack([v[t.name] for t in tags], 1) for tags in (SPEC.measured, SPEC.dvs, SPEC.mvs)]
        labels = np.stack([v[str(g.fallback_tag)] for g in SPEC.guardrails], 1)
        runs.append(Run("excitation", 0.0, *parts, labels))
    history = History()
    config = TrainingConfig(steps=210, batch=64, sigreg_slices=16, spread_samples=128)
    model = train(SPEC, runs[:16], runs[16:20], TINY, config, lambda step, _, terms: history.add(step, terms))
    surprise = PlantSurprise.of_runs(model, runs[16:20], runs[20:26])
    return model, calibrate(model, runs[20:26], TINY.horizon), surprise, runs[26:], history


def facts(made: tuple, suspect: list[str]) -> dict:
    return {
        "command": "homeostat train <x>", "revision": "abc", "date": "2026-01-01", "seconds": 1.0, "suspect": suspect,
        "diagnostics": diagnose(made[0], made[3], (1, 5)),
    }  # fmt: skip


def test_every_picture_is_there_and_nothing_is_fetched(made: tuple, tmp_path: Path) -> None:
    model, calibration, surprise, held_out, history = made
    page = tmp_path / "report.html"
    write(page, model, calibration, surprise, held_out, facts(made, []), history)
    text = page.read_text()
    assert text.count("<svg") == text.count("<section>") == 7
    for word in (
        "prediction",
        "Latent spectrum",
        "Action gain",
        "high_temperature",
        "one sensor 10 sigma off",
        "effective_rank",
    ):
        assert word in text
    assert "Not suspect" in text
    assert "homeostat train &lt;x&gt;" in text, "what a user typed is text, not markup"
    assert not re.search(r'(src|href)\s*=\s*"(?!#)', text)


def test_a_suspect_run_says_so_first(made: tuple, tmp_path: Path) -> None:
    model, calibration, surprise, held_out, history = made
    collapsed = suspicions({"effective_rank": 1.0, "measured_rank": 1.9, "inverse_r2": 0.9})
    write(tmp_path / "r.html", model, calibration, surprise, held_out, facts(made, collapsed), history)
    text = (tmp_path / "r.html").read_text()
    assert text.index("SUSPECT: effective rank 1.0") < text.index("<section>")


def test_roll_outs_know_what_nobody_measured(made: tuple) -> None:
    """A missing reading is no truth to err against, and does not spoil the others."""
    model, _, _, held_out, _ = made
    whole = roll_outs(model, held_out, 3)
    torn = [
        Run(r.kind, 0.0, np.where(np.arange(len(r))[:, None] == 20, np.nan, r.measured), r.dvs, r.applied, r.labels)
        for r in held_out
    ]
    rolled = roll_outs(model, torn, 3)
    assert torch.isnan(rolled.truth).any()
    assert torch.isfinite(rolled.nrmse(rolled.real)).all()
    assert not torch.isnan(whole.truth).any()
    assert (whole.nrmse(whole.shuffled) > whole.nrmse(whole.real)).all()
