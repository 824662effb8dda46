"""`QuantileFilter`: any controller behind a forecast that answers low quantiles: a guardrail whose margin is a quantile."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from controllers.contracts import Array, Controller, Decision, Observation, Status, Targets
from controllers.planning.filtered import Filter, asked_for
from plant.errors import ControlError
from plant.spec import PlantSpec


class QuantileForecast(Protocol):
    """A model that answers low quantiles of a guardrail's margin for `batch` plants. It keeps their history itself."""

    batch: int

    def reset(self) -> None:
        """Forget the history."""
        ...

    def see(self, observation: Observation) -> None:
        """Take in a sample."""
        ...

    def margin(self, plants: NDArray[np.intp], moves: Array) -> Array:
        """`moves` (n x k x n_mv), engineering units: k alternatives for each of `plants` (n,), each held for one sample and
        followed by the safe values. Returns (n x k), in the guardrail's unit: the low quantile of the distance to the
        guardrail's limit, > 0 is inside, at its worst over the horizon."""
        ...


class BackOff(BaseModel):
    """How far from `guardrail`'s limit the forecast's low quantile has to stay, in the guardrail's unit. `start` at the
    beginning; then it follows each plant within `least`..`most`: a sample whose reading is past the limit adds `rise` (four times
    that where a guardrail of a lower rank on the same tag is passed as well), and each sample takes away `rise * budget`, so
    that in the long run a share of about `budget` of the samples is past the limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    guardrail: str
    start: float
    least: float
    most: float
    rise: Annotated[float, Field(ge=0)]
    budget: Annotated[float, Field(ge=0, le=1)]


_GRAVER = 3.0  # more, where a graver limit is passed too
_SHARES = np.linspace(0.0, 1.0, 6)  # of the way to the moves asked for that are looked at


class QuantileFilter(Filter):
    """Where the move `inner` asks for is not safe, the part of the way to it, from the safe values, that is: the largest after
    which, if the safe values followed, the forecast's low quantile keeps the guardrail at its back-off; none of it where
    not even the safe values do.

    `step` (n_mv): what an MV can be moved by, engineering units; a changed move is rounded towards the safe value to whole
    steps, 0: not at all. `start` (batch,): back-offs to begin with in place of the configured one.

    Raises `ControlError` when the spec has no such guardrail or nobody measures its tag.
    """

    def __init__(
        self,
        spec: PlantSpec,
        forecast: QuantileForecast,
        inner: Controller,
        config: BackOff,
        step: Array | None = None,
        start: Array | None = None,
    ) -> None:
        self.spec, self.inner, self.config, self.batch, self.horizon = (
            spec,
            inner,
            config,
            forecast.batch,
            inner.horizon,
        )
        self._forecast = forecast
        found = [g for g in spec.guardrails if g.name == config.guardrail]
        names = [t.name for t in spec.measured]
        if not found or found[0].tag not in names:
            watched = ", ".join(g.name for g in spec.guardrails if g.tag in names) or "none"
            raise ControlError(
                f"no guardrail {config.guardrail!r} on a measured tag",
                f"quantile filter of {spec.name}",
                f"Such guardrails: {watched}.",
            )
        self.guardrail = found[0]
        self._column = names.index(self.guardrail.tag)
        self._graver = [
            g for g in spec.guardrails
            if (g.tag, g.sign) == (self.guardrail.tag, self.guardrail.sign) and g.rank < self.guardrail.rank
        ]  # fmt: skip
        self._safe = np.array([t.move.safe for t in spec.mvs if t.move])
        self._step = np.zeros(len(self._safe)) if step is None else step
        self._start = np.broadcast_to(config.start if start is None else start, self.batch)
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._forecast.reset()
        self.back_off = np.array(self._start, dtype=np.float64)

    def _nearest(self, observation: Observation, targets: Targets, answer: Decision | None, began: float) -> Decision:
        self._forecast.see(observation)
        safe = np.tile(self._safe, (self.batch, 1))
        known = np.zeros(self.batch, bool) if answer is None else asked_for(answer)
        asked = safe if answer is None else np.where(known[:, None], answer.moves, safe)
        share, room = self._share(asked)
        moves = np.where((share == 1.0)[:, None], asked, self._rounded(safe + share[:, None] * (asked - safe)))
        required = self.back_off.copy()
        self._follow(observation.measured[:, self._column])
        lost = f"{self.guardrail.name}: even the safe values do not keep its back-off"
        return dataclasses.replace(
            Decision.of_moves(self.spec, moves, 0.0),
            margins=room[:, None, None],
            calibrated=np.array([[required.mean()]]),
            guardrails=(self.guardrail.name,),
            status=tuple(Status.FEASIBLE if k else Status.INFEASIBLE for k in known.tolist()),
            why=tuple(lost if r < 0 else "" for r in room.tolist()),
        )

    def _share(self, asked: Array) -> tuple[Array, Array]:
        """The largest share (batch,) of the way to `asked` (batch x n_mv) that keeps the guardrail, and the room (batch,) that is
        left with it."""
        ends = self._room(np.arange(self.batch), asked, _SHARES[[0, -1]])
        share = np.where((ends >= 0).all(1), 1.0, 0.0)
        # Only where the safe values are safe and the move asked for is not, what lies between is looked at.
        open_ = np.flatnonzero((ends[:, 0] >= 0) & (ends[:, 1] < 0))
        between = self._room(open_, asked, _SHARES[1:-1])
        share[open_] = first_crossing(_SHARES, np.hstack([ends[open_, :1], between, ends[open_, 1:]]))
        return share, np.where(share == 1.0, ends[:, 1], np.where(share > 0, 0.0, ends[:, 0]))

    def _room(self, plants: NDArray[np.intp], asked: Array, shares: Array) -> Array:
        """How far the low quantile stays inside its back-off after `shares` (k,) of the way to `asked`: (plants x k)."""
        way = asked[plants, None] - self._safe
        moves = self._safe + shares[None, :, None] * way
        return self._forecast.margin(plants, moves) - self.back_off[plants, None]

    def _rounded(self, moves: Array) -> Array:
        """`moves` in whole steps from the safe value, no farther from it."""
        step = np.where(self._step > 0, self._step, 1.0)
        off = (moves - self._safe) / step
        whole = np.sign(off) * np.floor(np.abs(off) + 1e-6)
        return np.where(self._step > 0, self._safe + whole * step, moves)

    def _follow(self, reading: Array) -> None:
        c, g = self.config, self.guardrail
        past = (g.margin(reading) < 0) * 1.0
        for graver in self._graver:
            past = past + _GRAVER * (graver.margin(reading) < 0)
        self.back_off = np.clip(self.back_off + c.rise * (past - c.budget), c.least, c.most)


def first_crossing(shares: Array, room: Array) -> Array:
    """The largest of `shares` (n,) up to which `room` (batch x n) is nowhere negative, in between by a straight line."""
    n, rows = len(shares), np.arange(len(room))
    fails = room < 0
    at = np.where(fails.any(1), fails.argmax(1), n)
    i = np.clip(at, 1, n - 1)
    a, b = room[rows, i - 1], room[rows, i]
    part = shares[i - 1] + (shares[i] - shares[i - 1]) * a / np.maximum(a - b, 1e-9)
    return np.where(at == 0, 0.0, np.where(at == n, 1.0, part))
