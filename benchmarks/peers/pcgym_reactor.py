"""pc-gym 0.1.8's own CSTR: replay input sequences with its integrators, or time its environment.

    python pcgym_reactor.py replay IN.npz OUT.npz      # x0 (n x 2), u (samples x n x 1), d (samples x n x 3), dt_s
    python pcgym_reactor.py oracle IN.npz OUT.npz      # x0 (n x 2), targets (n x samples), low, high, dt_s
    python pcgym_reactor.py speed OUT.json [SECONDS]

Runs in an environment of its own (`pip install pcgym==0.1.8 "numpy<2.4"`), nothing of this project. OUT.npz holds the
states (samples + 1 x n x 2) by `casadi` (its default, CVODES) and, for the first few, by `jax` (diffrax Tsit5); of `oracle`,
its NMPC with its own defaults, the `moves` (n x samples) and the `states` (n x samples x 2) after each that it made them in.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

import numpy as np
from pcgym import make_env

_DT_S, _JAX_RUNS = 26.0, 2


def environment(x0: np.ndarray, ti: np.ndarray, dt_s: float, method: str = "casadi"):
    """Its CSTR with a feed temperature that changes; actions and observations as they are, no scaling."""
    n = len(ti)
    facts = {
        "model": "cstr", "N": n, "tsim": n * dt_s / 60.0, "integration_method": method, "SP": {"Ca": [0.87] * (n + 1)},
        "x0": np.array([*x0, 0.87]), "normalise_a": False, "normalise_o": False, "r_scale": {"Ca": 1.0},
        "a_space": {"low": np.array([280.0]), "high": np.array([320.0])},
        "o_space": {"low": np.array([0.0, 250.0, 0.0]), "high": np.array([2.0, 600.0, 2.0])},
        "disturbances": {"Ti": np.append(ti[0], ti)},  # it applies entry t + 1 in step t
        "disturbance_bounds": {"low": np.array([300.0]), "high": np.array([420.0])},
    }  # fmt: skip
    env = make_env(facts)
    env.reset()
    return env


def replay(given: str, out: str) -> None:
    data = np.load(given)
    x0, u, d, dt_s = data["x0"], data["u"], data["d"], float(data["dt_s"])
    found = {}
    for method, count in (("casadi", len(x0)), ("jax", min(_JAX_RUNS, len(x0)))):
        states = np.empty((len(u) + 1, count, 2))
        states[0] = x0[:count]
        for i in range(count):
            env = environment(x0[i], d[:, i, 0], dt_s, method)
            for k in range(len(u)):
                env.step(u[k, i])
                states[k + 1, i] = env.state[:2]
        found[method] = states
    np.savez(out, **found)


def oracle(given: str, out: str) -> None:
    from pcgym.oracle import oracle as its_oracle

    data = np.load(given)
    x0, targets, dt_s = data["x0"], data["targets"], float(data["dt_s"])
    moves, states = [], []
    for start, goal in zip(x0, targets, strict=True):
        n = len(goal)
        facts = {
            "model": "cstr", "N": n, "tsim": n * dt_s / 60.0, "SP": {"Ca": list(goal)}, "x0": np.array([*start, goal[0]]),
            "a_space": {"low": data["low"], "high": data["high"]},
            "o_space": {"low": np.array([0.0, 250.0, 0.0]), "high": np.array([2.0, 600.0, 2.0])},
            "r_scale": {"Ca": 1.0},
        }  # fmt: skip
        after, made = its_oracle(make_env, facts).mpc()
        moves.append(made[0])
        states.append(after.T)
    np.savez(out, moves=np.array(moves), states=np.array(states))


def speed(out: str, seconds: float) -> None:
    steps = 60
    env, rng = environment(np.array([0.877, 324.5]), np.full(steps, 350.0), _DT_S), np.random.default_rng(0)
    moves = rng.uniform(295.0, 302.0, (steps, 1))
    done, began = 0, perf_counter()
    while perf_counter() - began < seconds:
        env.reset()
        for move in moves[:-1]:
            env.step(move)
        done += steps - 1
    rate = done / (perf_counter() - began)
    with open(out, "w") as file:
        json.dump({"plant_steps_per_s": {"its environment, CVODES": rate}, "plant_step_s": _DT_S}, file)


if __name__ == "__main__":
    if sys.argv[1] in ("replay", "oracle"):
        (replay if sys.argv[1] == "replay" else oracle)(*sys.argv[2:4])
    else:
        speed(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 2.0)
