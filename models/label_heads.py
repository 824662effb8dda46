"""Heads for quantities that only a laboratory labels: ridge regression on a frozen latent, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plant.errors import ModelError

# What products weigh beside the directions themselves: none, or less than them as far as labels are few. These and the square
# root in `Basis` were chosen on runs of the turbofan that nothing is reported on.
_PRODUCTS = (0.0, 0.3, 1.0)
_RIDGES = torch.logspace(-6, 3, 28, dtype=torch.float64)


@dataclass(frozen=True)
class LabelHead:
    """A linear map from features, and where it pays their products, to one quantity.

    `error` is the root mean square leave-one-out error on the labels it was fitted to, in their unit; `products` what
    products weigh in it (0: there are none), `ridge` its regularisation.
    """

    basis: Basis
    products: float
    weights: Tensor
    offset: float
    ridge: float
    error: float

    def __call__(self, features: Tensor) -> Tensor:
        """`features` (..., n_feature) -> the quantity (...,), in the labels' unit."""
        return self.basis(features.double(), self.products) @ self.weights + self.offset


@dataclass(frozen=True)
class Basis:
    """Scales features and turns them to their principal directions, as all windows have them: these need no label.
    `leading` of them are multiplied with each other."""

    mean: Tensor
    turn: Tensor
    leading: int

    @staticmethod
    def of(features: Tensor, leading: int = 16) -> Basis:
        """From `features` (n x n_feature), labelled or not. Directions are scaled by the root of their size, half way to
        unit variance: a ridge trusts small ones less, but does trust them."""
        x = features.double()
        mean = x.mean(0)
        _, size, turn = torch.linalg.svd((x - mean) / len(x) ** 0.5, full_matrices=False)
        scale = (size[0] * size.clamp(min=1e-6 * size[0])).sqrt().clamp(min=1e-12)
        return Basis(mean, turn.T / scale, min(leading, len(size)))

    def __call__(self, features: Tensor, products: float) -> Tensor:
        """(..., n_feature) -> (..., n_basis), products times what they weigh."""
        x = (features - self.mean) @ self.turn
        if not products:
            return x
        first, second = torch.triu_indices(self.leading, self.leading).unbind(0)
        return torch.cat([x, products * x[..., first] * x[..., second]], -1)


def fit_label_head(features: Tensor, labels: Tensor, basis: Basis | None = None) -> LabelHead:
    """The head that predicts its own labels best when each is left out in turn (PRESS, Allen 1974), over ridges and
    weights of products; nothing but these labels is looked at.

    `features` (n x n_feature): latents of the labelled windows; `labels` (n,), NaN where there is none; `basis` of many
    unlabelled latents, else of these. Raises `ModelError` for fewer than 3 labels and for features that are not finite.
    """
    known = torch.isfinite(labels)
    if int(known.sum()) < 3:
        raise ModelError(f"{int(known.sum())} labels", "label head", "Give at least 3; 100 are a good start.")
    x, y = features[known].double(), labels[known].double()
    if not bool(torch.isfinite(x).all()):
        raise ModelError("a labelled latent is not finite", "label head", "Leave out windows without any reading.")
    basis = basis or Basis.of(x)
    found = {products: _ridge(basis(x, products), y) for products in _PRODUCTS}
    best = min(found, key=lambda products: found[products][3])
    return LabelHead(basis, best, *found[best])


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, float, float, float]:
    """Weights, offset, ridge and leave-one-out error of the ridge, per label, that leaves out best."""
    n = len(y)
    mean, level = x.mean(0), y.mean()
    if n > x.shape[1]:  # a thin factor either way
        size, turn = torch.linalg.eigh((x - mean).T @ (x - mean))
        size = size.clamp(min=0).sqrt()
        left = (x - mean) @ turn / size.clamp(min=1e-12)
    else:
        left, size, right = torch.linalg.svd(x - mean, full_matrices=False)
        turn = right.T
    left = torch.where(size > 1e-9 * size.max(), left, 0.0)
    shrunk = size**2 / (size**2 + n * _RIDGES[:, None])  # ridges x rank
    along = left.T @ (y - level)
    fitted = (shrunk * along) @ left.T
    leverage = (shrunk @ (left**2).T + 1 / n).clamp(max=1 - 1e-6)
    error = (((y - level - fitted) / (1 - leverage)) ** 2).mean(1).sqrt()
    best = int(error.argmin())
    weights = turn @ (size / (size**2 + n * _RIDGES[best]) * along)
    return weights, float(level - mean @ weights), float(_RIDGES[best]), float(error[best])
