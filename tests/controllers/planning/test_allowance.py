"""A limit that may be passed for a while is free for that while, and binds in plans that reach past its end."""

from __future__ import annotations

import torch

from controllers.planning.allowance import Allowance
from plant.spec import Guardrail, PlantSpec, load_spec

RAILS = (
    Guardrail(name="hot", tag="T", max=350.0, allowed_s=5.0, scale=2.0), Guardrail(name="cold", tag="T", min=290.0),
)  # fmt: skip


def plant(*rails: Guardrail) -> PlantSpec:
    return load_spec("reactor_bare").model_copy(update={"sample_time_s": 1.0, "guardrails": rails})


def test_time_runs_out_and_comes_back() -> None:
    allowance = Allowance(plant(*RAILS), 2)
    required = torch.full((2, 3, 3), 1.0).double()
    inside, past = torch.tensor([5.0, 5.0]).double(), torch.tensor([0.5, 5.0]).double()  # 0.5 is nearer than asked for
    now = torch.stack([past, inside])
    seen = [allowance.required(required, now) for _ in range(6)]
    free = [(r[0, :, 0] < -5.0).tolist() for r in seen]
    assert free == [
        [True, True, True], [True, True, True], [True, True, False], [True, False, False], [False] * 3, [False] * 3,
    ]  # fmt: skip
    assert (seen[-1][1, :, 0] < -5.0).all(), "the other plant has all its time"
    assert all((r[..., 1:] == 1.0).all() for r in seen), "nothing else is free"
    later = [allowance.required(required, torch.stack([inside, inside])) for _ in range(6)]
    assert (later[-1][0, :, 0] == -12.0).all(), "a tenth of the range of 240 K, in scales of 2 K"


def test_nothing_changes_where_nothing_is_allowed() -> None:
    required = torch.rand(1, 4, 1).double()
    assert Allowance(plant(*RAILS[1:]), 1).required(required, torch.full((1, 1), -3.0).double()) is required
