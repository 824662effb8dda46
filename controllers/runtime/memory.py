"""What a controller must not forget when it ends: a small file beside the historian."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from controllers.contracts import Mode
from controllers.runtime.alarms import Alarm, Severity
from controllers.runtime.supervisor import Supervisor
from controllers.runtime.targets import Change, Sides, TargetBoard
from plant.yaml_file import describe

log = logging.getLogger(__name__)
_LARGEST = 1_000_000  # bytes


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RememberedAlarm(_Strict):
    key: str
    severity: Severity
    message: str
    since_s: float
    active: bool
    acknowledged: bool


class Remembered(_Strict):
    """`mode`: what was in force; `wish`: what a person had asked for; `orderly`: the controller ended because it was told to.
    `before_auto`: where MVs stood before AUTO; `put_back`: they were, or a person has had a say since. `scheduled`: targets and
    zones that people have scheduled, from a plant time on; `taken`: what last came into force out of a schedule file."""

    version: Literal[1] = 1
    plant: str
    mode: Mode = Mode.OFF
    wish: Mode = Mode.OFF
    orderly: bool = False
    targets: dict[str, float] = {}
    zones: dict[str, Sides] = {}
    prices: dict[str, float] = {}
    scheduled: tuple[tuple[float, str, float | Sides], ...] = ()
    taken: tuple[tuple[float, str, float | Sides], ...] = ()
    limits: dict[str, tuple[float, float]] = {}
    before_auto: dict[str, float] = {}
    put_back: bool = True
    alarms: tuple[RememberedAlarm, ...] = ()


class Memory:
    """Keeps what it is given, newest first, in a thread of its own: a slow disk delays no decision. A file that is damaged, of
    another plant or of a later version is set aside with one warning."""

    def __init__(self, path: Path, plant: str) -> None:
        self._path, self._plant = path, plant
        self._kept: Remembered | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="controller memory")
        self._refused = ""

    def recall(self) -> Remembered | None:
        """What was kept last; None when there is nothing that can be used."""
        try:
            with self._path.open("rb") as file:
                text = file.read(_LARGEST + 1)
            found = Remembered.model_validate_json(text)
            if found.plant != self._plant:
                raise ValueError(f"it is of plant {found.plant}")
            return found
        except FileNotFoundError:
            return None
        except ValidationError as e:
            why = describe(e)
        except (OSError, ValueError) as e:
            why = str(e)
        log.warning(
            "%s cannot be used (%.300s): the controller starts from its defaults; the file is set aside",
            self._path,
            why,
        )
        with contextlib.suppress(OSError):
            os.replace(self._path, self._path.with_suffix(".damaged"))
        return None

    def keep(self, facts: Remembered) -> None:
        """Store `facts` unless they are stored."""
        if facts != self._kept:
            self._kept = facts
            self._thread.submit(self._store, facts)

    def close(self) -> None:
        """Store what is left. The memory is not used after it."""
        self._thread.shutdown(wait=True)

    def _store(self, facts: Remembered) -> None:
        if facts is not self._kept:
            return  # a newer one waits
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(facts.model_dump_json())
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
            self._refused = ""
        except OSError as e:
            if self._refused != str(e):  # once
                log.warning("%s cannot be written: %s: a restart will not know what is in force", self._path, e)
            self._refused = str(e)


def remembered(supervisor: Supervisor, targets: TargetBoard, plant: str) -> Remembered:
    """What is in force now."""
    fallback = supervisor.fallback
    return Remembered(
        plant=plant,
        mode=supervisor.mode,
        wish=supervisor.target,
        targets=targets.values,
        zones=targets.zones,
        prices=targets.prices,
        scheduled=tuple((c.at_s, c.tag, c.asked) for c in targets.by_hand),
        taken=tuple((c.at_s, c.tag, c.asked) for c in targets.taken),
        limits=supervisor.clamp.asked,
        before_auto={mv: v for mv, v in fallback.before_auto.items() if math.isfinite(v)},
        put_back=fallback.put_back and not supervisor.active,
        alarms=tuple(
            RememberedAlarm(
                key=a.key,
                severity=a.severity,
                message=a.message,
                since_s=a.since_s,
                active=a.active,
                acknowledged=a.acknowledged,
            )
            for a in supervisor.alarms
        ),
    )


def restore(kept: Remembered, supervisor: Supervisor, targets: TargetBoard) -> str:
    """Put back in force what still fits the plant. Returns why AUTO waits for a person, '' when it need not."""
    asked = [targets.set(tag, value) for tag, value in kept.targets.items()]
    asked += [targets.set_zone(tag, *sides) for tag, sides in kept.zones.items()]
    asked += [targets.set_cost(tag, per_unit) for tag, per_unit in kept.prices.items()]
    asked += [targets.schedule(Change(*change)) for change in kept.scheduled]
    targets.restore_taken(Change(*change) for change in kept.taken)
    asked += [supervisor.clamp.ask(mv, *limits) for mv, limits in kept.limits.items()]
    for refusal in filter(None, asked):
        log.warning("what was in force before the restart no longer fits the plant: %s", refusal)
    supervisor.alarms.restore(Alarm(**a.model_dump()) for a in kept.alarms)
    if not kept.put_back:
        supervisor.fallback.recall(kept.before_auto)
    if kept.mode is Mode.SHED:
        return "the controller was restarted after a shed"
    if kept.mode in (Mode.AUTO, Mode.MANUAL) and not kept.orderly:
        return f"the controller ended in {kept.mode} without giving the plant back"
    return ""
