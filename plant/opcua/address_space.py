"""The address space of a plant's server, and the gate that decides which writes of clients are taken."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AddressSpace, AttributeService

from plant.errors import SpecError
from plant.handshake import Handshake, NodeOf
from plant.opcua.nodes import PLANT_URI, resolve
from plant.spec import PlantSpec, Role, Tag

Gate = Callable[[ua.NodeId, ua.DataValue], Awaitable[ua.StatusCode]]
RequestMode = Callable[..., Awaitable[ua.CallMethodResult]]

PARTS: dict[str, tuple[ua.VariantType, object, str]] = {
    "granted": (ua.VariantType.Int32, 0, "Who moves the MVs: 0 LOCAL, 1 REMOTE"),
    "watchdog": (ua.VariantType.UInt32, 0, "Written by the holder; LOCAL when it stops in REMOTE"),
    "alive": (ua.VariantType.UInt32, 0, "Scans of the regulatory layer"),
    "owner": (ua.VariantType.String, "", "The session that holds REMOTE: its name and id; empty in LOCAL"),
    "speed": (ua.VariantType.Double, 1.0, "Plant seconds per wall second"),
    "reason": (ua.VariantType.String, "", "Why the regulatory layer last took the MVs"),
    "interlock": (ua.VariantType.Boolean, False, "An interlock holds an MV"),
    "scenario": (ua.VariantType.String, "", "What a simulated plant lives through, as JSON; empty for a real one"),
}
"""The variables of the simulated plant's own layer by their part of the handshake: type, first value, description."""
TAKE_LOCAL = "TakeLocal"


class GatedWrites(AttributeService):
    """Writes of clients go through `gate`, which answers with the status code the client sees; ours go straight in."""

    def __init__(self, aspace: AddressSpace, gate: Gate) -> None:
        super().__init__(aspace)
        self._gate = gate

    async def write(self, params: ua.WriteParameters, user: User = User(role=UserRole.Admin)) -> list[ua.StatusCode]:
        if user.role is UserRole.Admin:
            return await super().write(params, user)
        return [await self._gate_one(item) for item in params.NodesToWrite]

    async def _gate_one(self, item: ua.WriteValue) -> ua.StatusCode:
        if item.NodeId not in self._aspace:
            return ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown)
        if item.AttributeId != ua.AttributeIds.Value:
            return ua.StatusCode(ua.StatusCodes.BadUserAccessDenied)
        if item.IndexRange or (item.Value.StatusCode is not None and not item.Value.StatusCode.is_good()):
            return ua.StatusCode(ua.StatusCodes.BadWriteNotSupported)
        return await self._gate(item.NodeId, item.Value)


def spoken(spec: PlantSpec) -> Handshake | None:
    """The handshake that the simulated plant's layer is to speak; None for a plant that is only watched. `SpecError` names
    what the layer does not speak."""
    h = spec.handshake
    if h is None or h == Handshake():
        return None
    wrong = {
        "permit": h.permit is None or h.permit.method is None or (h.permit.on, h.permit.off) != (1, 0),
        "granted": h.granted is None or h.granted.equals != 1 or isinstance(h.granted.equals, str),
        "watchdog": h.watchdog.form not in ("counter", "none"),
        "alive": h.alive is not None and h.alive.form != "counter",
        "owner": h.owner is not None and h.owner.form != "session",
        "speed": not isinstance(h.speed, NodeOf),
    }
    if parts := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise SpecError(
            "the simulated plant's layer speaks permit by a method with on: 1 and off: 0, granted with equals: 1, a counter as"
            " watchdog and alive, owner by session and the speed from a node",
            f"plant {spec.name}: handshake.{', handshake.'.join(parts)}",
            "Serve it with `handshake: simulated`, or describe these so.",
        )
    if others := [name for name in spec.addresses if name.endswith((".move.write_node", ".move.mode.node"))]:
        raise SpecError(
            "the simulated plant's layer has no such node",
            f"plant {spec.name}: {', '.join(others)}",
            "Leave it out of the file that the simulator serves.",
        )
    return h


async def build_address_space(
    server: Server, spec: PlantSpec, request_mode: RequestMode, take_local: RequestMode
) -> dict[str, ua.NodeId]:
    """Add the plant to an initialised server: AnalogItems for the online tags, and what its handshake has, each at the id that
    the plant file gives it. Returns the nodes by what names them (`PlantSpec.addresses`)."""
    index = await server.register_namespace(PLANT_URI)
    addresses = spec.addresses
    for uri in {a.uri for a in addresses.values() if a.uri is not None}:
        await server.register_namespace(uri)
    # Plain indices above those must exist to be browsed.
    for n in range(len(await server.get_namespace_array()), 1 + max(a.index for a in addresses.values())):
        await server.register_namespace(f"{PLANT_URI}:{n}")
    nodes = resolve(addresses, await server.get_namespace_array(), spec.endpoint)

    plant = await server.nodes.objects.add_object(ua.NodeId(spec.name, index), ua.QualifiedName(spec.name, index))
    await plant.write_attribute(
        ua.AttributeIds.Description,
        ua.DataValue(ua.Variant(ua.LocalizedText(spec.description), ua.VariantType.LocalizedText)),
    )
    for tag in spec.online:
        await _add_analog_item(server, plant.nodeid, nodes[tag.name], tag)
    if (h := spoken(spec)) is not None:
        await _add_layer(server, plant.nodeid, h, nodes, request_mode, take_local)
    return nodes


async def _add_layer(
    server: Server,
    plant: ua.NodeId,
    h: Handshake,
    nodes: Mapping[str, ua.NodeId],
    request_mode: RequestMode,
    take_local: RequestMode,
) -> None:
    parent, method = nodes["handshake.permit.object"], nodes["handshake.permit.method"]
    index = parent.NamespaceIndex
    regulatory = await server.get_node(plant).add_object(parent, ua.QualifiedName(_browse_name(parent), index))
    for part, (variant, start, description) in PARTS.items():
        if (node := nodes.get(f"handshake.{part}.node")) is not None:
            await _add_variable(
                server,
                parent,
                node,
                ua.QualifiedName(_browse_name(node), node.NamespaceIndex),
                ua.Variant(start, variant),
                description,
                writable=part == "watchdog",
            )
    refusal = [_argument("refusal", ua.ObjectIds.String, "Empty when accepted, else the reason")]
    await regulatory.add_method(
        method,
        ua.QualifiedName(_browse_name(method), method.NamespaceIndex),
        request_mode,
        [_argument("mode", ua.ObjectIds.Int32, "0 LOCAL, 1 REMOTE; of what another session holds, neither")],
        refusal,
    )
    await regulatory.add_method(
        ua.NodeId(f"{parent.Identifier}.{TAKE_LOCAL}", index),
        ua.QualifiedName(TAKE_LOCAL, index),
        take_local,
        [_argument("who", ua.ObjectIds.String, "Who takes the plant into local control, whoever holds it")],
        refusal,
    )


def _browse_name(node: ua.NodeId) -> str:
    """The last part of a node's identifier: `Mode` of `reactor.Regulatory.Mode`."""
    return re.split(r"[./]", str(node.Identifier))[-1] or str(node.Identifier)


async def _add_analog_item(server: Server, parent: ua.NodeId, node_id: ua.NodeId, tag: Tag) -> None:
    await _add_variable(
        server,
        parent,
        node_id,
        ua.QualifiedName(tag.name, node_id.NamespaceIndex),
        ua.Variant(tag.nominal, ua.VariantType.Double),
        tag.description,
        writable=tag.role is Role.MV,
        type_definition=ua.ObjectIds.AnalogItemType,
    )
    node = server.get_node(node_id)
    properties = {
        "EURange": ua.Range(Low=tag.range[0], High=tag.range[1]),
        # UnitId -1: no code from a table of units, as OPC UA Part 8, 5.6.4.3 provides.
        "EngineeringUnits": ua.EUInformation(
            NamespaceUri=PLANT_URI,
            UnitId=-1,
            DisplayName=ua.LocalizedText(tag.unit),
            Description=ua.LocalizedText(tag.unit),
        ),
    }
    for name, value in properties.items():
        prop = ua.NodeId(f"{node_id.Identifier}.{name}", node_id.NamespaceIndex)
        await node.add_property(prop, ua.QualifiedName(name, 0), value)


async def _add_variable(
    server: Server,
    parent: ua.NodeId,
    node_id: ua.NodeId,
    name: ua.QualifiedName,
    value: ua.Variant,
    description: str,
    writable: bool,
    type_definition: int = ua.ObjectIds.BaseDataVariableType,
) -> None:
    access = ua.AccessLevel.CurrentRead.mask | (ua.AccessLevel.CurrentWrite.mask if writable else 0)
    item = ua.AddNodesItem()
    item.ParentNodeId = parent
    item.ReferenceTypeId = ua.NodeId(ua.ObjectIds.HasComponent)
    item.RequestedNewNodeId = node_id
    item.BrowseName = name
    item.NodeClass = ua.NodeClass.Variable
    item.TypeDefinition = ua.NodeId(type_definition)
    item.NodeAttributes = ua.VariableAttributes(
        DisplayName=ua.LocalizedText(name.Name),
        Description=ua.LocalizedText(description),
        Value=value,
        DataType=ua.NodeId(value.VariantType.value),
        ValueRank=ua.ValueRank.Scalar,
        AccessLevel=access,
        UserAccessLevel=access,
    )
    (result,) = await server.iserver.isession.add_nodes([item])
    result.StatusCode.check()


def _argument(name: str, data_type: int, description: str) -> ua.Argument:
    return ua.Argument(
        Name=name, DataType=ua.NodeId(data_type), ValueRank=-1, Description=ua.LocalizedText(description)
    )
