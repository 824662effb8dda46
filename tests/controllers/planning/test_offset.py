"""The offset correction: no steady offset, little noise, nothing learned from what is not there."""

from __future__ import annotations

import pytest
import torch

from controllers.planning.offset import Offset


def learned(errors: torch.Tensor, most: float = 0.1) -> torch.Tensor:
    """The bias (samples x plants) after each of `errors` (samples x plants), NaN where there is no reading."""
    offset, out = Offset(errors.shape[1], 3, 1, most), []
    for row in errors:
        offset.learn(row[:, None, None].expand(-1, 3, 1))
        out.append(offset.bias[:, 2, 0])
    return torch.stack(out)


def noise(samples: int) -> torch.Tensor:
    return torch.randn(samples, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_noise_hardly_goes_in_and_an_offset_is_soon_gone() -> None:
    errors = noise(1200)
    assert learned(errors)[200:].std() < 0.2, "a plain filter lets .23 of the noise in"
    errors[600:] += 3.0
    mean = learned(errors).mean(1)
    assert (mean[600 + 40 :] > 0.9 * 3.0).all(), "without drift, too"
    assert (mean[1000:] - 3.0).abs().max() < 0.15


@pytest.mark.parametrize("period", [5, 15])
def test_a_slow_analyser_teaches_every_step_when_it_reads_and_nothing_in_between(period: int) -> None:
    errors = noise(100 * period) + 3.0
    errors[torch.arange(len(errors)) % period > 0] = torch.nan
    found = learned(errors)
    assert torch.equal(found[1 : period - 1], found[:1].expand(period - 2, -1))
    mean = found.mean(1)
    assert (mean[40 * period :] > 0.9 * 3.0).all()
    assert found[50 * period :].std(0).mean() < 0.25
