"""do-mpc 5.1.2 with its CSTR example: replay input sequences, close its own loop, or time its simulator.

    python dompc_vandevusse.py replay IN.npz OUT.npz   # x0 (n x 4), u (samples x n x 2), d (samples x n x 2), p, dt_s
    python dompc_vandevusse.py mpc IN.json OUT.npz     # {"n_robust": [...], "plants": [[alpha, beta], ...], "samples": n}
    python dompc_vandevusse.py speed OUT.json [SECONDS]

Runs in an environment of its own (`pip install do-mpc==5.1.2`), nothing of this project. The equations are the published
ones (Klatt & Engell 1998, with the example's numbers), written here in do-mpc's terms; OUT.npz holds the states
(samples + 1 x n x 4) by `cvodes` at do-mpc's own tolerances; of `mpc`, with the example's controller for each `n_robust` and
plant, `states` (n_robust x plants x samples + 1 x 4), `moves` (... x samples x 2) and `solve_s` (... x samples).
"""

from __future__ import annotations

import json
import sys
import warnings
from time import perf_counter

import casadi as ca
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import do_mpc

_DT_S = 18.0


def cstr():
    """The example's model."""
    model = do_mpc.model.Model("continuous")
    ca_, cb, t_r, t_k = (model.set_variable("_x", n) for n in ("C_a", "C_b", "T_R", "T_K"))
    flow, heat = (model.set_variable("_u", n) for n in ("F", "Q_dot"))
    feed, t_in, alpha, beta = (model.set_variable("_p", n) for n in ("C_A0", "T_in", "alpha", "beta"))
    kelvin = t_r + 273.15
    k1 = beta * 1.287e12 * ca.exp(-9758.3 / kelvin)
    k2 = 1.287e12 * ca.exp(-9758.3 / kelvin)
    k3 = 9.043e9 * ca.exp(-alpha * 8560.0 / kelvin)
    area, cp = 4032.0 * 0.215, 0.9342 * 3.01
    reaction = k1 * ca_ * 4.2 + k2 * cb * -11.0 + k3 * ca_**2 * -41.85
    model.set_rhs("C_a", flow * (feed - ca_) - k1 * ca_ - k3 * ca_**2)
    model.set_rhs("C_b", -flow * cb + k1 * ca_ - k2 * cb)
    model.set_rhs("T_R", reaction / -cp + flow * (t_in - t_r) + area * (t_k - t_r) / (cp * 10.01))
    model.set_rhs("T_K", (heat + area * (t_r - t_k)) / (5.0 * 2.0))
    model.setup()
    return model


def simulator(dt_s: float):
    """Its simulator, and the function that tells it feed and kinetics."""
    sim = do_mpc.simulator.Simulator(cstr())
    sim.settings.t_step = dt_s / 3600.0
    template = sim.get_p_template()
    values = {"C_A0": 5.1, "T_in": 130.0, "alpha": 1.0, "beta": 1.0}

    def parameters(_):
        for name, value in values.items():
            template[name] = value
        return template

    sim.set_p_fun(parameters)
    sim.setup()
    return sim, values


def controller(n_robust: int):
    """The example's MPC: 20 samples ahead, sum (Cb - .6)^2, moves priced, T_R soft at 140, three values each of alpha and beta."""
    model = cstr()
    mpc = do_mpc.controller.MPC(model)
    mpc.settings.n_horizon, mpc.settings.n_robust, mpc.settings.t_step = 20, n_robust, _DT_S / 3600.0
    mpc.settings.store_full_solution = False
    mpc.settings.nlpsol_opts = {"ipopt.print_level": 0, "ipopt.sb": "yes", "print_time": 0}
    mpc.scaling["_x", "T_R"] = mpc.scaling["_x", "T_K"] = 100.0
    mpc.scaling["_u", "Q_dot"], mpc.scaling["_u", "F"] = 2000.0, 100.0
    error = (model.x["C_b"] - 0.6) ** 2
    mpc.set_objective(mterm=error, lterm=error)
    mpc.set_rterm(F=0.1, Q_dot=1e-3)
    for name, low, high in (("C_a", 0.1, 2.0), ("C_b", 0.1, 2.0), ("T_R", 50.0, None), ("T_K", 50.0, 140.0)):
        mpc.bounds["lower", "_x", name] = low
        if high is not None:
            mpc.bounds["upper", "_x", name] = high
    for name, low, high in (("F", 5.0, 100.0), ("Q_dot", -8500.0, 0.0)):
        mpc.bounds["lower", "_u", name], mpc.bounds["upper", "_u", name] = low, high
    mpc.set_nl_cons("T_R", model.x["T_R"], ub=140.0, soft_constraint=True, penalty_term_cons=1e2)
    known = {"C_A0": np.array([5.1]), "T_in": np.array([130.0])}
    mpc.set_uncertainty_values(alpha=np.array([1.0, 1.05, 0.95]), beta=np.array([1.0, 1.1, 0.9]), **known)
    mpc.setup()
    return mpc


def mpc(given: str, out: str) -> None:
    with open(given) as file:
        asked = json.load(file)
    samples, plants = asked["samples"], asked["plants"]
    shape = (len(asked["n_robust"]), len(plants), samples)
    states, moves, solve = np.empty((*shape[:2], samples + 1, 4)), np.empty((*shape, 2)), np.empty(shape)
    for i, n_robust in enumerate(asked["n_robust"]):
        its, (sim, values) = controller(n_robust), simulator(_DT_S)
        for j, (alpha, beta) in enumerate(plants):
            values.update(alpha=alpha, beta=beta)
            x = np.array([0.8, 0.5, 134.14, 130.0])[:, None]
            for part in (its, sim):
                part.reset_history()
                part.x0, part.u0 = x, np.zeros((2, 1))  # as a fresh one starts
                part.set_initial_guess()
            states[i, j, 0] = x.ravel()
            for k in range(samples):
                began = perf_counter()
                u = its.make_step(x)
                solve[i, j, k] = perf_counter() - began
                x = sim.make_step(u)
                moves[i, j, k], states[i, j, k + 1] = u.ravel(), x.ravel()
    np.savez(out, states=states, moves=moves, solve_s=solve)


def replay(given: str, out: str) -> None:
    data = np.load(given)
    x0, u, d, p = data["x0"], data["u"], data["d"], data["p"]
    sim, values = simulator(float(data["dt_s"]))
    states = np.empty((len(u) + 1, *x0.shape))
    states[0] = x0
    for i in range(len(x0)):
        sim.reset_history()
        sim.x0 = x0[i]
        sim.set_initial_guess()
        for k in range(len(u)):
            values.update(C_A0=d[k, i, 0], T_in=d[k, i, 1], alpha=p[i, 0], beta=p[i, 1])
            states[k + 1, i] = sim.make_step(u[k, i][:, None]).ravel()
    np.savez(out, cvodes=states)


def speed(out: str, seconds: float) -> None:
    sim, _ = simulator(_DT_S)
    rng = np.random.default_rng(0)
    moves = rng.uniform([10.0, -6000.0], [30.0, -3000.0], (50, 2))[:, :, None]
    start, done = np.array([0.8, 0.5, 134.14, 130.0]), 0
    began = perf_counter()
    while perf_counter() - began < seconds:
        sim.reset_history()
        sim.x0 = start
        sim.set_initial_guess()
        for move in moves:
            sim.make_step(move)
        done += len(moves)
    rate = done / (perf_counter() - began)
    with open(out, "w") as file:
        json.dump({"plant_steps_per_s": {"its simulator, CVODES": rate}, "plant_step_s": _DT_S}, file)


if __name__ == "__main__":
    if sys.argv[1] in ("replay", "mpc"):
        (replay if sys.argv[1] == "replay" else mpc)(*sys.argv[2:4])
    else:
        speed(sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 2.0)
