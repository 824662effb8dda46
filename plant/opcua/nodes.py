"""What every client and server of OPC UA here agrees on: namespaces, node ids, timestamps, quality."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from asyncua import ua

from plant.errors import LinkError
from plant.link import Quality
from plant.node_ids import NodeAddress

PLANT_URI = "urn:homeostat:plant"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = datetime(1601, 1, 1, tzinfo=UTC)  # what an OPC UA DateTime can say (Part 6, 5.2.2.5)
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def node_id(address: NodeAddress, index: int) -> ua.NodeId:
    """The node of an address whose namespace is at `index`. `LinkError` for a GUID or ByteString that is none."""
    try:
        return ua.NodeId.from_string(f"ns={index};{address.identifier}")
    except (ua.UaError, ValueError) as e:
        raise LinkError(f"not an OPC UA node id: {address.text}", "plant file", "Correct it.") from e


def resolve(addresses: Mapping[str, NodeAddress], table: Sequence[str], endpoint: str) -> dict[str, ua.NodeId]:
    """The node id of each field's address, by the server's present NamespaceArray `table`. `LinkError` names the fields whose
    URI the server does not have: a namespace that is gone must never be looked for by its old index."""
    missing: dict[str, list[str]] = {}
    for field, a in addresses.items():
        if a.uri is not None and a.uri not in table:
            missing.setdefault(a.uri, []).append(field)
    if missing:
        listed = "; ".join(f"no namespace '{uri}' (of {_few(fields)})" for uri, fields in missing.items())
        raise LinkError(f"the server has {listed}", endpoint, f"Correct namespaces; the server has {', '.join(table)}.")
    return {field: node_id(a, a.index if a.uri is None else list(table).index(a.uri)) for field, a in addresses.items()}


def moved(addresses: Mapping[str, NodeAddress], before: Sequence[str], table: Sequence[str]) -> str:
    """Why plain `ns=N` ids can no longer be trusted: what stood at an index they use has changed between two connections.
    '' while nothing has."""
    for field, a in addresses.items():
        if a.uri is None and a.index > 0:
            was, now = (t[a.index] if a.index < len(t) else "nothing" for t in (before, table))
            if was != now:
                return f"namespace {a.index} was '{was}' and is now '{now}': {field} ({a.text}) may be another's node"
    return ""


def _few(fields: Sequence[str]) -> str:
    return ", ".join(fields[:3]) + (f" and {len(fields) - 3} more" if len(fields) > 3 else "")


def to_datetime(time_s: float) -> datetime:
    """Plant time (s since the Unix epoch) as an OPC UA timestamp, to the microsecond, within what one can say."""
    if not (_FIRST - _EPOCH).total_seconds() <= time_s <= (_LAST - _EPOCH).total_seconds():  # NaN too
        return _LAST if time_s > 0 else _FIRST
    return _EPOCH + timedelta(microseconds=round(time_s * 1e6))


def to_seconds(stamp: datetime) -> float:
    """An OPC UA timestamp as plant time, s since the Unix epoch. A naive one is UTC, as OPC UA says."""
    aware = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    return (aware - _EPOCH) / timedelta(seconds=1)


def quality_of(status: ua.StatusCode | None) -> Quality:
    """The severity of a status code; a missing one means Good (OPC UA Part 6, 5.2.2.17)."""
    if status is None or status.is_good():
        return Quality.GOOD
    return Quality.UNCERTAIN if status.is_uncertain() else Quality.BAD


def reason_of(status: ua.StatusCode) -> str:
    """A status code in words."""
    return f"{status.name} ({status.doc.rstrip('.')})" if status.doc else status.name


def good(dv: ua.DataValue) -> object | None:
    """The value of an answer that is Good; None for any other."""
    return dv.Value.Value if dv.Value is not None and quality_of(dv.StatusCode) is Quality.GOOD else None
