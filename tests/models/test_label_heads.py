"""Label heads: what few labels can and cannot teach, leave-one-out against the long way round, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.label_heads import Basis, _ridge, fit_label_head
from plant.errors import ModelError


def latents(n: int, seed: int, width: int = 8) -> Tensor:
    """Correlated features of falling size, far from zero."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) * 0.6 ** torch.arange(width)
    return torch.randn(n, width, generator=g) @ mix.T + 3.0


def linear(z: Tensor) -> Tensor:
    return 300 + 5 * z[:, 0] - 2 * z[:, 1]


def curved(z: Tensor) -> Tensor:
    return linear(z) + 3 * (z[:, 0] - 3) * (z[:, 1] - 3)


def r2(head, quantity, seed: int = 7) -> float:
    z = latents(2000, seed)
    y = quantity(z)
    return float(1 - (head(z) - y).var() / y.var())


def noisy(y: Tensor, seed: int, share: float = 0.1) -> Tensor:
    return y + share * y.std() * torch.randn(len(y), generator=torch.Generator().manual_seed(seed))


def test_a_linear_quantity_takes_thirty_labels_and_no_products() -> None:
    basis = Basis.of(latents(5000, 0))
    z = latents(30, 1)
    head = fit_label_head(z, noisy(linear(z), 2), basis)
    assert r2(head, linear) > 0.97
    assert not head.products


def test_a_curved_quantity_gets_products_once_labels_allow() -> None:
    basis = Basis.of(latents(5000, 0))
    few, many = latents(12, 1), latents(300, 2)
    head = fit_label_head(many, noisy(curved(many), 3, 0.02), basis)
    assert head.products
    assert r2(head, curved) > 0.99
    assert r2(fit_label_head(few, noisy(curved(few), 4, 0.02), basis), curved) > 0.2, "few labels are no disaster"


def test_noise_alone_teaches_little() -> None:
    """Of labels with unit variance that follow nothing, most heads say next to nothing."""
    basis, said = Basis.of(latents(5000, 0)), []
    for seed in range(11):
        y = torch.randn(100, generator=torch.Generator().manual_seed(500 + seed))
        head = fit_label_head(latents(100, seed), y, basis)
        assert head.error == pytest.approx(1.0, abs=0.3)
        said.append(float(head(latents(500, 3)).std()))
    assert sorted(said)[5] < 0.2


@pytest.mark.parametrize(("n", "width"), [(12, 20), (40, 6)])
def test_the_leave_one_out_error_is_that_of_leaving_each_out(n: int, width: int) -> None:
    x = latents(n, 1, width).double()
    y = noisy(linear(x), 2, 0.3)
    weights, offset, ridge, error = _ridge(x, y)

    def fit(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Ridge with an offset that is not shrunk."""
        ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        shrink = torch.eye(x.shape[1] + 1, dtype=x.dtype) * penalty
        shrink[-1, -1] = 0.0
        found = torch.linalg.solve(ones.T @ ones + shrink, ones.T @ y)
        return found[:-1], found[-1]

    w, b = fit(x, y, n * ridge)
    torch.testing.assert_close(x @ weights + offset, x @ w + b, rtol=1e-5, atol=1e-5)
    left_out = []
    for i in range(n):
        others = torch.arange(n) != i
        w, b = fit(x[others], y[others], n * ridge)
        left_out.append(float(x[i] @ w + b - y[i]))
    assert error == pytest.approx(float(torch.tensor(left_out).square().mean().sqrt()), rel=1e-4)


def test_labels_that_are_missing_are_left_out() -> None:
    z = latents(60, 1)
    y = linear(z)
    y[::2] = torch.nan
    basis = Basis.of(z)
    some, bare = fit_label_head(z, y, basis), fit_label_head(z[1::2], y[1::2], basis)
    assert torch.equal(some.weights, bare.weights)
    assert some(z.reshape(3, 20, 8)).shape == (3, 20)


def test_constant_features_and_labels_do_no_harm() -> None:
    z = latents(30, 1)
    z[:, 3] = 1.0
    head = fit_label_head(z, torch.full((30,), 7.0))
    torch.testing.assert_close(head(latents(5, 2)), torch.full((5,), 7.0, dtype=torch.float64))


def test_too_few_labels_and_broken_latents_are_refused() -> None:
    z = latents(10, 1)
    with pytest.raises(ModelError, match="2 labels"):
        fit_label_head(z, torch.where(torch.arange(10) < 2, 1.0, torch.nan))
    z[4, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        fit_label_head(z, torch.ones(10))
