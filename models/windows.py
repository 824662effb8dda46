"""From runs of samples to windows: normalisation, masks, padding, and sampling by excitation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plant.errors import ModelError
from plant.spec import PlantSpec

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """A contiguous stretch of samples of one plant, `n` of them, `sample_time_s` apart. NaN marks a missing value.

    `measured` (n x n_measured), `dvs` (n x n_dv), `applied` (n x n_mv): the moves in force during the interval that ends
    at each sample, `labels` (n x n_guardrail): the hidden worst value under the fallback (NaN when nobody labelled it),
    `hidden` (n x n_guardrail): the value a guardrail watches where that is a hidden quantity (NaN elsewhere).
    """

    kind: str
    start_s: float
    measured: Array
    dvs: Array
    applied: Array
    labels: Array
    hidden: Array | None = None

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

    def apply(self, rows: Array) -> Array:
        return (rows - self.mean) / self.std


class WindowSet:
    """Runs as tensors from which batches of window sequences are drawn.

    A window is the last `window` samples of [measured, dvs, applied] and a mask of the same shape, flattened to
    `2 * window * channels`. Before a run's start it is padded with copies of its first sample, mask 0. Sequences begin
    wherever at least `shortest` samples follow; those that outrun their run say so (`alive`).
    """

    def __init__(self, runs: Sequence[Run], channel: Scale, window: int, horizon: int, shortest: int = 1) -> None:
        self.window, self.horizon = window, horizon
        self.n_measured, self.n_dv = runs[0].measured.shape[1], runs[0].dvs.shape[1]
        rows, mask, labels, hidden, first, last, starts = [], [], [], [], [], [], []
        at = 0
        for run in runs:
            raw = np.concatenate([run.measured, run.dvs, run.applied], axis=1)
            good = np.isfinite(raw)
            rows.append(np.where(good, channel.apply(np.where(good, raw, 0.0)), 0.0))
            mask.append(good)
            labels.append(run.labels)
            hidden.append(np.full_like(run.labels, np.nan) if run.hidden is None else run.hidden)
            first.append(np.full(len(run), at))
            last.append(np.full(len(run), at + len(run) - 1))
            if len(run) >= shortest + 1:
                starts.append(np.arange(at, at + len(run) - shortest))
            at += len(run)
        if not starts:
            raise ModelError(
                f"no run has more than {shortest} samples",
                "world-model data",
                "Record longer runs, or plan over a shorter horizon.",
            )
        self.rows = torch.tensor(np.concatenate(rows), dtype=torch.float32)
        self.mask = torch.tensor(np.concatenate(mask), dtype=torch.float32)
        self.labels = torch.tensor(np.concatenate(labels), dtype=torch.float32)
        self.hidden = torch.tensor(np.concatenate(hidden), dtype=torch.float32)
        self.first, self.last = torch.tensor(np.concatenate(first)), torch.tensor(np.concatenate(last))
        self.starts = torch.tensor(np.concatenate(starts))
        activity = self._activity()
        self.steady = self.starts[activity <= 0.05]
        self.moving = self.starts[activity > 0.05]
        self.danger = torch.empty(0, dtype=torch.long)

    def _activity(self) -> Tensor:
        """Largest change of any normalised channel over each start's horizon."""
        ahead, _ = self.sequence(self.starts)
        span = self.rows[ahead]
        return (span.amax(1) - span.amin(1)).amax(1)

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


def channel_scale(spec: PlantSpec, runs: Sequence[Run]) -> Scale:
    """Normalisation of [measured, dvs, applied] from `runs`; a channel that hardly moves is scaled by its noise or by
    1/200 of its range, so that a constant tag is not amplified. Raises `ModelError` for a tag without any reading."""
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    floor = np.array([max(3 * t.noise, (t.range[1] - t.range[0]) / 200) for t in tags])
    rows = np.concatenate([np.concatenate([r.measured, r.dvs, r.applied], 1) for r in runs])
    rows = np.where(np.isfinite(rows), rows, np.nan)
    if silent := [tags[i].name for i in np.flatnonzero(np.isnan(rows).all(axis=0))]:
        raise ModelError(
            f"{', '.join(silent)}: no reading in any run",
            f"training data of {spec.name}",
            "Record it, or take it out of the plant file.",
        )
    return Scale.fit(rows, floor)
