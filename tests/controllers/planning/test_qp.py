"""The batched interior-point solver against solvers of other people."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from controllers.planning.qp import solve

Problem = tuple[torch.Tensor, ...]


def objective(x: torch.Tensor, p: torch.Tensor, q: torch.Tensor, a: torch.Tensor, c: torch.Tensor,
              low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """The value that is minimised (batch,)."""
    s = (a @ x[..., None])[..., 0] + c
    return 0.5 * torch.einsum("bi,bij,bj->b", x, p, x) + (q * x).sum(-1) + torch.maximum(low * s, high * s).sum(-1)


def random_problem(seed: int, batch: int, n: int, rows: int, curvature: float = 1.0) -> Problem:
    """Absolute errors, soft limits and hard limits mixed, as in a plan."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((batch, n, n))
    p = curvature * (root @ root.transpose(0, 2, 1) / n + 0.1 * np.eye(n))
    kind = rng.integers(0, 3, (batch, rows))
    price = np.where(kind == 2, 100.0, rng.uniform(0.5, 10.0, (batch, rows)))
    low = np.where(kind == 0, -price, 0.0)
    arrays = (p, rng.standard_normal((batch, n)), rng.standard_normal((batch, rows, n)),
              rng.standard_normal((batch, rows)), low, price)  # fmt: skip
    return tuple(torch.tensor(a) for a in arrays)


def by_ipopt(problem: Problem) -> np.ndarray:
    """The optimal value of each problem of the batch, rows as epigraphs."""
    values = []
    for p, q, a, c, low, high in zip(*(t.numpy() for t in problem), strict=True):
        n, rows = len(q), len(c)
        x, s = ca.SX.sym("x", n), ca.SX.sym("s", rows)
        row = ca.mtimes(ca.DM(a), x) + ca.DM(c)
        f = 0.5 * ca.dot(x, ca.mtimes(ca.DM(p), x)) + ca.dot(ca.DM(q), x) + ca.sum1(s)
        solver = ca.nlpsol(
            "qp", "ipopt", {"x": ca.vertcat(x, s), "f": f, "g": ca.vertcat(s - ca.DM(low) * row, s - ca.DM(high) * row)},
            {"ipopt.print_level": 0, "ipopt.sb": "yes", "print_time": False, "ipopt.tol": 1e-10},
        )  # fmt: skip
        values.append(float(solver(lbg=0, ubg=ca.inf)["f"]))
    return np.array(values)


@pytest.mark.parametrize(("n", "rows"), [(1, 3), (5, 12), (15, 60)])
def test_reaches_the_optimum_of_ipopt(n: int, rows: int) -> None:
    problem = random_problem(n, 6, n, rows)
    best = by_ipopt(problem)
    reached = objective(solve(*problem, iterations=40), *problem).numpy()
    np.testing.assert_allclose(reached, best, rtol=1e-5, atol=1e-5)


def test_a_plans_iterations_are_enough_to_steer() -> None:
    """The default count is meant for a step of a sequence, not for an exact answer: it closes most of the gap."""
    problem = random_problem(3, 8, 15, 60)
    best = by_ipopt(problem)
    start = objective(torch.zeros(8, 15).double(), *problem).numpy()
    reached = objective(solve(*problem), *problem).numpy()
    assert ((reached - best) < 0.25 * (start - best)).all()
    assert (reached - best).sum() < 0.1 * (start - best).sum()


def test_reaches_the_optimum_of_linprog() -> None:
    """Hardly any curvature: max over |a'x + c| terms with a box, as a linear programme."""
    rng = np.random.default_rng(0)
    n, rows = 4, 9
    a, c, w = rng.standard_normal((rows, n)), rng.standard_normal(rows), rng.uniform(0.5, 2.0, rows)
    eye = np.eye(n)
    every = np.concatenate([a, eye, -eye])
    offset = np.concatenate([c, -np.ones(n), -np.ones(n)])  # x <= 1, -x <= 1
    high = np.concatenate([w, np.full(2 * n, 100.0)])
    low = np.concatenate([-w, np.zeros(2 * n)])
    problem = tuple(torch.tensor(t)[None] for t in (1e-7 * eye, np.zeros(n), every, offset, low, high))
    x = solve(*problem, iterations=50)[0].numpy()
    exact = linprog(
        np.concatenate([np.zeros(n), w]),
        A_ub=np.block([[a, -np.eye(rows)], [-a, -np.eye(rows)]]), b_ub=np.concatenate([-c, c]),
        bounds=[(-1, 1)] * n + [(0, None)] * rows,
    )  # fmt: skip
    assert (w * np.abs(a @ x + c)).sum() == pytest.approx(exact.fun, rel=1e-4)
    assert np.abs(x).max() <= 1 + 1e-4


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_batch_equals_one_by_one(seed: int) -> None:
    problem = random_problem(seed, 4, 6, 20)
    together = solve(*problem)
    for i in range(4):
        torch.testing.assert_close(solve(*(t[i : i + 1] for t in problem))[0], together[i], rtol=1e-6, atol=1e-8)


def test_without_rows_that_bite_it_is_a_linear_solve() -> None:
    p, q, a, _, low, high = random_problem(1, 3, 5, 4)
    far = torch.full((3, 4), -1e3).double()
    x = solve(p, q, a, far, torch.zeros_like(low), high, iterations=40)
    torch.testing.assert_close(x, -torch.linalg.solve(p, q), rtol=1e-4, atol=1e-4)


def test_iterating_past_the_optimum_stays_there() -> None:
    problem = random_problem(1, 6, 1, 3)
    torch.testing.assert_close(solve(*problem, iterations=100), solve(*problem, iterations=15), rtol=1e-5, atol=1e-6)


def test_a_broken_member_stays_alone() -> None:
    problem = random_problem(2, 3, 5, 12)
    whole = solve(*problem)
    problem[1][1] = torch.nan
    torn = solve(*problem)
    torch.testing.assert_close(torn[[0, 2]], whole[[0, 2]])
    assert not torch.isfinite(torn[1]).any()
