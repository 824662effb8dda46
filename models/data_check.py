"""What is wrong with training data, said before training begins.

Errors stop it: too little, no MV that ever moved, nothing that moves at all, a tag nobody read or labelled, values plainly in
another unit. What is unknown afterwards is a warning: what an MV does that never moved, or only with another. What can be handled is, and is only told: gaps are masked, samples put in order, doubled ones dropped, fill values and
texts taken as missing, a tag that never changes scaled by its range so that its noise is not amplified.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from models.config import ModelConfig
from models.counts import Counts
from models.moves import spread_of, together, unmoved
from models.plant_surprise import STEPS
from models.streaming import some_of
from models.windows import Run
from plant.errors import ModelError
from plant.spec import PlantSpec, Role, Tag

Array = NDArray[np.float64]
_STILL = 1e-3  # of a tag's range: what moves less has not moved
_LOOKED_AT = 200_000  # samples: enough to see what moves together
_FEW = 2000  # samples: how often something happens once in a thousand can hardly be told from fewer
_NOISE = 8.0  # standard deviations: the spread of a thousand samples that only noise moves stays within
_CONVERSIONS = (
    ("K", "degC", lambda v: v - 273.15), ("degC", "K", lambda v: v + 273.15), ("degF", "degC", lambda v: (v - 32) / 1.8),
    ("degC", "degF", lambda v: 1.8 * v + 32),
)  # fmt: skip
_FACTORS = (1e-3, 1e3, 1e-2, 1e2, 60.0, 1 / 60)


class Severity(StrEnum):
    ERROR = "error"  # training would teach nothing, or something wrong
    WARNING = "warning"
    NOTE = "note"  # handled; nothing to do


@dataclass(frozen=True)
class Finding:
    """One thing that was found: what, where (tag, run) and what to do."""

    severity: Severity
    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.what} ({self.where}). {self.fix}"


@dataclass(frozen=True)
class DataReport:
    """`summary` in a line, and findings, the gravest first."""

    summary: str
    findings: tuple[Finding, ...]

    def refuse(self) -> None:
        """Raise the first error as a `ModelError` that tells how many more there are."""
        errors = [f for f in self.findings if f.severity is Severity.ERROR]
        if errors:
            more = f" (and {len(errors) - 1} more: {'; '.join(f.what for f in errors[1:4])})" if errors[1:] else ""
            raise ModelError(errors[0].what + more, errors[0].where, errors[0].fix)


@dataclass(frozen=True)
class _Facts:
    """Each channel of each run: share of samples that are there, least, middle and greatest value (runs x channels)."""

    there: Array
    low: Array
    middle: Array
    high: Array


def check_runs(spec: PlantSpec, runs: Sequence[Run], model: ModelConfig, counts: Counts | None = None) -> DataReport:
    """Look at every run and say what is wrong with it. `counts` is what `dataset.iter_runs` told while reading."""
    counts = counts or Counts()
    tags = [*spec.measured, *spec.dvs, *spec.mvs]
    samples = sum(len(r) for r in runs)
    hours = samples * spec.sample_time_s / 3600
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(r.kind for r in runs).items()))
    summary = (
        f"{len(runs)} runs ({kinds or 'none'}), {samples} samples of {spec.sample_time_s:g} s, {hours:.1f} plant-hours"
    )
    where = f"training data of {spec.name}"
    if samples < 20 * model.horizon:
        short = Finding(
            Severity.ERROR, f"only {samples} samples ({hours:.2f} plant-hours)", where,
            f"A horizon of {model.horizon} needs {20 * model.horizon} at least: record more, or run `homeostat excite`.",
        )  # fmt: skip
        return DataReport(summary, (short,))
    facts, found = _facts(runs, len(tags)), []
    if max(len(r) for r in runs) <= model.horizon:
        found.append(Finding(
            Severity.WARNING, f"no run is longer than the horizon of {model.horizon} samples", where,
            "Predictions that far ahead are never tested: record longer runs, or plan over a shorter horizon.",
        ))  # fmt: skip
    found += _of_amount(spec, runs, model, where)
    for i, tag in enumerate(tags):
        found += _of_tag(
            spec, tag, runs, counts, *(getattr(facts, n)[:, i] for n in ("there", "low", "middle", "high"))
        )
    found += _steady(spec, tags, facts, where)
    found += _of_moves(spec, runs, where)
    found += _of_labels(spec, runs)
    found += _of_constants(spec, runs, counts)
    found += _of_reading(counts, where)
    order = list(Severity)
    return DataReport(summary, tuple(sorted(found, key=lambda f: order.index(f.severity))))


def _facts(runs: Sequence[Run], channels: int) -> _Facts:
    there, low, middle, high = (np.full((len(runs), channels), np.nan) for _ in range(4))
    for i, run in enumerate(runs):
        rows = np.concatenate([run.measured, run.dvs, run.applied], axis=1)
        rows = np.where(np.isfinite(rows), rows, np.nan)
        there[i] = np.isfinite(rows).mean(0)
        if (some := there[i] > 0).any():
            low[i, some], high[i, some] = np.nanmin(rows[:, some], 0), np.nanmax(rows[:, some], 0)
            middle[i, some] = np.nanmedian(rows[:, some], 0)
    return _Facts(there, low, middle, high)


def _of_tag(
    spec: PlantSpec, tag: Tag, runs: Sequence[Run], counts: Counts, there: Array, low: Array, middle: Array, high: Array
) -> list[Finding]:
    """What is wrong with one channel, from its figures in each run (runs,)."""
    where, known = f"tag {tag.name} of {spec.name}", there > 0
    if not known.any():
        return [_unread(spec, tag, counts)]
    found = _range(spec, tag, counts) + _levels(tag, where, low[known], high[known])
    span, reach = float(high[known].max() - low[known].min()), tag.span
    if tag.role is Role.MV and span <= _STILL * reach:
        pass  # see `_of_moves`
    elif tag.role is Role.MV and (high - low)[known].max() <= _STILL * reach:
        found.append(Finding(
            Severity.WARNING, f"{tag.name} moves between runs and never within one", where,
            "How fast it acts can hardly be learned: excite it within runs.",
        ))  # fmt: skip
    elif span == 0.0:
        fix = "Nothing is learned of it: is the instrument alive? If it must be so, take it out of the plant file."
        if tag.role is Role.DV:
            fix = "What it does cannot be learned: plan only where it stays there, or record it while it changes."
        found.append(Finding(Severity.WARNING, f"{tag.name} is {middle[known][0]:g} {tag.unit} throughout", where, fix))
    lengths = np.array([len(r) for r in runs])
    share = 1 - float((there * lengths).sum() / lengths.sum())
    slow = tag.period_s is not None and tag.period_s > spec.sample_time_s
    expected = 1 - spec.sample_time_s / tag.period_s if slow and tag.period_s else 0.0
    if share > expected + 1e-9:
        extra = f", {expected:.0%} of them because it is measured every {tag.period_s:g} s" if slow else ""
        severity = Severity.NOTE if share < expected + 0.5 * (1 - expected) else Severity.WARNING
        fix = (
            "Gaps are masked."
            if severity is Severity.NOTE
            else f"Most of it is a gap: mend its connection{_on_change(tag)}."
        )
        found.append(Finding(severity, f"{tag.name} is missing in {share:.1%} of the samples{extra}", where, fix))
    return found


def _of_amount(spec: PlantSpec, runs: Sequence[Run], model: ModelConfig, where: str) -> list[Finding]:
    """What so little data, or such short runs, cannot tell."""
    usual, found = [len(r) for r in runs if r.kind != "incident"], []
    judged = model.window + max(k for k in STEPS if k <= model.horizon)
    if not spec.simulator and max(usual, default=0) <= judged:
        found.append(Finding(
            Severity.WARNING, f"no run is longer than {judged} samples: nothing will tell whether the plant follows the model",
            where, "AUTO is not given to such a model: record longer runs, or choose a shorter window or horizon.",
        ))  # fmt: skip
    if 0 < (samples := sum(usual)) < _FEW:
        hours = samples * spec.sample_time_s / 3600
        found.append(Finding(
            Severity.NOTE, f"{samples} samples of usual operation are few ({hours:.2g} plant-hours)", where,
            f"Not known from them: what takes longer than {hours / 4:.2g} h, disturbances that did not come, and how often normal"
            " operation surprises the model: margins and limits are wider for it. Record more and train again.",
        ))  # fmt: skip
    return found


def _of_moves(spec: PlantSpec, runs: Sequence[Run], where: str) -> list[Finding]:
    """MVs whose effect nobody can learn: those that never moved, and those that only moved together."""
    known = [i for i, _ in enumerate(spec.mvs) if any(np.isfinite(r.applied[:, i]).any() for r in runs)]
    still = unmoved(spec, spread_of(runs, len(spec.mvs)))
    still = {mv.name: mv for i, mv in enumerate(spec.mvs) if i in known and mv.name in still}
    found = []
    for name, mv in still.items():
        i = [t.name for t in spec.mvs].index(name)
        value = next(v[np.isfinite(v)][0] for r in runs if np.isfinite(v := r.applied[:, i]).any())
        what, at = f"{name} never moved: it is {value:g} {mv.unit} throughout", f"tag {name} of {spec.name}"
        if len(still) == len(known):
            fix = "What it does cannot be learned: excite it (`homeostat excite`), or take it out of the plant file."
            found.append(Finding(Severity.ERROR, what, at, fix))
        else:
            fix = "What it does is unknown, and the planner leaves it where it is: excite it (`homeostat excite`)."
            found.append(Finding(Severity.WARNING, what, at, fix))
    for group in together(spec, some_of(runs, _LOOKED_AT)):
        names = f"{', '.join(group[:-1])} and {group[-1]}"
        found.append(Finding(
            Severity.WARNING, f"{names} only ever moved together", where,
            "What each does alone cannot be told: move them one at a time (`homeostat excite`), and mistrust their gains until then.",
        ))  # fmt: skip
    return found


def _of_labels(spec: PlantSpec, runs: Sequence[Run]) -> list[Finding]:
    """Hidden quantities that a guardrail needs and nobody labelled."""
    found = []
    for i, g in enumerate(spec.guardrails):
        needed = []
        if spec.tag(g.tag).role is Role.HIDDEN:
            needed.append((g.tag, "watches", [r.hidden for r in runs if r.hidden is not None]))
        if g.fallback_tag:
            needed.append((g.fallback_tag, "asks what the fallback saves by", [r.labels for r in runs]))
        for tag, does, values in needed:
            if not any(np.isfinite(v[:, i]).any() for v in values):
                found.append(Finding(
                    Severity.ERROR, f"nothing labels {tag}, which guardrail {g.name} {does}", f"tag {tag} of {spec.name}",
                    "Store its values in the historian (a laboratory's, or a simulator's: `homeostat excite --lock-step`), or take"
                    " it out of the guardrail in the plant file.",
                ))  # fmt: skip
    return found


def _unread(spec: PlantSpec, tag: Tag, counts: Counts) -> Finding:
    """That nothing is known of a tag, and why if reading told."""
    where = f"tag {tag.name} of {spec.name}"
    if ("out of range", tag.name) in counts.first:
        ts, shown = counts.first["out of range", tag.name]
        seen = [middle for _, middle in counts.elsewhere.get(tag.name, [])] or [float(shown)]
        return _elsewhere(spec, tag, float(np.median(seen)), ts / 1e6, "; no reading is inside")
    if ("text", tag.name) in counts.first:
        shown = counts.first["text", tag.name][1]
        return Finding(Severity.ERROR, f"{tag.name}: no reading in any run is a number, the first is {shown!r}", where,
                       "Export numbers, or take it out of the plant file.")  # fmt: skip
    return Finding(Severity.ERROR, f"{tag.name}: no reading in any run", where,
                   f"Record it, or take it out of the plant file{_on_change(tag)}.")  # fmt: skip


def _on_change(tag: Tag) -> str:
    """What else may be done about gaps in what is thought to be stored at each scan."""
    return ", or, if it is stored only when it changes, say `stamps: on_change`" if tag.scanned else ""


def _range(spec: PlantSpec, tag: Tag, counts: Counts) -> list[Finding]:
    """Values that the instrument cannot have read: of another unit, or what a logger fills gaps with."""
    if blocks := counts.elsewhere.get(tag.name):
        many = f" (and in {len(blocks) - 1} more stretches)" if blocks[1:] else ""
        return [_elsewhere(spec, tag, float(np.median([middle for _, middle in blocks])), blocks[0][0], many)]
    if not (n := counts["out of range", tag.name]):
        return []
    ts, shown = counts.first["out of range", tag.name]
    return [Finding(
        Severity.WARNING,
        f"{n} readings of {tag.name} are none: {shown} at {_moment(ts / 1e6)} is the first, its range is {_limits(tag)}",
        f"tag {tag.name} of {spec.name}",
        "They count as missing, as the controller takes them: fill values and spikes are. If they are real, widen the range.",
    )]  # fmt: skip


def _elsewhere(spec: PlantSpec, tag: Tag, middle: float, start_s: float, more: str) -> Finding:
    """That a tag is somewhere else than the plant file says, and what unit that may be."""
    hint = "" if tag.states or (tag.move and tag.move.discrete) else _guess(tag, middle)  # states have no unit
    return Finding(
        Severity.ERROR, f"{tag.name} reads about {middle:g}, its range is {_limits(tag)}{more}",
        f"{spec.name}, run at {_moment(start_s)}, tag {tag.name}",
        f"{hint}Convert what was recorded, or correct unit and range in the plant file.",
    )  # fmt: skip


def _limits(tag: Tag) -> str:
    if tag.states:
        return f"the states {', '.join(map(str, tag.states))}"
    return f"{tag.range[0]:g}..{tag.range[1]:g} {tag.unit}"


def _levels(tag: Tag, where: str, low: Array, high: Array) -> list[Finding]:
    """A discrete MV that stood between its levels: `low` and `high` (runs,) as it was read."""
    levels = np.array(tag.move.discrete if tag.move else ())
    if not len(levels):
        return []
    seen = np.concatenate([low, high])
    off = np.abs(seen[:, None] - levels).min(1) > 0.1 * np.diff(levels).min()
    if not off.any():
        return []
    shown = ", ".join(f"{v:g}" for v in levels[:6]) + (", ..." if len(levels) > 6 else "")
    return [Finding(
        Severity.WARNING, f"{tag.name} reads {seen[off][0]:g}, which is none of its levels ({shown})", where,
        "It is learned from as it is, and only levels will be planned: correct `levels` or `step` if they are others.",
    )]  # fmt: skip


def _guess(tag: Tag, value: float) -> str:
    """Which unit `value` may be in, in words; '' where none is likely."""
    for stored, wanted, convert in _CONVERSIONS:
        if tag.unit == wanted and tag.range[0] <= convert(value) <= tag.range[1]:
            return f"That looks like {stored} instead of {wanted}. "
    factor = min(_FACTORS, key=lambda f: abs(f * value - tag.nominal))
    if tag.range[0] <= value * factor <= tag.range[1] and value != 0:
        return f"Times {factor:.3g} it would be in range: is it stored in another unit than {tag.unit}? "
    return f"Is it stored in another unit than {tag.unit}? "


def _steady(spec: PlantSpec, tags: list[Tag], facts: _Facts, where: str) -> list[Finding]:
    """Whether anything moves within any run."""
    spans = np.nan_to_num(facts.high - facts.low, nan=0.0).max(0)
    still = [max(_NOISE * t.noise, _STILL * (t.range[1] - t.range[0])) for t in tags]
    if (spans > still).any():
        return []
    return [Finding(
        Severity.ERROR, "nothing moves within any run: every tag stays within its noise", where,
        "Steady data teach no dynamics: move the MVs (`homeostat excite`) and record that.",
    )]  # fmt: skip


def _of_constants(spec: PlantSpec, runs: Sequence[Run], counts: Counts) -> list[Finding]:
    found = []
    for i, tag in enumerate(spec.constants):
        where = f"tag {tag.name} of {spec.name}"
        values = np.array([np.nan if r.constants is None else r.constants[i] for r in runs])
        known = values[np.isfinite(values)]
        if not len(known):
            found.append(_unread(spec, tag, counts))
            continue
        found += _range(spec, tag, counts)
        if len(known) < len(values):
            found.append(Finding(Severity.NOTE, f"{tag.name} is unknown in {len(values) - len(known)} runs", where,
                                 "It is masked there."))  # fmt: skip
        if np.ptp(known) == 0:
            found.append(Finding(Severity.WARNING, f"{tag.name} is {known[0]:g} {tag.unit} in every run", where,
                                 "What it does cannot be learned: record runs in which it differs."))  # fmt: skip
    return found


def _of_reading(counts: Counts, where: str) -> list[Finding]:
    """What was put right while reading."""
    said = {
        "out of order": (Severity.NOTE, "{n} samples of {tag} were stored out of order", "They are put in order."),
        "doubled": (Severity.NOTE, "{n} samples of {tag} share their time with a later one", "The last one stands."),
        "not finite": (Severity.NOTE, "{n} samples of {tag} are infinite", "They count as missing."),
        "overlapping": (
            Severity.WARNING, "{n} runs begin before the one before has ended",
            "Each begins where the other ends; record with one recorder at a time.",
        ),
        "text": (
            Severity.WARNING, "{n} samples of {tag} are no numbers: {first}",
            "They count as missing: they are what a historian writes for a reading it did not get.",
        ),
        "silent": (
            Severity.NOTE, "nothing was stored for a while within a run, {n} times",
            "What is read at each scan is missing there; what holds until it changes is not.",
        ),
        "changed within a run": (
            Severity.WARNING, "{tag} is declared constant and changes {n} times within a block of a run",
            "Its value at the start of each 180 samples counts: end the run when it changes, or declare it a DV.",
        ),
    }  # fmt: skip
    found = []
    for (what, tag), n in counts.items():
        if n and what in said:
            severity, text, fix = said[what]
            ts, shown = counts.first.get((what, tag), (0, ""))
            first = f"{shown!r} at {_moment(ts / 1e6)} is the first"
            found.append(Finding(severity, text.format(n=n, tag=tag, first=first), f"tag {tag}" if tag else where, fix))
    return found


def _moment(time_s: float) -> str:
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{time_s:.0f} s"
