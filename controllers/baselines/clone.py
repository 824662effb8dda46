"""A policy cloned from recorded moves: imitation, against planning."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controllers.baselines.weights import read, write
from controllers.contracts import Decision, Observation, Status, Targets
from models.config import TrainingConfig
from models.descent import Descent
from models.windows import Run, Scale, WindowSet, channel_scale
from models.world_model import Mlp
from plant.errors import ModelError
from plant.spec import PlantSpec

Array = NDArray[np.float64]

_KIND = "cloned policy"
_WIDTH = 64


class Policy(nn.Module):
    """From a window of [measured, dvs, applied], as a world model reads it, and the targets now, to the change of the moves.

    It says by how much to move, not where to: the move in force is in the window, and copying it would be nearly right
    and useless. Targets count in the unit of their CV, beside their distance from it.
    """

    channel_mean: Tensor
    channel_std: Tensor
    move_scale: Tensor

    def __init__(self, spec: PlantSpec, window: int, channel: Scale, move_scale: Array, width: int = _WIDTH) -> None:
        super().__init__()
        self.spec, self.window, self.width = spec, window, width
        names = [t.name for t in spec.measured]
        self._cv = [names.index(t.tag) for t in spec.targets]
        channels = len(names) + len(spec.dvs) + len(spec.mvs)
        self.net = Mlp(2 * window * channels + 2 * len(self._cv), width, len(spec.mvs))
        for name, value in (
            ("channel_mean", channel.mean), ("channel_std", channel.std), ("move_scale", move_scale),
        ):  # fmt: skip
            self.register_buffer(name, torch.tensor(np.array(value), dtype=torch.float32))

    def forward(self, values: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Normalised windows and masks (batch x window x channels) and `targets` (batch x n_target, engineering units) ->
        changes of the moves (batch x n_mv) in units of `move_scale`."""
        goal = (targets - self.channel_mean[self._cv]) / self.channel_std[self._cv]
        seen = mask[:, -1, self._cv]
        gap = (goal - values[:, -1, self._cv]) * seen
        values = values * mask
        return self.net(torch.cat([values.flatten(1), mask.flatten(1), goal, gap], 1))

    def change(self, window: Tensor, targets: Tensor) -> Tensor:
        """The same from a window in engineering units, NaN where missing, in engineering units."""
        mask = torch.isfinite(window)
        values = torch.where(mask, (window - self.channel_mean) / self.channel_std, 0.0)
        return self(values.float(), mask.float(), targets.float()) * self.move_scale


def train_policy(
    spec: PlantSpec, runs: Sequence[Run], targets: Sequence[Array], training: TrainingConfig, window: int = 8
) -> Policy:
    """Clone who moved the MVs in `runs`, whose targets (n x n_target for each run) were in force from each sample on.

    Of `training` the steps, batch, rates, shares and seed count. Deterministic from the seed on one machine. Raises
    `ModelError` when runs and targets do not match or no move follows a sample.
    """
    for i, (run, goal) in enumerate(zip(runs, targets, strict=False)):
        if np.shape(goal) != (len(run), len(spec.targets)):
            raise ModelError(
                f"run {i} has {len(run)} samples and targets of shape {np.shape(goal)}", f"policy for {spec.name}",
                f"Give ({len(run)}, {len(spec.targets)}) targets.",
            )  # fmt: skip
    if len(runs) != len(targets):
        raise ModelError(
            f"{len(runs)} runs, {len(targets)} targets", f"policy for {spec.name}", "Give one for each run."
        )
    torch.manual_seed(training.seed)
    rng = torch.Generator().manual_seed(training.seed)
    scale = channel_scale(spec, runs)
    data = WindowSet(runs, scale, window, horizon=1)
    applied, goals = np.concatenate([r.applied for r in runs]), np.concatenate(targets)
    change = np.full_like(applied, np.nan)
    change[:-1] = np.diff(applied, axis=0)
    change[data.last.numpy() == np.arange(len(change))] = np.nan  # the next row is another run's
    taught = np.isfinite(change) & np.isfinite(goals).all(axis=1, keepdims=True)
    if not taught.any():
        raise ModelError("no sample is followed by a known move", f"policy for {spec.name}", "Record longer runs.")
    span = np.array([t.move.limits[1] - t.move.limits[0] for t in spec.mvs if t.move])
    usual = np.sqrt(np.nanmean(np.where(taught, change, np.nan) ** 2, axis=0))
    policy = Policy(spec, window, scale, np.maximum(np.nan_to_num(usual), 1e-4 * span))
    label = torch.tensor(np.where(taught, change, 0.0) / policy.move_scale.numpy(), dtype=torch.float32)
    counted = torch.tensor(taught, dtype=torch.float32)
    goal = torch.tensor(np.nan_to_num(goals), dtype=torch.float32)
    descent = Descent(policy.parameters(), policy, training, training.steps, f"policy for {spec.name}")
    for step in range(training.steps):
        starts = data.draw(training.batch, training.steady_share, 0.0, rng)
        history = torch.full((len(starts),), window)
        short = torch.rand(len(starts), generator=rng) < training.padded_share
        history[short] = torch.randint(1, window + 1, (int(short.sum()),), generator=rng)
        answer = policy(*data.gather(starts, history), goal[starts])
        error = nn.functional.smooth_l1_loss(answer, label[starts], reduction="none")
        descent.step((error * counted[starts]).mean(), step)
    return policy.eval()


class ClonedPolicy:
    """`policy` as a controller for `batch` plants: the move in force and the change that was usual, cut to limits and rate.

    It predicts nothing and knows no guardrail. A missing measurement is masked, as in training at a run's start. A plant
    with no measurement at all, or whose move in force is unknown, gets INFEASIBLE and its safe moves.
    """

    horizon = 1

    def __init__(self, policy: Policy, batch: int = 1) -> None:
        self.spec, self.batch, self._policy = policy.spec, batch, policy.eval()
        moves = [t.move for t in self.spec.mvs if t.move]
        self._limits = np.array([m.limits for m in moves])
        self._rate = np.array([m.rate_per_s for m in moves]) * self.spec.sample_time_s
        self._safe = np.array([m.safe for m in moves])
        self.reset()

    def reset(self) -> None:
        channels = len(self._policy.channel_mean)
        self._window = torch.full((self.batch, self._policy.window, channels), torch.nan, dtype=torch.float64)

    def decide(self, observation: Observation, targets: Targets) -> Decision:
        began = time.perf_counter()
        applied = observation.applied
        row = torch.from_numpy(np.hstack([observation.measured, observation.dvs, applied]))
        self._window = torch.cat([self._window[:, 1:], row[:, None]], 1)
        with torch.inference_mode():
            goal = torch.from_numpy(np.array(targets.values[:, 0], dtype=np.float64))
            change = self._policy.change(self._window, goal).double().numpy()
        low = np.maximum(self._limits[:, 0], targets.move_low)
        high = np.minimum(self._limits[:, 1], targets.move_high)
        stand = observation.standing
        moves = np.clip(np.clip(stand + change, low, high), stand - self._rate, stand + self._rate)
        known = np.asarray(np.isfinite(moves).all(axis=1)) & np.asarray(np.isfinite(observation.measured).any(axis=1))
        decision = Decision.of_moves(
            self.spec, np.where(known[:, None], moves, self._safe), time.perf_counter() - began
        )
        return dataclasses.replace(
            decision, status=tuple(Status.FEASIBLE if ok else Status.INFEASIBLE for ok in known.tolist())
        )


def save_policy(folder: Path, policy: Policy) -> None:
    """Write a policy: `config.json` and `model.safetensors`."""
    write(folder, _KIND, policy.spec, {"window": policy.window, "width": policy.width}, policy.state_dict())


def load_policy(folder: Path, spec: PlantSpec) -> Policy:
    """Read what `save_policy` wrote. Raises `ModelError` when it is missing, damaged or another plant's."""
    _, config, tensors = read(folder, (_KIND,), spec)
    try:
        scale = Scale(tensors["channel_mean"].numpy(), tensors["channel_std"].numpy())
        policy = Policy(spec, int(config["window"]), scale, tensors["move_scale"].numpy(), int(config["width"]))
        policy.load_state_dict(tensors)
    except (KeyError, RuntimeError, TypeError, ValueError) as e:
        raise ModelError(f"it is damaged: {str(e).splitlines()[0]}", str(folder), "Train it again.") from e
    return policy.eval()
