"""What a plant is wanted to do, in numbers that every planner shares: scales, weights by rank, zones, resting values, response."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from controllers.contracts import Array, Targets
from controllers.planning.config import PlannerConfig
from plant.errors import ControlError
from plant.spec import PlantSpec

_NEAR = 2.0  # scales up to which, at a plan's start, what is off its target or zone weighs alike whatever its rank
_FIRST = 4.0  # times what the last rank weighs, beyond that, the first one does: less than any guardrail (`scp.PRICE`)


class Tuning:
    """Of `spec` under `config`: `columns` of the targets and `zone_columns` of the zones among the measurements, `scale` (n_target)
    and `zone_scale` (n_zone) one unit of error, in the tag's unit; `effort` and `suppression` (n_mv) of moves scaled 0..1.

    What is of a better rank than the last has one more zone around it, its scale by its rank, as a funnel: `_NEAR` scales wide at the
    plan's start and closed at its end. So ranks decide what cannot be had together; on the way there a lower one is not given up for
    moves that cost little, or for the noise of a better one. `zoned`: what each zone is around, counted among targets, then zones.

    Raises `ControlError` where `config` names a CV without a target, or what is no MV.
    """

    def __init__(self, spec: PlantSpec, config: PlannerConfig) -> None:
        self._spec, self._config = spec, config
        names, mvs = [t.name for t in spec.measured], [t.name for t in spec.mvs]
        for field, known, what in (
            ("response_s", [t.tag for t in spec.targets], "CVs with a target"),
            ("work", mvs, "MVs"),
        ):
            if unknown := sorted(set(getattr(config, field)) - set(known)):
                raise ControlError(
                    f"{field} of {', '.join(unknown)}",
                    f"planner of {spec.name}",
                    f"The {what} are {', '.join(known) or 'none'}.",
                )
        ranks = sorted({wanted.rank for wanted in (*spec.targets, *spec.zones)})
        wanted = (*spec.targets, *spec.zones)
        at, scales = [names.index(w.tag) for w in wanted], [spec.target_scale(t) for t in spec.targets]
        scales += [spec.zone_scale(z) for z in spec.zones]
        steps = max(1, len(ranks) - 1)
        more = [_FIRST ** ((len(ranks) - 1 - ranks.index(w.rank)) / steps) - 1 for w in wanted]
        n = len(spec.targets)
        around = [i for i, weight in enumerate(more) if weight > 0]
        self.zoned = [*range(n, len(wanted)), *around]
        self.columns, self.zone_columns = at[:n], [at[i] for i in self.zoned]
        self.scale = _double(scales[:n])
        self.zone_scale = _double(scales[n:] + [scales[i] / more[i] for i in around])
        self._around, self._near = around, _NEAR * _double([scales[i] for i in around])
        moves = [t.move for t in spec.mvs if t.move]
        self._low, self._span = _double([m.limits[0] for m in moves]), _double([m.span for m in moves])
        self._rest = np.array([math.nan if m.rest is None else m.rest for m in moves])
        self.effort = torch.full_like(self._span, config.effort)
        if config.effort_range is not None:
            low, high = config.effort_range
            self._rest = np.full(len(moves), low)
            self.effort = self.effort * (self._span / (high - low)) ** 2
        self.suppression = _double([config.work[mv] ** -2 if mv in config.work else config.suppression for mv in mvs])
        step, lags = spec.sample_time_s, [config.response_s.get(t.tag) for t in spec.targets]
        self._left = _double([0.0 if lag is None else math.exp(-step / lag) for lag in lags])
        self._dead = torch.tensor([round(spec.tag(t.tag).dead_time_s / step) for t in spec.targets])

    @property
    def paced(self) -> bool:
        """Whether any CV has a response time."""
        return bool(self._config.response_s)

    def zones(self, targets: Targets, course: Tensor) -> Tensor | None:
        """Low and high of every zone (batch x horizon x n_zone x 2), the tags' units, NaN where a side is open; None where there is none.
        `course` (batch x horizon x n_target) is what targets are asked to be."""
        if not self.zoned:
            return None
        own = [[math.nan if v is None else v for v in (z.low, z.high)] for z in self._spec.zones]
        zones = _double(own if targets.zones is None else targets.zones).view(-1, 2).expand(*course.shape[:2], -1, -1)
        wanted = torch.cat([course[..., None].expand(-1, -1, -1, 2), zones], -2)[..., self._around, :]
        left = 1 - torch.arange(1, course.shape[1] + 1).double() / course.shape[1]
        near = torch.stack([-self._near, self._near], -1) * left[:, None, None]
        return torch.cat([zones, wanted + near], -2)

    def rest(self, targets: Targets, batch: int) -> Tensor | None:
        """Where the MVs rest (batch x n_mv, scaled), inside the operator limits, NaN where nowhere; None where none rests."""
        rest = self._rest if targets.rest is None else np.asarray(targets.rest, dtype=np.float64)
        if np.isnan(rest).all():
            return None
        return self.scaled(np.clip(rest, targets.move_low, targets.move_high)).expand(batch, -1)

    def scaled(self, moves: Array) -> Tensor:
        """Moves (... x n_mv), the tags' units -> 0..1."""
        return (_double(moves) - self._low) / self._span

    def reference(self, now: Tensor, free: Tensor, wanted: Tensor) -> Tensor:
        """The course from the readings `now` (batch x n_target) to the targets `wanted` (batch x horizon x n_target): a lag of
        `response_s` from when the reading can first answer; `wanted` itself for CVs that have none. Where the readings go with moves
        held, `free` (like `wanted`), they go on, and that fades twice as fast: a plant that lags cannot turn at once, and asked to,
        it hunts."""
        if not self.paced:
            return wanted
        course, at, share = [], now, torch.ones_like(now)
        for k in range(wanted.shape[1]):
            left = torch.where(k < self._dead, 1.0, self._left)
            at = torch.where(left < 1, wanted[:, k] + left * (at - wanted[:, k]), at)
            share = left**2 * share
            course.append(torch.where(self._left > 0, at + share * (free[:, k] - now), wanted[:, k]))
            out = wanted[:, k].isnan()
            at, share = torch.where(out, now, at), torch.where(out, 1.0, share)
        found = torch.stack(course, 1)
        return torch.where(wanted.isnan() | found.isnan(), wanted, found)


def _double(values: object) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
