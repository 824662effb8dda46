"""What `benchmarks.world_model` computes of a forecaster: k-step error, action gain, probes of true states, eigenvalues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.world_model_data import Asked
from models.rivals.contract import Forecaster
from models.rivals.latent import LatentForecaster
from models.rivals.reconstruction import Reconstruction
from models.windows import Run, filled
from plant.spec import PlantSpec
from simulators.contract import Simulator
from simulators.namespaces import NumpyNamespace
from simulators.steady import steady_state

Array = NDArray[np.float64]
STEPS = (1, 5, 15, 30)
HISTORY = 8  # samples before a question is asked; longer windows are padded
DOMINANT = 0.1  # a mode that keeps less of itself over one sample is gone before anyone can see it


@dataclass(frozen=True)
class Questions:
    """Windows (batch x window x channels, NaN where missing), the moves and disturbances that followed (batch x k x n),
    what was true then (batch x k x n_measured) and whether that counts (batch x k): inside the run, every move known."""

    window: Tensor
    u: Tensor
    d: Tensor
    truth: Tensor
    counted: Tensor

    @staticmethod
    def of(asked: Asked, window: int, horizon: int = STEPS[-1]) -> Questions:
        """Every sample of every run that has `HISTORY` samples up to it and one after it."""
        parts: list[list[NDArray[Any]]] = [[], [], [], [], []]
        for run, truth in zip(asked.runs, asked.truth, strict=True):
            n = len(run)
            at = np.arange(HISTORY - 1, n - 1)
            if not len(at):
                continue
            rows = np.concatenate([run.measured, run.dvs, run.applied], 1)
            padded = np.concatenate([np.full((window, rows.shape[1]), np.nan), rows])
            ahead = np.minimum(at[:, None] + np.arange(1, horizon + 1), n - 1)
            known = np.isfinite(run.applied.sum(axis=1))
            counted = (at[:, None] + np.arange(1, horizon + 1) < n) & np.cumprod(known[ahead], 1).astype(bool)
            new = (
                padded[at[:, None] + 1 + np.arange(window)], _held(run.applied)[ahead],
                _held(run.dvs)[np.minimum(at[:, None] + np.arange(horizon), n - 1)], truth[ahead], counted,
            )  # fmt: skip
            for part, value in zip(parts, new, strict=True):
                part.append(value)
        return Questions(*(torch.tensor(np.concatenate(p)) for p in parts))


def _held(columns: Array) -> Array:
    """Columns (n x any) with gaps filled by the value before, or the first one there is, or zero."""
    mask = torch.tensor(np.isfinite(columns))[None].double()
    return filled(torch.tensor(np.nan_to_num(columns))[None], mask)[0].numpy()


def answers(model: Forecaster, questions: Questions) -> Tensor:
    """What `model` predicts (batch x k x n_measured)."""
    with torch.inference_mode():
        return model.rollout(questions.window, questions.u, questions.d).double()


def squared_errors(guess: Tensor, questions: Questions, step: int) -> Tensor:
    """Mean square error (n_measured,) `step` samples ahead; what nobody knows does not count."""
    error = (guess[:, step - 1] - questions.truth[:, step - 1])[questions.counted[:, step - 1]]
    return error.square().nanmean(0)


def nrmse(model: Forecaster, questions: Questions, std: Array) -> list[list[float]]:
    """Root mean square error over `std` (n_measured,), a row for each of `STEPS` and a column for each tag."""
    guess = answers(model, questions)
    return [(squared_errors(guess, questions, k).sqrt().numpy() / std).tolist() for k in STEPS]


def action_gain(model: Forecaster, questions: Questions, std: Array, step: int = 5) -> float:
    """Error five samples ahead with another question's moves over that with the real ones; 1: the moves do not matter."""
    order = torch.randperm(len(questions.u), generator=torch.Generator().manual_seed(0))
    swapped = Questions(questions.window, questions.u[order], questions.d, questions.truth, questions.counted)
    scale = torch.tensor(std).square()
    wrong, right = (float((squared_errors(answers(model, q), q, step) / scale).mean()) for q in (swapped, questions))
    return float(np.sqrt(wrong / max(right, 1e-30)))


def latents(model: Forecaster, windows: Tensor) -> Tensor | None:
    """z (batch x latent) of `windows` (batch x window x channels, engineering units); None for what has no latent."""
    if not isinstance(model, LatentForecaster | Reconstruction):
        return None
    values, mask = normalised(model, windows)
    with torch.inference_mode():
        return model.encode_normalised(values, mask).double()


def normalised(model: Forecaster, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Windows as `Forecaster.roll` wants them: values and mask."""
    mask = torch.isfinite(windows)
    values = (windows.float() - model.channel_mean) / model.channel_std
    return torch.where(mask, values, 0.0), mask.float()


def windows_and_states(asked: Asked, window: int) -> tuple[Tensor, Array]:
    """Every window with `HISTORY` samples (batch x window x channels) and the state at its end (batch x n_x)."""
    assert asked.states is not None
    found, states = [], []
    for run, x in zip(asked.runs, asked.states, strict=True):
        rows = np.concatenate([run.measured, run.dvs, run.applied], 1)
        padded = np.concatenate([np.full((window, rows.shape[1]), np.nan), rows])
        at = np.arange(HISTORY - 1, len(run))
        found.append(padded[at[:, None] + 1 + np.arange(window)])
        states.append(x[at])
    return torch.tensor(np.concatenate(found)), np.concatenate(states)


def probe_r2(learn: Array, states: Array, test: Array, test_states: Array, ridge: float = 1e-6) -> Array:
    """R2 (n_x,) on held-out windows of the best linear map from features (batch x any) to states; NaN for a state that
    hardly moves. One of 1e-6 of its magnitude counts as constant."""
    mean, std = learn.mean(0), learn.std(0).clip(1e-9)
    x, x_test = (np.column_stack([(f - mean) / std, np.ones(len(f))]) for f in (learn, test))
    weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ states)
    spread = test_states.var(0)
    moves = np.sqrt(spread) > 1e-6 * np.abs(test_states).max(0).clip(1e-12)
    unexplained = ((x_test @ weights - test_states) ** 2).mean(0)
    return np.where(moves, 1 - unexplained / np.where(moves, spread, 1.0), np.nan)


def observer_features(model: Forecaster, windows: Tensor) -> Array:
    """What a linear observer has: the raw window (batch x window * channels), gaps filled."""
    values, mask = normalised(model, windows)
    return filled(values, mask).flatten(1).double().numpy()


def plant_modes(spec: PlantSpec, simulator: Simulator, moves: Sequence[float]) -> tuple[Array, NDArray[np.complex128]]:
    """The steady outputs (n_measured + n_dv,) under `moves`, usual disturbances and parameters, and the eigenvalues over
    one sample of the equations linearised there."""
    u, d, p = (np.array([v], float) for v in (moves, simulator.d0, simulator.p0))
    x = steady_state(simulator, u, d, p, simulator.initial(u, d, p))
    xp, held = NumpyNamespace(), (u[0], d[0], p[0])
    matrix = jacobian(lambda z: np.array(simulator.derivative(z, *held, xp), float), x[0])
    outputs = dict(zip(simulator.names.y, simulator.outputs(x[0], *held, xp), strict=True))
    eigenvalues = np.linalg.eigvals(expm(matrix * spec.sample_time_s / simulator.time_unit_s)).astype(complex)
    return np.array([outputs[t.name] for t in (*spec.measured, *spec.dvs)], float), eigenvalues


def jacobian(f, x: Array) -> Array:
    """df/dx by central differences."""
    steps = 1e-6 * np.maximum(np.abs(x), 1e-3)
    return np.stack([(f(x + h * e) - f(x - h * e)) / (2 * h) for h, e in zip(steps, np.eye(len(x)), strict=True)], 1)


def predictor_modes(model: LatentForecaster, window: Tensor) -> NDArray[np.complex128]:
    """Eigenvalues (latent,) of the predictor linearised at the latent of one `window` (window x channels) at rest."""
    world = model.model
    z = world.encode_normalised(*normalised(model, window[None]))
    at = world.n_measured
    d, u = window[-1, at : at + world.n_dv].float(), window[-1, at + world.n_dv :].float()
    inputs = torch.cat([z[0], world.normalise(u, "mvs"), world.normalise(d, "dvs")])
    with torch.inference_mode():
        matrix = world.predictor.jacobian(inputs)[:, : z.shape[1]] + torch.eye(z.shape[1])
    return np.linalg.eigvals(matrix.double().numpy()).astype(complex)


def response_modes(model: Forecaster, window: Tensor, order: int, steps: int = 40) -> NDArray[np.complex128]:
    """Eigenvalues (order,) of what moves and disturbances do to the measurements, from the impulse response of any
    forecaster linearised at one `window` at rest: eigensystem realisation (Juang & Pappa 1985, equations 9 to 14)."""
    nm, nd = model.n_measured, model.n_dv
    last = window[-1].double()
    u, d = last[nm + nd :].expand(1, steps, -1).clone(), last[nm : nm + nd].expand(1, steps, -1).clone()
    pulse = torch.zeros(model.n_mv + nd, dtype=torch.float64)

    def response(pulse: Tensor) -> Tensor:
        scaled = pulse * model.channel_std[[*range(nm + nd, model.channels), *range(nm, nm + nd)]].double()
        hit = torch.zeros(1, steps, 1, dtype=torch.float64)
        hit[0, 1] = 1.0
        y = model.rollout(window[None], u + hit * scaled[: model.n_mv], d + hit * scaled[model.n_mv :])
        return (y[0, 1:] / model.channel_std[:nm]).double()

    markov = torch.autograd.functional.jacobian(response, pulse)
    assert isinstance(markov, Tensor)
    h = markov.numpy()  # steps - 1 x n_measured x inputs
    half = (steps - 1) // 2
    blocks, shifted = (np.block([[h[i + j + s] for j in range(half)] for i in range(half)]) for s in (0, 1))
    left, size, right = np.linalg.svd(blocks)
    scale = 1 / np.sqrt(size[:order])
    matrix = (scale[:, None] * left[:, :order].T) @ shifted @ (right[:order].T * scale)
    return np.linalg.eigvals(matrix).astype(complex)


def mode_error(guess: NDArray[np.complex128], true: NDArray[np.complex128]) -> float:
    """The largest |guess - true| / |true| over the dominant of the `true` eigenvalues, each paired with one of `guess` so
    that the pairs together lie closest; inf when there are too few to pair."""
    wanted = true[np.abs(true) >= DOMINANT]
    if len(guess) < len(wanted):
        return float("inf")
    distance = np.abs(wanted[:, None] - guess[None]) / np.abs(wanted)[:, None]
    rows, columns = linear_sum_assignment(distance)
    return float(distance[rows, columns].max())


def window_at_rest(outputs: Array, moves: Sequence[float], window: int) -> Tensor:
    """A window (window x channels) in which nothing happens: `outputs` (n_measured + n_dv,) and `moves` as they are."""
    return torch.tensor(np.concatenate([outputs, np.array(moves, float)])).expand(window, -1)


def plain(runs: Sequence[Run]) -> Asked:
    """Runs whose readings are taken for the truth."""
    return Asked(list(runs), [r.measured for r in runs])
