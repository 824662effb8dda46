"""The address space of a plant's server, and the gate that decides which writes of clients are taken."""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AddressSpace, AttributeService
from asyncua.server.user_managers import UserManager

from plant.opcua.nodes import (
    PLANT_NAMESPACE,
    PLANT_URI,
    Reg,
    plant_node_id,
    regulatory_node_id,
    regulatory_node_ids,
    tag_node_id,
)
from plant.spec import PlantSpec, Role, Tag

Gate = Callable[[ua.NodeId, ua.DataValue], Awaitable[ua.StatusCode]]
RequestMode = Callable[..., Awaitable[ua.CallMethodResult]]

_REGULATORY_VARIABLES = {
    Reg.MODE: (ua.VariantType.Int32, 0, "Who moves the MVs: 0 LOCAL, 1 REMOTE"),
    Reg.CONTROLLER_HEARTBEAT: (ua.VariantType.UInt32, 0, "Written by the controller; LOCAL when it stops in REMOTE"),
    Reg.HEARTBEAT: (ua.VariantType.UInt32, 0, "Scans of the regulatory layer"),
    Reg.INTERLOCK: (ua.VariantType.Boolean, False, "An interlock holds an MV"),
    Reg.CLOCK_SPEED: (ua.VariantType.Double, 1.0, "Plant seconds per wall second"),
    Reg.SHED_REASON: (ua.VariantType.String, "", "Why the regulatory layer last took the MVs"),
    Reg.SCENARIO: (ua.VariantType.String, "", "What a simulated plant lives through, as JSON; empty for a real one"),
}
REGULATORY_TYPES = {name: variant for name, (variant, _, _) in _REGULATORY_VARIABLES.items()}


class OrdinaryUsers(UserManager):
    """Every session is an ordinary user, whatever name it gives: none may change nodes or attributes."""

    def get_user(self, iserver, username=None, password=None, certificate=None) -> User:
        return User(role=UserRole.User, name=username)


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


async def build_address_space(server: Server, spec: PlantSpec, request_mode: RequestMode) -> None:
    """Add the plant to an initialised server: AnalogItems for the online tags, and the Regulatory object."""
    index = await server.register_namespace(PLANT_URI)
    assert index == PLANT_NAMESPACE, "the plant's URI must be registered first"
    # A spec copied from a foreign plant may use higher namespaces; they must exist to be browsed.
    for ns in range(index + 1, 1 + max(tag_node_id(t).NamespaceIndex for t in spec.online)):
        await server.register_namespace(f"{PLANT_URI}:{ns}")
    plant = await server.nodes.objects.add_object(
        ua.NodeId.from_string(plant_node_id(spec)), ua.QualifiedName(spec.name, index)
    )
    await plant.write_attribute(
        ua.AttributeIds.Description,
        ua.DataValue(ua.Variant(ua.LocalizedText(spec.description), ua.VariantType.LocalizedText)),
    )
    for tag in spec.online:
        await _add_analog_item(server, plant.nodeid, tag)

    regulatory = await plant.add_object(
        ua.NodeId.from_string(regulatory_node_id(spec)), ua.QualifiedName("Regulatory", index)
    )
    ids = regulatory_node_ids(spec)
    for name, (variant, start, description) in _REGULATORY_VARIABLES.items():
        await _add_variable(
            server,
            regulatory.nodeid,
            ua.NodeId.from_string(ids[name]),
            ua.QualifiedName(name.value, index),
            ua.Variant(start, variant),
            description,
            writable=name is Reg.CONTROLLER_HEARTBEAT,
        )
    await regulatory.add_method(
        ua.NodeId.from_string(ids[Reg.REQUEST_MODE]),
        ua.QualifiedName(Reg.REQUEST_MODE.value, index),
        request_mode,
        [_argument("mode", ua.ObjectIds.Int32, "0 LOCAL, 1 REMOTE")],
        [_argument("refusal", ua.ObjectIds.String, "Empty when accepted, else the reason")],
    )


async def _add_analog_item(server: Server, parent: ua.NodeId, tag: Tag) -> None:
    node_id = tag_node_id(tag)
    await _add_variable(
        server,
        parent,
        node_id,
        ua.QualifiedName(tag.name, PLANT_NAMESPACE),
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
