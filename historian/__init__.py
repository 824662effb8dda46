"""The time-series store: values with quality, events, operator actions, decisions and what they predicted."""

from historian.store import Historian

__all__ = ["Historian"]
