"""A demo left running: deadlines, memory, and every sample in the historian exactly once.

    python -m benchmarks.soak [--minutes 30] [--speed 20] [--quick] [--json benchmarks/results/soak.json] [--check]

Bars: missed deadlines <= 1 % of cycles, memory growth of all processes together <= 10 % after the warm-up, no sample of
the endpoint's scan missing from the historian or in it twice.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.report import Report
from historian import Historian
from homeostat.status import read_status
from plant.spec import load_spec

BAR_MISSED, BAR_GROWTH, BAR_WRONG = 0.01, 0.10, 0
WARM_UP_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--speed", type=float, default=20.0)
    parser.add_argument("--quick", action="store_true", help="four minutes: a look, not a result")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    args = parser.parse_args()
    minutes = 4.0 if args.quick else args.minutes
    spec = load_spec("reactor")
    report = Report("soak: a demo left running")
    ports = [_free_port() for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        argv = [sys.executable, "-m", "homeostat", "demo", "--speed", str(args.speed), "--data-dir", str(data)]
        for option, port in zip(("--plant-port", "--controller-port", "--port"), ports, strict=True):
            argv += [option, str(port)]
        demo = subprocess.Popen(argv)
        controller = f"opc.tcp://127.0.0.1:{ports[1]}/homeostat/controller"
        db = data / "reactor" / "historian.db"
        began, memory, facts = time.monotonic(), [], {}
        while (age := time.monotonic() - began) < minutes * 60 and demo.poll() is None:
            time.sleep(10.0)
            now = read_status(spec, controller, db)
            if now["controller"] == "reachable":
                facts = now
            memory.append((age, _tree_bytes(demo.pid)))
        alive = demo.poll() is None
        demo.send_signal(signal.SIGINT)
        code = demo.wait(60)
        with Historian(db, spec.name, read_only=True) as store:
            newest = store.newest() or 0.0
            ts = store.history(["TI101"], 0.0, newest)["ts"].to_numpy()
            solve = store.decisions(limit=100_000)["solve_ms"].to_numpy()
            size = store.status()["file_bytes"]
    steps = np.round(np.diff(ts) / 1e6 / spec.scan_time_s, 3)
    missing, twice = int(np.sum(np.maximum(np.round(steps) - 1, 0))), int(np.sum(steps < 0.5))
    warm = [b for t, b in memory if t >= min(WARM_UP_S, minutes * 30)]
    growth = np.mean(warm[-3:]) / np.mean(warm[:3]) - 1 if len(warm) >= 6 else float("nan")
    cycles, missed = facts.get("cycles", 0), facts.get("missed_deadlines", 0)
    rows = [
        ["minutes", minutes], ["still running at the end, exit status", f"{alive}, {code}"], ["mode", facts.get("mode")],
        ["cycles", cycles], ["missed deadlines", missed], ["jitter p99, ms", facts.get("jitter_p99_ms")],
        ["plan ms p50 / p99", f"{np.percentile(solve, 50):.1f} / {np.percentile(solve, 99):.1f}"],
        ["memory after warm-up, MiB", float(np.mean(warm[:3]) / 2**20)], ["memory growth", f"{growth:.1%}"],
        ["scans of TI101 stored", len(ts)], ["missing", missing], ["stored twice", twice],
        ["historian, MiB", (size or 0) / 2**20],
    ]  # fmt: skip
    report.table(f"Demo at speed {args.speed:g}", ["what", "measured"], rows)
    report.bar("missed deadlines, share of cycles", missed / max(cycles, 1), BAR_MISSED, at_least=False)
    report.bar("memory growth after warm-up", float(growth), BAR_GROWTH, at_least=False)
    report.bar("samples missing or twice", missing + twice, BAR_WRONG, at_least=False)
    return report.finish(args.json, args.check)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _tree_bytes(pid: int) -> int:
    """Resident memory of a process and all its children."""
    root = psutil.Process(pid)
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    raise SystemExit(main())
