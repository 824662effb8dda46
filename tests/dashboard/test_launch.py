"""The command line between `homeostat dashboard` and its Streamlit process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dashboard.launch import Settings, command, health_url, page_url, parse


def test_what_is_asked_for_arrives():
    argv = command(8501, "127.0.0.1", "reactor", Path("/data/h.db"), "opc.tcp://c", "opc.tcp://p")
    assert parse(argv[argv.index("--") + 1 :]) == Settings("reactor", Path("/data/h.db"), "opc.tcp://c", "opc.tcp://p")
    argv = command(8501, "127.0.0.1", "reactor", "h.db", "opc.tcp://c")
    assert parse(argv[argv.index("--") + 1 :]).plant_endpoint is None


def test_streamlit_is_bound_private_and_quiet():
    argv = command(8600, "127.0.0.1", "reactor", "h.db", "opc.tcp://c")
    options = dict(zip(argv[5 : argv.index("--")][::2], argv[6 : argv.index("--")][::2], strict=True))
    assert argv[:4] == [sys.executable, "-m", "streamlit", "run"]
    assert Path(argv[4]).is_file()
    assert options["--server.port"] == "8600"
    assert options["--server.address"] == "127.0.0.1"
    assert options["--runner.postScriptGC"] == "false"
    assert options["--browser.gatherUsageStats"] == "false"
    assert options["--server.fileWatcherType"] == "none"
    assert options["--server.headless"] == "true"


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8501"), ("0.0.0.0", "http://127.0.0.1:8501"), ("::", "http://[::1]:8501")],
)
def test_urls_can_be_opened_on_this_machine(host, url):
    assert page_url(8501, host) == url
    assert health_url(8501, host) == f"{url}/_stcore/health"
