"""Values in the types of a server of any make: every number, truth values, subtypes of numbers, enumerations, texts."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import math
import secrets

from asyncua import ua

from plant.handshake import Plain

_V = ua.VariantType
INTEGERS: dict[ua.VariantType, tuple[int, int]] = {
    _V.SByte: (-(2**7), 2**7 - 1),
    _V.Byte: (0, 2**8 - 1),
    _V.Int16: (-(2**15), 2**15 - 1),
    _V.UInt16: (0, 2**16 - 1),
    _V.Int32: (-(2**31), 2**31 - 1),
    _V.UInt32: (0, 2**32 - 1),
    _V.Int64: (-(2**63), 2**63 - 1),
    _V.UInt64: (0, 2**64 - 1),
}
"""The integers of OPC UA and what each can hold."""
NUMBERS = frozenset({_V.Boolean, _V.Float, _V.Double, *INTEGERS})
"""The types whose values are read as numbers; a Boolean as 0 or 1."""
_FLOAT_MAX = 3.4028234e38
_FLOAT_COUNTS = 2**24  # up to here a Float holds every integer


def builtin(data_type: ua.NodeId) -> ua.VariantType | None:
    """The built-in type of a data type of namespace 0, where it is one (an enumeration travels as Int32); else None."""
    if data_type.NamespaceIndex != 0 or not isinstance(data_type.Identifier, int):
        return None
    if data_type.Identifier == ua.ObjectIds.Enumeration:
        return _V.Int32
    return _V(data_type.Identifier) if 1 <= data_type.Identifier <= 23 else None


def number_in(value: ua.Variant | None) -> float | str:
    """The number in a variant, or why there is none."""
    if value is None or value.Value is None:
        return "no value"
    if value.is_array or isinstance(value.Value, list):
        return f"an array of {len(value.Value)}, not a number" if isinstance(value.Value, list) else "an array"
    if not isinstance(value.Value, bool | int | float):
        return f"not a number but {value.VariantType.name}: {str(value.Value)[:40]!r}"
    number = float(value.Value)
    return number if math.isfinite(number) else f"not a finite number: {number}"


def plain_in(value: ua.Variant | None) -> Plain | None:
    """A single truth value, number or text in a variant; None for anything else."""
    raw = None if value is None or value.is_array else value.Value
    if isinstance(raw, ua.LocalizedText):
        raw = raw.Text
    return raw if isinstance(raw, bool | int | float | str) else None


def comparable(reading: Plain, wanted: Plain) -> bool:
    """Whether a reading can ever be what is wanted: a text is no number."""
    return isinstance(reading, str) == isinstance(wanted, str)


def same(reading: Plain, wanted: Plain) -> bool:
    """Whether a reading is what is wanted; true is 1."""
    return comparable(reading, wanted) and reading == wanted


def written(value: Plain, kind: ua.VariantType, nearest: bool = False) -> ua.Variant:
    """`value` in a node's own type. `ValueError` says why it does not fit. `nearest`: an integer node takes the nearest one."""
    if kind is _V.String:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text, and the node's type is String")
        return ua.Variant(value, kind)
    if kind not in NUMBERS:
        raise ValueError(f"the node's type is {kind.name}, which cannot be written")
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number, and the node's type is {kind.name}")
    if kind is _V.Boolean:
        if value not in (0, 1):
            raise ValueError(f"{value:g} is neither 0 nor 1, and the node's type is Boolean")
        return ua.Variant(bool(value), kind)
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        if not nearest and value != round(value):
            raise ValueError(f"{value:g} is no whole number, and the node's type is {kind.name}")
        if not low <= round(value) <= high:
            raise ValueError(f"{value:g} does not fit into the node's type {kind.name}")
        return ua.Variant(round(value), kind)
    if kind is _V.Float and abs(value) > _FLOAT_MAX:
        raise ValueError(f"{value:g} does not fit into the node's type Float")
    return ua.Variant(float(value), kind)


def counted(counter: int, kind: ua.VariantType) -> ua.Variant:
    """A rising counter in a node's own type; it begins again at 0 where the type ends. `ValueError` for a type without room."""
    if kind in INTEGERS:
        return ua.Variant(counter % (INTEGERS[kind][1] + 1), kind)
    if kind in (_V.Float, _V.Double):
        return ua.Variant(float(counter % _FLOAT_COUNTS), kind)
    raise ValueError(f"a counter needs a number, and the node's type is {kind.name}")


def secret(kind: ua.VariantType) -> ua.Variant:
    """A random value only its writer knows, never 0. `ValueError` for a type that cannot hold one."""
    if kind is _V.String:
        return ua.Variant(secrets.token_hex(16), kind)
    if kind in INTEGERS and INTEGERS[kind][1] >= 2**15 - 1:
        return ua.Variant(1 + secrets.randbelow(INTEGERS[kind][1]), kind)
    raise ValueError(f"a token needs a text or an integer of 16 bits or more, and the node's type is {kind.name}")
