"""Nothing changes: the last reading of each tag, whatever is done. The floor."""

from __future__ import annotations

from torch import Tensor

from models.rivals.contract import Forecaster
from models.windows import filled


class Persistence(Forecaster):
    """Has nothing to learn."""

    def roll(self, values: Tensor, mask: Tensor, u: Tensor, d: Tensor) -> Tensor:
        last = filled(values, mask)[:, -1:, : self.n_measured]
        return last.expand(-1, u.shape[1], -1)
