"""How the dashboard is started: the command line of its own Streamlit process, and how to see that it is up."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboard.style import INK, LINE, LIVE, PAGE, PANEL

_OPTIONS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "browser.gatherUsageStats": "false",
    "runner.postScriptGC": "false",  # a collection after every tick costs ten times the tick itself
    "client.toolbarMode": "viewer",
    "client.showErrorLinks": "false",
    "theme.base": "light",
    "theme.primaryColor": LIVE,
    "theme.backgroundColor": PAGE,
    "theme.secondaryBackgroundColor": PANEL,
    "theme.textColor": INK,
    "theme.borderColor": LINE,
    "theme.baseRadius": "0px",
    "theme.showWidgetBorder": "true",
}


@dataclass(frozen=True)
class Settings:
    """What one dashboard shows. `plant`: a built-in plant's name or a YAML file. `plant_endpoint` None: the spec's own."""

    plant: str
    historian: Path
    controller: str
    plant_endpoint: str | None = None


def command(
    port: int,
    host: str,
    spec_path_or_name: str | Path,
    historian_path: str | Path,
    controller_endpoint: str,
    plant_endpoint: str | None = None,
) -> list[str]:
    """The argv that starts the dashboard at `http://host:port`. Run it where the packages can be imported.

    The plant's endpoint is only read, for what its regulatory layer says of itself while the controller is away.
    """
    argv = [sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("app.py"))]
    for option, value in {"server.port": str(port), "server.address": host, **_OPTIONS}.items():
        argv += [f"--{option}", value]
    argv += ["--", "--plant", str(spec_path_or_name), "--historian", str(historian_path)]
    argv += ["--controller", controller_endpoint]
    return argv + (["--plant-endpoint", plant_endpoint] if plant_endpoint else [])


def parse(argv: Sequence[str]) -> Settings:
    """The other end of `command`: what stands after `--`."""
    parser = argparse.ArgumentParser(prog="dashboard")
    parser.add_argument("--plant", required=True)
    parser.add_argument("--historian", required=True, type=Path)
    parser.add_argument("--controller", required=True)
    parser.add_argument("--plant-endpoint")
    args = parser.parse_args(argv)
    return Settings(args.plant, args.historian, args.controller, args.plant_endpoint)


def page_url(port: int, host: str = "127.0.0.1") -> str:
    """Where to point a browser on this machine."""
    return f"http://{_reachable(host)}:{port}"


def health_url(port: int, host: str = "127.0.0.1") -> str:
    """Answers 200 once the dashboard serves pages."""
    return f"{page_url(port, host)}/_stcore/health"


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host
