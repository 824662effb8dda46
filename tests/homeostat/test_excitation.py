"""What lock-step recordings ask, where a reading is heading, and what history says of a test before it begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from historian import Historian
from homeostat.excitation import Excitation
from homeostat.expected import expected, lags, settling
from homeostat.heading import Heading
from homeostat.identification import mv_tests
from homeostat.lockstep import excitation_run
from homeostat.recording import excite_lockstep
from plant.spec import PlantSpec, load_spec
from tests.simulators.plug_in import LAG, PLANT, installed, plant_file


@pytest.fixture
def lag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A plant of one lag of 40 s, gain 1, whose MV has this `move` section."""
    site = installed(tmp_path / "site", excited_lag="excited_lag:Lag")
    (site / "excited_lag.py").write_text(LAG)
    monkeypatch.syspath_prepend(str(site))

    def made(**move: object) -> PlantSpec:
        tags = [dict(t) for t in PLANT["tags"]]
        tags[1]["move"] = tags[1]["move"] | move
        return load_spec(plant_file(tmp_path / "plant", simulator="excited_lag", tags=tags))

    return made


def test_bases_lie_to_both_sides_of_the_usual_moves_and_reach_the_ends() -> None:
    spec = load_spec("vandevusse")
    bases = Excitation(spec, 4000, 1).bases(4000)
    for i, tag in enumerate(spec.mvs):
        assert tag.move is not None
        assert (bases[:, i] < tag.nominal).mean() == pytest.approx(0.5, abs=0.03)
        low, high = tag.move.excited
        assert bases[:, i].min() < low + 0.1 * (tag.nominal - low)
        assert bases[:, i].max() > high - 0.1 * (high - tag.nominal)


def test_each_mv_holds_for_its_own_seconds(lag) -> None:
    changes = []
    for hold_s in (20.0, 100.0):
        excitation = Excitation(lag(test={"hold_s": hold_s}), 500, 1)
        moves = np.stack([excitation.next({"Y": np.full(500, 50.0)})[:, 0] for _ in range(60)], 1)
        changes.append((np.diff(moves, axis=1) != 0).mean())
    assert changes[0] == pytest.approx(10 / 20, abs=0.06)
    assert changes[1] == pytest.approx(10 / 100, abs=0.04)


def test_a_discrete_mv_takes_its_levels_and_nothing_between(lag) -> None:
    values = excitation_run(lag(levels=[0, 30, 100], rate_per_s=100.0), 20, 40, seed=1).values["U"]
    assert set(np.unique(values[np.isfinite(values)])) == {0.0, 30.0, 100.0}


@pytest.mark.parametrize("slope", [0.0, 0.02, -0.02])
def test_a_heading_sees_a_slope_under_the_noise_and_no_other(slope: float) -> None:
    rng, spec = np.random.default_rng(0), load_spec("reactor")
    tag = spec.tag("TI101").model_copy(update={"noise": 0.5})
    heading = Heading(tag, 60.0, 2.0, 26.0)
    for k in range(200):
        odd = 30.0 if k % 40 == 39 else 0.0
        heading.see(2.0 * k, 325.0 + slope * 2.0 * k + 0.5 * rng.standard_normal() + odd)
    long = heading.trends()[-1]
    assert long.slope == pytest.approx(slope, abs=4 * long.slope_sd)
    assert (long.sure > 4) == (slope != 0.0)
    assert long.ahead(100.0, 1.0) == pytest.approx(325.0 + slope * (398.0 + 100.0), abs=2.0)


def test_history_tells_what_a_test_will_do_and_how_slow_the_plant_is(lag, tmp_path: Path) -> None:
    spec, path = lag(), tmp_path / "historian.db"
    tests = mv_tests(spec)
    assert expected(spec, tests, {}, tmp_path).source == "unknown"
    assert lags(spec, path) == {}
    with Historian(path, spec.name) as store:
        excite_lockstep(spec, store, 1.75e9, runs=20, incidents=0)
    found = lags(spec, path)
    assert found["U", "Y"].gain == pytest.approx(1.0, rel=0.15)
    assert found["U", "Y"].constant_s == pytest.approx(40.0, rel=0.25)
    known = expected(spec, tests, found, tmp_path)
    assert known.source == "responses found in history"
    assert known.travel["U", "Y"] == pytest.approx(10.0, rel=0.2)
    (test,) = mv_tests(spec, settling(found))
    assert test.known
    assert test.hold_s == pytest.approx(4 * 40.0 / 3, rel=0.25)
