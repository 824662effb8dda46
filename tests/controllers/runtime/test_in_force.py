"""What a controller is told of the moves at run time is what a model learns from a history of the same run."""

from __future__ import annotations

import numpy as np
import pytest

from controllers.contracts import Mode
from controllers.runtime.in_force import InForce

STEP_S, SCAN_S = 4.0, 0.5


def mean(scans: np.ndarray) -> np.ndarray:
    """The mean over each sample (8 scans) of moves held for a scan each."""
    return scans.reshape(-1, 8).mean(1)


def limited(targets: np.ndarray, rate: float, start: float) -> np.ndarray:
    """Where an MV stands after each scan on its way to its target then."""
    out = [start]
    for target in targets:
        out.append(out[-1] + float(np.clip(target - out[-1], -rate * SCAN_S, rate * SCAN_S)))
    return np.array(out[1:])


def told(moves: InForce, read: np.ndarray, sent: bool) -> tuple[np.ndarray, np.ndarray]:
    """What it makes of read-backs a sample apart."""
    found = []
    for k, value in enumerate(read):
        found.append(moves.since({"U": float(value)}, k * STEP_S))
        if sent:
            moves.send({"U": 0.0}, 0.0)
    means, positions = np.concatenate(found, 1)
    return means, positions


def recorded(make_spec, of: str):
    spec = make_spec()
    tags = [
        t.model_copy(update={"move": t.move.model_copy(update={"recorded": of})}) if t.move else t for t in spec.tags
    ]
    return spec.model_copy(update={"tags": tuple(tags)})


def test_our_moves_go_at_their_rate_and_rest(make_spec):
    rng = np.random.default_rng(1)
    asked = np.clip(30 + np.cumsum(rng.uniform(-7, 7, 50)), 10, 70)
    scans = limited(np.repeat(asked, 8), 2.0, 30.0)
    means, positions = told(InForce(make_spec()), np.append(30.0, scans[7::8]), sent=True)
    np.testing.assert_array_equal(positions[1:], scans[7::8])
    np.testing.assert_allclose(means[1:], mean(scans), atol=2.0 * SCAN_S / 2 + 1e-9)  # a scan moves at once
    assert np.abs(means[1:] - positions[1:]).max() > 2.0


def test_a_move_that_was_sent_late_began_late(make_spec):
    moves = InForce(make_spec())
    moves.since({"U": 30.0}, 0.0)
    moves.send({"U": 34.0}, 1.0)
    found, _ = moves.since({"U": 34.0}, STEP_S)
    assert found[0] == pytest.approx((1 * 30 + 2 * 32 + 1 * 34) / 4)


def test_what_others_move_goes_evenly(make_spec):
    scans = 40 + 8 * np.sin(0.02 * np.arange(400))
    means, _ = told(InForce(make_spec()), np.append(40.0, scans[7::8]), sent=False)
    np.testing.assert_allclose(means[1:], mean(scans), atol=0.1)


def test_a_target_is_followed_at_the_rate(make_spec):
    asked = np.array([60.0, 60.0, 60.0, 60.0, 60.0, 31.0, 31.0, 45.0, 45.0, 45.0])
    scans = limited(np.repeat(asked, 8), 2.0, 30.0)
    moves = InForce(recorded(make_spec, "target"))
    means, positions = told(moves, np.append(30.0, asked), sent=True)
    np.testing.assert_allclose(positions[1:], scans[7::8], atol=1e-9)
    np.testing.assert_allclose(means[1:], mean(scans), atol=2.0 * SCAN_S / 2 + 1e-9)


def test_after_a_gap_an_unknown_reading_or_a_restart_the_position_is_all_that_is_known(make_spec):
    moves = InForce(make_spec())
    assert np.array_equal(moves.since({"U": 30.0}, 0.0), [[30.0], [30.0]])
    assert np.array_equal(moves.since({"U": 50.0}, 3 * STEP_S), [[50.0], [50.0]])
    assert np.isnan(moves.since({"U": np.nan}, 4 * STEP_S)).all()
    assert np.array_equal(moves.since({"U": 40.0}, 5 * STEP_S), [[40.0], [40.0]])
    moves.forget()
    assert np.array_equal(moves.since({"U": 44.0}, 6 * STEP_S), [[44.0], [44.0]])


async def test_the_loop_tells_its_controller_the_mean_and_plans_from_the_position(make_rig, answer_with, scripted):
    seen, asked = [], iter([30.0, 30.0, 30.0, 30.0, 30.0, 37.0, 30.0, 38.0, 38.0, 32.0] + [32.0] * 20)

    def answer(o):
        seen.append((float(o.applied[0, 0]), float(o.standing[0, 0])))
        return answer_with(next(asked))

    rig = await make_rig(scripted(answer))
    await rig.auto()
    await rig.cycle(8)
    assert rig.mode is Mode.AUTO
    scans = np.array(rig.link.in_force[-64:])  # the last scan is the one that the last sample read
    means, positions = np.array(seen[-8:]).T
    np.testing.assert_allclose(positions, scans[7::8], atol=1e-9)
    np.testing.assert_allclose(means, mean(scans), atol=2.0 * SCAN_S / 2 + 1e-9)
    assert np.abs(means - positions).max() > 3.0
