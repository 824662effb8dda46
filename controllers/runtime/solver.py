"""A controller in a thread of its own: one question at a time, each with a deadline, late answers thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from controllers.contracts import Controller, Observation, Targets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """`decision` as the controller gave it (unchecked), or None with `late`, or None with what it raised in `error`."""

    decision: object = None
    late: bool = False
    error: str = ""


class Solver:
    """Runs `controller.decide` and `controller.reset` in one daemon thread, so that a controller that never answers can
    stop neither the loop nor the end of the program."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._questions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._pending: asyncio.Future[object] | None = None
        self._reset_wanted = False
        self._last_error = ""
        self._thread = threading.Thread(target=self._work, name="controller", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether an earlier question is still being worked on."""
        return self._pending is not None and not self._pending.done()

    def reset(self) -> None:
        """Have the controller forget its history before the next question."""
        self._reset_wanted = True

    async def decide(self, observation: Observation, targets: Targets, deadline_s: float) -> Answer:
        """Ask. Late when no answer comes within `deadline_s` wall seconds, or an earlier question is unanswered."""
        if self.busy:
            # It may finish within our time, but then it answered an old question: wait for the next sample.
            return Answer(late=True)
        running = asyncio.get_running_loop()
        pending: asyncio.Future[object] = running.create_future()
        self._pending, reset = pending, self._reset_wanted
        self._reset_wanted = False

        def settle(result: object) -> None:
            if not pending.done():
                pending.set_result(result)

        def answer() -> None:
            result: object
            try:
                if reset:
                    self._controller.reset()
                result = self._controller.decide(observation, targets)
            except Exception as e:
                # With its traceback once: a controller that always fails must not fill the disk.
                log.error("the controller failed: %r", e, exc_info=repr(e) != self._last_error)
                self._last_error = repr(e)
                result = e
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile: nobody waits
                running.call_soon_threadsafe(settle, result)

        self._questions.put(answer)
        done, _ = await asyncio.wait({pending}, timeout=deadline_s)
        if not done:
            return Answer(late=True)
        result = pending.result()
        if isinstance(result, Exception):
            return Answer(error=f"{type(result).__name__}: {result}")
        return Answer(decision=result)

    def close(self) -> None:
        """End the thread after the question it works on, if that ever ends."""
        self._questions.put(None)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            question()
