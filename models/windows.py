"""From runs of samples to windows: normalisation, masks, padding, and sampling by excitation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plant.errors import ModelError
from plant.spec import PlantSpec, Tag

Array = NDArray[np.float64]
INCIDENT = "incident"  # the kind of runs that were only ever simulated
_AT_ONCE = 65_536  # starts looked at together: what is made of them on the way is a few hundred times as large


@dataclass(frozen=True)
class Run:
    """A contiguous stretch of samples of one plant, `n` of them, `sample_time_s` apart. NaN marks a missing value.

    `measured` (n x n_measured), `dvs` (n x n_dv), `applied` (n x n_mv): the moves in force during the interval that ends
    at each sample, `labels` (n x n_guardrail): the hidden worst value under the fallback (NaN when nobody labelled it),
    `hidden` (n x n_guardrail): the value a guardrail watches where that is a hidden quantity (NaN elsewhere),
    `constants` (n_constant): what holds for the whole run; None where the plant has none.
    """

    kind: str
    start_s: float
    measured: Array
    dvs: Array
    applied: Array
    labels: Array
    hidden: Array | None = None
    constants: Array | None = None

    def __len__(self) -> int:
        return len(self.measured)


@dataclass(frozen=True)
class Scale:
    """A channel-wise affine normalisation, taken from training runs only."""

    mean: Array
    std: Array

    @staticmethod
    def fit(rows: Array, floor: Array) -> Scale:
        """Mean and standard deviation of `rows` (n x channels) without NaN; no deviation is smaller than `floor`."""
        return Scale(np.nanmean(rows, axis=0), np.maximum(np.nanstd(rows, axis=0), floor))

    @staticmethod
    def fit_parts(parts: Sequence[Run], floor: Array) -> Scale:
        """`fit` on the samples of many runs, without ever holding them together, to the same last bit."""
        count, total, squares = np.zeros(len(floor), np.int64), np.zeros((1, len(floor))), np.zeros((1, len(floor)))
        for rows in map(_finite_rows, parts):
            count += np.isfinite(rows).sum(0)
            # The running sum goes on as the first row: rows are added one by one, as a sum over all of them adds them.
            total = np.concatenate([total, np.nan_to_num(rows, nan=0.0)]).sum(0, keepdims=True)
        mean = total[0] / count
        for rows in map(_finite_rows, parts):
            squares = np.concatenate([squares, np.nan_to_num((rows - mean) ** 2, nan=0.0)]).sum(0, keepdims=True)
        return Scale(mean, np.maximum(np.sqrt(squares[0] / count), floor))

    def apply(self, rows: Array) -> Array:
        return (rows - self.mean) / self.std


class WindowSet:
    """Runs as tensors from which batches of window sequences are drawn.

    A window is the last `window` samples of [measured, dvs, applied] and a mask of the same shape, flattened to
    `2 * window * channels`. Before a run's start it is padded with copies of its first sample, mask 0. Sequences begin
    wherever at least `shortest` samples follow; those that outrun their run say so (`alive`). What is constant within a run
    is in no window: see `conditions`. `usual` (n_samples,): 0 in simulated incidents, else 1. With `folder` the tensors live in files there, and the operating system keeps in
    memory what is used of them.
    """

    def __init__(
        self, runs: Sequence[Run], channel: Scale, window: int, horizon: int, shortest: int = 1,
        folder: Path | None = None, constant: Scale | None = None,
    ) -> None:  # fmt: skip
        self.window, self.horizon, self.scale, self._folder = window, horizon, channel, folder
        self.n_measured, self.n_dv = runs[0].measured.shape[1], runs[0].dvs.shape[1]
        size, ahead = sum(len(r) for r in runs), [len(r) - shortest for r in runs if len(r) >= shortest + 1]
        if not ahead:
            raise ModelError(
                f"no run has more than {shortest} samples",
                "world-model data",
                "Record longer runs, or plan over a shorter horizon.",
            )
        channels, labels = len(channel.mean), runs[0].labels.shape[1]
        self.rows, self.mask = self._tensor("rows", size, channels), self._tensor("mask", size, channels)
        self.labels, self.hidden = self._tensor("labels", size, labels), self._tensor("hidden", size, labels)
        whole = torch.long
        self.first, self.last = self._tensor("first", size, dtype=whole), self._tensor("last", size, dtype=whole)
        self.usual = self._tensor("usual", size)
        self.starts = self._tensor("starts", sum(ahead), dtype=whole)
        at = begun = 0
        for run in runs:
            raw = np.concatenate([run.measured, run.dvs, run.applied], axis=1)
            good, here = np.isfinite(raw), slice(at, at + len(run))
            self.rows[here] = torch.tensor(np.where(good, channel.apply(np.where(good, raw, 0.0)), 0.0)).float()
            self.mask[here] = torch.tensor(good).float()
            self.labels[here] = torch.tensor(np.array(run.labels)).float()
            self.hidden[here] = torch.nan if run.hidden is None else torch.tensor(np.array(run.hidden)).float()
            self.first[here], self.last[here] = at, at + len(run) - 1
            self.usual[here] = float(run.kind != INCIDENT)
            if (more := len(run) - shortest) > 0:
                self.starts[begun : begun + more] = torch.arange(at, at + more)
                begun += more
            at += len(run)
        self._constants = None if constant is None else _constants(runs, constant)
        active = torch.cat(list(self._active()))
        self.steady = self._chosen("steady", ~active)
        self.moving = self._chosen("moving", active)
        self.danger = torch.empty(0, dtype=torch.long)

    def _tensor(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        size = int(np.prod(shape))
        if self._folder is None or size == 0:
            return torch.empty(shape, dtype=dtype)
        self._folder.mkdir(parents=True, exist_ok=True)
        return torch.from_file(str(self._folder / name), shared=True, size=size, dtype=dtype).view(shape)

    def _chosen(self, name: str, which: Tensor) -> Tensor:
        """The starts that `which` (n_starts) marks."""
        out, at = self._tensor(name, int(which.sum()), dtype=torch.long), 0
        for some, kept in zip(self.starts.split(_AT_ONCE), which.split(_AT_ONCE), strict=True):
            some = some[kept]
            out[at : at + len(some)] = some
            at += len(some)
        return out

    def _active(self) -> Iterator[Tensor]:
        """Whether any normalised channel changes much over each start's horizon."""
        for starts in self.starts.split(_AT_ONCE):
            span = self.rows[self.sequence(starts)[0]]
            yield (span.amax(1) - span.amin(1)).amax(1) > 0.05

    def endangered(self, dangerous: Callable[[Tensor], Tensor]) -> Tensor:
        """The starts over whose horizon any label is `dangerous` (labels (n x horizon+1 x n_guardrail) -> bool)."""
        parts = self.starts.split(_AT_ONCE)
        return torch.cat([s[dangerous(self.labels[self.sequence(s)[0]]).any(-1).any(-1)] for s in parts])

    def contents(self) -> list[Tensor]:
        """All that was put in: what tells one data set from another."""
        held = [] if self._constants is None else [self._constants[1]]
        return [self.rows, self.mask, self.labels, self.hidden, *held]

    def conditions(self, index: Tensor) -> Tensor | None:
        """What holds for the run of each sample of `index` (any shape): normalised constants (0 where unknown), then which
        of them are known (..., 2 * n_constant); None where the plant has none."""
        if self._constants is None:
            return None
        began, values = self._constants
        return values[torch.searchsorted(began, index.contiguous(), right=True) - 1]

    @property
    def channels(self) -> int:
        return self.rows.shape[1]

    def sequence(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (batch x horizon+1) of the samples from each start on, and which of them exist (same shape, 0 or 1);
        past the end of a run its last sample stands in."""
        wanted = starts[:, None] + torch.arange(self.horizon + 1)
        last = self.last[starts][:, None]
        return torch.minimum(wanted, last), (wanted <= last).to(self.rows.dtype)

    def draw(self, batch: int, steady_share: float, danger_share: float, generator: torch.Generator) -> Tensor:
        """Start indices (batch,): at most `steady_share` of them where nothing happens, `danger_share` from `danger`
        when there is any, the rest where something moves."""
        quiet = round(batch * min(steady_share, len(self.steady) / len(self.starts)))
        hot = round(batch * danger_share) if len(self.danger) else 0
        rest = self.moving if len(self.moving) else self.starts
        pools = ((rest, batch - quiet - hot), (self.steady, quiet), (self.danger, hot))
        return torch.cat([p[torch.randint(len(p), (n,), generator=generator)] for p, n in pools if n > 0])

    def gather(self, index: Tensor, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Windows that end at `index` (any shape): values and mask (..., window, channels).

        `history` (same shape) is how many samples each window may look back; older ones are padded, mask 0.
        """
        back = index[..., None] + torch.arange(-self.window + 1, 1)
        oldest = self.first[index][..., None]
        if history is not None:
            oldest = torch.maximum(oldest, index[..., None] - history[..., None] + 1)
        clipped = torch.maximum(back, oldest)
        return self.rows[clipped], self.mask[clipped] * (back >= oldest)[..., None]


def filled(values: Tensor, mask: Tensor) -> Tensor:
    """Windows (..., window, channels) without gaps: the last value seen, before the first one that one, and zero (the training
    mean) for a channel never seen."""
    seen = mask > 0
    at = torch.arange(values.shape[-2])[:, None].expand_as(values)
    last = torch.where(seen, at, -1).cummax(-2).values
    first = seen.to(torch.uint8).argmax(-2, keepdim=True)
    return (values * mask).gather(-2, torch.where(last < 0, first, last))


def all_known(mask: Tensor) -> Tensor:
    """Whether all of some channels are there: `mask` (..., channels) of 0 and 1 -> (...), 0 or 1; 1 where there are none."""
    return mask.amin(-1) if mask.shape[-1] else torch.ones(mask.shape[:-1], dtype=mask.dtype)


def usual_of(runs: Sequence[Run]) -> list[Run]:
    """`runs` without simulated incidents; all of them where there is nothing else."""
    return [r for r in runs if r.kind != INCIDENT] or list(runs)


def known_stretch(runs: Sequence[Run]) -> int:
    """How many samples in a row every move is known in, after a first one, in the longest such stretch of `runs`."""
    longest = 0
    for run in runs:
        known = np.isfinite(run.applied[1:]).all(axis=1)  # what was in force before the first sample matters to nobody
        edges = np.flatnonzero(np.diff(known.astype(int), prepend=0, append=0))
        longest = max([longest, *(edges[1::2] - edges[::2])])
    return int(longest)


def channel_scale(spec: PlantSpec, runs: Sequence[Run]) -> Scale:
    """Normalisation of [measured, dvs, applied] from `runs`; a channel that hardly moves is scaled by its noise or by
    1/200 of its range, so that a constant tag is not amplified. Raises `ModelError` for a tag without any reading."""
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    seen = np.zeros(len(tags), bool)
    for run in runs:
        seen |= np.isfinite(_finite_rows(run)).any(0)
    _need_readings(spec, [t for t, some in zip(tags, seen, strict=True) if not some])
    return Scale.fit_parts(runs, least_spread(tags))


def constant_scale(spec: PlantSpec, runs: Sequence[Run]) -> Scale | None:
    """Normalisation of what is constant within a run, each run counted once; None where the plant has none. Raises
    `ModelError` for a tag that no run knows."""
    if not spec.constants:
        return None
    rows = np.stack([np.full(len(spec.constants), np.nan) if r.constants is None else r.constants for r in runs])
    _need_readings(spec, [t for i, t in enumerate(spec.constants) if not np.isfinite(rows[:, i]).any()])
    return Scale.fit(np.where(np.isfinite(rows), rows, np.nan), least_spread(spec.constants))


def least_spread(tags: Sequence[Tag]) -> Array:
    """The spread (n_tag,) that a tag is scaled by which hardly moved: its noise, or 1/200 of its range."""
    return np.array([max(3 * t.noise, (t.range[1] - t.range[0]) / 200) for t in tags])


def _need_readings(spec: PlantSpec, silent: list[Tag]) -> None:
    if silent:
        raise ModelError(
            f"{', '.join(t.name for t in silent)}: no reading in any run",
            f"training data of {spec.name}",
            "Record it, or take it out of the plant file.",
        )


def _finite_rows(run: Run) -> Array:
    """[measured, dvs, applied] (n x channels), NaN where there is no number."""
    rows = np.concatenate([run.measured, run.dvs, run.applied], axis=1)
    return np.where(np.isfinite(rows), rows, np.nan)


def _constants(runs: Sequence[Run], scale: Scale) -> tuple[Tensor, Tensor]:
    """The first sample of each run, and its normalised constants beside which of them are known."""
    began = np.cumsum([0, *(len(r) for r in runs)])[:-1]
    raw = np.stack([np.full(len(scale.mean), np.nan) if r.constants is None else r.constants for r in runs])
    good = np.isfinite(raw)
    both = np.concatenate([np.where(good, scale.apply(np.where(good, raw, 0.0)), 0.0), good], axis=1)
    return torch.tensor(began), torch.tensor(both, dtype=torch.float32)
