"""Compare a plant file with what its endpoint really offers. Reads only."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from asyncua import ua

from plant.clock import ScaledClock
from plant.fights import fights
from plant.judgement import judged
from plant.link import PlantMode, Quality, Value
from plant.opcua.holding import Holder, kind_of
from plant.opcua.nodes import good, node_id, quality_of, reason_of, to_seconds
from plant.opcua.session import Session
from plant.opcua.stamps import PlantDate
from plant.opcua.types import NUMBERS, number_in, written
from plant.spec import PlantSpec, Tag


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


async def check(spec: PlantSpec, endpoint: str | None = None, timeout_s: float = 5.0) -> list[Finding]:
    """What is wrong or odd about `spec` at `endpoint` (default the spec's); empty when all agrees.

    What is wanted that fights, namespaces, nodes, data types, EURange, EngineeringUnits, access rights, present values and every node of the handshake.
    Raises `LinkError` when the endpoint cannot be reached.
    """
    session = await Session.open(endpoint or spec.endpoint, timeout_s)
    try:
        table = await session.namespaces()
        nodes = dict(_resolved(spec, table))
        found = [Finding(Severity.WARNING, fight.tag, fight.what, fight.fix) for fight in fights(spec)]
        found += _namespaces(spec, table)
        present = await _tags(session, spec, nodes, found)
        properties = await session.children([nodes[t.name] for t in present], ["EURange", "EngineeringUnits"])
        known = [node for node in properties if node is not None]
        read = dict(zip(known, await session.read(known), strict=True)) if known else {}
        for k, tag in enumerate(present):
            declared = [good(read[p]) if p is not None else None for p in properties[2 * k : 2 * k + 2]]
            found.extend(_declared(tag, *declared))
        found.extend(await _handshake(session, spec, nodes))
        return found
    finally:
        await session.close()


def _resolved(spec: PlantSpec, table: list[str]) -> Iterator[tuple[str, ua.NodeId]]:
    for field, a in spec.addresses.items():
        if a.uri is None or a.uri in table:
            yield field, node_id(a, a.index if a.uri is None else table.index(a.uri))


def _namespaces(spec: PlantSpec, table: list[str]) -> Iterator[Finding]:
    missing: dict[str, list[str]] = {}
    plain: dict[int, list[str]] = {}
    for field, a in spec.addresses.items():
        if a.uri is not None and a.uri not in table:
            missing.setdefault(a.uri, []).append(field)
        elif a.uri is None and a.index > 0:
            plain.setdefault(a.index, []).append(field)
    for uri, fields in missing.items():
        what = f"the server has no namespace '{uri}', which {_listed(fields)} name"
        yield Finding(Severity.ERROR, "", what, f"Correct namespaces; the server has {', '.join(table)}.")
    for index, fields in plain.items():
        uri = table[index] if index < len(table) else None
        if uri is not None:
            what = f"{_listed(fields)} are written with ns={index}, which may be another's when the server starts again"
            yield Finding(Severity.WARNING, "", what, f'Write namespaces: {{a: "{uri}"}} and node ids as a:...')


def _listed(fields: list[str]) -> str:
    return ", ".join(fields[:3]) + (f" and {len(fields) - 3} more" if len(fields) > 3 else "")


async def _tags(session: Session, spec: PlantSpec, nodes: Mapping[str, ua.NodeId], found: list[Finding]) -> list[Tag]:
    """The tags whose nodes are there; what is wrong with any of them is added to `found`."""
    wanted = [t for t in spec.online if t.name in nodes]
    answers = await session.read_attributes([(nodes[t.name], a) for t in wanted for a in _ATTRIBUTES])
    size = len(_ATTRIBUTES)
    by_tag = [dict(zip(_ATTRIBUTES, answers[i * size : (i + 1) * size], strict=True)) for i in range(len(wanted))]
    stamps = [
        to_seconds(dv.SourceTimestamp)
        for tag, attributes in zip(wanted, by_tag, strict=True)
        if tag.scanned and (dv := attributes[ua.AttributeIds.Value]).SourceTimestamp is not None
    ]
    now_s = PlantDate(spec, ScaledClock()).follow(stamps, 1.0)
    present: list[Tag] = []
    for tag, attributes in zip(wanted, by_tag, strict=True):
        if good(attributes[ua.AttributeIds.NodeClass]) is None:
            what = f"no node {tag.node_id} on the endpoint"
            found.append(Finding(Severity.ERROR, tag.name, what, "Correct its node_id."))
            continue
        present.append(tag)
        value = attributes[ua.AttributeIds.Value]
        kind = await kind_of(session, attributes[ua.AttributeIds.DataType], value)
        found.extend(_attributes(spec, tag, attributes, kind, now_s))
    for tag in present:
        if (node := nodes.get(f"{tag.name}.move.write_node")) is not None:
            found.extend(await _write_node(session, tag, node))
    return present


def _attributes(
    spec: PlantSpec, tag: Tag, attributes: Mapping[ua.AttributeIds, ua.DataValue], kind: ua.VariantType | None,
    now_s: float,
) -> Iterator[Finding]:  # fmt: skip
    if good(attributes[ua.AttributeIds.NodeClass]) != ua.NodeClass.Variable:
        yield Finding(Severity.ERROR, tag.name, f"{tag.node_id} is not a variable", "Point node_id at the variable.")
        return
    if kind is not None and kind not in NUMBERS:
        what = f"its data type is {kind.name}, not a number"
        yield Finding(Severity.ERROR, tag.name, what, "Point node_id at a number.")
        return
    levels = _access(attributes[ua.AttributeIds.AccessLevel], attributes[ua.AttributeIds.UserAccessLevel])
    if not levels & ua.AccessLevel.CurrentRead.mask:
        yield Finding(Severity.ERROR, tag.name, "may not be read by this user", "Grant read access on the server.")
    if tag.move is not None and tag.move.write_node is None:
        if not levels & ua.AccessLevel.CurrentWrite.mask:
            yield Finding(
                Severity.ERROR, tag.name, "an MV that may not be written", "Grant write access on the server."
            )
        yield from _unfit(tag, kind)
    yield from _present_value(spec, tag, attributes[ua.AttributeIds.Value], now_s)


def _access(*levels: ua.DataValue) -> int:
    """What both the node and this user allow."""
    both = 0xFF
    for level in levels:
        value = good(level)
        both &= value if isinstance(value, int) else 0
    return both


async def _write_node(session: Session, tag: Tag, node: ua.NodeId) -> list[Finding]:
    """Whether moves fit into an MV's write node; that it is there and may be written is asked with the handshake."""
    kind = await kind_of(
        session, *await session.read_attributes([(node, ua.AttributeIds.DataType), (node, ua.AttributeIds.Value)])
    )
    return [] if kind is None else list(_unfit(tag, kind))


def _unfit(tag: Tag, kind: ua.VariantType | None) -> Iterator[Finding]:
    """Whether the type of an MV's node can carry its limits."""
    assert tag.move is not None
    if kind is None:
        what = "the server does not say the type of its node, so it cannot be written"
        yield Finding(Severity.ERROR, tag.name, what, "See the server.")
        return
    try:
        for value in tag.move.limits:
            written(value, kind, nearest=True)
    except ValueError as e:
        yield Finding(Severity.ERROR, tag.name, f"cannot be written within its limits: {e}", "Correct limits or node.")


def _present_value(spec: PlantSpec, tag: Tag, dv: ua.DataValue, now_s: float) -> Iterator[Finding]:
    """The value as the link would judge it."""
    number, status = number_in(dv.Value), dv.StatusCode
    if status is not None and quality_of(status) is Quality.BAD:
        yield Finding(Severity.WARNING, tag.name, f"its value is bad: {reason_of(status)}", "Look at the sensor.")
        return
    if isinstance(number, str):
        value = dv.Value.Value if dv.Value is not None else None
        usable = value is None or isinstance(value, float)  # nothing yet, or NaN: a number may come
        severity = Severity.WARNING if usable else Severity.ERROR
        fix = "Look at the sensor." if usable else "Point node_id at a single number."
        yield Finding(severity, tag.name, f"its value is {number}", fix)
        return
    stamp = dv.SourceTimestamp or dv.ServerTimestamp
    time_s = now_s if stamp is None else to_seconds(stamp)
    value = judged(tag, Value(number, Quality.GOOD, time_s), now_s, spec.stamp_window_s)
    if value.quality is Quality.BAD:
        fix = "Correct unit or range in the plant file." if "range" in value.reason else "Correct the server's clock."
        yield Finding(Severity.WARNING, tag.name, f"its value is not usable: {value.reason}", fix)
    elif not tag.range[0] <= number <= tag.range[1]:
        what = f"its value {number:g} {tag.unit} is outside range {list(tag.range)}"
        yield Finding(Severity.WARNING, tag.name, what, "Correct unit or range in the plant file.")


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


async def _handshake(session: Session, spec: PlantSpec, nodes: Mapping[str, ua.NodeId]) -> list[Finding]:
    """Every node of the handshake, by reading: nothing is asked for."""
    holder = Holder(spec)
    await holder.learn(session, nodes)
    held = await holder.look(session)
    found = [Finding(Severity.ERROR, "", fault, "Correct the plant file, or the server.") for fault in held.faults]
    if spec.handshake is None:
        what = "the plant file has no handshake and no regulatory layer: nothing takes over when the controller dies"
        fix = "Run advisory only, or describe under handshake who holds the plant."
        return [*found, Finding(Severity.WARNING, "", what, fix)]
    if spec.handshake.watchdog.form == "none":
        what = "handshake.watchdog is none: nobody at the plant notices a controller that dies"
        found.append(Finding(Severity.WARNING, "", what, "Have the plant watch a counter, a bit or a countdown."))
    if spec.handshake.permit is not None and held.mode is PlantMode.REMOTE:
        what = "handshake.granted.node says that the plant is given away, and we have not asked"
        found.append(Finding(Severity.WARNING, "", what, "See who holds it, or whether the node ever says otherwise."))
    return found
