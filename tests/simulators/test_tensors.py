"""Plants as tensors: the kernel's numbers, gradients through time, any batch shape, either precision."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from simulators.compiled import Kernel
from simulators.reactor import BareReactor, DressedReactor
from simulators.tensors import TensorStepper

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
REACTOR = DressedReactor()


def batch(n: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(4)
    x = np.tile(REACTOR.x0, (n, 1)) + rng.normal(size=(n, 3)) * [0.02, 2.0, 2.0]
    return x, rng.uniform(292, 303, (n, 1)), np.tile(REACTOR.d0, (n, 1)), rng.uniform(0.9, 1.1, (n, 2))


@pytest.mark.parametrize("fused", [False, True])
def test_equals_the_compiled_kernel(fused: bool) -> None:
    arrays = batch(6)
    arrays[0][2, 0] = -1.0  # outside the envelope from the first step on
    expected, codes = Kernel(REACTOR).advance(*arrays, dt_s=2.0)
    stepper = TensorStepper(REACTOR, fused)
    x, ended = stepper.advance(*(torch.tensor(a) for a in arrays), dt_s=2.0)
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(ended.numpy(), codes)
    assert stepper.reasons[int(ended[2]) - 1] == "negative concentration"


def test_gradients_reach_moves_and_parameters() -> None:
    x, u, d, p = (torch.tensor(a) for a in batch(1))
    stepper = TensorStepper(REACTOR)

    def final(u: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return stepper.advance(x, u, d, p, 1.0)[0]

    torch.autograd.gradcheck(final, (u.requires_grad_(), p.requires_grad_()), rtol=1e-4)


def test_any_leading_shape_and_either_precision() -> None:
    flat = [torch.tensor(a) for a in batch(6)]
    folded = [v.reshape(2, 3, -1) for v in flat]
    stepper = TensorStepper(REACTOR)
    one, _ = stepper.advance(*flat, dt_s=2.0)
    two, codes = stepper.advance(*folded, dt_s=2.0)
    torch.testing.assert_close(two.reshape(6, -1), one)
    assert codes.shape == (2, 3)
    single, _ = stepper.advance(*(v.float() for v in flat), dt_s=2.0)
    assert single.dtype is torch.float32
    torch.testing.assert_close(single.double(), one, rtol=1e-5, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, u, d, p = (torch.tensor(a) for a in batch(2))
    with pytest.raises(ValueError, match=r"p has shape \(1, 2\); expected \(2, 2\)"):
        TensorStepper(BareReactor()).advance(x[:, :2], u, d, p[:1], 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_kernel() -> None:
    arrays = batch(64)
    expected, _ = Kernel(REACTOR).advance(*arrays, dt_s=2.0)
    x, _ = TensorStepper(REACTOR).advance(*(torch.tensor(a, device="cuda") for a in arrays), dt_s=2.0)
    np.testing.assert_allclose(x.cpu().numpy(), expected, rtol=1e-6)
