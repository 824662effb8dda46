"""Folders of Parquet files that other programs wrote: any kind of number, texts, timestamps, and times of another unit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from historian import Historian
from historian.parquet import ParquetHistory, export
from plant.errors import HistorianError
from plant.link import Quality, Value
from plant.spec import load_spec

T0 = 1_700_000_000
US = 1_000_000


def written(folder: Path, values: Any, ts: Any = None, runs: dict[str, Any] | None = None, name: str = "0") -> Path:
    """A folder with one tag, Y, one sample a second."""
    count = len(values)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    times = [(T0 + i) * US for i in range(count)] if ts is None else ts
    pl.DataFrame({"name": ["Y"], "unit": ["%"]}).write_parquet(folder / "tags.parquet")
    runs = runs or {"kind": ["recorded"], "start_ts": [T0 * US], "end_ts": [(T0 + 100) * US]}
    pl.DataFrame(runs).write_parquet(folder / "runs.parquet")
    frame = pl.DataFrame({"tag": ["Y"] * count, "ts": times, "value": values})
    frame.write_parquet(folder / "samples" / f"{name}.parquet")
    return folder


def read(folder: Path) -> pl.DataFrame:
    return ParquetHistory(folder).readings(["Y"], T0 - 10, T0 + 200)


def refusal(work: Callable[[], object]) -> HistorianError:
    with pytest.raises(HistorianError) as caught:
        work()
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3], [1.0, 2.0, 3.0]),
        (pl.Series([1, 2, 255], dtype=pl.UInt8), [1.0, 2.0, 255.0]),
        ([True, False, None], [1.0, 0.0, None]),
        ([Decimal("1.50"), Decimal("-2.25"), None], [1.5, -2.25, None]),
        (pl.Series([1.5, 2.5, None], dtype=pl.Float32), [1.5, 2.5, None]),
        (["1.5", " 2,5 ", "-3"], [1.5, 2.5, -3.0]),
        (["1,5e3", "2.5E-1", ""], [1500.0, 0.25, None]),
        (pl.Series(["1.5", "2.5", "Bad"], dtype=pl.Categorical), [1.5, 2.5, None]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_every_kind_of_number_is_read(tmp_path: Path, values: Any, expected: list[float | None]) -> None:
    frame = read(written(tmp_path, values))
    assert frame["value"].dtype == pl.Float64
    assert frame["value"].to_list() == expected


def test_a_text_that_is_no_number_is_missing_and_comes_with_its_tag_and_time(tmp_path: Path) -> None:
    frame = read(written(tmp_path, ["50.27", "Bad Input", "51,64", "I/O Timeout"]))
    assert frame["value"].to_list() == [50.27, None, 51.64, None]
    assert frame["text"].to_list() == [None, "Bad Input", None, "I/O Timeout"]
    (last,) = ParquetHistory(tmp_path).before(["Y"], T0 + 3.5).iter_rows(named=True)
    assert (last["value"], last["ts"]) == (51.64, (T0 + 2) * US)


def test_separators_of_thousands_are_refused_by_tag_and_value(tmp_path: Path) -> None:
    error = refusal(lambda: read(written(tmp_path, ["1.0", "1,234.5"])))
    assert "Y reads '1,234.5'" in error.what


@pytest.mark.parametrize("values", [[[1.0], [2.0]], [datetime(2024, 1, 1), datetime(2024, 1, 2)], [b"1", b"2"]])
def test_what_is_no_number_is_refused_by_its_type(tmp_path: Path, values: Any) -> None:
    assert "value is" in refusal(lambda: ParquetHistory(written(tmp_path, values))).what


@pytest.mark.parametrize(
    ("unit", "factor", "fix"),
    [
        ("seconds", 1, "Multiply by 1000000"),
        ("milliseconds", 1000, "by 1000:"),
        ("nanoseconds", 10**9, "Divide by 1000"),
    ],
)
def test_times_of_another_unit_are_named(tmp_path: Path, unit: str, factor: int, fix: str) -> None:
    runs = {"kind": ["recorded"], "start_ts": [T0 * factor], "end_ts": [(T0 + 100) * factor]}
    both = written(tmp_path / "both", [1.0, 2.0], [T0 * factor, (T0 + 1) * factor], runs)
    samples = written(tmp_path / "samples", [1.0, 2.0], [T0 * factor, (T0 + 1) * factor])
    for folder, column in ((both, "start_ts"), (samples, "ts")):
        error = refusal(lambda folder=folder: ParquetHistory(folder))
        assert error.what.startswith(f"{column} looks like {unit}")
        assert fix in error.fix
        assert "microseconds" in error.fix


def test_times_from_zero_on_are_taken_as_they_are(tmp_path: Path) -> None:
    runs = {"kind": ["recorded"], "start_ts": [0], "end_ts": [3600 * US]}
    folder = written(tmp_path, [1.0, 2.0], [0, 3600 * US], runs)
    assert ParquetHistory(folder).readings(["Y"], 0, 3600)["value"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_are_read(tmp_path: Path, unit: Any, zone: str | None) -> None:
    begin = datetime.fromtimestamp(T0, UTC)
    times = pl.Series([begin, begin + timedelta(seconds=1)]).dt.cast_time_unit(unit)
    times = times.dt.convert_time_zone(zone) if zone else times.dt.replace_time_zone(None)
    runs = {"kind": ["recorded"], "start_ts": times[:1], "end_ts": times[1:]}
    folder = written(tmp_path, [1.0, 2.0], times, runs)
    assert read(folder)["ts"].to_list() == [T0 * US, (T0 + 1) * US]
    assert ParquetHistory(folder).runs()["start_ts"].to_list() == [T0 * US]


def test_times_as_fractions_are_refused(tmp_path: Path) -> None:
    error = refusal(lambda: ParquetHistory(written(tmp_path, [1.0, 2.0], [1.7e9, 1.7e9 + 1])))
    assert error.what == "ts is Float64"


def test_files_of_different_kinds_are_read_as_one_in_the_order_of_their_names(tmp_path: Path) -> None:
    written(tmp_path, [1, 2], name="0")
    written(tmp_path, ["3,5", "Bad"], [(T0 + 1) * US, (T0 + 2) * US], name="1")
    frame = read(tmp_path)
    assert frame["value"].to_list() == [1.0, 2.0, 3.5, None]
    assert frame["text"].to_list() == [None, None, None, "Bad"]


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    written(tmp_path, [1.0, 2.0])
    (tmp_path / "samples" / "1.parquet").write_bytes(b"PAR1 and no more")
    assert "1.parquet" in refusal(lambda: ParquetHistory(tmp_path)).where


def test_an_export_keeps_the_numbers_of_bad_readings(tmp_path: Path) -> None:
    spec = load_spec("reactor_bare")
    with Historian(tmp_path / "historian.db", spec.name) as store:
        store.register(spec)
        store.sample("T", Value(-9999.0, Quality.BAD, T0))
        store.sample("T", Value(320.0, Quality.GOOD, T0 + 1))
        store.add_runs("recorded", [(T0, T0 + 1)])
        assert store.flush()
        export(store, tmp_path / "history")
    frame = ParquetHistory(tmp_path / "history").readings(["T"], T0, T0 + 1)
    assert frame.select("value", "read").rows() == [(None, -9999.0), (320.0, 320.0)]
