"""Margins that widen where a loop shows them too small, and only there."""

from __future__ import annotations

import torch

from controllers.planning.widening import Widening

LEVEL, STEPS = 0.9, 5


def misses(error: float, samples: int = 3000, **observed: float) -> tuple[float, Widening]:
    """Share of samples at which a margin of 1 failed, errors of the predictions normal with deviation `error`."""
    widening = Widening(torch.ones(STEPS, 1).double(), LEVEL, torch.full((1,), 10.0).double(), 1)
    rng = torch.Generator().manual_seed(3)
    kept, failed = torch.zeros(1, STEPS, 1).double(), 0
    for _ in range(samples):
        predicted = 0.5 + error * torch.randn(1, 1, 1, generator=rng, dtype=torch.float64).expand(1, STEPS, 1)
        failed += bool((predicted - 0.5 > widening.factor[:, None]).any())
        widening.learn(predicted, torch.full((1, 1), observed.get("value", 0.5)).double(), kept)
    return failed / samples, widening


def test_a_plant_that_has_changed_is_covered_again() -> None:
    share, widening = misses(1.5)  # the calibrated margin alone would fail a quarter of the time
    assert abs(share - (1 - LEVEL)) < 0.02
    assert 1.5 < float(widening.factor) < 2.5


def test_margins_are_never_narrower_than_calibrated() -> None:
    share, widening = misses(0.3)
    assert share < 0.01
    assert float(widening.factor) == 1.0


def test_what_nobody_measures_teaches_nothing() -> None:
    _, widening = misses(5.0, samples=50, value=float("nan"))
    assert float(widening.factor) == 1.0


def test_what_is_far_away_teaches_nothing_and_plants_do_not_meet() -> None:
    widening = Widening(torch.ones(STEPS, 1).double(), LEVEL, torch.ones(1).double(), 2)
    predicted = torch.tensor([20.0, 0.9]).double()[:, None, None].expand(2, STEPS, 1)
    for _ in range(20):
        widening.learn(predicted, torch.full((2, 1), -5.0).double(), torch.zeros(2, STEPS, 1).double())
    assert widening.factor[0] == 1.0
    assert widening.factor[1] > 2.0


def test_what_is_kept_on_top_counts() -> None:
    widening = Widening(torch.ones(STEPS, 1).double(), LEVEL, torch.full((1,), 10.0).double(), 1)
    for _ in range(20):
        widening.learn(
            torch.full((1, STEPS, 1), 2.0).double(), torch.zeros(1, 1).double(), torch.full((1, STEPS, 1), 1.5).double()
        )
    assert float(widening.factor) == 1.0
