"""Does the model deserve AUTO? Doubts about it refuse AUTO until a named person sets them aside. What concerns the plant's
safety is no doubt, and nobody sets it aside."""

from __future__ import annotations

from collections.abc import Sequence

_COLD = "whether the plant follows the model cannot be judged yet: too few samples in a row"


class Trust:
    """**Arguments:**

    - `doubts`: what speaks against the model from the start: its checkpoint, its numbers, its commissioning record.
    """

    def __init__(self, doubts: Sequence[str]) -> None:
        self._doubts = tuple(doubts)
        self._set_aside: set[str] = set()
        self._cold = False
        self.by = ""
        """Who set doubts aside, and why; '' when nobody did."""

    def watch(self, cold: bool) -> None:
        """Whether surprise cannot be judged yet."""
        self._cold = cold
        if not cold:
            self._set_aside.discard(_COLD)  # that was for one start; the next is a new one

    @property
    def doubts(self) -> tuple[str, ...]:
        """Every doubt that stands, set aside or not."""
        return (*self._doubts, *([_COLD] if self._cold else []))

    @property
    def blockers(self) -> list[str]:
        """Doubts that nobody has set aside."""
        return [d for d in self.doubts if d not in self._set_aside]

    def override(self, who: str, reason: str) -> str:
        """Set aside the doubts that stand now. Returns '' or why not."""
        if not who or not reason:
            return "an override needs the name of a person and a reason"
        if not self.blockers:
            return "there is no doubt to override; what else blocks AUTO cannot be overridden"
        self._set_aside |= set(self.doubts)
        self.by = f"{who}: {reason}"
        return ""
