"""Plants without guardrails, targets, MVs or DVs are plants too; what cannot be trained is refused before training begins."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from historian import Historian
from homeostat import training
from models.checkpoint import load
from models.config import ModelConfig, TrainingConfig
from plant.errors import ModelError
from plant.spec import PlantSpec, load_spec
from simulators.scenario import load_scenario

T0 = 1_700_000_000.0
MODEL = ModelConfig(window=3, latent=4, encoder_width=8, predictor_width=8, head_width=8, horizon=4)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tank(**without: Any) -> PlantSpec:
    """A tank; `without` replaces whole parts of its file."""
    facts: dict[str, Any] = {
        "name": "tank",
        "description": "A tank",
        "endpoint": "opc.tcp://127.0.0.1:0/tank",
        "sample_time_s": 2.0,
        "scan_time_s": 2.0,
        "tags": [
            {"name": "LT", "role": "CV", "range": (0.0, 100.0), "nominal": 50.0, "noise": 0.1},
            {"name": "FI", "role": "DV", "range": (0.0, 100.0), "nominal": 50.0},
            {"name": "V", "role": "MV", "range": (0.0, 100.0), "nominal": 50.0,
             "move": {"limits": (0.0, 100.0), "rate_per_s": 50.0, "safe": 0.0}},
        ],
        "guardrails": [{"name": "high", "tag": "LT", "max": 90.0}],
        "targets": [{"tag": "LT", "value": 50.0, "limits": (20.0, 80.0), "scale": 5.0}],
    }  # fmt: skip
    facts |= without
    for t in facts["tags"]:
        t |= {"description": t["name"], "unit": "%", "node_id": f"ns=2;s={t['name']}"}
    return PlantSpec.model_validate(facts)


def record(store: Historian, spec: PlantSpec, runs: int = 12, samples: int = 60, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    store.register(spec)
    for i in range(runs):
        flow, valve = (np.repeat(rng.uniform(20, 80, samples // 6), 6) for _ in range(2))
        level = 50 + np.cumsum(0.02 * (flow - valve)) + rng.normal(0, 0.1, samples)
        values = {"LT": level, "FI": flow, "V": valve}
        times: Any = T0 + 1000 * i + spec.sample_time_s * np.arange(samples)
        store.sample_block({t.name: values[t.name] for t in spec.online}, times)
        store.add_runs("recorded", [(float(times[0]), float(times[-1]))])
    assert store.flush()


def train(spec: PlantSpec, store: Historian, out: Path, steps: int = 2, **more: Any) -> training.Trained:
    settings = TrainingConfig(steps=steps, batch=32, sigreg_slices=8)
    trained = training.train_plant(spec, store, out, "test", MODEL, settings, **more)
    assert trained is not None
    return trained


def roles(*kept: str) -> list[dict[str, Any]]:
    return [t.model_dump(exclude_none=True) for t in tank().tags if t.role in kept]


ODD = {
    "no guardrails": {"guardrails": []},
    "no targets": {"targets": []},
    "no DVs": {"tags": roles("CV", "MV")},
    "no MVs": {"tags": roles("CV", "DV")},
    "neither moves nor limits": {"tags": roles("CV", "DV"), "guardrails": [], "targets": []},
    "one measurement alone": {"tags": roles("CV"), "guardrails": [], "targets": []},
}


@pytest.mark.parametrize("kind", ODD)
def test_a_plant_that_lacks_something_is_trained_on_its_history(kind: str, tmp_path: Path) -> None:
    spec = tank(**ODD[kind])
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, spec)
        trained = train(spec, store, tmp_path / "model")
    back = load(tmp_path / "model", spec)
    assert back.calibration.margins.shape == (4, len(spec.guardrails))
    assert back.doubts == trained.checkpoint.doubts
    assert not any("calibrated" in doubt for doubt in back.doubts)
    assert ("action_gain" in back.facts["diagnostics"]) == bool(spec.mvs)
    assert "no guardrails" in (tmp_path / "model" / "card.md").read_text() or spec.guardrails
    assert (tmp_path / "model" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("without", [("guardrails",), ("targets",), ("guardrails", "targets")])
def test_so_is_a_simulated_one(without: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With loops of the planner itself to calibrate on."""
    monkeypatch.setattr(training, "_EXECUTED_RUNS", (2, 2))
    monkeypatch.setattr(
        training, "load_scenario", lambda name, spec: load_scenario(name, spec).model_copy(update={"duration_s": 600.0})
    )
    spec = load_spec("reactor_bare").model_copy(update=dict.fromkeys(without, ()))
    from homeostat.recording import excite_lockstep

    with Historian(tmp_path / "historian.db", spec.name) as store:
        excite_lockstep(spec, store, T0, runs=16, incidents=0)
        train(spec, store, tmp_path / "model")
    assert load(tmp_path / "model", spec).calibration.margins.shape[0] == 4


def refused(work: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        work()
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return caught.value


def begun(*_: object) -> None:
    raise AssertionError("training began")


def test_a_plant_with_nothing_to_predict_is_refused(tmp_path: Path) -> None:
    spec = tank(tags=roles("DV", "MV"), guardrails=[], targets=[])
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, spec)
        assert "no tag is a CV or an AUX" in refused(lambda: train(spec, store, tmp_path / "model")).what


def test_moves_that_nobody_knows_are_refused_before_training(tmp_path: Path) -> None:
    """The MV is known now and then and never two samples in a row."""
    spec = tank(guardrails=[])
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, spec)
        for i in range(12):
            times: Any = T0 + 1000 * i + 2.0 * np.arange(60)
            store.sample_block({"V": np.where(np.arange(60) % 60 == 0, 30.0 + i, np.nan)}, times)
            store.sample_block({"V": np.array([np.nan])}, times[:1] + 0.5)
        assert store.flush()
        error = refused(lambda: train(spec, store, tmp_path / "model", report=begun))
    assert "no held-out run knows every move" in error.what


def test_a_guardrail_that_no_reading_shows_is_refused_before_training(tmp_path: Path) -> None:
    """It watches a hidden quantity, and nobody recorded that."""
    lab = {"name": "X", "role": "HIDDEN", "description": "X", "unit": "%", "range": (0.0, 1.0), "nominal": 0.5}
    whole = tank()
    spec = PlantSpec.model_validate(
        whole.model_dump(exclude_none=True)
        | {"tags": [*(t.model_dump(exclude_none=True) for t in whole.tags), lab],
           "guardrails": [{"name": "pure", "tag": "X", "max": 0.9}]}
    )  # fmt: skip
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, whole)
        error = refused(lambda: train(spec, store, tmp_path / "model", report=begun))
    assert "nothing labels X, which guardrail pure watches" in error.what


def test_a_folder_that_cannot_take_the_checkpoint_is_refused_before_training(tmp_path: Path) -> None:
    spec = tank()
    (tmp_path / "file").write_text("")
    with Historian(tmp_path / "historian.db", spec.name) as store:
        error = refused(lambda: train(spec, store, tmp_path / "file" / "model", report=begun))
        assert "nothing can be written" in error.what
        error = refused(lambda: train(spec, store, tmp_path, report=begun))
        assert "historian.db-shm, which is no part of a checkpoint" in error.what


def test_training_over_an_older_checkpoint_leaves_a_sound_one(tmp_path: Path) -> None:
    spec = tank()
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, spec)
        train(spec, store, tmp_path / "model")
        shutil.copytree(tmp_path / "model", tmp_path / "first")
        train(spec, store, tmp_path / "model", steps=3)
    assert load(tmp_path / "model", spec).facts["training"]["steps"] == 3
    assert load(tmp_path / "first", spec).facts["training"]["steps"] == 2


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_another_unit_makes_the_same_model(factor: float, tmp_path: Path) -> None:
    """Ranges, limits and readings times a factor: margins are times that factor, and nothing else changes."""
    spec = tank()
    level = spec.tag("LT")
    scaled = level.model_copy(update={"range": (0.0, 100.0 * factor), "nominal": 50.0 * factor, "noise": 0.1 * factor})
    rail = spec.guardrails[0].model_copy(update={"max": 90.0 * factor})
    other = spec.model_copy(update={"tags": (scaled, *spec.tags[1:]), "guardrails": (rail,), "targets": ()})
    with Historian(tmp_path / "one.db", spec.name) as store:
        record(store, spec)
        one = train(spec, store, tmp_path / "one", steps=20)
        values = store.history(["LT"], T0, T0 + 1e6)
        with Historian(tmp_path / "two.db", spec.name) as second:
            record(second, other)
            times: Any = values["ts"].to_numpy() / 1e6
            second.sample_block({"LT": values["value"].to_numpy() * factor}, times)
            assert second.flush()
            two = train(other, second, tmp_path / "two", steps=20)
    torch.testing.assert_close(
        two.checkpoint.calibration.margins.double() / factor, one.checkpoint.calibration.margins.double(),
        rtol=2e-3, atol=1e-3,
    )  # fmt: skip
    for name, value in one.checkpoint.facts["diagnostics"].items():
        assert two.checkpoint.facts["diagnostics"][name] == pytest.approx(value, rel=2e-2, abs=2e-3), name


@pytest.mark.parametrize("known", [1, 5])
def test_a_measurement_that_is_hardly_ever_there_does_not_break_the_end(known: int, tmp_path: Path) -> None:
    """An analyser known in a few of the runs: held-out ones may never show it."""
    analyser = {"name": "AT", "role": "AUX", "range": (0.0, 10.0), "nominal": 5.0}
    spec = tank(tags=[*roles("CV", "DV", "MV"), analyser])
    rng = np.random.default_rng(3)
    with Historian(tmp_path / "historian.db", spec.name) as store:
        record(store, tank())
        store.register(spec)
        for i in range(12):
            times: Any = T0 + 1000 * i + 2.0 * np.arange(60)
            there = (i < known) & (np.arange(60) % 12 == 0)
            store.sample_block({"AT": np.where(there, rng.uniform(4, 6, 60), np.nan)}, times)
        assert store.flush()
        train(spec, store, tmp_path / "model")
    back = load(tmp_path / "model", spec)
    assert back.surprise is not None
    assert np.isfinite(back.surprise.limits).all()
