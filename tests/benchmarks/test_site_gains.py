"""The gains row of the site benchmark: it counts what it says, on a few plants."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.site.gains import coverage
from benchmarks.site.linear_plants import SAMPLE_S, Believer, archive, plant_of


@pytest.mark.slow
def test_intervals_are_counted_over_every_pair() -> None:
    found = {o.what: o for o in coverage(1, 3, 100.0)}
    counted = re.search(r"% of (\d+) gains", found["coverage, away from 90 %"].note)
    assert counted
    assert 60 <= int(counted[1]) <= 72, "24 a plant, less those of CVs taken for integrating, or not, wrongly"
    assert found["share of wrong signs among those called sure"].met


def test_an_archive_is_what_the_plant_says() -> None:
    plant = plant_of(2)
    run = archive(plant, 40, 2, still=(3,))[0]
    assert len(run) == round(40 * 3600 / SAMPLE_S)
    np.testing.assert_allclose(np.isfinite(run.measured).mean(0), 1 / plant.period, rtol=0.02)
    assert not run.applied[:, 3].any()
    both = archive(plant, 40, 2, together=(2, 3))[0].applied
    np.testing.assert_allclose(both[:, 3], 0.8 * both[:, 2])


def test_a_believer_has_the_signs_it_is_given() -> None:
    plant = plant_of(2)
    runs = archive(plant, 20, 2)
    i, j = (int(k) for k in np.argwhere(np.abs(plant.gain) > 0.5)[0])
    right, wrong = Believer(plant, runs, []), Believer(plant, runs, [(i, j)])
    assert float(right.gain[i, j]) == pytest.approx(-float(wrong.gain[i, j]))
