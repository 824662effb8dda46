"""A checkpoint that was changed since it was written is refused; one whose manifest was made anew over numbers that no training
leaves, too; one that may only be looked at says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from homeostat.checkpoints import shipped
from models.checkpoint import FILES, load, needs_room
from models.manifest import MANIFEST, seal
from plant.errors import ModelError
from plant.spec import PlantSpec, load_spec


@pytest.fixture
def spec() -> PlantSpec:
    return load_spec("reactor")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(shipped("reactor"), tmp_path / "model")
    return tmp_path / "model"


def refused(folder: Path, spec: PlantSpec) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder, spec)
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return caught.value.what


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return tamper


def tensor(name: str, change: Callable[[torch.Tensor], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors[name])
        save_file(tensors, folder / "model.safetensors")

    return tamper


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        content = json.loads((folder / MANIFEST).read_text())
        change(content)
        (folder / MANIFEST).write_text(json.dumps(content))

    return tamper


def cut(name: str, keep: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep]) and None


def swapped(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copy(shipped("reactor_bare") / name, folder / name) and None


def flipped(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def retyped(folder: Path) -> None:
    """The same numbers, half as exact."""
    tensors = load_file(folder / "model.safetensors")
    halved = {n: t.half() if n.startswith("predictor") else t for n, t in tensors.items()}
    save_file(halved, folder / "model.safetensors")


CHANGED = {
    "one bit of the weights": flipped,
    "weights cut short": cut("model.safetensors", -1),
    "weights emptied": cut("model.safetensors", 0),
    "weights of another plant": swapped("model.safetensors"),
    "configuration of another plant": swapped("config.json"),
    "card of another plant": swapped("card.md"),
    "a margin smaller": tensor("calibration.margins", lambda t: t.mul_(0.5)),
    "the limit of the surprise raised": config(lambda c: c["surprise"].update(limits=[5.0, 400.0])),
    "said not to be suspect": config(lambda c: c["facts"].update(suspect=[""])),
    "a space more in the configuration": lambda f: (f / "config.json").write_bytes(
        (f / "config.json").read_bytes() + b" "
    ),
    "the card edited": lambda f: (f / "card.md").write_text("A very good model."),
    "the card lost": lambda f: (f / "card.md").unlink(),
    "the weights lost": lambda f: (f / "model.safetensors").unlink(),
    "the configuration lost": lambda f: (f / "config.json").unlink(),
    "a file added": lambda f: (f / "weights2.safetensors").write_bytes(b""),
    "a folder added": lambda f: (f / "old").mkdir(),
    "the manifest emptied": lambda f: (f / MANIFEST).write_text(""),
    "the manifest of another plant": swapped(MANIFEST),
    "a manifest that names no weights": manifest(lambda m: m["files"].pop("model.safetensors")),
    "a manifest that reaches elsewhere": manifest(lambda m: m["files"].update({"../other": "0"})),
    "a manifest of another algorithm": manifest(lambda m: m.update(algorithm="MD5")),
    "a hash that is none": manifest(lambda m: m["files"].update({"config.json": None})),
    "a manifest too deep": lambda f: (f / MANIFEST).write_text("[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGED)
def test_what_was_changed_since_it_was_written_is_refused(folder: Path, spec: PlantSpec, kind: str) -> None:
    CHANGED[kind](folder)
    assert refused(folder, spec)


IMPLAUSIBLE = {
    "a margin below zero": (tensor("calibration.margins", lambda t: t[3].fill_(-0.1)), "below zero"),
    "a margin that is no number": (tensor("calibration.margins", lambda t: t[0].fill_(torch.nan)), "not finite"),
    "no deviation": (tensor("channel_std", lambda t: t[0].fill_(0.0)), "channel_std is not positive"),
    "a deviation below zero": (tensor("channel_std", lambda t: t[1].neg_()), "channel_std is not positive"),
    "a margin scale of zero": (tensor("margin_scale", lambda t: t.zero_()), "margin_scale is not positive"),
    "an infinite weight": (tensor("predictor.last.weight", lambda t: t[0].fill_(torch.inf)), "not finite"),
    "a window of a million": (config(lambda c: c["model"].update(window=10**6)), "damaged"),
    "a latent of a billion": (config(lambda c: c["model"].update(latent=10**9)), "damaged"),
    "hidden layers beyond their weights": (config(lambda c: c["model"].update(encoder_width=8192)), "do not fit"),
    "a longer window than its weights": (config(lambda c: c["model"].update(window=10_000)), "do not fit"),
    "weights half as exact": (retyped, "float16"),
    "a longer horizon than its margins": (config(lambda c: c["model"].update(horizon=16)), "margins of shape"),
    "a level of one": (config(lambda c: c["calibration"].update(level=1.0)), "level 1"),
    "a level of zero": (config(lambda c: c["calibration"].update(level=0.0)), "level 0"),
    "a level that is no number": (config(lambda c: c["calibration"].update(level=float("nan"))), "level nan"),
    "runs below zero": (config(lambda c: c["calibration"].update(runs=-1)), "-1 runs"),
    "no runs": (config(lambda c: c["calibration"].update(runs=0)), "no run was calibrated"),
    "no calibration": (config(lambda c: c.pop("calibration")), "damaged"),
    "limits of another plant": (
        config(lambda c: c["signature"]["guardrails"].__setitem__(0, ["high_temperature", "TI101", 1.0, 390.0])),
        "another plant",
    ),
    "no limits at all": (config(lambda c: c["signature"].pop("guardrails")), "another plant"),
    "a surprise without limits": (config(lambda c: c["surprise"].pop("limits")), "damaged"),
    "a surprise limit of zero": (config(lambda c: c["surprise"].update(limits=[1.0, 0.0])), "limits of the surprise"),
    "an endless surprise limit": (
        config(lambda c: c["surprise"].update(limits=[float("inf"), 40.0])),
        "limits of the surprise",
    ),
    "a surprise limit nothing passes": (config(lambda c: c["surprise"].update(limits=[1e9, 40.0])), "limits of the"),
    "a surprise that never judges": (config(lambda c: c["surprise"]["config"].update(settle=10**9)), "judges after"),
    "a surprise that looks nowhere": (config(lambda c: c["surprise"].update(steps=[])), "steps ahead"),
    "a surprise that looks too far": (config(lambda c: c["surprise"].update(steps=[1, 5, 99])), "steps ahead"),
    "a spread of zero": (tensor("surprise.spread", lambda t: t.zero_()), "spread is not positive"),
    "a configuration too deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", IMPLAUSIBLE)
def test_numbers_that_no_training_leaves_are_refused_whatever_the_manifest_says(
    folder: Path, spec: PlantSpec, kind: str
) -> None:
    tamper, said = IMPLAUSIBLE[kind]
    tamper(folder)
    seal(folder, FILES)
    assert said in refused(folder, spec)


DOUBTED = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "no manifest.json"),
    "suspect": (config(lambda c: c["facts"].update(suspect=["the moves hardly matter"])), "suspect: the moves hardly"),
    "suspect, and said not to be": (
        config(lambda c: c["facts"]["diagnostics"].update(action_gain=1.0)), "the moves hardly matter",
    ),
    "a diagnostic that is no number": (
        config(lambda c: c["facts"]["diagnostics"].update(inverse_r2=float("nan"))), "cannot be told",
    ),
    "no word on its training": (config(lambda c: c["facts"].pop("suspect")), "how its training went"),
    "no diagnostics": (config(lambda c: c["facts"].pop("diagnostics")), "how its training went"),
    "no surprise": (config(lambda c: c.update(surprise=None)), "no surprise"),
    "never calibrated": (
        lambda f: (
            config(lambda c: c.update(calibration={"level": 0.0, "runs": 0}))(f),
            tensor("calibration.margins", lambda t: t.zero_())(f),
        ),
        "never calibrated",
    ),
    "no margin to one guardrail": (
        tensor("calibration.margins", lambda t: t[:, 1].zero_()), "no margin to operating_temperature",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DOUBTED)
def test_what_may_only_be_looked_at_says_why(folder: Path, spec: PlantSpec, kind: str) -> None:
    tamper, said = DOUBTED[kind]
    tamper(folder)
    if (folder / MANIFEST).exists():
        seal(folder, FILES)
    (doubt,) = load(folder, spec).doubts
    assert said in doubt


def test_the_sound_one_is_not_doubted_and_what_desktops_leave_is_no_part_of_it(folder: Path, spec: PlantSpec) -> None:
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "training.state").write_bytes(b"")  # the next training, under way
    assert load(folder, spec).doubts == ()


def test_a_folder_that_holds_other_things_is_refused_before_training(tmp_path: Path, folder: Path) -> None:
    needs_room(folder)
    needs_room(tmp_path / "new")
    (folder / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"notes\.txt, which is no part of a checkpoint"):
        needs_room(folder)
