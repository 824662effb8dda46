"""Plants as sites have them, from their history to a plan: without guardrails, MVs or targets, with few hours, with sixty tags, with
an MV that nobody ever moved. Each is trained, loaded, watched, and planned for where there is something to move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controllers.contracts import Observation, Status, Targets
from controllers.evaluation.closed_loop import limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.mpc import JepaMpc
from historian import Historian
from homeostat.checkpoints import watch_of
from homeostat.training import train_plant
from models.checkpoint import load
from models.config import ModelConfig, TrainingConfig
from models.data_check import DataReport
from plant.errors import ControlError, ModelError
from plant.spec import PlantSpec

T0 = 1_700_000_000.0
MODEL = ModelConfig(window=4, latent=6, encoder_width=12, predictor_width=12, head_width=8, horizon=5)
TRAINING = TrainingConfig(steps=30, batch=32, sigreg_slices=8)


def rig(cvs: int = 2, mvs: tuple[str, ...] = ("V", "W"), auxs: int = 0, **without: Any) -> PlantSpec:
    """Vessels in a row, filled by the MVs; `without` replaces whole parts of its file."""

    def tag(name: str, role: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "role": role, "description": name, "unit": "%", "range": (0.0, 100.0), "nominal": 50.0,
                "node_id": f"ns=2;s={name}", **more}  # fmt: skip

    move = {"limits": (0.0, 100.0), "rate_per_s": 5.0, "safe": 0.0}
    facts: dict[str, Any] = {
        "name": "rig",
        "description": "A rig",
        "endpoint": "opc.tcp://127.0.0.1:0/rig",
        "sample_time_s": 10.0,
        "scan_time_s": 10.0,
        "tags": [
            *(tag(f"L{i}", "CV", noise=0.2) for i in range(cvs)),
            *(tag(f"A{i}", "AUX", noise=0.2) for i in range(auxs)),
            tag("F", "DV", noise=0.2),
            *(tag(name, "MV", move=move) for name in mvs),
        ],
        "guardrails": [{"name": "full", "tag": "L0", "max": 95.0}],
        "targets": [{"tag": "L0", "value": 50.0, "limits": (20.0, 80.0), "scale": 5.0}],
    }
    return PlantSpec.model_validate(facts | without)


def record(store: Historian, spec: PlantSpec, samples: int, still: tuple[str, ...] = ()) -> None:
    """One run of it: what is measured lags what the MVs and the DV do."""
    rng, n = np.random.default_rng(4), len(spec.measured)
    pushes = np.array([t.name for t in (*spec.mvs, *spec.dvs)])
    steps = np.repeat(rng.uniform(30, 70, (samples // 8 + 1, len(pushes))), 8, 0)[:samples]
    steps[:, np.isin(pushes, still)] = 50.0
    mix, y = rng.dirichlet(np.ones(len(pushes)), n), np.full((samples, n), 50.0)
    for k in range(1, samples):
        y[k] = y[k - 1] + 0.2 * (mix @ steps[k - 1] - y[k - 1])
    values = dict(zip([t.name for t in spec.measured], (y + rng.normal(0, 0.2, y.shape)).T, strict=True))
    values |= dict(zip(pushes, steps.T, strict=True))
    store.register(spec)
    times = T0 + spec.sample_time_s * np.arange(samples)
    store.sample_block({str(name): v for name, v in values.items()}, times)
    store.add_runs("recorded", [(float(times[0]), float(times[-1]))])
    assert store.flush()


KINDS: dict[str, tuple[PlantSpec, int, tuple[str, ...]]] = {
    "no guardrail": (rig(guardrails=[]), 1500, ()),
    "no MV": (rig(mvs=()), 1500, ()),
    "no MV, no guardrail, no target": (rig(mvs=(), guardrails=[], targets=[]), 1500, ()),
    "no target": (rig(targets=[]), 1500, ()),
    "few hours": (rig(), 300, ()),
    "sixty tags": (rig(cvs=20, auxs=35, mvs=("V", "W", "X", "Y")), 1500, ()),
    "an MV that never moved": (rig(), 1500, ("W",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_plant_is_trained_watched_and_planned_for(kind: str, tmp_path: Path):
    torch.set_num_threads(1)
    spec, samples, still = KINDS[kind]
    told: list[DataReport] = []
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, spec, samples, still)
        trained = train_plant(spec, store, tmp_path / "model", "test", MODEL, TRAINING, checked=told.append)
    assert trained is not None
    assert any("few" in f.what for f in told[0].findings)
    for mv in still:
        assert any(f"{mv} never moved" in f.what for f in told[0].findings)
    back = load(tmp_path / "model", spec)
    assert back.calibration.margins.shape == (MODEL.horizon, len(spec.guardrails))
    usual = [np.array([[t.nominal for t in tags]]) for tags in (spec.measured, spec.dvs, spec.mvs)]
    watch = watch_of(back)
    assert watch is not None
    assert back.surprise is not None
    seen = [watch.see(*usual) for _ in range(back.surprise.settle + 2)]
    assert float(seen[-1].score[0]) > 0
    if not spec.mvs:
        with pytest.raises(ControlError, match="can be watched, not controlled"):
            JepaMpc(back.model, PlannerConfig(horizon=5), back.calibration)
        return
    controller = JepaMpc(back.model, PlannerConfig(horizon=5), back.calibration)
    assert tuple(controller.unknown) == still
    targets = Targets(np.tile([t.value + 10 for t in spec.targets], (1, 5, 1)), *limits_of(spec))
    for k in range(6):
        decision = controller.decide(Observation(10.0 * k, *usual), targets)
    assert decision.status[0] is not Status.INFEASIBLE
    assert np.isfinite(decision.plan).all()
    for i, mv in enumerate(spec.mvs):
        if mv.name in still:
            np.testing.assert_allclose(decision.plan[0, :, i], 50.0)


def test_no_mv_that_ever_moved_is_refused_before_training(tmp_path: Path):
    spec = rig()
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, spec, 1500, ("V", "W"))
        with pytest.raises(ModelError, match="V never moved"):
            train_plant(spec, store, tmp_path / "model", "test", MODEL, TRAINING)
