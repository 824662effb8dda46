"""The report every benchmark ends in: what is written, and what `--check` says."""

import json
from pathlib import Path

import pytest

from benchmarks.report import Report


def test_a_missed_bar_is_named_written_and_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("example")
    report.table("Scores", ["who", "score"], [["us", -0.41], ["them", -0.5]])
    report.bar("score", -0.41, -0.40, at_least=True)
    report.bar("time", 3.0, 5.0, at_least=False)
    path = tmp_path / "results" / "example.json"
    assert report.finish(path, check=True) == 1
    printed = capsys.readouterr().out
    assert "MISSED score: -0.41 (bar >= -0.4)" in printed
    assert "met    time" in printed
    written = json.loads(path.read_text())
    assert [b["met"] for b in written["bars"]] == [False, True]
    assert {"command", "date", "machine", "versions"} <= written.keys()
    assert "| us | -0.41 |" in path.with_suffix(".md").read_text()


def test_without_check_a_missed_bar_is_shown_and_the_run_succeeds() -> None:
    report = Report("example")
    report.bar("score", 0.0, 1.0, at_least=True)
    assert report.finish(None, check=False) == 0
