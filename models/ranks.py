"""Training over several processes (`torchrun`): who is who, and means over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join() -> tuple[int, int]:
    """This process's rank and how many there are; joins the others the first time. (0, 1) without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return 0, 1
    if not dist.is_initialized():
        # What an optimiser imports when it is first used holds on to a group that exists by then: its threads outlive
        # `leave`, and abort the process when the interpreter ends under them. Imported before, it holds nothing.
        import_module("torch._dynamo")
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), size


def leave() -> None:
    """Part from the others, if there are any."""
    if size() > 1:
        dist.destroy_process_group()


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Mean(torch.autograd.Function):
    """The mean over ranks. Each rank's loss is its own share of the whole, so its gradient passes as it is."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def mean(value: Tensor) -> Tensor:
    """The mean of `value` over all ranks, differentiable; `value` itself in a single process."""
    return value if size() == 1 else _Mean.apply(value)  # type: ignore[no-any-return]


def share(gradients_of: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks."""
    if size() == 1:
        return
    for p in gradients_of:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()
