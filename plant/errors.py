"""The errors a user of Homeostat meets. Each message says what was wrong, where, and what to do."""

from __future__ import annotations


class HomeostatError(Exception):
    """Base of every error raised on purpose.

    **Arguments:**

    - `what`: what was wrong, e.g. ``"unknown key 'limts'"``.
    - `where`: the file and field, the endpoint and node, or the table it was found in.
    - `fix`: what the reader should do next.
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(". ".join(part for part in (f"{where}: {what}" if where else what, fix) if part))


class SpecError(HomeostatError):
    """A plant or controller description is wrong."""


class LinkError(HomeostatError):
    """The plant cannot be reached, or refused what was asked."""


class HistorianError(HomeostatError):
    """The time-series store cannot be opened, read or written."""


class ModelError(HomeostatError):
    """A world model cannot be trained, loaded or used on this plant."""


class ControlError(HomeostatError):
    """A controller was asked for something it must refuse."""
