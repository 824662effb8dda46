"""The cheap candidates: persistence, two linear models, and the trunk that grows on the better of them, all judged alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.config import ModelConfig, TrainingConfig
from models.rivals.arx import Arx
from models.rivals.contract import Forecaster
from models.rivals.latent import LatentForecaster
from models.rivals.linear import EVERY as LINEAR_EVERY
from models.rivals.linear import STEPS as LINEAR_STEPS
from models.rivals.linear import descend_on_horizon
from models.rivals.persistence import Persistence
from models.rivals.realised import realised
from models.rivals.stretches import Stretches, k_step, some_of, whole
from models.rivals.subspace import Subspace
from models.trunk import EVERY, NARROW, SEEDS, averaged, grow, settling, steadied, world_of
from models.windows import Run, WindowSet, channel_scale, constant_scale
from models.world_model import WorldModel
from plant.errors import ModelError
from plant.spec import PlantSpec

STEPS = (1, 5, 15, 30)  # samples ahead that candidates are judged at
LINEAR = ("persistence", "arx", "subspace", "trunk")
_STARTS = 1500  # held-out starts that a look takes in
_LONGEST = 64  # samples that a trunk is trained over at most
_WORK = 25_600  # of descent steps times samples: what a trunk may cost
_SAMPLES_A_STEP, _LEAST, _MOST = 20, 400, 800  # steps of descent follow the amount of data
_FOLD_SEEDS = 2  # averaged on each of several splits
_LOST = 1.3  # times the error of the trunk alone: what is learned then does not come back,
_PATIENCE = 6  # if so many looks in a row say so


@dataclass(frozen=True)
class Candidate:
    """One model tried: its error on each held-out stretch of time (`score`), the seconds it took, what happened to it (`said`)
    and why it may not be chosen (`out`)."""

    name: str
    model: WorldModel
    scores: tuple[float, ...]
    seconds: float
    said: str = ""
    out: str = ""

    @property
    def score(self) -> float:
        """Mean over what was held out."""
        return sum(self.scores) / len(self.scores)


@dataclass
class _Trace:
    """What descent on one split came to: at each look the error on what is held out, and the model."""

    errors: list[float] = field(default_factory=list)
    models: list = field(default_factory=list)

    @staticmethod
    def best(traces: Sequence[_Trace]) -> int:
        """The look that did best on all splits together; one that was given up stays where it was."""
        looks = max(len(t.errors) for t in traces)
        return min(range(looks), key=lambda i: sum(t.error(i) for t in traces))

    def error(self, look: int) -> float:
        return self.errors[min(look, len(self.errors) - 1)]

    def model(self, look: int) -> Any:
        return self.models[min(look, len(self.models) - 1)]


class Bench:
    """Candidates for a plant whose usual runs are `pool`, judged on `splits` of them into (kept, held). With `again` each is
    trained on all of `pool` in the end, as long as was best where something was held out."""

    def __init__(
        self, spec: PlantSpec, config: ModelConfig, training: TrainingConfig, pool: Sequence[Run],
        splits: Sequence[tuple[Sequence[Run], Sequence[Run]]], again: bool, folder: Path | None,
        stage: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._spec, self._config, self._training, self._again = spec, config, training, again
        self._pool, self._folder, self._stage = pool, folder, stage
        self._scales = channel_scale(spec, pool), constant_scale(spec, pool)
        self._kept = [self._data(kept, config.horizon, f"kept{i}") for i, (kept, _) in enumerate(splits)]
        self._splits, self._held = splits, [self._part(held) for _, held in splits]
        self._arx: dict[int, Arx] = {}
        self._states: dict[str, tuple[list[Subspace], Subspace, float]] = {}  # each split's, the last, and the error

    def candidates(self, refused: list[str]) -> list[Candidate]:
        """All of them, simplest first; `refused` is told what cannot be trained, and why."""
        made = []
        for name in LINEAR:
            self._stage(f"trying {name}")
            began = time.perf_counter()
            try:
                model, scores, said = {"persistence": self._persistence, "trunk": self._trunk}.get(
                    name, lambda name=name: self._linear(name)
                )()
            except ModelError as e:
                refused.append(f"{name}: {e}")
                continue
            made.append(Candidate(name, model, tuple(scores), time.perf_counter() - began, said))
        return made

    def _data(self, runs: Sequence[Run], horizon: int, name: str) -> WindowSet:
        place = None if self._folder is None else self._folder / name
        return WindowSet(runs, self._scales[0], self._config.window, horizon, folder=place, constant=self._scales[1])

    def _part(self, runs: Sequence[Run]) -> tuple[Stretches, tuple[int, ...]]:
        steps = steps_of(runs)
        data = WindowSet(runs, self._scales[0], self._config.window, max(steps), constant=self._scales[1])
        return Stretches.of(data, some_of(whole(data), _STARTS)), steps

    def _error(self, model: Forecaster, split: int) -> float:
        part, steps = self._held[split]
        return mean_error(model, part, steps)

    def _persistence(self) -> tuple[WorldModel, list[float], str]:
        rival = Persistence(self._spec, self._config, *self._scales)
        return persistent(rival), [self._error(rival, i) for i in range(len(self._held))], ""

    def _learned_arx(self, data: WindowSet) -> Arx:
        if id(data) not in self._arx:
            self._arx[id(data)] = Arx(self._spec, self._config, *self._scales)
            self._arx[id(data)].learn(data)
        return copy.deepcopy(self._arx[id(data)])

    def _learned(self, way: str, data: WindowSet) -> Arx | Subspace:
        """By least squares alone."""
        if way == "arx":
            return self._learned_arx(data)
        linear = Subspace(self._spec, self._config, *self._scales)
        linear.learn(data, self._learned_arx(data) if way == "reduced" else None)
        return linear

    def _over_splits(self, way: str) -> list[_Trace]:
        """Descent from there on each split."""
        traces = []
        for i, data in enumerate(self._kept):
            linear, trace = self._learned(way, data), _Trace()

            def look(
                step: int, linear: Arx | Subspace = linear, trace: _Trace = trace, i: int = i, data: WindowSet = data
            ) -> None:
                steady = steadied(_states(linear, data), self._held[i][0].double())[0]
                trace.models.append(steady)
                trace.errors.append(self._error(steady, i))

            steps = min(LINEAR_STEPS // 2 if self._again else LINEAR_STEPS, self._training.steps)
            descend_on_horizon(linear, data, self._training, look, steps)
            traces.append(trace)
        return traces

    def _linear(self, name: str) -> tuple[WorldModel, list[float], str]:
        """An ARX model as it is, or reduced and its states fitted to the data, whichever errs less."""
        tried = {way: self._over_splits(way) for way in (("reduced", "arx") if name == "arx" else (name,))}
        way, traces = min(tried.items(), key=lambda t: sum(trace.error(_Trace.best(t[1])) for trace in t[1]))
        best = _Trace.best(traces)
        last, said = traces[-1].model(best), ""
        if self._again:
            every = self._data(self._pool, self._config.horizon, "pool")
            learned = self._learned(way, every)
            if best:
                descend_on_horizon(learned, every, self._training, lambda step: None, best * LINEAR_EVERY)
            last, said = steadied(_states(learned, every), self._held[-1][0].double())
        scores = [t.error(best) for t in traces]
        self._states[name] = [t.model(best) for t in traces], last, sum(scores)
        return world_of(last), scores, f"{last.order} states" + (f", {said}" if said else "")

    def _trunk(self) -> tuple[WorldModel, list[float], str]:
        if not self._states:
            raise ModelError("no linear model to grow on", f"training of {self._spec.name}", "Record more.")
        name = min(self._states, key=lambda n: self._states[n][2])
        linears, last, _ = self._states[name]
        size = sum(map(len, self._pool))
        far = min(max(self._config.horizon, settling(last)), _LONGEST, max(len(r) for r in self._pool) // 3)
        steps = min(max(size // _SAMPLES_A_STEP, _LEAST), _MOST, _WORK // max(far, 1), self._training.steps)
        traces = []
        for i, (linear, (kept, _)) in enumerate(zip(linears, self._splits, strict=True)):
            data = self._data(kept, max(far, 1), f"long{i}")
            alone = [self._grown(linear, data, i, seed, steps) for seed in range(_FOLD_SEEDS if self._again else SEEDS)]
            traces.append(self._together(alone, i))
        best = _Trace.best(traces)
        scores = [t.error(best) for t in traces]
        if not best:
            return world_of(last), self._of_linear(linears), f"on {name}: nothing to add"
        if self._again:
            data = self._data(self._pool, max(far, 1), "long")
            worlds = [
                grow(last, data, self._training, 1000 * self._training.seed + k, best * EVERY, lambda world: True)
                for k in range(SEEDS)
            ]
            world = averaged(worlds)
        else:
            world = traces[-1].model(best)
        return world, scores, f"on {name}: {best * EVERY} steps over {far} samples"

    def _grown(self, linear: Subspace, data: WindowSet, split: int, seed: int, steps: int) -> _Trace:
        """What one seed learns beside `linear`, look by look, until it is lost."""
        trace = _Trace()

        def look(world: WorldModel) -> bool:
            trace.models.append(copy.deepcopy(world))
            trace.errors.append(self._error(LatentForecaster(world), split))
            return min(trace.errors[-_PATIENCE:]) < _LOST * trace.errors[0]

        grow(linear, data, self._training, 1000 * self._training.seed + seed, steps, look)
        return trace

    def _together(self, alone: Sequence[_Trace], split: int) -> _Trace:
        """The mean of several seeds at each look, which is what is deployed; what one of them alone errs is much a matter of luck."""
        worlds = [averaged([t.model(i) for t in alone]) for i in range(max(len(t.errors) for t in alone))]
        return _Trace([self._error(LatentForecaster(world), split) for world in worlds], worlds)

    def _of_linear(self, linears: Sequence[Subspace]) -> list[float]:
        return [self._error(linear, i) for i, linear in enumerate(linears)]


def _states(linear: Arx | Subspace, data: WindowSet) -> Subspace:
    return realised(linear, data) if isinstance(linear, Arx) else copy.deepcopy(linear)


def persistent(rival: Persistence) -> WorldModel:
    """Nothing changes, as a world model: its latents are the last readings."""
    n = rival.n_measured
    shape = {"latent": n, "encoder_width": NARROW, "predictor_width": NARROW, "filled": True}
    world = WorldModel(rival.spec, rival.config.model_copy(update=shape), rival.scale(), rival.constant)
    with torch.no_grad():
        for net in (world.encoder, world.predictor):
            for part in (net.last.weight, net.last.bias, net.linear.weight):
                part.zero_()
        channels = n + world.n_dv + world.n_mv
        now = torch.arange(n) + (rival.config.window - 1) * channels
        world.encoder.linear.weight[torch.arange(n), now] = 1.0
        world.read_out_head.weight.copy_(torch.eye(n))
        world.read_out_head.bias.zero_()
    return world


def steps_of(runs: Sequence[Run]) -> tuple[int, ...]:
    """How far ahead `runs` can tell, of `STEPS`."""
    longest = max((len(r) for r in runs), default=0) - 2
    return tuple(k for k in STEPS if k <= max(longest, 1))


def mean_error(model: Forecaster, part: Stretches, steps: Sequence[int]) -> float:
    """The error `steps` ahead on `part`, mean over steps and tags; inf for a model that runs away."""
    return float(k_step(model, part, steps).nanmean().nan_to_num(torch.inf))
