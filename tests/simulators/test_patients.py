"""Generated patients: identities, an exact fasting state, splits that share nobody, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest

from plant.errors import SpecError
from simulators.glucose import Glucose
from simulators.glucose.patients import (
    P_RANGE,
    PARAMETERS,
    Cohort,
    Split,
    Therapy,
    basal_U_per_h,
    check,
    complete,
    draw,
    fasting,
)
from simulators.namespaces import NumpyNamespace

_FREE = {
    "BW": 70.0, "EGPb": 2.4, "Gb": 140.0, "Ib": 100.0, "kabs": 0.1, "kmax": 0.04, "kmin": 0.01, "b": 0.8, "d": 0.2,
    "Vg": 1.8, "Vi": 0.05, "Vmx": 0.05, "Km0": 230.0, "k1": 0.06, "k2": 0.1, "p2u": 0.03, "m1": 0.2, "m2": 0.3,
    "ki": 0.008, "kp2": 0.004, "kp3": 0.009, "kd": 0.016, "ksc": 0.1, "ka1": 0.003, "ka2": 0.015, "HEb": 0.6,
    "f": 0.9, "ke1": 0.0005, "ke2": 339.0, "Fsnc": 1.0,
}  # fmt: skip


def test_identities_by_hand() -> None:
    v = complete(_FREE)
    assert v["Gpb"] == pytest.approx(252.0, rel=1e-9)
    assert v["m30"] == pytest.approx(0.3, rel=1e-9)
    assert v["m4"] == pytest.approx(0.12, rel=1e-9)
    assert v["Ilb"] == pytest.approx(3.0, rel=1e-9)
    assert v["kp1"] == pytest.approx(2.4 + 0.004 * 252.0 + 0.9, rel=1e-9)
    assert v["Gtb"] == pytest.approx((1.0 - 2.4 + 15.12) / 0.1, rel=1e-9)
    assert v["Vm0"] == pytest.approx(1.4 * (230.0 + 137.2) / 137.2, rel=1e-9)
    assert v["u2ss"] == pytest.approx(0.42 * 5.0 - 0.2 * 3.0, rel=1e-9)
    assert v["Isc1ss"] == pytest.approx(1.5 / 0.019, rel=1e-9)
    assert v["Isc2ss"] == pytest.approx(0.016 * 1.5 / 0.019 / 0.015, rel=1e-9)
    assert v["basal_U_per_h"] == pytest.approx(1.5 * 70.0 / 6000.0 * 60.0, rel=1e-9)


@pytest.mark.parametrize("cohort", list(Cohort))
def test_every_patient_keeps_the_identities_and_fasts_at_rest(cohort: Cohort) -> None:
    patients = draw(cohort, Split.TRAINING, 200)
    v = fasting(patients.p)
    np.testing.assert_allclose((v["EGPb"] - v["Fsnc"]) * (v["Km0"] + v["Gtb"]) / v["Gtb"], v["Vm0"], rtol=1e-9)
    np.testing.assert_allclose(v["m4"], 0.4 * v["m2"], rtol=1e-9)
    np.testing.assert_allclose(v["m30"], 1.5 * v["m1"], rtol=1e-9)
    glucose = Glucose()
    x = glucose.initial(np.empty((200, 1)), np.empty((200, 3)), patients.p)
    d = np.tile(glucose.d0, (200, 1))
    rate = glucose.derivative(x.T, patients.therapy.basal_U_per_h[None], d.T, patients.p.T, NumpyNamespace())
    scale = np.maximum(np.abs(x.T), 1.0)
    assert max(np.abs(np.broadcast_to(r, (200,)) / s).max() for r, s in zip(rate, scale, strict=True)) < 1e-9
    assert ((v["EGPb"] > 1.1) & (v["Gtb"] > 20) & (v["Vm0"] > 0) & (v["kmin"] < v["kmax"]) & (v["d"] < v["b"])).all()


def test_splits_share_nobody_and_more_patients_begin_with_the_same() -> None:
    training, held_out = (draw("adult", split, 500).p for split in Split)
    seen = {tuple(p) for p in training}
    assert len(seen) == 500
    assert not seen & {tuple(p) for p in held_out}
    np.testing.assert_array_equal(draw("adult", "training", 30).p, training[:30])
    assert not seen & {tuple(p) for p in draw("adult", "training", 500, seed=1).p}


def test_cohorts_differ_as_people_do() -> None:
    weight = [np.median(draw(c, "training", 300).p[:, 0]) for c in Cohort]
    assert weight == pytest.approx([84.6, 47.1, 35.3], rel=0.05)
    basal = [np.median(draw(c, "training", 300).therapy.basal_U_per_h) for c in Cohort]
    assert basal[0] > basal[1] > basal[2] > 0.1


def test_therapy_rules() -> None:
    patients = draw("child", "held_out", 5)
    rules = Therapy.by_rules(basal_U_per_h(patients.p))
    np.testing.assert_allclose(rules.daily_U * 0.48, 24.0 * rules.basal_U_per_h)
    np.testing.assert_allclose(rules.ratio_g_per_U * rules.daily_U, 500.0)
    np.testing.assert_allclose(rules.correction_mg_dL_per_U * rules.daily_U, 1800.0)


def test_bad_input() -> None:
    p = draw("adult", "training", 3).p
    with pytest.raises(SpecError, match="toddler"):
        draw("toddler", "training", 1)
    with pytest.raises(SpecError, match="at least one"):
        draw("adult", "training", 0)
    with pytest.raises(SpecError, match="shape"):
        check(p[:, :-1])
    for value in (np.nan, 2.0):
        bad = p.copy()
        bad[1, PARAMETERS.index("b")] = value
        with pytest.raises(SpecError, match=r"b = .* of patient 1"):
            Glucose().initial(np.empty((3, 1)), np.empty((3, 3)), bad)
    assert set(P_RANGE) == set(PARAMETERS)


def test_population_by_a_scenario() -> None:
    rng = np.random.default_rng(0)
    assert Glucose().population(4, rng, cohort="child", split="held_out").shape == (4, len(PARAMETERS))
    with pytest.raises(SpecError, match="age"):
        Glucose().population(4, rng, age="7")
