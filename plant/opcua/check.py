"""Compare a plant file with what its endpoint really offers. Reads only."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from asyncua import ua

from plant.link import Quality
from plant.opcua.nodes import Reg, quality_of, reason_of, regulatory_node_ids, tag_node_id
from plant.opcua.session import Session
from plant.spec import PlantSpec, Role, Tag


class Severity(StrEnum):
    """ERROR: the plant cannot be run like this. WARNING: it can, but look. NOTE: for information."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One difference between the plant file and the endpoint. `tag` is '' for the plant as a whole."""

    severity: Severity
    tag: str
    what: str
    fix: str


_ATTRIBUTES = (
    ua.AttributeIds.NodeClass,
    ua.AttributeIds.DataType,
    ua.AttributeIds.AccessLevel,
    ua.AttributeIds.UserAccessLevel,
    ua.AttributeIds.Value,
)
_NUMERIC = {ua.NodeId(i) for i in (*range(2, 12), ua.ObjectIds.Number, ua.ObjectIds.Integer, ua.ObjectIds.UInteger)}


async def check(spec: PlantSpec, endpoint: str | None = None, timeout_s: float = 5.0) -> list[Finding]:
    """What is wrong or odd about `spec` at `endpoint` (default the spec's); empty when all agrees.

    Nodes, data types, EURange, EngineeringUnits, access rights, present values, the regulatory layer. Raises `LinkError`
    when the endpoint cannot be reached.
    """
    session = await Session.open(endpoint or spec.endpoint, timeout_s)
    try:
        nodes = [tag_node_id(t) for t in spec.online]
        answers = await session.read_attributes([(node, a) for node in nodes for a in _ATTRIBUTES])
        size = len(_ATTRIBUTES)
        found: list[Finding] = []
        present: list[tuple[Tag, ua.NodeId]] = []
        for i, (tag, node) in enumerate(zip(spec.online, nodes, strict=True)):
            attributes = dict(zip(_ATTRIBUTES, answers[i * size : (i + 1) * size], strict=True))
            if _value(attributes[ua.AttributeIds.NodeClass]) is None:
                found.append(
                    Finding(Severity.ERROR, tag.name, f"no node {tag.node_id} on the endpoint", "Correct its node_id.")
                )
                continue
            present.append((tag, node))
            found.extend(_attributes(tag, attributes))
        properties = await session.children([node for _, node in present], ["EURange", "EngineeringUnits"])
        known = [node for node in properties if node is not None]
        read = dict(zip(known, await session.read(known), strict=True)) if known else {}
        for k, (tag, _) in enumerate(present):
            declared = [_value(read[p]) if p is not None else None for p in properties[2 * k : 2 * k + 2]]
            found.extend(_declared(tag, *declared))
        found.extend(await _regulatory(session, spec))
        return found
    finally:
        await session.close()


def _attributes(tag: Tag, attributes: Mapping[ua.AttributeIds, ua.DataValue]) -> Iterator[Finding]:
    if _value(attributes[ua.AttributeIds.NodeClass]) != ua.NodeClass.Variable:
        yield Finding(Severity.ERROR, tag.name, f"{tag.node_id} is not a variable", "Point node_id at the variable.")
        return
    data_type = _value(attributes[ua.AttributeIds.DataType])
    if data_type not in _NUMERIC:
        shown = getattr(data_type, "Identifier", data_type)
        name = ua.ObjectIdNames.get(shown, shown) if isinstance(shown, int) else shown
        yield Finding(Severity.ERROR, tag.name, f"its data type is {name}, not a number", "Point node_id at a number.")
    levels = [_value(attributes[a]) for a in (ua.AttributeIds.AccessLevel, ua.AttributeIds.UserAccessLevel)]
    bits = [level if isinstance(level, int) else 0 for level in levels]
    if not all(bit & ua.AccessLevel.CurrentRead.mask for bit in bits):
        yield Finding(Severity.ERROR, tag.name, "may not be read by this user", "Grant read access on the server.")
    if tag.role is Role.MV and not all(bit & ua.AccessLevel.CurrentWrite.mask for bit in bits):
        yield Finding(Severity.ERROR, tag.name, "an MV that may not be written", "Grant write access on the server.")
    yield from _present_value(tag, attributes[ua.AttributeIds.Value])


def _present_value(tag: Tag, dv: ua.DataValue) -> Iterator[Finding]:
    value = dv.Value.Value if dv.Value is not None else None
    if dv.StatusCode is not None and quality_of(dv.StatusCode) is Quality.BAD:
        yield Finding(
            Severity.WARNING, tag.name, f"its value is bad: {reason_of(dv.StatusCode)}", "Look at the sensor."
        )
    elif not isinstance(value, int | float) or not math.isfinite(value):
        yield Finding(Severity.WARNING, tag.name, f"its value is {value!r}", "Look at the sensor.")
    elif not tag.range[0] <= value <= tag.range[1]:
        yield Finding(
            Severity.WARNING,
            tag.name,
            f"its value {value:g} {tag.unit} is outside range {list(tag.range)}",
            "Correct unit or range in the plant file.",
        )


def _declared(tag: Tag, eu_range: object, units: object) -> Iterator[Finding]:
    if eu_range is None:
        yield Finding(Severity.NOTE, tag.name, "the node has no EURange to compare with", "Make sure of the range.")
    elif (low := getattr(eu_range, "Low", None), high := getattr(eu_range, "High", None)) != tag.range:
        yield Finding(
            Severity.WARNING,
            tag.name,
            f"EURange is [{low}, {high}], the plant file says {list(tag.range)}",
            f"Set range: [{low}, {high}], or correct the server.",
        )
    text = getattr(getattr(units, "DisplayName", None), "Text", None)
    if text is None:
        yield Finding(
            Severity.NOTE, tag.name, "the node has no EngineeringUnits to compare with", "Make sure of the unit."
        )
    elif text != tag.unit:
        yield Finding(
            Severity.WARNING,
            tag.name,
            f"EngineeringUnits is '{text}', the plant file says '{tag.unit}'",
            "Values are not converted: use the server's unit in the plant file.",
        )


async def _regulatory(session: Session, spec: PlantSpec) -> list[Finding]:
    ids = regulatory_node_ids(spec)
    answers = await session.read([ua.NodeId.from_string(i) for i in ids.values()], ua.AttributeIds.NodeClass)
    missing = [name.value for name, dv in zip(ids, answers, strict=True) if _value(dv) is None]
    if len(missing) == len(Reg):
        return [
            Finding(
                Severity.WARNING,
                "",
                "no regulatory layer on the endpoint: nothing takes over when the controller dies",
                "Run advisory only, or provide local control, a watchdog and its nodes at the plant.",
            )
        ]
    return [
        Finding(Severity.ERROR, "", f"no node {ids[Reg(name)]}", "The regulatory layer must offer all of its nodes.")
        for name in missing
    ]


def _value(dv: ua.DataValue) -> object | None:
    return dv.Value.Value if dv.Value is not None and quality_of(dv.StatusCode) is Quality.GOOD else None
