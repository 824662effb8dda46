"""What is new, and for how long nothing was."""

from __future__ import annotations

import math

import pytest

from dashboard.news import Listener, News, duration


def test_only_a_change_is_news():
    listener = Listener()
    assert not listener.news().ever
    listener.hear(1)
    assert not listener.news().fresh, "what stands there first may be hours old"
    listener.hear(1)
    assert not listener.news().fresh
    listener.hear(0)
    assert listener.news().fresh, "a counter that begins anew is news"
    assert listener.news(patience_s=-1.0).silent


def test_what_never_changed_is_silent_after_the_patience_too():
    assert News(4.0, 3.0, ever=False).silent
    assert not News(2.0, 3.0, ever=False).silent
    assert not News(2.0, 3.0, ever=False).fresh


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (-3600, "60 min"),
        (18_000, "5 h"),
        (18_600, "5 h 10 min"),
        (400_000, "5 d"),
        (math.inf, "–"),
    ],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
