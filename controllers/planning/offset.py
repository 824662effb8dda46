"""What predictions miss by, filtered: added to the next ones it leaves no steady offset."""

from __future__ import annotations

import torch
from torch import Tensor

_SMOOTHING = 0.1  # of the errors' mean and mean size: about the last ten readings


class Offset:
    """For `batch` plants, `bias` (batch x horizon x n_measured): what to add to a prediction 1..horizon samples ahead.

    Each step of the horizon learns from its own errors, of what was foretold so long ago with the moves that came; at a steady state
    every prediction is therefore exact, whatever the model has wrong. Errors that keep their sign go in faster than noise does: by
    the tracking signal, the size of their mean over their mean size (Trigg & Leach, Operational Research Quarterly 18, 1967), times
    `most`, the largest share of an error that is let in. Noise alone leaves .17 of its deviation in the bias, and an offset is gone to
    a tenth after 28 readings (a plain filter of the same `most`: .23 and 22; of a fifth of it: .10 and 112).
    A reading that is missing teaches nothing: what was learned stays.
    """

    def __init__(self, batch: int, horizon: int, n_measured: int, most: float) -> None:
        self.bias = torch.zeros(batch, horizon, n_measured, dtype=torch.float64)
        self._mean, self._size = torch.zeros_like(self.bias), torch.zeros_like(self.bias)  # of what was left to correct
        self._most = most

    def learn(self, error: Tensor) -> None:
        """`error` (batch x k x n_measured): what came less what was predicted of it 1..k samples ago, NaN where unknown."""
        known = error.shape[1]
        new = error - self.bias[:, :known]
        seen = torch.isfinite(new)
        for mean, value in ((self._mean, new), (self._size, new.abs())):
            mean[:, :known] += torch.where(seen, _SMOOTHING * (value - mean[:, :known]), 0.0)
        signal = (self._mean[:, :known].abs() / self._size[:, :known]).nan_to_num(0.0)  # no error yet: nothing to learn
        learned = self.bias[:, :known] + self._most * signal * new
        kept = torch.where(seen, learned, self.bias[:, :known])
        self.bias = torch.cat([kept, self.bias[:, known:]], 1)
