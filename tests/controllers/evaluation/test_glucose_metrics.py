"""Clinical metrics against cases worked out by hand, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.evaluation.glucose import metrics
from plant.errors import ControlError


def test_shares_at_their_edges() -> None:
    m = metrics(np.array([[53.9, 54.0, 69.9, 70.0, 120.0, 180.0, 180.1, 250.0, 250.1, 300.0, *[100.0] * 10]]))
    assert (m.tbr54[0], m.tbr70[0], m.tir[0], m.tar180[0], m.tar250[0]) == (5.0, 15.0, 65.0, 20.0, 10.0)
    assert m.gri[0] == pytest.approx(3.0 * 5 + 2.4 * 10 + 1.6 * 10 + 0.8 * 10)
    assert metrics(np.full((1, 5), 40.0)).gri[0] == 100.0  # 300 is cut


def test_risk_by_hand() -> None:
    """Published anchors: the transform is nearly 0 at 112.5 mg/dL, 10 f^2 is 100 at 20 mg/dL and at 600."""
    assert metrics(np.array([[112.5]])).lbgi[0] == pytest.approx(0.0, abs=1e-3)
    low, high = metrics(np.array([[20.0]])), metrics(np.array([[600.0]]))
    assert (low.lbgi[0], low.hbgi[0]) == (pytest.approx(100.0, abs=1.0), 0.0)
    assert (high.hbgi[0], high.lbgi[0]) == (pytest.approx(100.0, abs=1.0), 0.0)
    assert metrics(np.array([[5.0]])).lbgi[0] == low.lbgi[0]
    f = 1.509 * (np.log(70.0) ** 1.084 - 5.381)
    half = metrics(np.array([[70.0, 112.5]]))
    assert half.lbgi[0] == pytest.approx(10 * f**2 / 2, abs=1e-3)  # the mean is over all samples


def test_mean_variation_and_targets_a_patient_a_row() -> None:
    m = metrics(np.array([[100.0, 140.0], [100.0, 300.0]]))
    np.testing.assert_allclose(m.mean, [120.0, 200.0])
    np.testing.assert_allclose(m.cv, [100.0 / 6.0, 50.0])
    np.testing.assert_array_equal(m.on_target(), [True, False])
    assert m.means()["tir"] == 75.0


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((2, 0)), np.array([[np.nan, 100.0]])])
def test_bad_input(bad: np.ndarray) -> None:
    with pytest.raises(ControlError, match="finite values"):
        metrics(bad)
