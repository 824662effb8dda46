"""Training from Parquet files: the same runs, windows and weights as from the historian, without holding them in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from historian import Historian
from historian.parquet import ParquetHistory, export
from homeostat.cli import main
from homeostat.recording import excite_lockstep
from models import dataset
from models.dataset import load_runs
from models.streaming import keep_runs, some_of
from models.windows import Run, WindowSet, channel_scale
from plant.spec import PlantSpec, load_spec

SETTINGS = """
model: {window: 3, latent: 4, encoder_width: 8, predictor_width: 8, head_width: 8, horizon: 4}
training: {steps: 5, batch: 32, sigreg_slices: 8}
"""
PARTS = ("measured", "dvs", "applied", "labels", "hidden")


@pytest.fixture(scope="module")
def spec() -> PlantSpec:
    return load_spec("vandevusse")


@pytest.fixture(scope="module")
def places(spec: PlantSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A history, and the same as a folder of Parquet files."""
    root = tmp_path_factory.mktemp("history")
    path = root / spec.name / "historian.db"
    with Historian(path, spec.name) as store:
        excite_lockstep(spec, store, 1_750_000_000.0, runs=16, incidents=0)
        assert export(store, root / "parquet") > 1000
    return path, root / "parquet"


def same(a: list[Run], b: list[Run]) -> None:
    assert [(r.kind, r.start_s, len(r)) for r in a] == [(r.kind, r.start_s, len(r)) for r in b]
    for one, other in zip(a, b, strict=True):
        for part in PARTS:
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


def test_runs_from_parquet_are_those_of_the_historian(spec: PlantSpec, places: tuple[Path, Path]):
    with Historian(places[0], spec.name, read_only=True) as store:
        runs = load_runs(store, spec)
    same(load_runs(ParquetHistory(places[1]), spec), runs)


def test_reading_in_small_parts_changes_nothing(
    spec: PlantSpec, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    whole = load_runs(ParquetHistory(places[1]), spec)
    monkeypatch.setattr(dataset, "_ROWS", 1)
    same(load_runs(ParquetHistory(places[1]), spec), whole)


def test_runs_and_windows_on_disk_are_those_in_memory(spec: PlantSpec, places: tuple[Path, Path], tmp_path: Path):
    runs = load_runs(ParquetHistory(places[1]), spec)
    kept = keep_runs(iter(runs), tmp_path / "runs")
    same(kept, runs)
    assert kept[3].measured.base is not None
    assert not kept[3].measured.flags.writeable
    scale = channel_scale(spec, kept)
    memory, disk = WindowSet(runs, scale, 4, 5), WindowSet(kept, scale, 4, 5, folder=tmp_path / "windows")
    for name in ("rows", "mask", "labels", "hidden", "first", "last", "starts", "steady", "moving"):
        assert torch.equal(getattr(memory, name).nan_to_num(7), getattr(disk, name).nan_to_num(7)), name
    assert (tmp_path / "windows" / "rows").stat().st_size == memory.rows.numel() * 4


def test_the_command_trains_the_same_model_from_either(
    spec: PlantSpec, places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = tmp_path / "settings.yaml"
    settings.write_text(SETTINGS)
    monkeypatch.setattr("homeostat.training._EXECUTED_RUNS", ())
    data_dir = str(places[0].parents[1])
    for out, more in (("a", []), ("b", ["--parquet", str(places[1])])):
        argv = ["homeostat", "train", spec.name, "--data-dir", data_dir, "--config", str(settings), "--out"]
        monkeypatch.setattr(sys, "argv", [*argv, str(tmp_path / out), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, 1), "after five steps it may well be suspect"
    one, other = (load_file(tmp_path / out / "model.safetensors") for out in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n], other[n]) for n in one)
    facts = [json.loads((tmp_path / out / "config.json").read_text())["facts"] for out in "ab"]
    assert facts[0]["data"] == facts[1]["data"]
    assert facts[0]["diagnostics"] == facts[1]["diagnostics"]
    assert not list((tmp_path / "b").glob("work*"))


def test_samples_out_of_order_and_doubled_are_put_right(spec: PlantSpec, places: tuple[Path, Path], tmp_path: Path):
    folder = tmp_path / "mixed"
    (folder / "samples").mkdir(parents=True)
    for name in ("tags", "runs"):
        pl.read_parquet(places[1] / f"{name}.parquet").write_parquet(folder / f"{name}.parquet")
    rows = pl.read_parquet(places[1] / "samples" / "*.parquet")
    tag = spec.measured[0].name
    stale = rows.filter(pl.col("tag") == tag).head(7).with_columns(value=pl.lit(-1.0))  # replaced by what follows
    shuffled = pl.concat([stale, rows]).sample(fraction=1.0, shuffle=True, seed=1)
    order = (shuffled["value"] == -1.0).fill_null(value=False).arg_sort(descending=True)
    shuffled = shuffled[order]
    half = len(shuffled) // 2
    shuffled[half:].write_parquet(folder / "samples" / "b.parquet", row_group_size=500)
    shuffled[:half].write_parquet(folder / "samples" / "a.parquet", row_group_size=500)
    counts: Counter[tuple[str, str]] = Counter()
    same(load_runs(ParquetHistory(folder), spec, counts=counts), load_runs(ParquetHistory(places[1]), spec))
    assert counts["doubled", tag] == 7
    assert counts["out of order", tag] > 100


def test_some_of_keeps_whole_runs_spread_over_all():
    runs = [Run("a" if i < 60 else "b", float(i), *([np.zeros((10, 1))] * 4)) for i in range(100)]
    assert some_of(runs, 1000) == runs
    few = some_of(runs, 200)
    assert len(few) == 20
    assert sum(r.kind == "b" for r in few) == 8
    assert len(some_of(runs, 3)) == 1


PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import numpy as np, torch
from historian.parquet import ParquetHistory
from models import dataset
from models.config import ModelConfig, TrainingConfig
from models.dataset import iter_runs
from models.streaming import keep_runs
from models.training import train
from plant.spec import load_spec

torch.set_num_threads(1)
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) / 1024
folder, work, spec = Path(sys.argv[1]), Path(sys.argv[2]), load_spec(sys.argv[3])
streamed = sys.argv[4] == "stream"
dataset._ROWS = int(sys.argv[5])
model = ModelConfig(window=3, latent=4, encoder_width=8, predictor_width=8, head_width=8, horizon=4)
settings = TrainingConfig(steps=2, batch=32, sigreg_slices=8)
rng = np.random.default_rng(0)
few = [next(iter_runs(ParquetHistory(folder), spec))] * 2
train(spec, few, few, model, settings)  # everything is loaded once
peak, over = [anonymous()], threading.Event()
def watch():
    while not over.wait(0.005):
        peak.append(anonymous())
threading.Thread(target=watch, daemon=True).start()
reading = iter_runs(ParquetHistory(folder), spec)
runs = keep_runs(reading, work) if streamed else list(reading)
train(spec, runs, runs[:20], model, settings, folder=work if streamed else None)
over.set()
import resource
print(json.dumps({"samples": sum(len(r) for r in runs), "before_MB": peak[0], "peak_MB": max(peak),
                  "max_rss_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def write_long(spec: PlantSpec, folder: Path, samples: int, files: int) -> int:
    """Noise in every tag, one run; returns the bytes its rows take as a table."""
    (folder / "samples").mkdir(parents=True)
    tags = spec.online
    names = pl.DataFrame([{"name": t.name, "unit": t.unit} for t in tags])
    names.write_parquet(folder / "tags.parquet")
    step = round(spec.sample_time_s * 1e6)
    begin = 1_700_000_000_000_000
    runs = {"kind": ["recorded"], "start_ts": [begin], "end_ts": [begin + step * (samples - 1)]}
    pl.DataFrame(runs).write_parquet(folder / "runs.parquet")
    rng, size = np.random.default_rng(0), 0
    for i, part in enumerate(np.array_split(np.arange(samples), files)):
        ts = np.repeat(begin + step * part, len(tags))
        value = np.stack([rng.normal(t.nominal, 0.01 * (t.range[1] - t.range[0]), len(part)) for t in tags], 1)
        rows = {"tag": [t.name for t in tags] * len(part), "ts": ts, "value": value.ravel()}
        table = pl.DataFrame(rows)
        size += int(table.estimated_size())
        table.write_parquet(folder / "samples" / f"{i:04d}.parquet", row_group_size=100_000)
    return size


def measured(spec: PlantSpec, folder: Path, work: Path, how: str, rows: int) -> dict[str, float]:
    argv = [sys.executable, "-c", PROGRAM, str(folder), str(work), spec.name, how, str(rows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    answer = subprocess.run(
        argv, capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parents[2]
    )
    return json.loads(answer.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from Linux's /proc")
def test_what_is_streamed_is_never_all_in_memory(spec: PlantSpec, tmp_path: Path):
    size = write_long(spec, tmp_path / "long", 300_000, 8) / 2**20
    grown = {}
    for how in ("stream", "load"):
        told = measured(spec, tmp_path / "long", tmp_path / "work", how, 100_000)
        assert told["samples"] == 300_000 - 300_000 % 180 + 300_000 % 180
        grown[how] = told["peak_MB"] - told["before_MB"]
    assert grown["stream"] < 0.6 * grown["load"], (grown, size)
