"""SIGReg reads what its authors say it reads: a Gaussian at any size, and every kind of collapse."""

from __future__ import annotations

import pytest
import torch

from models.regularisers import sigreg


def gaussian(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "dim"), [(128, 4), (512, 16), (2048, 16), (512, 64)])
def test_gaussian_reads_about_one_at_any_size(n: int, dim: int) -> None:
    rng = torch.Generator().manual_seed(1)
    readings = torch.stack([sigreg(gaussian(n, dim, seed), 256, rng) for seed in range(12)])
    assert abs(readings.mean() - 1.05) < 0.2


@pytest.mark.parametrize("n", [64, 512, 2048])
def test_total_collapse_grows_with_the_samples(n: int) -> None:
    assert sigreg(torch.zeros(n, 16), 64).item() == pytest.approx(0.402 * n, rel=0.01)


@pytest.mark.parametrize(
    "spoil",
    [lambda z: 0.1 * z, lambda z: 4.0 * z, lambda z: z + 1.0, lambda z: z * (torch.arange(16) < 4), lambda z: z.sign()],
    ids=["shrunk", "blown up", "shifted", "quarter rank", "two points a dimension"],
)
def test_what_is_no_gaussian_reads_more(spoil) -> None:
    z = gaussian(2048, 16)
    rng = torch.Generator().manual_seed(2)
    reading, spoiled = (sigreg(x.double(), 256, rng) for x in (z, spoil(z)))
    assert spoiled > 1.5 * reading


def test_steady_data_reads_as_collapse() -> None:
    """Why steady windows are capped: 80 % of a batch at one operating point."""
    z = gaussian(512, 16)
    z[:410] = 0.01 * z[:410]
    assert sigreg(z, 256).item() > 20.0


def test_gradient_undoes_a_collapse() -> None:
    z = (0.05 * gaussian(256, 4)).requires_grad_()
    rng = torch.Generator().manual_seed(3)
    optimiser = torch.optim.Adam([z], lr=0.05)
    before = sigreg(z, 64, rng).item()
    for _ in range(60):
        optimiser.zero_grad()
        sigreg(z, 64, rng).backward()
        optimiser.step()
    assert sigreg(z, 64, rng).item() < 0.1 * before
    assert 0.5 < z.std().item() < 1.5


def test_directions_come_from_the_generator() -> None:
    z = gaussian(128, 8)
    one, again = (sigreg(z, 16, torch.Generator().manual_seed(5)) for _ in range(2))
    other = sigreg(z, 16, torch.Generator().manual_seed(6))
    assert one == again
    assert one != other


def test_the_gradient_is_that_of_the_distance() -> None:
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: sigreg(e, 4, torch.Generator().manual_seed(1)), (x,))
