"""From a YAML file to a model on a plant of another make: check, record, excite, train, as commands."""

from __future__ import annotations

import json
import time

from benchmarks.foreign import plants
from benchmarks.foreign.bench import Bench, side_by_side
from benchmarks.foreign.node import Tanks
from benchmarks.foreign.product import Running, run, until
from benchmarks.outcomes import Cases, Outcome, none, not_run, yes

# Where the plant's own operators hold it while it is tested, cm above the usual levels: AUTO will step about as far.
POINTS = {
    plants.MINIMUM: ((0.0, 0.0), (0.9, -0.6), (-0.9, 0.5)),
    plants.NONMINIMUM: ((0.0, 0.0), (0.7, 0.6), (-0.7, -0.6)),
}
_SETTLE_H = 0.7  # plant hours
_TRAIN_S, _CHECK_S, _RECORD_S = 1200.0, 60.0, 10.0  # wall


def cases(bench: Bench) -> Cases:
    return side_by_side({s: lambda s=s: commission(bench, s) for s in (plants.MINIMUM, plants.NONMINIMUM)})


def commission(bench: Bench, setting: str) -> list[Outcome]:
    """Check, record, excite and train one setting; the model stays in `bench.model(setting)`."""
    settings, folder = bench.settings, bench.folder / setting
    path = folder / "exciting.yaml"
    spec = plants.write(path, setting, speed=settings.excite_speed)
    found = []
    with Tanks(setting, speed=settings.excite_speed, seed=bench.seed + 1) as tanks:
        code, said = run("check", path, "--endpoint", tanks.endpoint, "--json", timeout_s=_CHECK_S)
        errors = [f["what"] for f in json.loads(said)] if code == 0 else [said.strip()[-200:]]
        found.append(yes("`check` finds the plant as described", code == 0, "; ".join(errors)[:120] if code else ""))
        with Running(
            folder / "record.log", "record", path, "--endpoint", tanks.endpoint, "--data-dir", folder
        ) as record:
            until(lambda: "connected" in record.said(), _CHECK_S)
            time.sleep(_RECORD_S)
            status = record.end()
        found.append(yes("`record` ends well", status == 0, f"exit status {status}" if status else ""))
        before, codes, words = tanks.state(), [], []
        hours = settings.excite_hours / len(POINTS[setting])
        for k, point in enumerate(POINTS[setting]):
            usual = plants.NOMINAL[setting]
            tanks.operate(LC1=usual["LT1"] + point[0], LC2=usual["LT2"] + point[1])
            time.sleep(_SETTLE_H * 3600 / settings.excite_speed)
            argv = ("excite", path, "--endpoint", tanks.endpoint, "--hours", hours, "--data-dir", folder)
            argv = (*argv, "--together", 2, "--go-on", "--seed", bench.seed + k)
            code, said = run(*argv, timeout_s=120.0 + hours * 3600 / settings.excite_speed)
            codes.append(code)
            words.append(said.strip().splitlines()[-1][:100] if code else "")
        after = tanks.state()
        found.append(yes("`excite` ends well", not any(codes), "; ".join(filter(None, words))[:160]))
    limit = max(g.limit for g in spec.guardrails)
    worst = max(after["highest"][:2])
    found.append(Outcome("highest level while exciting, cm", worst, limit))
    found.append(none("trips while exciting", after["trips"] - before["trips"]))
    argv = ("train", path, "--data-dir", folder, "--out", folder / "model", "--steps", settings.steps)
    code, said = run(*argv, timeout_s=_TRAIN_S)
    if code and not (folder / "model" / "config.json").exists():
        return [*found, not_run("`train` makes a model", said.strip().splitlines()[-1][:200])]
    return [*found, yes("`train` makes a sound model", code == 0, said.strip().splitlines()[-1][:200] if code else "")]
