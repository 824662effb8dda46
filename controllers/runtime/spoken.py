"""What people say to a controller: texts as they may be stored, shown and logged."""

from __future__ import annotations

WHO, KEY, REASON, ANSWER = 64, 200, 500, 1000
"""The longest name of a person, key of an alarm, reason and answer that is kept (characters)."""


def plain(text: str, longest: int) -> str:
    """`text` on one line of at most `longest` characters: what would break a line or hide in it becomes a space, so that
    nobody writes a log's next line."""
    kept = "".join(c if c.isprintable() else " " for c in text[: 4 * longest])
    words = " ".join(kept.split())
    return words if len(words) <= longest else f"{words[: longest - 3]}..."
