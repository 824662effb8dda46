"""Small inputs that once went wrong, given by `--cases`: each one's command is run, and judged by what its README calls right.

The folder is not part of the repository: what it taught is kept as tests. Without it the row says that it was not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import load_file

from benchmarks.foreign.bench import Bench
from benchmarks.foreign.ports import free_port
from benchmarks.foreign.product import Controller, Running, run, until
from benchmarks.outcomes import Case, Cases, Outcome, not_run, yes
from historian import Historian

_S = 300.0  # wall, a command
_ROOT = Path(__file__).parents[2]


def cases(bench: Bench) -> Cases:
    if bench.shared_cases is None or not bench.shared_cases.is_dir():
        why = "no folder of cases was given (--cases DIR)"
        return {"all": lambda: [not_run("the case is right", why)]}

    def case(number: str, judge: Callable[[Work], list[Outcome]]) -> Case:
        (folder,) = bench.shared_cases.glob(f"{number}_*") if bench.shared_cases else ()
        return lambda: judge(Work(bench, folder))

    return {number: case(number, judge) for number, judge in _JUDGES.items()}


class Work:
    """A copy of one case's folder to run commands in, its plug-in installed where it brings one."""

    def __init__(self, bench: Bench, source: Path) -> None:
        self.bench, self.shared = bench, bench.shared_cases
        self.folder = bench.folder / "cases" / source.name
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(source, self.folder, copy_function=shutil.copyfile)
        for part in (self.folder, *self.folder.rglob("*")):
            part.chmod(0o755 if part.is_dir() else 0o644)
        for odd in ("excitation", "operation"):  # scenarios beside the YAML are files with an ending
            if (self.folder / odd).is_file():
                shutil.copy(self.folder / odd, self.folder / f"{odd}.yaml")
        self.env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder), str(_ROOT)])}
        project = self.folder / "pyproject.toml"
        if project.exists():
            points = tomllib.loads(project.read_text())["project"]["entry-points"]["homeostat.simulators"]
            info = self.folder / "plugin-0.1.dist-info"
            info.mkdir()
            (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0.1\n")
            lines = "\n".join(f"{name} = {target}" for name, target in points.items())
            (info / "entry_points.txt").write_text(f"[homeostat.simulators]\n{lines}\n")

    def homeostat(self, *argv: object) -> tuple[int, str]:
        """A command in the folder; its status and words."""
        return run(*argv, timeout_s=_S, cwd=self.folder, env=self.env)

    def server(self, *argv: object) -> subprocess.Popen[bytes]:
        """The case's own server."""
        return subprocess.Popen([sys.executable, *map(str, argv)], cwd=self.folder, stdout=subprocess.DEVNULL)

    def moved(self, name: str, port: int) -> Path:
        """The plant file with its endpoint on `port`."""
        path = self.folder / name
        facts = yaml.safe_load(path.read_text())
        facts["endpoint"] = re.sub(r":\d+/", f":{port}/", facts["endpoint"])
        path.write_text(yaml.safe_dump(facts, sort_keys=False))
        return path


def _right(held: bool, said: str) -> list[Outcome]:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return [yes("the case is right", held, "" if held else " | ".join(lines[-2:])[-200:])]


def _clean(said: str) -> bool:
    return "Traceback" not in said and "internal error" not in said


def plug_in_without_scenario(w: Work) -> list[Outcome]:
    code, said = w.homeostat("excite", "two_tanks.yaml", "--lock-step", "--runs", 20)
    return _right(code == 0, said)


def no_guardrail(w: Work) -> list[Outcome]:
    code, said = w.homeostat("excite", "one.yaml", "--lock-step", "--runs", 60)
    if code:
        return _right(False, said)
    code, said = w.homeostat("train", "one.yaml", "--steps", 20)
    made = (w.folder / ".homeostat" / "one" / "model" / "config.json").exists()
    refused = code != 0 and "training:" not in said
    return _right(_clean(said) and (made or refused), said)


def resting_mv(w: Work) -> list[Outcome]:
    code, said = w.homeostat("train", "one.yaml", "--parquet", "mv_rests", "--steps", 20)
    made = (w.folder / ".homeostat" / "pq" / "model" / "config.json").exists()
    return _right(made and _clean(said) and "U: missing" not in said, f"{said}\nstatus {code}")


def _auto(w: Work, name: str, *argv: object) -> list[Outcome]:
    """A model of the plant, its server, and AUTO."""
    port = free_port()
    path = w.moved(name, port)
    model = _model(w, path)
    if isinstance(model, str):
        return _right(False, model)
    config = {**yaml.safe_load((w.folder / "hold.yaml").read_text())}
    server = w.server("foreign.py", port, *argv)
    try:
        time.sleep(1.0)
        with Controller(
            w.folder / "data", path, f"opc.tcp://127.0.0.1:{port}/one", config=config, checkpoint=model
        ) as c:
            why = c.auto(40.0)
            held = not why and c.wait(lambda s: s.mode_actual != "AUTO", 4.0) is None
            seen = c.now()
    finally:
        server.kill()
    return _right(held, why or (seen.mode_reason if seen else "no answer"))


def _model(w: Work, plant: Path) -> Path | str:
    """A model of `plant`, from the simulator that another case brings."""
    assert w.shared is not None
    brings = Work(w.bench, next(w.shared.glob("03_*")))
    env = brings.env
    data = w.folder / "made"
    for argv in (("excite", plant, "--lock-step", "--runs", 200), ("train", plant, "--steps", 400)):
        code, said = run(*argv, "--data-dir", data, timeout_s=_S, cwd=w.folder, env=env)
        if code:
            return said
    return data / "one" / "model"


def stamped_when_written(w: Work) -> list[Outcome]:
    return _auto(w, "one.yaml")


def hair_out_of_range(w: Work) -> list[Outcome]:
    return _auto(w, "one_crit.yaml", "--stamp", "--u0", 0)


def tiny_units(w: Work) -> list[Outcome]:
    for argv in (("excite", "tiny.yaml", "--lock-step", "--runs", 200), ("train", "tiny.yaml", "--steps", 400)):
        code, said = w.homeostat(*argv)
        if code:
            return _right(False, said)
    (w.folder / "usual.yaml").write_text("planner: {}\n")
    configs = ("--config", "guard0.yaml", "--config", "usual.yaml")
    code, said = w.homeostat("evaluate", "tiny.yaml", *configs, "--runs", 4, "--seeds", 2)
    rows = {c[1].strip(): c for line in said.splitlines() if (c := line.split("|")) and len(c) > 5}
    if code or not {"error PV", "unsound"} <= rows.keys():
        return _right(False, said)
    guarded, usual = (float(rows["error PV"][i].split()[0]) for i in (3, 4))
    unsound = float(rows["unsound"][4].split()[0])
    return _right(usual <= 1.2 * guarded and unsound == 0.0, "|".join(rows["error PV"]))


def fill_values(w: Work) -> list[Outcome]:
    code, said = w.homeostat("train", "one.yaml", "--parquet", "fill999", "--steps", 20)
    weights = next(w.folder.glob(".homeostat/*/model/model.safetensors"), None)
    std = float(np.max(load_file(weights)["channel_std"])) if weights else float("inf")
    return _right(
        "Y" in said and std < 100 and "learned from as it is" not in said, f"{said}\nstatus {code}, std {std:g}"
    )


def boolean_mv(w: Work) -> list[Outcome]:
    return _recorded(w, "plant.yaml", lambda stored, said: stored.get("PV", 0) > 0 and stored.get("SW", 0) > 0)


def stamp_of_1601(w: Work) -> list[Outcome]:
    return _recorded(w, "plant2.yaml", lambda stored, said: "OLD" in said or stored.get("OLD", 0) > 0)


def _recorded(w: Work, name: str, right: Callable[[dict[str, int], str], bool]) -> list[Outcome]:
    port = free_port()
    path = w.moved(name, port)
    server = w.server("server.py", port)
    try:
        time.sleep(1.0)
        with Running(w.folder / "record.log", "record", path, "--data-dir", w.folder / "data") as record:
            until(lambda: record.process is not None and record.process.poll() is not None, 12.0)
            code = record.end()
            said = record.said()
    finally:
        server.kill()
    plant = yaml.safe_load(path.read_text())["name"]
    db = w.folder / "data" / plant / "historian.db"
    stored = {}
    if db.exists():
        with Historian(db, plant, read_only=True) as store:
            stored = {tag: store.count(tag) for tag in store.tags}
    return _right(code == 0 and _clean(said) and right(stored, said), f"{said}\n{stored}")


def many_nodes(w: Work) -> list[Outcome]:
    port = free_port()
    path = w.moved("m_lim.yaml", port)
    server = w.server("many_server.py", port, 20)
    try:
        time.sleep(1.0)
        code, said = w.homeostat("check", path.name)
    finally:
        server.kill()
    return _right("TooManyOperations" not in said and _clean(said) and code == 0, said)


def on_off(w: Work) -> list[Outcome]:
    """Declared on/off, it is excited at its levels only."""
    path = w.folder / "onoff.yaml"
    facts = yaml.safe_load(path.read_text())
    next(t for t in facts["tags"] if t["name"] == "SW")["move"]["levels"] = [0, 1]
    path.write_text(yaml.safe_dump(facts, sort_keys=False))
    code, said = w.homeostat("excite", path.name, "--lock-step", "--runs", 20)
    if code:
        return _right(False, said)
    with Historian(w.folder / ".homeostat" / "onoff" / "historian.db", "onoff", read_only=True) as store:
        values = store.history(["SW"], 0.0, 9e9)["value"].drop_nulls().unique().to_list()
    # The plant's own rate ends a hair from a level, by the rounding of its scans.
    return _right({round(v, 9) + 0.0 for v in values} == {0.0, 1.0}, f"levels visited: {values[:6]}")


def texts_for_numbers(w: Work) -> list[Outcome]:
    found = [w.homeostat("train", "one.yaml", "--parquet", name, "--steps", 20) for name in ("pi_strings", "comma")]
    good = all(_clean(said) and "conversion from" not in said for _, said in found)
    named = "Bad Input" in found[0][1] or "I/O Timeout" in found[0][1] or re.search(r"\bY\b", found[0][1]) is not None
    return _right(good and named, found[0][1] + found[1][1])


def milliseconds(w: Work) -> list[Outcome]:
    (_, milli), (_, nano) = (w.homeostat("train", "one.yaml", "--parquet", n, "--steps", 20) for n in ("milli", "nano"))
    return _right("millisecond" in milli and "nanosecond" in nano, milli + nano)


def odd_scan(w: Work) -> list[Outcome]:
    code, said = w.homeostat("excite", "one_scan.yaml", "--lock-step", "--runs", 20)
    return _right(code != 0 and "scan_time_s" in said and _clean(said), said)


def own_writer(w: Work) -> list[Outcome]:
    """The writer is slow: the same process waits for it."""
    slow = (
        "import time, historian.writer as m\n"
        "real, done = m.BufferedWriter._write, []\n"
        "def _write(self, *a, **k):\n"
        "    done or (done.append(1), time.sleep(7.0))\n"
        "    return real(self, *a, **k)\n"
        "m.BufferedWriter._write = _write\n"
        "import sys; from homeostat.cli import main; sys.argv[1:] = ['excite', 'reactor', '--lock-step', '--runs', '4',"
        " '--incidents', '0']; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", slow], cwd=w.folder, env=w.env, capture_output=True, text=True, timeout=_S, check=False
    )
    return _right(done.returncode == 0, done.stdout + done.stderr)


def long_tick(w: Work) -> list[Outcome]:
    code, said = w.homeostat("excite", "dead.yaml", "--lock-step", "--runs", 20)
    return _right(code != 0 and "tick_s" in said and _clean(said), said)


_JUDGES: dict[str, Callable[[Work], list[Outcome]]] = {
    "01": plug_in_without_scenario, "03": no_guardrail, "05": resting_mv, "07": stamped_when_written,
    "08": hair_out_of_range, "09": tiny_units, "11": fill_values, "12": boolean_mv, "14": stamp_of_1601,
    "15": many_nodes, "17": on_off, "18": texts_for_numbers, "19": milliseconds, "21": odd_scan, "22": own_writer,
    "24": long_tick,
}  # fmt: skip
