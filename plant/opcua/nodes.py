"""What both ends of a plant's OPC UA address space agree on: namespace, node ids, timestamps, quality."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from asyncua import ua

from plant.errors import SpecError
from plant.link import Quality
from plant.spec import PlantSpec, Tag

PLANT_URI = "urn:homeostat:plant"
PLANT_NAMESPACE = 2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Reg(StrEnum):
    """Browse names under Objects/<plant>/Regulatory. A foreign plant may have none of them."""

    MODE = "Mode"
    REQUEST_MODE = "RequestMode"
    CONTROLLER_HEARTBEAT = "ControllerHeartbeat"
    HEARTBEAT = "Heartbeat"
    INTERLOCK = "Interlock"
    CLOCK_SPEED = "ClockSpeed"
    SHED_REASON = "ShedReason"
    SCENARIO = "Scenario"


def plant_node_id(spec: PlantSpec) -> str:
    """The node id of the plant's object."""
    return f"ns={PLANT_NAMESPACE};s={spec.name}"


def regulatory_node_id(spec: PlantSpec) -> str:
    """The node id of the Regulatory object."""
    return f"{plant_node_id(spec)}.Regulatory"


def regulatory_node_ids(spec: PlantSpec) -> dict[Reg, str]:
    """Node ids of the regulatory layer's variables and method, derived from the plant's name."""
    return {name: f"{regulatory_node_id(spec)}.{name.value}" for name in Reg}


def tag_node_id(tag: Tag) -> ua.NodeId:
    """The node of a tag on the endpoint. `SpecError` when the spec's node id is not one."""
    try:
        return ua.NodeId.from_string(tag.node_id or "")
    except ua.UaStringParsingError as e:
        raise SpecError(f"not an OPC UA node id: {tag.node_id!r}", f"tag {tag.name}", "Write ns=2;s=Name.") from e


def to_datetime(time_s: float) -> datetime:
    """Plant time (s since the Unix epoch) as an OPC UA timestamp, to the microsecond."""
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
