"""The regulatory layer on a first-order plant: dT/dt = (ambient + mv - T) / 20 s."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.errors import SpecError
from plant.link import PlantMode
from plant.regulatory import Refusal, RegulatoryLayer
from plant.spec import PlantSpec

DT = 1.0


def make_spec(**regulatory) -> PlantSpec:
    return PlantSpec.model_validate(
        {
            "name": "tank",
            "description": "first-order tank",
            "endpoint": "opc.tcp://127.0.0.1:4840/tank",
            "sample_time_s": 5.0,
            "scan_time_s": DT,
            "handshake": "simulated",
            "tags": [
                {"name": "T", "role": "CV", "description": "t", "unit": "K", "range": (0, 200), "nominal": 50, "node_id": "ns=2;s=tank.T"},
                {"name": "U", "role": "MV", "description": "u", "unit": "K", "range": (0, 100), "nominal": 30, "node_id": "ns=2;s=tank.U",
                 "move": {"limits": (0, 100), "rate_per_s": 5.0, "safe": 0}},
                {"name": "V", "role": "MV", "description": "v", "unit": "%", "range": (0, 100), "nominal": 40, "node_id": "ns=2;s=tank.V",
                 "move": {"limits": (10, 90), "rate_per_s": 1.0, "safe": 10}},
            ],
            "regulatory": {
                "loops": [{"mv": "U", "pv": "T", "set_point": 60.0, "gain": 2.0, "integral_s": 20.0}],
                "interlocks": [{"tag": "T", "trip": 90.0, "reset": 80.0, "moves": {"U": 0.0}}],
                **regulatory,
            },
        }
    )  # fmt: skip


class Tank:
    def __init__(self, batch: int, start: float = 50.0) -> None:
        self.T = np.full(batch, start)
        self.ambient = np.full(batch, 20.0)

    def step(self, outputs: np.ndarray) -> None:
        self.T = self.T + DT / 20.0 * (self.ambient + outputs[:, 0] - self.T)


def run(layer: RegulatoryLayer, tank: Tank, steps: int, wall_s: float = 0.0) -> np.ndarray:
    outputs = []
    for _ in range(steps):
        outputs.append(layer.scan({"T": tank.T}, DT, wall_s))
        tank.step(outputs[-1])
    return np.array(outputs)


def test_pid_holds_each_member_at_its_own_set_point():
    layer, tank = RegulatoryLayer(make_spec(), batch=3), Tank(3)
    layer.set_local({"T": np.array([55.0, 60.0, 65.0])})
    run(layer, tank, 300)
    np.testing.assert_allclose(tank.T, [55.0, 60.0, 65.0], atol=0.05)
    tank.ambient += 5.0
    run(layer, tank, 300)
    np.testing.assert_allclose(tank.T, [55.0, 60.0, 65.0], atol=0.05)


def test_derivative_acts_on_the_measurement_only():
    loop = {"mv": "U", "pv": "T", "set_point": 60.0, "gain": 1.0, "integral_s": 1e9, "derivative_s": 4.0}
    layer = RegulatoryLayer(make_spec(loops=[loop]))
    still = {"T": np.array([60.0])}
    before = layer.scan(still, DT, 0.0)[0, 0]
    assert layer.scan({"T": np.array([60.5])}, DT, 0.0)[0, 0] == pytest.approx(before - 0.5 - 4.0 * 0.5)
    layer.scan({"T": np.array([60.5])}, DT, 0.0)
    level = layer.outputs[0, 0]
    layer.set_local({"T": 61.0})
    assert layer.scan({"T": np.array([60.5])}, DT, 0.0)[0, 0] == pytest.approx(level + 1.0)


def test_outputs_start_at_nominal_or_as_given_and_an_mv_without_a_loop_holds():
    layer = RegulatoryLayer(make_spec(), batch=2, outputs={"V": np.array([20.0, 500.0])})
    np.testing.assert_array_equal(layer.outputs, [[30.0, 20.0], [30.0, 90.0]])
    run(layer, Tank(2), 50)
    np.testing.assert_array_equal(layer.outputs[:, 1], [20.0, 90.0])


def test_integral_does_not_wind_up_at_a_limit():
    layer, tank = RegulatoryLayer(make_spec(interlocks=[])), Tank(1)
    layer.set_local({"T": 190.0})  # unreachable: the MV saturates at 100
    saturated = run(layer, tank, 500)
    assert saturated[-1, 0, 0] == 100.0
    layer.set_local({"T": 100.0})
    back = run(layer, tank, 30)
    assert back[:, 0, 0].min() < 80.0, "it should leave the limit at once, not after unwinding for 500 s"
    run(layer, tank, 300)
    assert tank.T[0] == pytest.approx(100.0, abs=0.1)


def test_interlock_trips_one_member_at_its_rate_and_resets_without_a_bump():
    layer, tank = RegulatoryLayer(make_spec(), batch=2), Tank(2, 60.0)
    run(layer, tank, 200)
    tank.T[1] = 95.0
    outputs = run(layer, tank, 2)
    assert layer.interlock.tolist() == [False, True]
    assert outputs[1, 1, 0] == pytest.approx(outputs[0, 1, 0] - 5.0)
    tank.T[1] = 85.0
    layer.scan({"T": tank.T}, DT, 0.0)
    assert layer.interlock.tolist() == [False, True], "it must hold until the tag is past reset"
    tank.T[1] = 79.0
    before = layer.outputs[1, 0]
    after = layer.scan({"T": tank.T}, DT, 0.0)[1, 0]
    assert not layer.interlock.any()
    assert after == pytest.approx(before, abs=1e-9)
    assert tank.T[0] == pytest.approx(60.0, abs=0.1), "the other member never noticed"


def test_low_interlock():
    lock = {"tag": "T", "trip": 40.0, "reset": 45.0, "moves": {"V": 90.0}}
    layer = RegulatoryLayer(make_spec(interlocks=[lock]))
    for value, active in ((50.0, False), (39.0, True), (44.0, True), (46.0, False)):
        layer.scan({"T": np.array([value])}, DT, 0.0)
        assert bool(layer.interlock[0]) is active, value


@pytest.mark.parametrize("bad", [{"T": np.array([np.nan])}, {"T": np.array([np.inf])}, {}])
def test_bad_tag_trips(bad):
    layer = RegulatoryLayer(make_spec())
    layer.scan({"T": np.array([60.0])}, DT, 0.0)
    out = layer.scan(bad, DT, 0.0)
    assert layer.interlock.all()
    assert out[0, 0] == pytest.approx(25.0)
    assert np.isfinite(out).all()


def test_bad_pv_without_interlock_holds_and_returns_without_a_bump():
    layer, tank = RegulatoryLayer(make_spec(interlocks=[])), Tank(1, 60.0)
    run(layer, tank, 200)
    held = layer.outputs
    for _ in range(20):
        np.testing.assert_array_equal(layer.scan({"T": np.array([np.nan])}, DT, 0.0), held)
    np.testing.assert_allclose(layer.scan({"T": np.array([70.0])}, DT, 0.0), held)


def test_remote_moves_keep_the_rate_limit_and_shedding_is_bumpless():
    layer, tank = RegulatoryLayer(make_spec()), Tank(1, 60.0)
    run(layer, tank, 100)
    assert layer.request_mode(PlantMode.REMOTE, wall_s=100.0) == ""
    assert layer.write({"U": 60.0}) == {}
    outputs = run(layer, tank, 20, wall_s=100.0)[:, 0, 0]
    assert np.abs(np.diff(outputs)).max() <= 5.0 + 1e-9
    assert outputs[-1] == 60.0
    layer.beat(1, 102.0)
    layer.beat(1, 104.0)  # the same counter again is no sign of life
    layer.scan({"T": tank.T}, DT, 104.9)
    assert layer.mode is PlantMode.REMOTE
    after = layer.scan({"T": tank.T}, DT, 105.1)
    assert layer.mode is PlantMode.LOCAL
    assert "heartbeat" in layer.shed_reason
    assert after[0, 0] == pytest.approx(60.0, abs=1e-9)
    assert layer.request_mode(PlantMode.REMOTE, 106.0) == ""
    assert layer.shed_reason == ""


def test_watch_sheds_between_scans():
    layer = RegulatoryLayer(make_spec())
    layer.request_mode(1, 10.0)
    assert not layer.watch(12.9)
    assert layer.watch(13.0)
    assert layer.mode is PlantMode.LOCAL
    assert not layer.watch(99.0)


def test_write_refusals_take_no_part_of_a_bad_move_but_the_rest():
    layer = RegulatoryLayer(make_spec())
    assert Refusal.LOCAL.value in layer.write({"U": 50.0})["U"]
    layer.request_mode(PlantMode.REMOTE, 0.0)
    rejected = layer.write({"U": 31.0, "V": 95.0, "W": 1.0})
    assert set(rejected) == {"V", "W"}
    assert "[10, 90]" in rejected["V"]
    assert "U, V" in rejected["W"]
    assert Refusal.NOT_FINITE.value in layer.write({"U": float("nan")})["U"]
    out = layer.scan({"T": np.array([60.0])}, DT, 0.0)
    np.testing.assert_array_equal(out, [[31.0, 40.0]])


def test_interlock_overrides_remote_and_refuses_moves_and_mode():
    layer = RegulatoryLayer(make_spec())
    layer.request_mode(PlantMode.REMOTE, 0.0)
    layer.scan({"T": np.array([95.0])}, DT, 0.0)
    assert Refusal.INTERLOCK.value in layer.write({"U": 50.0})["U"]
    assert layer.request_mode(PlantMode.LOCAL, 0.0) == ""
    assert "interlock active on T" in layer.request_mode(PlantMode.REMOTE, 0.0)
    assert layer.mode is PlantMode.LOCAL
    assert "unknown mode 7" in layer.request_mode(7, 0.0)


def test_a_move_that_agrees_with_an_interlock_is_taken():
    """A pump that suspends on low glucose refused the controller's own zero, and the loop gave up each time."""
    layer = RegulatoryLayer(make_spec())
    layer.request_mode(PlantMode.REMOTE, 0.0)
    layer.scan({"T": np.array([95.0])}, DT, 0.0)
    assert layer.write({"U": 0.0}) == {}
    assert Refusal.INTERLOCK.value in layer.write({"U": 0.5})["U"]


def test_an_old_remote_move_does_not_return_after_an_interlock():
    layer = RegulatoryLayer(make_spec())
    layer.request_mode(PlantMode.REMOTE, 0.0)
    layer.write({"U": 80.0})
    for _ in range(20):
        layer.scan({"T": np.array([60.0])}, DT, 0.0)
    for _ in range(20):
        layer.scan({"T": np.array([95.0])}, DT, 0.0)
    assert layer.outputs[0, 0] == 0.0
    layer.scan({"T": np.array([60.0])}, DT, 0.0)
    assert layer.outputs[0, 0] == 0.0


numbers = st.floats(allow_nan=True, allow_infinity=True)
commands = st.tuples(st.sampled_from(["scan", "U", "V", "local", "remote", "set_point"]), numbers)


@given(st.lists(commands, max_size=60))
def test_nothing_asked_of_it_breaks_a_limit(sequence):
    layer, low, high = RegulatoryLayer(make_spec()), [0.0, 10.0], [100.0, 90.0]
    before = layer.outputs
    for what, number in sequence:
        if what in ("U", "V"):
            layer.write({what: number})
        elif what == "set_point" and 0.0 <= number <= 200.0:
            layer.set_local({"T": number})
        elif what in ("local", "remote"):
            layer.request_mode(PlantMode[what.upper()], 0.0)
        layer.scan({"T": np.array([number])}, DT, 0.0)
        after = layer.outputs
        assert np.isfinite(after).all()
        assert (after >= low).all()
        assert (after <= high).all()
        assert (np.abs(after - before) <= np.array([5.0, 1.0]) * DT + 1e-9).all()
        before = after


def test_wrong_names_are_named():
    with pytest.raises(SpecError, match="no local loop controls 'X'"):
        RegulatoryLayer(make_spec()).set_local({"X": 1.0})
    for wrong in (float("nan"), 201.0, np.array([-1.0])):
        with pytest.raises(SpecError, match=r"Stay in \[0"):
            RegulatoryLayer(make_spec()).set_local({"T": wrong})
    with pytest.raises(SpecError, match="no MV 'X'"):
        RegulatoryLayer(make_spec(), outputs={"X": 1.0})
    loop = {"mv": "U", "pv": "T", "set_point": 60.0, "gain": 2.0, "integral_s": 20.0}
    with pytest.raises(SpecError, match="two loops"):
        RegulatoryLayer(make_spec(loops=[loop, loop]))
