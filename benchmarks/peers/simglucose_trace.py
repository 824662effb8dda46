"""Record closed loops of simglucose 0.2.11, to replay its insulin and meals on our equations.

    python simglucose_trace.py OUT.npz [--hours 48] [--patients 30] [--ours PARAMETERS.json]

Runs in an environment of its own: `pip install simglucose==0.2.11 "setuptools<81"` (it pins gym 0.9.4 and needs
pkg_resources), nothing of this project. OUT.npz holds, a minute a column: `insulin` (U/min, as its pump delivered it),
`carbohydrate` (g/min eaten), `glucose` and `plasma` (mg/dL, one column more: the start is the first), with
`names`, `parameters` (patients x n), `x0` (patients x 13), `ratio` (g/U) and `correction` (mg/dL per U). Its own patients
are licensed elsewhere: keep that file out of any repository. With `--ours` its equations run on parameter sets of ours
(JSON: {"names": [...], "patients": [[...], ...], "x0": [[...], ...], "basal_U_per_min": [...]}) with two meals and
boluses, open loop, and the file holds only numbers of ours.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from simglucose.actuator.pump import InsulinPump
from simglucose.controller.basal_bolus_ctrller import CONTROL_QUEST, PATIENT_PARA_FILE, BBController
from simglucose.patient.t1dpatient import Action, T1DPatient
from simglucose.sensor.cgm import CGMSensor
from simglucose.simulation.env import T1DSimEnv
from simglucose.simulation.scenario_gen import RandomScenario

_TEXT = ("Name", "patient_history")


class _Recorded(T1DPatient):
    """Its patient, with plain attributes for parameters (a data frame row is twenty times slower) and a record."""

    def __init__(self, parameters: SimpleNamespace, x0: list[float]) -> None:
        super().__init__(parameters, init_state=np.array(x0, float))

    def reset(self) -> None:
        super().reset()
        self.insulin: list[float] = []
        self.eaten: list[float] = []
        self.states = [np.array(self.state)]

    def step(self, action: Action) -> None:
        super().step(action)
        self.insulin.append(float(self._last_action.insulin))
        self.eaten.append(float(self._last_action.CHO))
        self.states.append(np.array(self.state))

    def record(self) -> dict[str, np.ndarray]:
        states = np.array(self.states)
        return {
            "insulin": np.array(self.insulin),
            "carbohydrate": np.array(self.eaten),
            "glucose": states[:, 12] / self._params.Vg,
            "plasma": states[:, 3] / self._params.Vg,
        }


def closed_loop(job: tuple[int, float]) -> dict[str, np.ndarray]:
    """Its own patient, sensor (Dexcom), pump (Insulet), random meals and basal-bolus controller.

    A day that takes the patient below 20 mg/dL is drawn again: there its states are held at zero, and ours have ended.
    """
    index, hours = job
    row = pd.read_csv(PATIENT_PARA_FILE).iloc[index]
    x0 = [float(v) for v in row.iloc[2:15]]
    parameters = SimpleNamespace(**{k: v for k, v in row.items() if not str(k).startswith("x0_")})
    quest = pd.read_csv(CONTROL_QUEST).iloc[index]
    names = [k for k in row.index[15:] if k not in _TEXT]
    for attempt in range(20):
        seed = 1 + index + 100 * attempt
        record = _run(_Recorded(parameters, x0), seed, hours)
        if min(record["glucose"].min(), record["plasma"].min()) > 20.0:
            break
    return {
        **record,
        "parameters": row[names].to_numpy(float),
        "x0": np.array(x0),
        "names": np.array(names),
        "patient": np.array(row["Name"]),
        "seed": np.array(seed),
        "ratio": np.array(float(quest["CR"])),
        "correction": np.array(float(quest["CF"])),
    }


def _run(patient: _Recorded, seed: int, hours: float) -> dict[str, np.ndarray]:
    environment = T1DSimEnv(
        patient,
        CGMSensor.withName("Dexcom", seed=seed),
        InsulinPump.withName("Insulet"),
        RandomScenario(datetime(2020, 1, 1), seed=seed),
    )
    controller = BBController()
    step = environment.reset()
    start = environment.time
    while environment.time - start < timedelta(hours=hours):
        asked = controller.policy(step.observation, step.reward, step.done, **step.info)
        step = environment.step(SimpleNamespace(basal=float(asked.basal), bolus=float(asked.bolus)))
    return {k: v[: int(hours * 60) + (k in ("glucose", "plasma"))] for k, v in patient.record().items()}


def open_loop(ours: dict, hours: float) -> list[dict[str, np.ndarray]]:
    """Its equations on our parameters: basal, and two meals that overlap in the stomach, each with a bolus."""
    records = []
    for values, x0, basal in zip(ours["patients"], ours["x0"], ours["basal_U_per_min"], strict=True):
        patient = _Recorded(SimpleNamespace(Name="ours", **dict(zip(ours["names"], values, strict=True))), x0)
        for minute in range(int(hours * 60)):
            grams, units = {60: (60.0, 4.0), 130: (30.0, 2.0), 400: (15.0, 0.0)}.get(minute, (0.0, 0.0))
            patient.step(Action(CHO=grams, insulin=basal + units))
        records.append(patient.record())
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=float, default=48.0)
    parser.add_argument("--patients", type=int, default=30)
    parser.add_argument("--ours", type=Path)
    given = parser.parse_args()
    if given.ours:
        records = open_loop(json.loads(given.ours.read_text()), given.hours)
    else:
        with ProcessPoolExecutor(2) as pool:
            records = list(pool.map(closed_loop, [(i, given.hours) for i in range(given.patients)]))
    stacked = {k: np.stack([r[k] for r in records]) for k in records[0] if k != "names"}
    extra = {"names": records[0]["names"]} if "names" in records[0] else {}
    np.savez_compressed(given.out, **stacked, **extra)


if __name__ == "__main__":
    main()
