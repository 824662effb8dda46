"""A glucose forecast in a folder: read as it was written, and not at all where it was changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from homeostat.checkpoints import load_forecast, shipped
from models.forecast_checkpoint import FILES, load, save
from models.glucose_forecast import GlucoseConfig, GlucoseForecast
from models.manifest import MANIFEST
from plant.errors import ModelError
from simulators.glucose import DISCLAIMER


@pytest.fixture
def kept(tmp_path: Path) -> tuple[GlucoseForecast, Path]:
    torch.manual_seed(0)
    model = GlucoseForecast(GlucoseConfig(latent=4, encoder_width=8, predictor_width=8, head_width=8))
    save(tmp_path / "made", model, {"seed": 0}, "a card")
    return model, tmp_path / "made"


def test_what_was_written_is_read(kept: tuple[GlucoseForecast, Path]) -> None:
    model, folder = kept
    found = load(folder)
    assert found.facts == {"seed": 0}
    assert found.doubts == ()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused(kept: tuple[GlucoseForecast, Path], name: str) -> None:
    path = kept[1] / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=f"{name} was changed"):
        load(kept[1])


def test_without_a_manifest_it_deserves_no_auto(kept: tuple[GlucoseForecast, Path]) -> None:
    (kept[1] / MANIFEST).unlink()
    assert load(kept[1]).doubts == (f"no {MANIFEST} vouches for its files",)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{}", "damaged"), ('{"kind": "hat", "model": {}, "facts": {}}', "a hat"), ("[", "damaged")],
)
def test_what_is_no_forecast_is_said(kept: tuple[GlucoseForecast, Path], text: str, said: str) -> None:
    (kept[1] / MANIFEST).unlink()
    (kept[1] / "config.json").write_text(text)
    with pytest.raises(ModelError, match=said):
        load(kept[1])


def test_the_one_that_comes_with_homeostat() -> None:
    found = load_forecast("glucose_forecast")
    assert found.doubts == ()
    assert DISCLAIMER in (shipped("glucose_forecast") / "card.md").read_text()
    with pytest.raises(ModelError, match="no forecast here"):
        load_forecast("weather")
