"""The compiled kernel: the equations as written, jumps and endings included, and a clean way without a compiler."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from plant import native
from plant.native import CompilerError
from plant.spec import builtin_plants, load_spec
from simulators import stepping
from simulators.compiled import Kernel, schedule, write_source
from simulators.contract import Components, Names, Namespace, Simulator
from simulators.glucose.model import Glucose
from simulators.integrators import rk4
from simulators.namespaces import NumpyNamespace
from simulators.plant import SimulatedPlant
from simulators.reactor import BareReactor, DressedReactor
from simulators.registry import simulator_of
from simulators.stepping import ErrorControlled, stepper_of

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
XP = NumpyNamespace()


class Counter(Simulator):
    """Every operation the kernel can write, a jump, and an envelope with two sides: z counts ticks, y decays towards a
    level that depends on a parameter alone."""

    names = Names(x=("y", "z"), u=("u",), d=("d",), p=("p",), y=("y", "z"))
    time_unit_s, step_s, tick_s = 1.0, 0.05, 0.5
    x0, u0, d0, p0 = (1.0, 0.0), (0.5,), (0.2,), (2.0,)

    def derivative(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        level = xp.sqrt(p[0]) + xp.log(1.0 + p[0] ** 1.5) - xp.exp(-p[0])
        pull = xp.tanh(0.3 * (level - x[0])) * xp.where((x[0] > 0.5) * (u[0] <= 2.0), 1.0, 0.5)
        return pull + xp.maximum(xp.minimum(u[0], 1.0), -1.0) - d[0] * x[0] ** 1.3, 0.0

    def outputs(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return x[0], x[1]

    def on_sample(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> tuple:
        return x[0] + 0.1 * d[0], x[1] + xp.where(u[0] > 0.0, 1.0, 0.0)

    def envelope(self, x: Components, u: Components, d: Components, p: Components, xp: Namespace) -> dict:
        return {"y below 0.1": x[0] - 0.1, "y above 6": 6.0 - x[0]}


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return Kernel(Counter())


def batch_of(n: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.uniform(0.5, 3.0, n), np.zeros(n)])
    return x, rng.uniform(-0.2, 1.2, (n, 1)), rng.uniform(0.1, 0.3, (n, 1)), rng.uniform(1.0, 4.0, (n, 1))


def by_hand(x: np.ndarray, u: np.ndarray, d: np.ndarray, p: np.ndarray, ticks: int) -> np.ndarray:
    """The same in plain numpy: jump, then ten steps of RK4 a tick."""
    s = Counter()
    for _ in range(ticks):
        jumped = s.on_sample(x.T, u.T, d.T, p.T, XP)
        x = np.stack(rk4(lambda y: s.derivative(y, u.T, d.T, p.T, XP), jumped, 0.5, 10), 1)
    return x


@pytest.mark.parametrize("batch", [1, 63, 64, 65, 1500])
def test_equals_the_equations_in_numpy_whatever_the_batch(kernel: Kernel, batch: int) -> None:
    x, u, d, p = batch_of(batch)
    new, ended = kernel.advance(x, u, d, p, 3.0)
    assert not ended.any()
    np.testing.assert_allclose(new, by_hand(x, u, d, p, 6), rtol=1e-12)
    np.testing.assert_array_equal(new[:, 1], np.where(u[:, 0] > 0, 6.0, 0.0))


def test_outputs_are_those_of_the_equations() -> None:
    reactor, rng = DressedReactor(), np.random.default_rng(2)
    x = np.column_stack([rng.uniform(0.5, 1, 70), rng.uniform(300, 350, 70), rng.uniform(290, 310, 70)])
    held = [np.tile(v, (70, 1)).astype(float) for v in (reactor.u0, reactor.d0, reactor.p0)]
    y = Kernel(reactor).outputs(x, *held)
    np.testing.assert_allclose(y, ErrorControlled(reactor).outputs(x, *held), rtol=1e-15)
    assert y.shape == (70, 5)


def test_a_member_that_leaves_ends_with_its_reason_and_spreads_nothing(kernel: Kernel) -> None:
    x, u, d, p = batch_of(100)
    lost = {3: (0.2, "y below 0.1"), 64: (5.9, "y above 6"), 99: (np.nan, "not finite")}
    for member, (start, _) in lost.items():
        x[member, 0] = start
    u[3], d[3], u[64], p[64] = -5.0, 0.0, 1.0, 40.0
    new, ended = kernel.advance(x, u, d, p, 3.0)
    assert set(np.flatnonzero(ended)) == set(lost)
    for member, (_, reason) in lost.items():
        assert reason in kernel.reasons[ended[member] - 1]
    assert 0.1 < new[3, 0] < 0.2, "the last state inside is kept"
    others = np.setdiff1d(np.arange(100), list(lost))
    np.testing.assert_allclose(new[others], by_hand(x[others], u[others], d[others], p[others], 6), rtol=1e-12)
    again, still = kernel.advance(new, u, d, p, 3.0, ended)
    np.testing.assert_array_equal(again[[3, 64]], new[[3, 64]], err_msg="an ended member stays where it is")
    np.testing.assert_array_equal(still[ended != 0], ended[ended != 0])


def test_the_error_controlled_stepper_agrees(kernel: Kernel) -> None:
    x, u, d, p = batch_of(40)
    x[7, 0], u[7], d[7] = 0.2, -5.0, 0.0
    mine, ended = kernel.advance(x, u, d, p, 3.0)
    other = ErrorControlled(Counter(), 1e-9, 1e-11)
    theirs, codes = other.advance(x, u, d, p, 3.0)
    np.testing.assert_array_equal(codes, ended)
    assert other.reasons == kernel.reasons
    alive = ended == 0
    np.testing.assert_allclose(mine[alive], theirs[alive], rtol=1e-6)


def test_shapes_and_times_that_do_not_fit_are_refused(kernel: Kernel) -> None:
    x, u, d, p = batch_of(5)
    with pytest.raises(ValueError, match=r"u has shape \(4, 1\); expected \(5, 1\)"):
        kernel.advance(x, u[:4], d, p, 1.0)
    with pytest.raises(ValueError, match=r"not a whole number of ticks of 0\.5 s"):
        kernel.advance(x, u, d, p, 0.7)
    with pytest.raises(ValueError, match="must be positive"):
        schedule(Counter(), 0.0)
    assert schedule(Counter(), 1.5) == (3, 10)
    assert schedule(BareReactor(), 26.0) == (1, 260)


@pytest.mark.parametrize(
    ("start", "coolant", "seconds"), [((0.87725, 324.475), 304.0, 252.0), ((0.95, 352.0), 300.0, 60.0)]
)
def test_an_ignition_holds_against_scipy(start: tuple[float, float], coolant: float, seconds: float) -> None:
    reactor = BareReactor()
    held = ((coolant,), reactor.d0, reactor.p0)
    truth = solve_ivp(
        lambda _, x: reactor.derivative(x, *held, XP),
        (0.0, seconds / 60.0),
        start,
        method="LSODA",
        rtol=1e-11,
        atol=1e-12,
    )
    x, ended = Kernel(reactor).advance(
        np.array([start]), np.array([held[0]]), np.array([held[1]]), np.array([held[2]]), seconds
    )
    assert not ended.any()
    assert truth.y[1].max() > 450.0, "it did ignite"
    np.testing.assert_allclose(x[0], truth.y[:, -1], rtol=1e-5)


def test_no_member_feels_its_neighbours() -> None:
    """Each has its own step: what an igniting neighbour needs changes nobody, to the last bit."""
    reactor = BareReactor()
    kernel, rng = Kernel(reactor), np.random.default_rng(1)
    x = np.column_stack([rng.uniform(0.8, 0.95, 200), rng.uniform(315.0, 352.0, 200)])
    held = [np.tile(v, (200, 1)).astype(float) for v in ((300.0,), reactor.d0, reactor.p0)]
    together, _ = kernel.advance(x, *held, dt_s=120.0)
    assert (together[:, 1] > 380.0).any()
    for i in range(0, 200, 17):
        one = slice(i, i + 1)
        alone, _ = kernel.advance(x[one], *(v[one] for v in held), dt_s=120.0)
        np.testing.assert_array_equal(alone[0], together[i])


def test_peak_is_the_highest_value_on_the_way() -> None:
    reactor = DressedReactor()
    x = np.array([[0.877, 324.5, 300.0], [0.85, 336.0, 303.0], [0.88, 342.0, 305.0]])
    held = [np.tile(v, (3, 1)).astype(float) for v in ((290.0,), reactor.d0, reactor.p0)]
    (peak,) = Kernel(reactor, (("TI101", 1.0),)).peak(x, *held, dt_s=600.0, ceiling=np.array([400.0]))[1].T
    stepwise, kernel = x[:, 1].copy(), stepper_of(DressedReactor)
    for _ in range(1200):
        x, _ = kernel.advance(x, *held, dt_s=0.5)
        stepwise = np.maximum(stepwise, x[:, 1])
    np.testing.assert_allclose(peak, np.minimum(stepwise, 400.0), atol=0.05)
    assert peak[2] == 400.0


def test_what_no_state_touches_is_computed_once() -> None:
    source, _ = write_source(Counter())
    prepared = source[source.index("prepare(") : source.index("static void flow")]
    flow = source[source.index("static void flow") : source.index("static void jump")]
    assert "log(" in prepared
    assert "log(" not in flow


def test_without_a_compiler_the_numpy_stepper_takes_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(source: str) -> Path:
        raise CompilerError("no C compiler (cc) on the PATH")

    monkeypatch.setattr(native, "build", none)
    stepping.stepper_of.cache_clear()
    stepping.peak_of.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="simulators.stepping"):
            plant = SimulatedPlant(load_spec("reactor"), noise=0.0)
        assert isinstance(stepping.stepper_of(DressedReactor), ErrorControlled)
        assert "no C compiler" in caplog.text
        plant.advance(np.array([[305.0]]), 26.0)
        peak = plant.fallback_worst(plant.spec.guardrails[:1])[:, 0]
    finally:
        stepping.stepper_of.cache_clear()
        stepping.peak_of.cache_clear()
    same = SimulatedPlant(load_spec("reactor"), noise=0.0)
    same.advance(np.array([[305.0]]), 26.0)
    np.testing.assert_allclose(plant.x, same.x, rtol=1e-6)
    np.testing.assert_allclose(peak, same.fallback_worst(plant.spec.guardrails[:1])[:, 0], atol=0.05)


def test_a_compiler_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\ncase \"$*\" in *dM*) exit 0;; esac\necho 'out of ideas' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(CompilerError, match="out of ideas"):
        Kernel(Counter())
    assert not list(tmp_path.glob("homeostat/kernels/*.so")), "nothing half built is left"


def test_a_kernel_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Kernel(Counter())
    (built,) = tmp_path.glob("homeostat/kernels/*.so")
    stamp = built.stat().st_mtime_ns
    Kernel(Counter())
    assert built.stat().st_mtime_ns == stamp
    assert oct(os.stat(built.parent).st_mode & 0o777) == "0o700"


@pytest.mark.parametrize("plant", builtin_plants())
def test_every_plant_stays_where_its_initial_state_rests(plant: str) -> None:
    """At the usual moves and disturbances nothing moves far within ten samples."""
    spec = load_spec(plant)
    sim = SimulatedPlant(spec, batch=3, noise=0.0)
    before = sim.true_outputs()
    for _ in range(10):
        sim.advance(sim.moves, spec.sample_time_s)
    assert not sim.ended.any()
    after = sim.true_outputs()
    for tag in (t for t in spec.tags if t.name in before):
        span = tag.range[1] - tag.range[0]
        np.testing.assert_allclose(after[tag.name], before[tag.name], atol=0.03 * span, err_msg=tag.name)
    assert simulator_of(spec).step_s <= spec.scan_time_s


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_trough_is_followed_as_a_peak_is_and_as_without_a_compiler(sign: float) -> None:
    """Insulin under the skin lowers glucose, a meal in the stomach raises it"""
    plant = SimulatedPlant(load_spec("glucose"), 0, 3, noise=0.0)
    d = np.array([[5.0, 1.0, 0.0]] * 3)
    x, _ = plant._stepper.advance(plant.x, np.array([[0.0], [20.0], [90.0]]), d, plant.p, 900.0)
    held = [np.zeros((3, 1)), np.tile(Glucose.d0, (3, 1)), plant.p]
    watch = (("CGM", sign), ("IOB", 1.0))
    kernel, plain = Kernel(Glucose(), watch), ErrorControlled(Glucose(), 1e-7, 1e-9, watch)
    ways = [way.peak(x, *held, dt_s=7200.0, ceiling=np.full(2, np.inf)) for way in (kernel, plain)]
    np.testing.assert_allclose(ways[0][0], ways[1][0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ways[0][1], ways[1][1], atol=0.15)  # the first step is 15 s long
    assert np.ptp(ways[0][1][:, 0]) > 20.0
