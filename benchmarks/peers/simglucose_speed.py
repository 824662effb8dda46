"""Time simglucose 0.2.11: patient-minutes a second of its environment, and of its patient alone.

    python simglucose_speed.py speed OUT.json [SECONDS]

Runs in an environment of its own (`pip install simglucose==0.2.11 "setuptools<81"`), nothing of this project.
"""

from __future__ import annotations

import json
import sys
from collections import namedtuple
from datetime import datetime
from time import perf_counter
from types import SimpleNamespace

import numpy as np
from simglucose.actuator.pump import InsulinPump
from simglucose.patient.t1dpatient import Action, T1DPatient
from simglucose.sensor.cgm import CGMSensor
from simglucose.simulation.env import T1DSimEnv
from simglucose.simulation.scenario_gen import RandomScenario

Dose = namedtuple("Dose", ["basal", "bolus"])
_NAME, _BASAL = "adult#001", 0.02


def _day(minute: int) -> Action:
    return Action(CHO=60.0 if minute % 300 == 30 else 0.0, insulin=_BASAL)


def speed(out: str, seconds: float) -> None:
    patient = T1DPatient.withName(_NAME)
    start = datetime(2020, 1, 1)
    env = T1DSimEnv(
        T1DPatient.withName(_NAME),
        CGMSensor.withName("Dexcom", seed=1),
        InsulinPump.withName("Insulet"),
        RandomScenario(start, seed=1),
    )
    env.reset()
    params = patient._params
    plain = SimpleNamespace(**{k: v for k, v in params.items() if not str(k).startswith("x0_")})
    quick = T1DPatient(plain, init_state=params.iloc[2:15].to_numpy(float))

    def alone(who: T1DPatient) -> int:
        for minute in range(60):
            who.step(_day(minute))
        return 60

    def whole() -> int:
        for _ in range(20):
            env.step(Dose(basal=_BASAL, bolus=0.0))
        return 20 * int(env.sample_time)

    rates = {}
    for name, run in (
        ("its environment (Dexcom, pump, random meals)", whole),
        ("its patient alone", lambda: alone(patient)),
        ("its patient alone, parameters as plain attributes", lambda: alone(quick)),
    ):
        done, began = 0, perf_counter()
        while perf_counter() - began < seconds:
            done += run()
        rates[name] = done / (perf_counter() - began)
    assert np.isfinite(patient.state).all()
    with open(out, "w") as file:
        json.dump({"plant_steps_per_s": rates, "plant_step_s": 60.0}, file)


if __name__ == "__main__":
    speed(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 2.0)
