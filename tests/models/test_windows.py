"""Windows: what they hold at a run's start, where a value is missing, and that they never mix two runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.windows import Run, Scale, WindowSet, channel_scale
from plant.errors import ModelError
from plant.spec import PlantSpec

UNIT = Scale(np.zeros(3), np.ones(3))


def numbered(n: int, base: float, **changes) -> Run:
    """A run whose k-th sample reads base + k in its measurement, minus that in its DV; its move is constant."""
    k = base + np.arange(n, dtype=float)[:, None]
    parts = {"measured": k, "dvs": -k, "applied": np.full((n, 1), 7.0), "labels": np.full((n, 1), np.nan), **changes}
    return Run("excitation", 0.0, **parts)


def steady(n: int) -> Run:
    zero = np.zeros((n, 1))
    return Run("record", 0.0, zero, zero, zero, np.full((n, 1), np.nan))


def test_window_at_a_run_start_is_padded_with_its_first_sample() -> None:
    data = WindowSet([numbered(6, 100.0), numbered(6, 200.0)], UNIT, window=4, horizon=2)
    values, mask = data.gather(torch.tensor([6, 7, 9]))  # first, second and fourth sample of the second run
    assert values[..., 0].tolist() == [[200.0] * 4, [200.0, 200.0, 200.0, 201.0], [200.0, 201.0, 202.0, 203.0]]
    assert mask[..., 0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert (mask[..., :1] == mask).all()


def test_missing_values_are_masked_and_read_zero() -> None:
    holes = np.array([[0.0], [np.nan], [2.0], [np.inf], [4.0]])
    data = WindowSet([numbered(5, 0.0, measured=holes)], UNIT, window=3, horizon=1)
    values, mask = data.gather(torch.tensor([3]))
    assert mask[0, :, 0].tolist() == [0, 1, 0]
    assert values[0, :, 0].tolist() == [0, 2, 0]
    assert mask[0, :, 1:].all(), "the other channels were there"
    assert torch.isfinite(data.rows).all()


def test_history_limits_how_far_a_window_looks_back() -> None:
    data = WindowSet([numbered(8, 0.0)], UNIT, window=4, horizon=1)
    index = torch.tensor([5, 5, 1])
    values, mask = data.gather(index, torch.tensor([2, 4, 4]))
    assert mask[..., 0].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]
    assert values[0, :, 0].tolist() == [4, 4, 4, 5]
    cut = WindowSet([numbered(4, 4.0)], UNIT, window=4, horizon=1)
    fresh, fresh_mask = cut.gather(torch.tensor([1]))
    assert torch.equal(values[:1], fresh), "a window cut short is what a start-up would have seen"
    assert torch.equal(mask[:1], fresh_mask)


@pytest.mark.parametrize("horizon", [1, 4, 9])
def test_no_window_or_sequence_crosses_runs(horizon: int) -> None:
    lengths = [3, 7, 2, 12]
    data = WindowSet([numbered(n, 100.0 * i) for i, n in enumerate(lengths)], UNIT, window=5, horizon=horizon)
    run = (data.rows[:, 0] / 100).floor()
    index, alive = data.sequence(data.starts)
    assert (run[index] == run[data.starts][:, None]).all()
    values, _ = data.gather(index)
    assert ((values[..., 0] / 100).floor() == run[data.starts][:, None, None]).all()
    assert alive[:, :2].all(), "at least one sample follows each start"


def test_sequences_say_where_they_outrun_their_run() -> None:
    data = WindowSet([numbered(4, 0.0), numbered(6, 100.0)], UNIT, window=2, horizon=3)
    index, alive = data.sequence(torch.tensor([1, 4, 8]))
    assert index.tolist() == [[1, 2, 3, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
    assert alive.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]


def test_starts_leave_at_least_the_shortest_sequence() -> None:
    runs = [numbered(4, 0.0), numbered(6, 100.0), numbered(2, 200.0)]
    data = WindowSet(runs, UNIT, window=2, horizon=5, shortest=3)
    assert data.starts.tolist() == [0, 4, 5, 6]
    with pytest.raises(ModelError, match="no run has more than 9 samples"):
        WindowSet(runs, UNIT, window=2, horizon=9, shortest=9)


def test_draw_keeps_the_shares() -> None:
    data = WindowSet([steady(400), numbered(100, 0.0)], UNIT, window=2, horizon=3)
    assert set(data.steady.tolist()) == set(range(399))
    assert set(data.moving.tolist()) == set(range(400, 499))
    rng = torch.Generator().manual_seed(0)
    drawn = data.draw(200, 0.2, 0.0, rng)
    assert len(drawn) == 200
    assert (drawn < 400).sum() == 40, "steady windows are capped, though they are four fifths of the data"
    data.danger = torch.tensor([450, 451])
    drawn = data.draw(200, 0.2, 0.25, rng)
    assert len(drawn) == 200
    assert torch.isin(drawn, data.danger).sum() >= 50
    assert (drawn < 400).sum() == 40
    assert (data.draw(200, 0.0, 0.0, rng) >= 400).all()


def test_draw_from_data_in_which_nothing_or_everything_moves() -> None:
    rng = torch.Generator().manual_seed(0)
    quiet = WindowSet([steady(50)], UNIT, window=2, horizon=3)
    assert len(quiet.draw(64, 0.2, 0.1, rng)) == 64
    lively = WindowSet([numbered(50, 0.0)], UNIT, window=2, horizon=3)
    assert len(lively.draw(64, 0.2, 0.1, rng)) == 64


def test_draw_comes_from_the_generator() -> None:
    data = WindowSet([numbered(100, 0.0)], UNIT, window=2, horizon=3)
    one, again = (data.draw(32, 0.2, 0.1, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, again)


def run_like(spec: PlantSpec, n: int, rng: np.random.Generator) -> Run:
    def part(tags) -> np.ndarray:
        return np.stack([t.nominal + 0.1 * (t.range[1] - t.range[0]) * rng.standard_normal(n) for t in tags], 1)

    return Run("record", 0.0, part(spec.measured), part(spec.dvs), part(spec.mvs), np.full((n, 1), np.nan))


def test_constant_tag_is_not_amplified(spec: PlantSpec) -> None:
    """A feed that never changed must not turn its sensor's noise into a signal of size one."""
    rng = np.random.default_rng(0)
    run = run_like(spec, 500, rng)
    feed = spec.dvs[0]
    run.dvs[:, 0] = feed.nominal + feed.noise * rng.standard_normal(500)
    run.applied[:, 0] = spec.mvs[0].nominal
    scale = channel_scale(spec, [run])
    applied = scale.apply(np.concatenate([run.measured, run.dvs, run.applied], 1))
    column = len(spec.measured)
    assert applied[:, column].std() < 0.4
    assert np.isfinite(applied).all(), "no division by a deviation of nothing"
    np.testing.assert_allclose(applied[:, -1], 0.0, atol=1e-9)
    np.testing.assert_allclose(applied[:, : len(spec.measured)].std(0), 1.0, rtol=1e-6)


def test_scale_ignores_missing_values_and_inverts(spec: PlantSpec) -> None:
    run = run_like(spec, 500, np.random.default_rng(0))
    whole = channel_scale(spec, [run])
    run.measured[::7] = np.nan
    run.measured[1::7] = np.inf
    holes = channel_scale(spec, [run])
    np.testing.assert_allclose(holes.mean, whole.mean, rtol=0.02)
    np.testing.assert_allclose(holes.std, whole.std, rtol=0.2)


def test_tag_without_a_single_reading_is_refused(spec: PlantSpec) -> None:
    """Its mean would be NaN, and NaN would reach every latent."""
    run = run_like(spec, 20, np.random.default_rng(0))
    run.dvs[:, 0] = np.nan
    with pytest.raises(ModelError, match=f"{spec.dvs[0].name}.*no reading"):
        channel_scale(spec, [run])
