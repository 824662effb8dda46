"""The command line: its help, its merged configuration, and one line on stderr for whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
import yaml

from dashboard.launch import health_url
from historian import Historian
from homeostat import cli
from homeostat.commands import common
from plant.spec import builtin_plants, load_spec
from plant.yaml_file import read_yaml

COMMANDS = ("simulate", "check", "record", "excite", "train", "control", "dashboard", "status", "demo")
ROOT = Path(__file__).parents[2]
NOBODY = "opc.tcp://127.0.0.1:1/nobody"


@pytest.fixture
def homeostat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run `homeostat ...` in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["homeostat", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        text = capsys.readouterr()
        return int(left.value.code or 0), text.out, text.err

    return run


@pytest.fixture
def port() -> Callable[[], int]:
    def free() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    return free


def one_error(answer: tuple[int, str, str], status: int, *parts: str) -> None:
    """Exactly one line on stderr that says these things (a progress bar may have begun before it), nothing on stdout."""
    code, out, err = answer
    assert code == status, err
    err = re.sub(r"^reading the historian .*\n", "", err)
    assert err.startswith("error: "), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert out == ""
    for part in parts:
        assert part in err


def reactor_yaml(path: Path, **changes: object) -> Path:
    """The reactor's own YAML with top-level keys replaced."""
    data = read_yaml(ROOT / "plant" / "library" / "reactor.yaml")
    path.write_text(yaml.safe_dump({**data, **changes}))
    return path


def test_an_excitation_shows_its_plan_and_touches_nothing(homeostat, tmp_path: Path) -> None:
    code, out, _ = homeostat("excite", "vandevusse", "--plan", "--json", "--mv", "F", "--form", "steps")
    plan = json.loads(out)
    assert code == 0
    assert plan["travel_from"] == "the trained model's roll-out"
    (test,) = plan["tests"]
    assert (test["mv"], test["step"], test["hold_s"], test["hold_known"]) == ("F", 9.5, 72.0, False)
    assert 0.2 < test["travel"]["T_R"] < 10.0
    text = (
        (ROOT / "plant" / "library" / "vandevusse.yaml").read_text().replace("name: vandevusse", "name: unknown_cstr")
    )
    (tmp_path / "mine.yaml").write_text(text)
    code, out, _ = homeostat("excite", "mine.yaml", "--plan")
    assert code == 0
    assert "unknown" in out
    assert "turns back where T_R heads for 138.8 degC" in out


def test_an_excitation_that_nobody_would_take_over_from_is_refused(homeostat, tmp_path: Path) -> None:
    reactor_yaml(tmp_path / "bare.yaml", handshake={"speed": 1.0}, name="bare")
    code, _, err = homeostat("excite", "bare.yaml", "--endpoint", NOBODY)
    assert code == 1
    assert "nothing takes over should this command die" in err
    assert "--unguarded" in err
    code, _, err = homeostat("excite", "bare.yaml", "--endpoint", NOBODY, "--unguarded")
    assert code == 1
    assert "cannot connect" in err
    one_error(homeostat("excite", "reactor", "--mv", "TC102"), 1, "TC102 is no MV", "Its MVs are TC101")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(homeostat, command: str):
    code, out, err = homeostat(command, "--help")
    assert (code, err) == (0, "")
    assert f"Example: homeostat {command}" in re.sub(r"\s+", " ", out)


def test_help_names_every_command_and_no_command_is_no_success(homeostat):
    code, out, _ = homeostat("--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"^\W*{command} ", out, re.MULTILINE)
    code, out, err = homeostat()
    assert (code, err) == (2, "")
    assert "Usage" in out


def test_train_shows_its_merged_configuration_and_stops(homeostat, tmp_path: Path):
    (tmp_path / "train.yaml").write_text("model: {latent: 5}\ntraining: {steps: 7, batch: 9}\n")
    code, out, _ = homeostat("train", "reactor", "--config", "train.yaml", "--steps", 11, "--seed", 3, "--show-config")
    shown = yaml.safe_load(out)
    assert code == 0
    assert shown["model"]["latent"] == 5
    assert {k: shown["training"][k] for k in ("steps", "batch", "seed")} == {"steps": 11, "batch": 9, "seed": 3}
    assert shown["training"]["learning_rate"] > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "train.yaml"]


def test_what_train_shows_is_a_configuration_it_takes(homeostat, tmp_path: Path):
    _, first, _ = homeostat("train", "reactor", "--show-config")
    (tmp_path / "train.yaml").write_text(first)
    assert homeostat("train", "reactor", "--config", "train.yaml", "--show-config") == (0, first, "")


def test_what_control_shows_is_a_configuration_it_takes(homeostat, tmp_path: Path):
    _, first, _ = homeostat("control", "reactor", "--show-config")
    (tmp_path / "control.yaml").write_text(first)
    assert yaml.safe_load(first)["planner"]["horizon"] > 0
    assert homeostat("control", "reactor", "--config", "control.yaml", "--show-config") == (0, first, "")


def test_a_plant_is_controlled_where_its_simulator_is_not_installed(homeostat, tmp_path: Path):
    plant = builtin_plants()["reactor"].read_text().replace("simulator: reactor", "simulator: elsewhere")
    (tmp_path / "far.yaml").write_text(plant)
    code, _, said = homeostat("control", "far.yaml", "--show-config")
    assert (code, said) == (0, "")
    one_error(homeostat("simulate", "far.yaml"), 1, "'elsewhere' is not a simulator")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "demo"])
def test_a_plant_nobody_knows(homeostat, command: str):
    one_error(homeostat(command, "furnace"), 1, "furnace: no such file", "Built-in plants: ")


def test_a_demo_of_a_plant_nobody_knows(homeostat):
    one_error(homeostat("demo", "furnace"), 2, "'furnace' is not a built-in plant", "reactor", "--help")


@pytest.mark.parametrize("option", ["train", "control"])
def test_a_missing_configuration_file(homeostat, option: str):
    one_error(homeostat(option, "reactor", "--config", "none.yaml"), 1, "none.yaml: no such file", "Check the path")


def test_a_configuration_with_an_unknown_key(homeostat, tmp_path: Path):
    (tmp_path / "train.yaml").write_text("training: {stepps: 7}\n")
    one_error(homeostat("train", "reactor", "--config", "train.yaml"), 1, "training.stepps: unknown key")


def test_brackets_in_an_error_are_shown(homeostat, tmp_path: Path):
    """The plant's limits are lists; a terminal library takes [low, high] for a style."""
    data = read_yaml(ROOT / "plant" / "library" / "reactor.yaml")
    data["tags"][0]["range"] = [1.2, 0.0]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    one_error(homeostat("check", "mine.yaml"), 1, "range must be [low, high] with low < high, not [1.2, 0.0]")
    one_error(homeostat("check", "[/mine].yaml"), 1, "[/mine].yaml: no such file")


def test_what_a_plant_is_wanted_to_do_and_cannot(homeostat, tmp_path: Path):
    data = read_yaml(ROOT / "plant" / "library" / "reactor.yaml")
    cv = data["targets"][0]["tag"]
    zone = {"tag": cv, "low": 0.9, "high": 0.8, "limits": [0.7, 0.95]}
    for change, told in (
        ({"zones": [zone]}, f"the zone of {cv} has low 0.9 and high 0.8: low must be below high"),
        ({"zones": [{**zone, "low": 0.75, "limits": [0.7, 70.0]}]}, "zones[0].limits [0.7, 70.0] must lie inside the range"),
        ({"prices": [{"tag": cv, "per_unit": 1.0, "currency": "EUR"}, {"tag": data["tags"][1]["name"], "per_unit": 1.0, "currency": "GBP"}]},
         "prices must share one currency"),
    ):  # fmt: skip
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data | change))
        one_error(homeostat("check", "mine.yaml"), 1, told)


def test_a_schedule_or_forecast_that_cannot_be_followed_is_one_error_before_anything_is_moved(
    homeostat, tmp_path: Path
):
    (tmp_path / "week.csv").write_text("time,tag,value\n2030-01-01T00:00Z,NOWHERE,1\n")
    (tmp_path / "mine.yaml").write_text("schedule: week.csv\n")
    one_error(homeostat("control", "reactor", "--config", "mine.yaml"), 1, "week.csv, line 2: NOWHERE has no target")
    (tmp_path / "mine.yaml").write_text("forecast: {NOWHERE: {file: week.csv}}\n")
    one_error(homeostat("control", "reactor", "--config", "mine.yaml"), 1, "forecast.NOWHERE: NOWHERE is no DV")


def test_a_mode_that_does_not_exist(homeostat):
    one_error(homeostat("control", "reactor", "--mode", "fast"), 2, "'fast'", "off, advisory or auto", "--help")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("frobnicate",), "frobnicate"),
        (("train",), "PLANT"),
        (("train", "reactor", "--steps", "0"), "--steps"),
        (("train", "reactor", "--stepps", "5"), "--stepps"),
        (("simulate", "reactor", "--speed", "-1"), "--speed"),
        (("demo", "--minutes", "soon"), "--minutes"),
    ],
)
def test_a_slip_of_the_pen(homeostat, arguments: tuple[str, ...], what: str):
    one_error(homeostat(*arguments), 2, what, ". See --help.")


def test_training_without_history(homeostat, tmp_path: Path):
    path = tmp_path / "d" / "reactor" / "historian.db"
    one_error(homeostat("train", "reactor", "--data-dir", "d"), 1, "d/reactor/historian.db: there is no historian yet")
    with Historian(path, "reactor"):
        pass
    one_error(homeostat("train", "reactor", "--data-dir", "d"), 1, "the historian holds no AI101", "Record reactor")
    with Historian(path, "reactor") as store:
        store.register(load_spec("reactor"))
    one_error(homeostat("train", "reactor", "--data-dir", "d"), 1, "no finished run", "homeostat excite")
    assert not (tmp_path / "d" / "reactor" / "model").exists()


def test_training_on_what_is_no_historian(homeostat, tmp_path: Path):
    (tmp_path / "d" / "reactor").mkdir(parents=True)
    (tmp_path / "d" / "reactor" / "historian.db").write_text("time,T\n" * 1000)
    one_error(homeostat("train", "reactor", "--data-dir", "d"), 1, "not a database")


def test_control_without_a_checkpoint(homeostat, tmp_path: Path):
    one_error(
        homeostat("control", "reactor", "--checkpoint", "nowhere"), 1, "nowhere: no checkpoint", "homeostat train"
    )


def test_control_with_the_checkpoint_of_another_plant(homeostat, tmp_path: Path):
    from models.calibration import Calibration
    from models.checkpoint import save
    from models.config import ModelConfig
    from models.windows import Scale
    from models.world_model import WorldModel

    spec = load_spec("reactor")
    n = len(spec.measured) + len(spec.dvs) + len(spec.mvs)
    shape = ModelConfig(window=4, latent=4, encoder_width=8, predictor_width=8, head_width=8, horizon=3)
    model = WorldModel(spec, shape, Scale(np.zeros(n), np.ones(n)))
    save(tmp_path / "model", model, Calibration.none(3, 3), {}, "a card")
    other = reactor_yaml(tmp_path / "boiler.yaml", name="boiler")
    one_error(
        homeostat("control", other, "--checkpoint", "model"),
        1,
        "belongs to another plant (plant: trained on reactor, the plant has boiler)",
        "Train one for boiler",
    )


def test_status_of_nothing_says_so_and_fails(homeostat):
    code, out, _ = homeostat("status", "reactor", "--controller", NOBODY, "--json")
    facts = json.loads(out)
    assert code == 1
    assert facts["controller"].startswith(f"{NOBODY}: cannot connect")
    assert "no historian yet" in facts["historian"]["error"]
    code, out, _ = homeostat("status", "reactor", "--controller", NOBODY)
    assert code == 1
    assert "cannot connect" in re.sub(r"\s+", " ", out)


def test_status_without_a_controller_still_knows_the_history(homeostat, tmp_path: Path):
    spec = load_spec("reactor")
    with Historian(tmp_path / ".homeostat" / "reactor" / "historian.db", "reactor") as store:
        store.register(spec)
        store.event(1e9, "alarm", "x")
    code, out, _ = homeostat("status", "reactor", "--controller", NOBODY, "--json")
    assert code == 1
    assert json.loads(out)["historian"]["sample_rows"] == 0


def test_check_of_an_endpoint_that_is_not_there(homeostat):
    code, out, err = homeostat("check", "reactor", "--endpoint", NOBODY)
    assert code == 1
    assert "Traceback" not in out + err
    assert "connect" in re.sub(r"\s+", " ", out + err)


def test_a_demo_whose_port_is_taken_starts_nothing(homeostat, port: Callable[[], int], tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        answer = homeostat(
            "demo", "--port", port(), "--plant-port", port(), "--controller-port", taken, "--data-dir", "d"
        )
    one_error(answer, 1, f"port {taken} is in use", "controller", "choose another port")
    assert not (tmp_path / "d" / "reactor" / "logs").exists()
    assert not (tmp_path / "d" / "reactor" / "demo.lock").exists(), "the next demo must not find a lock"


def test_a_demo_beside_a_living_one_is_refused(homeostat, tmp_path: Path):
    lock = tmp_path / "d" / "reactor" / "demo.lock"
    lock.parent.mkdir(parents=True)
    me = psutil.Process(os.getppid())
    lock.write_text(json.dumps([{"pid": me.pid, "since": me.create_time()}]))
    one_error(
        homeostat("demo", "--data-dir", "d"),
        1,
        f"a demo already runs here (process {me.pid})",
        "demo.lock",
        "--data-dir",
    )
    assert json.loads(lock.read_text())[0]["pid"] == me.pid, "the lock still belongs to the other"


@pytest.mark.parametrize(
    "left_behind",
    [
        json.dumps([{"pid": 2**22 + 1, "since": 1.0}]),  # no such process
        json.dumps([{"pid": os.getppid(), "since": 1.0}] * 2),  # the number went to another process since
        json.dumps([{"pid": "many"}, 3, None]),
        "{}",
        "[]",
        "",
        '[{"pid": 1',
    ],
)
def test_the_lock_of_a_demo_that_is_gone_is_taken_over(homeostat, tmp_path: Path, left_behind: str):
    lock = tmp_path / "d" / "reactor" / "demo.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(left_behind)
    with socket.create_server(("127.0.0.1", 0)) as server:  # far enough: it got past the lock
        code, _, err = homeostat("demo", "--plant-port", server.getsockname()[1], "--data-dir", "d")
    assert code == 1
    first, second = err.splitlines()
    assert "taking over the lock" in first
    assert second.startswith("error: ")
    assert "is in use" in second
    assert not lock.exists()


def test_an_unforeseen_error_is_one_line_and_debug_shows_where(homeostat, monkeypatch: pytest.MonkeyPatch):
    def broken(plant: str) -> None:
        raise RuntimeError("two\nlines [and brackets]")

    monkeypatch.setattr(common, "load_spec", broken)
    code, _, err = homeostat("simulate", "reactor")
    assert code == 1
    assert err == "internal error: RuntimeError: two lines [and brackets]. Run again with --debug.\n"
    monkeypatch.setattr(sys, "argv", ["homeostat", "--debug", "simulate", "reactor"])
    with pytest.raises(RuntimeError, match="two"):
        cli.main()


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (("train", "reactor"), 1, "there is no historian yet"),
        (("simulate", "reactor", "--endpoint", "http://x"), 1, "http://x"),
        (("record", "reactor", "--endpoint", NOBODY, "--data-dir", "/proc/x"), 1, "/proc/x"),
    ],
)
def test_as_a_program_of_its_own(tmp_path: Path, arguments: tuple[str, ...], status: int, what: str):
    """The same, with the real interpreter, its logging and its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "homeostat", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert what in errors[0]
    assert "Traceback" not in done.stderr


def test_simulate_lists_every_plant_with_its_scenarios(homeostat):
    code, out, _ = homeostat("simulate", "--list")
    assert code == 0
    for plant in builtin_plants():
        assert plant in out
    assert "bad_instruments" in out
    code, out, _ = homeostat("simulate", "reactor", "--list")
    assert code == 0
    assert "runaway" in out
    assert "reactor_bare" not in out


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_simulate_draws_a_run(homeostat, tmp_path: Path, ending: str):
    (tmp_path / "short.yaml").write_text(
        "name: short\ndescription: A cold feed\nduration_s: 120\ndisturbances: {Ti: {value: 345}}\n"
        "sensors: [{tag: TI101, fault: dropout, at_s: 60}]\n"
    )
    code, _, err = homeostat("simulate", "reactor", "--scenario", "short.yaml", "--plot", f"run.{ending}")
    assert (code, "reactor, short: 120 s of plant time" in err) == (0, True)
    head = (tmp_path / f"run.{ending}").read_bytes()[:5]
    assert head.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF-"}[ending])


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        ((), 2, ("name a plant: ", "reactor")),
        (("reactor", "--scenario", "nap"), 1, ("nap: no such file", "Scenarios of reactor: steady, bad_instruments")),
        (("reactor", "--scenario", "steady", "--plot", "run.gif"), 1, ("'.gif' is no kind of picture", ".png")),
        (("reactor", "--scenario", "steady", "--plot", "no/such/run.png"), 1, ("no/such/run.png", "cannot be written")),
    ],
)
def test_simulate_says_what_is_wrong(homeostat, arguments: tuple, status: int, parts: tuple):
    one_error(homeostat("simulate", *arguments), status, *parts)


def test_a_plant_with_a_disclaimer_says_it(homeostat, tmp_path: Path):
    _, _, err = homeostat("simulate", "glucose", "--scenario", "steady", "--plot", "run.svg")
    assert "not a medical device" in re.sub(r"\s+", " ", err)
    assert "not a medical device" in (tmp_path / "run.svg").read_text()


def test_controllers_are_evaluated_beside_each_other(homeostat, tmp_path: Path):
    (tmp_path / "calm.yaml").write_text("planner: {suppression: 2.0}\n")
    (tmp_path / "plain.yaml").write_text("planner: {horizon: 10}\n")
    files = ["--config", "plain.yaml", "--config", "calm.yaml"]
    code, out, err = homeostat(
        "evaluate", "reactor_bare", *files, "--nmpc", "--runs", 1, "--seeds", 2, "--out", "report"
    )
    assert code == 0, err
    assert "| score | unit | plain | calm | NMPC, true equations | moves held |" in out
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        f"evaluation.{e}" for e in ("html", "json", "md")
    ]
    code, out, err = homeostat(
        "evaluate",
        "reactor_bare",
        "--config",
        "plain.yaml",
        "--tier",
        "full",
        "--runs",
        1,
        "--seeds",
        1,
        "--out",
        "all",
    )
    assert code == 0, err
    cases = {p.parent.name for p in (tmp_path / "all").glob("*/evaluation.html")}
    assert {"operation", "operation_noise_x_3"} <= cases
    assert not cases & {"steady", "excitation", "incident"}
    assert out.count("| score | unit | plain | moves held |") == len(cases)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "calm.yaml").write_text("{}")
    one_error(
        homeostat("evaluate", "reactor_bare", "--config", "calm.yaml", "--config", "other/calm.yaml"), 1, "one name", "Rename"
    )  # fmt: skip
    one_error(homeostat("evaluate", "reactor_bare", "--scenario", "nonsense", "--runs", 1), 1, "nonsense")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_page_outlives_the_dashboard_that_was_ended(number: signal.Signals, tmp_path: Path):
    """Whoever ends the process that was started has ended the page, and its port is free again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "homeostat", "dashboard", "reactor", "--port", str(port), "--data-dir", str(tmp_path)]
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 90
        while not serves(port):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "the page does not come up"
            time.sleep(0.1)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert f"operator page: http://127.0.0.1:{port}" in said
        assert "Traceback" not in said
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        assert not serves(port)
    finally:
        process.kill()
        process.wait()


def serves(port: int) -> bool:
    try:
        with urlopen(health_url(port), timeout=2.0) as answer:
            return answer.status == 200
    except OSError:
        return False
