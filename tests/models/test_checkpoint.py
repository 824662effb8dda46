"""Checkpoints: what is written is what is read, and whatever is wrong with one is a `ModelError`, never a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from homeostat.checkpoints import load_checkpoint
from models.calibration import Calibration
from models.checkpoint import FILES, Checkpoint, load, save
from models.manifest import seal
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec, load_spec


def limits_of(spec: PlantSpec) -> int:
    """A column of margins for each guardrail, and one for each fallback."""
    return len(spec.guardrails) + sum(g.fallback_tag is not None for g in spec.guardrails)


@pytest.fixture
def model(spec: PlantSpec, trained: Any) -> WorldModel:
    return trained.model


@pytest.fixture
def calibration(model: WorldModel) -> Calibration:
    margins = torch.linspace(0.1, 2.0, model.config.horizon)[:, None] * torch.ones(1, limits_of(model.spec))
    return Calibration(margins, 0.9, 31)


@pytest.fixture
def folder(tmp_path: Path, model: WorldModel, calibration: Calibration) -> Path:
    save(tmp_path / "model", model, calibration, {"data": "0123", "runs": {"training": 3}}, "# A card\n")
    return tmp_path / "model"


def refusal(folder: Path, spec: PlantSpec) -> ModelError:
    """The one error of loading: one line that says what, where and what to do."""
    with pytest.raises(ModelError) as caught:
        load(folder, spec)
    error = caught.value
    assert error.what
    assert error.where == str(folder)
    assert "rain" in error.fix, "it says how to get another one"
    assert "\n" not in str(error)
    return error


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder, FILES)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    seal(folder, FILES)


def test_what_is_read_answers_like_what_was_written(folder: Path, spec: PlantSpec, model: WorldModel, recorded: Any):
    back = load(folder, spec)
    assert isinstance(back, Checkpoint)
    assert not back.model.training
    assert back.model.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.model.state_dict()[name]), name
    run = recorded[0]
    rows = torch.tensor(run.measured[:1], dtype=torch.float32)
    with torch.no_grad():
        latent = torch.randn(5, model.config.latent, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.limit_heads(latent), back.model.limit_heads(latent))
        assert torch.equal(model.fallback_heads(latent), back.model.fallback_heads(latent))
        assert torch.equal(model.normalise(rows, "measured"), back.model.normalise(rows, "measured"))


def test_the_calibration_and_the_facts_come_back(folder: Path, spec: PlantSpec, calibration: Calibration):
    back = load(folder, spec)
    assert torch.equal(back.calibration.margins, calibration.margins)
    assert (back.calibration.level, back.calibration.runs) == (0.9, 31)
    assert back.facts == {"data": "0123", "runs": {"training": 3}}
    assert (folder / "card.md").read_text() == "# A card\n"


def test_an_uncalibrated_model_comes_back_without_margins(tmp_path: Path, spec: PlantSpec, model: WorldModel):
    save(tmp_path / "model", model, Calibration.none(model.config.horizon, limits_of(spec)), {}, "")
    back = load(tmp_path / "model", spec)
    assert (back.calibration.margins == 0).all()
    assert back.surprise is None


def test_writing_over_an_older_checkpoint(folder: Path, spec: PlantSpec, model: WorldModel, calibration: Calibration):
    save(folder, model, calibration, {"data": "new"}, "# Another\n")
    assert load(folder, spec).facts == {"data": "new"}


def test_a_missing_folder_says_how_to_train_one(tmp_path: Path, spec: PlantSpec):
    error = refusal(tmp_path / "none", spec)
    assert "no checkpoint here" in error.what
    assert f"homeostat train {spec.name} --out {tmp_path / 'none'}" in error.fix


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_half_a_checkpoint_is_none(folder: Path, spec: PlantSpec, name: str):
    (folder / name).unlink()
    assert f"{name} is named in manifest.json and missing" in refusal(folder, spec).what
    (folder / "manifest.json").unlink()
    assert "no checkpoint here" in refusal(folder, spec).what


@pytest.mark.parametrize("content", [b"", b'{"signature": {', b"[]", b"3", b"{}", b"\xff\xfe\x00", b'"text"'])
def test_a_damaged_configuration(folder: Path, spec: PlantSpec, content: bytes):
    (folder / "config.json").write_bytes(content)
    seal(folder, FILES)
    assert "damaged" in refusal(folder, spec).what


@pytest.mark.parametrize("key", ["signature", "model", "calibration", "facts"])
@pytest.mark.parametrize("instead", [None, "text", 3, ["a"]])
def test_a_configuration_with_a_wrong_part(folder: Path, spec: PlantSpec, key: str, instead: object):
    change_config(folder, lambda c: c.update({key: instead}))
    assert "damaged" in refusal(folder, spec).what
    change_config(folder, lambda c: c.pop(key))
    assert "damaged" in refusal(folder, spec).what


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["model"].update(latent=0),
        lambda c: c["model"].update(lattent=4),
        lambda c: c["calibration"].pop("level"),
        lambda c: c["calibration"].update(runs="many"),
    ],
)
def test_a_configuration_with_a_wrong_value(folder: Path, spec: PlantSpec, change: Callable):
    change_config(folder, change)
    assert "damaged" in refusal(folder, spec).what


@pytest.mark.parametrize("keep", [0, 7, 200, -100])
def test_cut_short_weights(folder: Path, spec: PlantSpec, keep: int):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    seal(folder, FILES)
    assert "damaged" in refusal(folder, spec).what


def test_weights_without_a_calibration(folder: Path, spec: PlantSpec):
    change_tensors(folder, lambda t: t.pop("calibration.margins"))
    assert "calibration.margins" in refusal(folder, spec).what


@pytest.mark.parametrize("name", ["channel_mean", "encoder.first.weight"])
def test_weights_that_miss_a_part(folder: Path, spec: PlantSpec, name: str):
    change_tensors(folder, lambda t: t.pop(name))
    assert "do not fit" in refusal(folder, spec).what


def test_weights_of_another_shape(folder: Path, spec: PlantSpec):
    change_config(folder, lambda c: c["model"].update(latent=c["model"]["latent"] + 1))
    assert "do not fit" in refusal(folder, spec).what


def test_margins_of_another_horizon(folder: Path, spec: PlantSpec):
    change_tensors(folder, lambda t: t.update({"calibration.margins": torch.zeros(2, limits_of(spec))}))
    assert "margins" in refusal(folder, spec).what


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["predictor.last.weight", "channel_std", "calibration.margins"])
def test_weights_or_margins_that_are_not_finite(folder: Path, spec: PlantSpec, name: str, bad: float):
    change_tensors(folder, lambda t: t[name].view(-1)[0].fill_(bad))
    assert "not finite" in refusal(folder, spec).what


def test_a_checkpoint_of_another_plant(folder: Path, spec: PlantSpec):
    other = load_spec("reactor_bare" if spec.name == "reactor" else "reactor")
    error = refusal(folder, other)
    assert f"plant: trained on {spec.name}, the plant has {other.name}" in error.what
    assert f"Train one for {other.name}" in error.fix


@pytest.mark.parametrize("field", ["sample_time_s", "measured", "dvs", "mvs", "guardrails"])
def test_a_plant_that_changed_since(folder: Path, spec: PlantSpec, field: str):
    """Renamed, in another unit, sampled otherwise, or with another limit: the old model is not for it."""

    def with_tag(which: str, **changes: str) -> dict[str, Any]:
        return {"tags": tuple(t.model_copy(update=changes if t.name == which else {}) for t in spec.tags)}

    changed = {
        "sample_time_s": {"sample_time_s": 13.0},
        "measured": with_tag(spec.measured[0].name, unit="mol/m3"),
        "dvs": with_tag(spec.dvs[0].name, name="Feed"),
        "mvs": with_tag(spec.mvs[0].name, unit="degC"),
        "guardrails": {"guardrails": tuple(g.model_copy(update={"max": 360.0}) for g in spec.guardrails)},
    }
    what = refusal(folder, spec.model_copy(update=changed[field])).what
    assert what.startswith(f"the checkpoint belongs to another plant ({field}: trained on")


def test_which_checkpoint_is_taken(tmp_path: Path, spec: PlantSpec, model: WorldModel, calibration: Calibration):
    """The folder that is asked for; else the one trained here; else the one that comes with Homeostat."""
    data_dir, asked = tmp_path / "data", tmp_path / "asked"
    save(data_dir / spec.name / "model", model, calibration, {"which": "trained"}, "")
    save(asked, model, calibration, {"which": "asked"}, "")
    assert load_checkpoint(spec, asked, data_dir).facts["which"] == "asked"
    assert load_checkpoint(spec, None, data_dir).facts["which"] == "trained"
    assert "which" not in load_checkpoint(spec, None, tmp_path / "nothing").facts
    own = spec.model_copy(update={"name": "of_a_user"})  # none comes with it
    with pytest.raises(ModelError, match=r"library.of_a_user: no checkpoint here"):
        load_checkpoint(own, None, data_dir)
