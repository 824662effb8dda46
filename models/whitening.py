"""Full-rank whitening: of states by their correlations, and of prediction errors of which some are not known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from plant.errors import ModelError

Array = NDArray[np.float64]

LEAST_STD = 1e-9  # of a tag's largest value: what moves less is rounding
_LEAST_EIGENVALUE = 1e-6  # of a correlation matrix: below this a direction is rounding, not signal
_TINY = 1e-9


@dataclass(frozen=True)
class Whitening:
    """Full-rank symmetric (ZCA) whitening: uncorrelated, unit variance, each output still mostly its own tag."""

    mean: Array
    std: Array
    matrix: Array

    @staticmethod
    def fit(rows: Array, shrinkage: float = 0.001) -> Whitening:
        """From training `rows` (n x tags); NaN takes the tag's mean. The correlation matrix is drawn towards the identity by
        `shrinkage`, so fewer samples than tags, and tags that copy each other, stay finite. A tag that never moves reads in
        deviations of 1. Raises `ModelError` below two samples, or when a tag was never measured."""
        seen = np.isfinite(rows)
        if len(rows) < 2:
            raise ModelError(f"{len(rows)} normal samples", "whitening", "Record more normal operation.")
        if not seen.any(0).all():
            raise ModelError(
                f"tag {int(np.argmin(seen.any(0)))} was never measured", "whitening", "Leave it out, or record it."
            )
        mean, std = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        std = np.where(std > LEAST_STD * np.nanmax(np.abs(rows), axis=0), std, 1.0)
        z = np.where(seen, (rows - mean) / std, 0.0)
        correlation = z.T @ z / len(z)
        return Whitening(mean, std, inverse_root(shrunk(correlation, shrinkage, np.eye(len(std)))))

    def __call__(self, rows: Array) -> Array:
        """(n x tags) -> (n x tags), whitened; a NaN counts as the mean."""
        return np.nan_to_num((rows - self.mean) / self.std) @ self.matrix


@dataclass(frozen=True)
class ErrorWhitening:
    """Whitening of prediction errors by their `covariance` (tags x tags), whichever of them are known."""

    covariance: Array
    _roots: dict[bytes, Array] = field(default_factory=dict, repr=False)

    @staticmethod
    def fit(errors: Array, shrinkage: float) -> ErrorWhitening:
        """From `errors` (n x tags), NaN where unknown; the covariance is drawn towards its diagonal by `shrinkage`."""
        seen = np.isfinite(errors)
        together = np.maximum(seen.T.astype(float) @ seen, 1.0)
        z = np.nan_to_num(errors)
        covariance = _positive(z.T @ z / together)
        diagonal = np.diag(np.maximum(np.diag(covariance), _LEAST_EIGENVALUE))
        return ErrorWhitening(shrunk(covariance, shrinkage, diagonal))

    def __call__(self, errors: Array) -> Array:
        """`errors` (n x tags), NaN where unknown -> whitened (n x tags), 0 where unknown."""
        seen = np.isfinite(errors)
        out = np.zeros_like(errors)
        patterns, which = np.unique(seen, axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            rows = which.ravel() == i
            out[rows] = np.where(pattern, errors[rows], 0.0) @ self._root(pattern)
        return out

    @property
    def directions(self) -> Array:
        """Row j: the whitened errors that an error in tag j alone would give, all tags known (tags x tags)."""
        return self._root(np.ones(len(self.covariance), bool))

    def _root(self, pattern: NDArray[np.bool_]) -> Array:
        key = pattern.tobytes()
        if key not in self._roots:
            root = np.zeros_like(self.covariance)
            if pattern.any():
                part = np.ix_(pattern, pattern)
                root[part] = inverse_root(self.covariance[part])
            self._roots[key] = root
        return self._roots[key]


def shrunk(matrix: Array, share: float, towards: Array) -> Array:
    """`matrix`, drawn `towards` another by `share`."""
    return (1 - share) * matrix + share * towards


def _positive(matrix: Array) -> Array:
    """The nearest covariance: pairs counted over different samples need not make one."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, _LEAST_EIGENVALUE)) @ vectors.T


def inverse_root(matrix: Array) -> Array:
    """The symmetric inverse square root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.sqrt(np.maximum(values, _TINY))) @ vectors.T
