"""The world model's own surprise: does the plant do what it was asked, and was it ever in this state?

*Residual*: measurements less what the model expected of them one and several samples ago, given the moves that were really
applied since. *Density*: how far the latent of the present window lies from those of normal runs. Both are read as multiples
of their limits, upper confidence bounds from held-out normal runs (`models.surprise.upper_limit`); 1 is the limit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.calibration import unchanged
from models.surprise import Statistics, SurpriseConfig, conformal_threshold, upper_limit
from models.whitening import ErrorWhitening, Whitening
from models.windows import Run
from models.world_model import WorldModel
from plant.errors import ModelError

Array = NDArray[np.float64]
Followed = tuple[Array, Array]  # see `follow`
log = logging.getLogger(__name__)
STEPS = (1, 5, 15)  # samples ahead: a window soon takes a jump for history, the longest remembers it
RATE = 5e-5  # of residual and density each: together one false alarm in 10,000 samples
_LATENT_SHRINKAGE = 0.01
_TAIL = 0.999
_CLIP = 3.0
_FOLDS = 5
_STATISTICS = ("mean_square", "mean_roots", "variance_std", "centre", "spread")


def _drawn(rows: Array, least: float) -> float:
    """How far the covariance of `rows` (n x columns) is drawn towards its diagonal."""
    return min(1.0, max(least, rows.shape[1] / len(rows)))


def clipped(innovations: Array) -> Array:
    """Whitened `innovations` (n x errors), none longer than `_CLIP` times the usual: a model that is far off for one sample, in
    a corner it hardly knows, must not set the limits of averages."""
    length = np.sqrt((innovations**2).mean(1, keepdims=True))
    return innovations * np.minimum(1.0, _CLIP / np.maximum(length, 1e-9))


@dataclass(frozen=True)
class Verdict:
    """Samples of a run, or of a batch of plants (n). `residual`, `density` (n,): multiples of their limits, 0 while the
    history is too short to judge. `blame` (n x n_measured): each measurement's share of the residual; rows sum to 1, or
    are 0 where no tag alone explains anything. `away` (n x n_measured): how far each measurement is from its mean where the model
    learned, in its deviations there, 0 where it is missing; None where nobody asked."""

    residual: Array
    density: Array
    blame: Array
    away: Array | None = None

    @property
    def score(self) -> Array:
        """The larger of the two (n,)."""
        return np.maximum(self.residual, self.density)


@dataclass(frozen=True)
class PlantSurprise:
    """What normal residuals and latents look like. `steps`: how far ahead predictions are compared; `tails`: what one normal
    sample in a thousand passes, for each component of the residual; `limits`: of the raw scores of residual and density;
    `rate`: the share of normal samples that may pass each of them."""

    steps: tuple[int, ...]
    errors: ErrorWhitening
    statistics: Statistics
    tails: Array
    latents: Whitening
    limits: tuple[float, float] = (float("inf"), float("inf"))
    rate: float = 0.0

    @property
    def settle(self) -> int:
        """Samples at a start that are not judged: windows are still padded, and the longest predictions not yet due."""
        return self.statistics.config.settle

    @staticmethod
    def fit(model: WorldModel, runs: Sequence[Run], steps: Sequence[int] = STEPS) -> PlantSurprise:
        """From normal `runs` that the model was not trained on. Raises `ModelError` when none is long enough."""
        steps = tuple(k for k in steps if k <= model.config.horizon)
        return PlantSurprise._of_followed(model, follow(model, runs, steps), steps)

    @staticmethod
    def _of_followed(model: WorldModel, followed: Sequence[Followed], steps: tuple[int, ...]) -> PlantSurprise:
        """As `fit`. Covariances are drawn towards their diagonals the more, the fewer samples there are for what they are of."""
        config = SurpriseConfig(settle=model.config.window + max(steps))
        followed = [f for f in followed if len(f[0]) > config.settle]
        if not followed:
            raise ModelError(f"no normal run is longer than {config.settle} samples", "surprise", "Record longer runs.")
        rows = np.concatenate([e[config.settle :] for e, _ in followed])
        errors = ErrorWhitening.fit(rows, _drawn(rows, config.shrinkage))
        innovations = [clipped(errors(e)) for e, _ in followed]
        statistics = Statistics.fit(innovations, config, config.settle)
        usual = np.concatenate([statistics.components(u)[config.settle :] for u in innovations])
        seen = np.concatenate([z[config.settle :] for _, z in followed])
        latents = Whitening.fit(seen, _drawn(seen, _LATENT_SHRINKAGE))
        return PlantSurprise(steps, errors, statistics, np.quantile(usual, _TAIL, axis=0), latents)

    def calibrated(self, model: WorldModel, runs: Sequence[Run], rate: float = RATE) -> PlantSurprise:
        """With limits that a share `rate` of normal samples passes at most, told with confidence by held-out normal `runs`, of each
        kind of run alike. Raises `ModelError` when no run is long enough."""
        followed = follow(model, runs, self.steps)
        return self._limited([(r.kind, *self._squares(f)) for r, f in zip(runs, followed, strict=True)], rate)

    def _squares(self, followed: Followed) -> tuple[Array, Array]:
        """Residual and density of one run (n,) where they are judged, as squared sizes."""
        components, density = self.raw(*followed)
        return np.exp(2 * self.largest(components)[self.settle :]), density[self.settle :]

    def _limited(self, scores: Sequence[tuple[str, Array, Array]], rate: float) -> PlantSurprise:
        scores = [s for s in scores if len(s[1])]
        if not scores:
            raise ModelError(f"no normal run is longer than {self.settle} samples", "surprise", "Hold out longer runs.")
        limits = []
        kinds, *both = zip(*scores, strict=True)
        for parts in both:
            limit = upper_limit(parts, rate)
            for kind in set(kinds):
                mine = np.concatenate([p for p, k in zip(parts, kinds, strict=True) if k == kind])
                limit = max(limit, conformal_threshold(mine, max(rate, 1.0 / len(mine))))
            limits.append(limit)
        return replace(self, limits=(0.5 * float(np.log(limits[0])), limits[1]), rate=rate)

    @staticmethod
    def of_runs(model: WorldModel, *held_out: Sequence[Run]) -> PlantSurprise | None:
        """Of runs the model was not trained on; simulated incidents are not normal and left out. What is normal is fitted to all of
        them; its limits come from scores of each fifth by what was fitted to the others, so that few runs serve for both. None
        where there are not two that are long enough."""
        steps = tuple(k for k in STEPS if k <= model.config.horizon)
        settle, runs, followed = model.config.window + max(steps), [], []
        for some in held_out:
            usual = [r for r in some if r.kind != "incident" and len(r) > settle]
            runs += usual
            followed += follow(model, usual, steps)
        try:
            whole = PlantSurprise._of_followed(model, followed, steps)
            scores = []
            for k in range(count := min(_FOLDS, len(followed))):
                others = [f for i, f in enumerate(followed) if i % count != k]
                part = PlantSurprise._of_followed(model, others, steps)
                scores += [(r.kind, *part._squares(f)) for r, f in zip(runs[k::count], followed[k::count], strict=True)]
            return whole._limited(scores, RATE)
        except ModelError as e:
            log.warning("nothing will watch whether the plant follows the model: %s", e)
            return None

    def raw(self, errors: Array, z: Array) -> tuple[Array, Array]:
        """Errors (n x steps * n_measured) and latents (n x latent) of one run -> standardised components of the residual (n x
        components), and mean squared deviation of the latent (n,)."""
        return self.statistics.components(clipped(self.errors(errors))), (self.latents(z) ** 2).mean(1)

    def largest(self, components: Array) -> Array:
        """Components (n x components) -> the logarithm of the largest as a multiple of its tail (n,). Each has its own: one
        jump in a thousand samples is no measure for averages."""
        return (0.5 * (components - self.tails) * self.statistics.spread).max(1)

    def multiples(self, components: Array, density: Array) -> tuple[Array, Array]:
        """Raw scores as multiples (n,) of their limits, in the unit of a residual and of a distance."""
        return np.exp(self.largest(components) - self.limits[0]), np.sqrt(density / self.limits[1])

    @property
    def directions(self) -> Array:
        """Row j: the whitened errors that one wrong reading of measurement j gives, in all steps (n_measured x errors)."""
        root = self.errors.directions
        return root.reshape(len(self.steps), -1, len(root)).sum(0)

    def judge(self, errors: Array, z: Array) -> Verdict:
        """The verdicts (n,) on one run followed from its start."""
        residual, density = self.multiples(*self.raw(errors, z))
        blame = self.statistics.attribution(clipped(self.errors(errors)), self.directions)
        late = np.arange(len(z)) >= self.settle
        return Verdict(np.where(late, residual, 0.0), np.where(late, density, 0.0), blame * late[:, None])

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Arrays, and numbers and texts, from which `of_state` makes it again."""
        s = self.statistics
        arrays = {name: getattr(s, name) for name in _STATISTICS} | {
            "covariance": self.errors.covariance, "tails": self.tails, "latent_mean": self.latents.mean,
            "latent_std": self.latents.std, "latent_matrix": self.latents.matrix,
        }  # fmt: skip
        return arrays, {"steps": self.steps, "limits": self.limits, "rate": self.rate, "config": s.config.model_dump()}

    @staticmethod
    def of_state(arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> PlantSurprise:
        """From what `state` gave. Raises `KeyError`, `TypeError` or `ValueError` where it is damaged."""
        if not all(np.isfinite(a).all() for a in arrays.values()):
            raise ValueError("the surprise's arrays are not finite")
        return PlantSurprise(
            tuple(int(k) for k in facts["steps"]),
            ErrorWhitening(arrays["covariance"]),
            Statistics(SurpriseConfig(**facts["config"]), **{name: arrays[name] for name in _STATISTICS}),
            arrays["tails"],
            Whitening(arrays["latent_mean"], arrays["latent_std"], arrays["latent_matrix"]),
            (float(facts["limits"][0]), float(facts["limits"][1])),
            float(facts["rate"]),
        )


class Follower:
    """Follows `batch` plants sample by sample: what the model expected of now, one and more samples ago, and the latent."""

    def __init__(self, model: WorldModel, steps: Sequence[int], batch: int = 1) -> None:
        self._model, self._steps, self._batch = model, list(steps), batch
        channels = model.n_measured + model.n_dv + model.n_mv
        self._window = torch.full((batch, model.config.window, channels), torch.nan)
        self._past = torch.empty(batch, 0, model.config.latent)  # (batch x k x latent): now, from k samples ago
        self._seen = 0
        self._d = torch.tensor([[t.nominal for t in model.spec.dvs]]).expand(batch, -1).float()

    def step(self, measured: Array, dvs: Array, applied: Array, constants: Array | None = None) -> tuple[Array, Array]:
        """One sample of each plant: `measured` (batch x n_measured), `dvs` (batch x n_dv), `applied` (batch x n_mv) the moves
        in force until now, `constants` (batch x n_constant), engineering units, NaN where unknown. Returns normalised
        errors (batch x steps * n_measured), NaN where there is nothing to compare, and latents (batch x latent)."""
        model, wide = self._model, max(self._steps)
        y, d, u = (torch.from_numpy(np.array(part)).float() for part in (measured, dvs, applied))
        held = None if constants is None else torch.from_numpy(np.array(constants)).float()
        errors = torch.full((self._batch, len(self._steps), model.n_measured), torch.nan)
        with torch.inference_mode():
            count = self._past.shape[1]
            moves, before = (v[:, None].expand(-1, count, -1) for v in (u, self._d))
            now = model.advance(self._past, moves, before, held)  # a move nobody knows leaves NaN behind
            if self._d.shape[1]:  # when within the interval a disturbance changed is not known either
                both = torch.stack([self._d, torch.where(torch.isfinite(d), d, self._d)], 1)
                now[~unchanged(model, model.normalise(both, "dvs"))[:, 1]] = torch.nan
            due = [i for i, k in enumerate(self._steps) if k <= count]
            ahead = now[:, [self._steps[i] - 1 for i in due]]
            errors[:, due] = model.normalise(y, "measured")[:, None] - model.read_out_head(ahead)
            self._window = torch.cat([self._window[:, 1:], torch.cat([y, d, u], -1)[:, None]], 1)
            z = model.encode(self._window, held)
        self._d = torch.where(torch.isfinite(d), d, self._d)
        self._seen += 1
        whole = self._seen >= model.config.window  # of a padded window nothing much can be expected
        self._past = torch.cat([z[:, None], now], 1)[:, :wide] if whole else now
        return errors.flatten(1).double().numpy(), z.double().numpy()


class Watch:
    """`batch` plants watched while they run: the verdict of each sample as it comes."""

    def __init__(self, model: WorldModel, surprise: PlantSurprise, batch: int = 1) -> None:
        self.tags = [t.name for t in model.spec.measured]
        self._model, self._surprise, self._batch = model, surprise, batch
        self.reset()

    def reset(self) -> None:
        """Forget the history (a gap in the samples)."""
        statistics = self._surprise.statistics
        self._follower, self._seen = Follower(self._model, self._surprise.steps, self._batch), 0
        shape, config = (self._batch, len(statistics.mean_square)), statistics.config
        self._means = [np.zeros(shape) for _ in config.means]
        self._growths = [np.zeros(shape) for _ in config.variances]

    def see(self, measured: Array, dvs: Array, applied: Array, constants: Array | None = None) -> Verdict:
        """The verdicts (batch,) on one sample of each plant; as `Follower.step`."""
        surprise, statistics = self._surprise, self._surprise.statistics
        errors, z = self._follower.step(measured, dvs, applied, constants)
        u, config = clipped(surprise.errors(errors)), statistics.config
        self._means = [m + a * (u - m) for m, a in zip(self._means, config.means, strict=True)]
        grown = u * u - statistics.mean_square
        self._growths = [g + a * (grown - g) for g, a in zip(self._growths, config.variances, strict=True)]
        self._seen += 1
        if self._seen <= surprise.settle:
            return Verdict(np.zeros(self._batch), np.zeros(self._batch), np.zeros((self._batch, len(self.tags))))
        components = statistics.of(self._means, self._growths)
        residual, density = surprise.multiples(components, (surprise.latents(z) ** 2).mean(1))
        mean, std = (v[: len(self.tags)].double().numpy() for v in (self._model.channel_mean, self._model.channel_std))
        away = np.nan_to_num(np.abs(measured - mean) / std)
        return Verdict(residual, density, self._blame(components.argmax(1)), away)

    def _blame(self, component: NDArray[np.int64]) -> Array:
        """As `Statistics.attribution`, of the newest sample; `component` (batch,) is the largest of each plant."""
        directions, rows, means = self._surprise.directions, np.arange(self._batch), len(self._means)
        mean = np.stack(self._means)[np.minimum(component, means - 1), rows]
        growth = np.stack(self._growths)[np.maximum(component - means, 0), rows]
        parts = (mean @ directions.T) ** 2, np.maximum(growth, 0.0) @ (directions**2).T
        part = np.where((component < means)[:, None], *parts) / (directions**2).sum(1)
        return part / np.maximum(part.sum(1, keepdims=True), 1e-9)


def follow(model: WorldModel, runs: Sequence[Run], steps: Sequence[int]) -> list[tuple[Array, Array]]:
    """Normalised errors (n x steps * n_measured) and latents (n x latent) of each of `runs`, followed side by side."""
    if not runs:
        return []
    most = max(map(len, runs))
    padded = [
        np.full((len(runs), most, len(tags)), np.nan) for tags in (model.spec.measured, model.spec.dvs, model.spec.mvs)
    ]
    for i, run in enumerate(runs):
        for part, values in zip(padded, (run.measured, run.dvs, run.applied), strict=True):
            part[i, : len(run)] = values
    constants = None
    if model.n_constant:
        unknown = np.full(model.n_constant, np.nan)
        constants = np.stack([unknown if r.constants is None else r.constants for r in runs])
    follower = Follower(model, steps, len(runs))
    measured, dvs, applied = padded
    made = [follower.step(measured[:, t], dvs[:, t], applied[:, t], constants) for t in range(most)]
    errors, z = np.stack([e for e, _ in made], 1), np.stack([z for _, z in made], 1)
    return [(errors[i, : len(r)], z[i, : len(r)]) for i, r in enumerate(runs)]
