"""Values in the types of other makes."""

from __future__ import annotations

import math

import pytest
from asyncua import ua
from hypothesis import given
from hypothesis import strategies as st

from plant.opcua.types import INTEGERS, NUMBERS, counted, number_in, plain_in, same, secret, written

V = ua.VariantType


@pytest.mark.parametrize("kind", sorted(NUMBERS, key=lambda k: k.value))
def test_every_number_is_written_in_its_own_type_and_read_back(kind: ua.VariantType) -> None:
    variant = written(1.0, kind, nearest=True)
    assert variant.VariantType is kind
    assert number_in(variant) == 1.0
    with pytest.raises(ValueError, match="no number"):
        written("1", kind)
    with pytest.raises(ValueError, match="no number"):
        written(math.nan, kind)


@given(kind=st.sampled_from(sorted(INTEGERS, key=lambda k: k.value)), value=st.floats(-1e20, 1e20))
def test_an_integer_node_gets_the_nearest_or_a_refusal(kind: ua.VariantType, value: float) -> None:
    low, high = INTEGERS[kind]
    if low <= round(value) <= high:
        assert abs(written(value, kind, nearest=True).Value - value) <= 0.5
    else:
        with pytest.raises(ValueError, match="does not fit"):
            written(value, kind, nearest=True)


def test_what_cannot_be_is_refused_and_never_sent() -> None:
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        written(0.4, V.Boolean)
    with pytest.raises(ValueError, match="no whole number"):
        written(0.4, V.Int16)
    with pytest.raises(ValueError, match="does not fit into the node's type Float"):
        written(1e39, V.Float)
    with pytest.raises(ValueError, match="no text"):
        written(True, V.String)
    with pytest.raises(ValueError, match="cannot be written"):
        written(1.0, V.ByteString)


@pytest.mark.parametrize("kind", [V.Byte, V.SByte, V.Int16, V.UInt32, V.Float, V.Double])
def test_a_counter_begins_again_where_its_type_ends(kind: ua.VariantType) -> None:
    values = [counted(k, kind).Value for k in (0, 1, 2**32 - 1, 2**32, 2**40)]
    assert values[:2] == [0, 1]
    assert all(0 <= v <= 2**32 for v in values)
    assert counted(7, kind).VariantType is kind


def test_a_text_is_no_number_and_true_is_one() -> None:
    assert same(True, 1)
    assert same(1, True)
    assert not same("1", 1)
    assert not same(1, "1")
    assert plain_in(ua.Variant(ua.LocalizedText("RCAS"), V.LocalizedText)) == "RCAS"
    assert plain_in(ua.Variant([1, 2], V.Int32)) is None
    assert "no value" in str(number_in(None))
    assert "String" in str(number_in(ua.Variant("5", V.String)))


def test_a_token_is_never_twice_the_same_nor_nothing() -> None:
    for kind in (V.String, V.UInt32, V.Int64):
        tokens = {secret(kind).Value for _ in range(100)}
        assert len(tokens) == 100
        assert not tokens & {0, ""}
    with pytest.raises(ValueError, match="16 bits"):
        secret(V.Byte)
