"""The filter's benchmark: the attacks it filters are real, and what it calls avoidable is."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.guardrail_filter import Constant, Noted, controllers, play_reactor, play_vandevusse
from plant.spec import load_spec


@pytest.mark.parametrize(
    ("plant", "name", "play"),
    [("reactor_bare", "hottest move", play_reactor), ("vandevusse", "no cooling", play_vandevusse)],
)
def test_alone_the_attack_breaks_what_could_have_been_kept(plant: str, name: str, play) -> None:
    spec = load_spec(plant)
    noted = Noted(controllers(spec)[name])
    seen, broke, avoidable = play(spec)(noted, 3, 0)
    assert broke.all()
    assert avoidable.all()
    assert np.shape(noted.rows) == seen.moves.shape[1::-1]
    assert not np.any(noted.rows)


def test_the_fallback_itself_avoids_everything_on_vandevusse() -> None:
    spec = load_spec("vandevusse")
    safe = Constant(spec, *(t.move.safe for t in spec.mvs if t.move))
    assert not play_vandevusse(spec)(safe, 3, 0)[1].any()
