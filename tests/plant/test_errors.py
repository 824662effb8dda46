"""Messages say what was wrong, where, and what to do."""

from __future__ import annotations

import pytest

from plant import errors
from plant.errors import HomeostatError, SpecError


def test_message_is_where_what_fix() -> None:
    error = SpecError("unknown key 'limts'", "tank.yaml", "Correct the file.")
    assert str(error) == "tank.yaml: unknown key 'limts'. Correct the file."
    assert (error.what, error.where, error.fix) == ("unknown key 'limts'", "tank.yaml", "Correct the file.")


def test_parts_may_be_missing() -> None:
    assert str(SpecError("broken")) == "broken"
    assert str(SpecError("broken", fix="Mend it.")) == "broken. Mend it."
    assert str(SpecError("broken", "here")) == "here: broken"


@pytest.mark.parametrize("name", ["SpecError", "LinkError", "HistorianError", "ModelError", "ControlError"])
def test_one_base_catches_them_all(name: str) -> None:
    kind = getattr(errors, name)
    with pytest.raises(HomeostatError, match="what"):
        raise kind("what", "where", "fix")
