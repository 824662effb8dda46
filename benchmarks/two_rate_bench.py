"""What `benchmarks.two_rate` measures with: the tasks, the runs macro predictors learn from, the controllers of a plant."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.planner import PLANTS, SUBSTEPS, Timed
from benchmarks.two_rate_planning import OracleLayer, SlowLayer, TwoRateMpc, train_macro
from benchmarks.world_model_data import runs_of
from controllers.baselines.nmpc import NmpcController
from controllers.contracts import Array, Controller
from controllers.evaluation.closed_loop import close_loop, limits_of
from controllers.planning.config import PlannerConfig
from controllers.planning.goal import whitening
from controllers.planning.mpc import JepaMpc
from homeostat.checkpoints import shipped
from homeostat.lockstep import excited, record
from models.checkpoint import load
from models.windows import Run
from plant.spec import PlantSpec, load_spec
from simulators.plant import SimulatedPlant
from simulators.scenario import load_scenario

STRIDE, STRIDES, FLAT = 5, 12, 15  # samples a macro step, macro steps ahead, samples ahead of flat planning
TRAINING_SEED, HELD_SEED, VALIDATION_SEED, TEST_SEED = 8100, 8200, 8300, 8400


@dataclass(frozen=True)
class Task:
    """`levels` (low, high) of the first target, `rest` of the others (the plant's own where None), price of a move."""

    name: str
    suppression: float
    levels: tuple[float, float]
    rest: float | None = None

    def targets(self, spec: PlantSpec, seed: int, samples: int) -> Array:
        """(samples x n_target)."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x2A7E]))
        values = np.tile([t.value for t in spec.targets], (samples, 1)).astype(float)
        if self.rest is not None:
            values[:, 1:] = self.rest
        at = 0
        while at < samples:
            values[at:, 0], at = rng.uniform(*self.levels), at + int(rng.integers(15, 46))
        return values


TASKS = {
    "reactor_bare": (Task("usual", 0.5, (0.84, 0.92)), Task("dear", 1000.0, (0.84, 0.92))),
    "vandevusse": (Task("usual", 0.5, (0.6, 0.95)), Task("dear", 100.0, (0.6, 0.95), 138.0)),
}


@dataclass(frozen=True)
class Sizes:
    """Seeds reported, seeds chosen on, samples a run, runs and steps the macro predictor learns from and for."""

    seeds: int = 8
    validation: int = 4
    samples: int = 120
    runs: int = 2048
    steps: int = 1500


QUICK = Sizes(2, 1, 12, 32, 20)


class Bench:
    """One plant: its shipped world model, a macro predictor on it, and every controller for `batch` plants."""

    def __init__(self, plant: str, sizes: Sizes) -> None:
        self.spec, self.sizes = load_spec(plant), sizes
        checkpoint = load(shipped(plant), self.spec)
        self.model, self.calibration = checkpoint.model, checkpoint.calibration
        runs = [r for held in (True, False) for r in excitation(self.spec, sizes.runs // 2, TRAINING_SEED + held, held)]
        self.macro = train_macro(self.model, runs, STRIDE, STRIDES, sizes.steps)
        model = self.model
        gain = model.read_out_head.weight.detach().double()
        # Distances are per latent dimension: of the measurements that are read out, one is a standard deviation of each.
        self.metric = {
            "latent": whitening(model, runs[:200]),
            "decoded": gain * (model.config.latent / model.n_measured) ** 0.5,
        }
        # What knows the plant keeps the same distance from a limit as what has learned it.
        margins = self.calibration.margins[FLAT - 1]
        rails = [
            g.model_copy(update={"max" if g.sign > 0 else "min": g.limit - g.sign * float(m)})
            for g, m in zip(self.spec.guardrails, margins, strict=False)
        ]
        self.tightened = self.spec.model_copy(update={"guardrails": tuple(rails)})

    def config(self, task: Task, **options) -> PlannerConfig:
        return PlannerConfig(suppression=task.suppression, **options)

    def flat(self, task: Task, batch: int = 1, kind: type[JepaMpc] = JepaMpc, **options) -> JepaMpc:
        config = self.config(task, **{"horizon": FLAT, **options})
        model, calibration = self.model, self.calibration
        if config.horizon > model.config.horizon:  # past what it was validated to: margins as of its last step
            model = copy.deepcopy(model)
            model.config = model.config.model_copy(update={"horizon": config.horizon})
            margins = calibration.margins
            more = margins[-1:].expand(config.horizon - len(margins), -1)
            calibration = replace(calibration, margins=torch.cat([margins, more]))
        return kind(model, config, calibration, batch)

    def nmpc(self, task: Task, horizon: int) -> NmpcController:
        simulator, c = PLANTS[self.spec.name](), self.config(task)
        return NmpcController(
            self.tightened,
            simulator,
            horizon=horizon,
            effort=c.effort,
            suppression=c.suppression,
            substeps=SUBSTEPS // 2,
        )

    def two_rate(self, task: Task, following: tuple[str, float | None], oracle: bool, batch: int = 1) -> TwoRateMpc:
        layer = (
            OracleLayer(self.model, self.nmpc(task, STRIDE * STRIDES), STRIDE)
            if oracle
            else SlowLayer(self.macro, STRIDE, self.config(task), self.calibration.margins[:FLAT], batch)
        )
        space, weight = following
        config = self.config(task, horizon=STRIDE)
        return TwoRateMpc(self.model, layer, config, self.calibration, self.metric[space], weight, batch)

    def run(
        self, task: Task, controller: Controller, seed: int, batch: int, samples: int | None = None
    ) -> tuple[Array, Array, Array]:
        """Score (batch,) of what every planner minimises, on the true plant, higher is better; how far (batch,) the worst true
        value passed a rank-1 guardrail; and in how many samples (batch,) it did."""
        spec, n = self.spec, samples or self.sizes.samples
        targets = np.stack([task.targets(spec, seed + i, n) for i in range(batch)])
        plant = SimulatedPlant(spec, seed, batch, noise=1.0)
        low, high = limits_of(spec)
        first = plant.moves
        runs = close_loop(controller, plant, targets, preview=True, move_low=low, move_high=high, first_move=first)
        error = sum(
            np.abs(runs.true[t.tag][:, 1:] - targets[..., i]).sum(1) / t.scale for i, t in enumerate(spec.targets)
        )
        moves = np.concatenate([first[:, None], runs.moves], 1)
        c = self.config(task)
        effort = c.effort * (((runs.moves - low) / (high - low)) ** 2).sum((1, 2))
        moved = c.suppression * ((np.diff(moves, axis=1) / (high - low)) ** 2).sum((1, 2))
        past = np.stack([-g.margin(runs.worst[g.name]) for g in spec.guardrails if g.rank == 1]).max(0)
        return -(error + effort + moved), past.clip(0.0).max(1), (past > 0).sum(1)

    def time_ms(self, task: Task, controller: Controller) -> tuple[float, float]:
        """Processor time a decision of one plant, ms: mean and 99th percentile, the first decision left out."""
        timed = Timed(controller)
        self.run(task, timed, VALIDATION_SEED, 1, 31)
        return 1e3 * float(np.mean(timed.cpu_s)), 1e3 * float(np.percentile(timed.cpu_s, 99))


def excitation(spec: PlantSpec, runs: int, seed: int, held: bool) -> list[Run]:
    """`runs` runs of excitation, as long as the slow layer looks and more; `held`: every move for a whole stride."""
    asked: list[Array] = []

    def hold(moves: Array, _: dict[str, Array]) -> Array:
        asked.append(asked[-1] if len(asked) % STRIDE else moves)
        return asked[-1]

    plant = excited(spec, load_scenario("excitation", spec), runs, seed)
    recording = record(spec, plant, STRIDE * (STRIDES + 8) + 1, seed, "excitation", hold if held else None)
    return runs_of(spec, recording)
