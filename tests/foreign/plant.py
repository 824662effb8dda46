"""A plant of another make behind plain asyncua: nothing of ours in it but the process contract of time.

A heated tank with a PI temperature loop of its own under MV `SP` (set-point, a Float stamped when it changes, written at a
node of its own, with a loop mode) and an on/off stirrer `ST` (a Boolean). Numeric node ids in a namespace whose index can
shift; a permit bit, a granted word, a toggling alive bit, a countdown watchdog, a token. Each can be left out, refuse or lie,
and so can every tag: see `Faults`, which may be changed while it runs.
"""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AttributeService

URI = "http://vendor.example/Area21"
OTHER = "http://vendor.example/Area22"
SCAN_S = 0.2
V = ua.VariantType

# tag: (identifier, type, noise)
TAGS = {"T": (3001, V.Double, 0.05), "F": (3002, V.Float, 0.02), "P": (3003, V.Double, 0.05), "N": (3004, V.Int16, 2.0)}
SP, SP_WRITE, SP_MODE, ST = 4001, 4101, 4201, 4002
ALIVE, WATCHDOG, PERMIT, GRANTED, OWNER, REASON = 5003, 5004, 5005, 5006, 5007, 5008
RCAS, AUTO = 3, 1
HOME_SP, COUNTDOWN_S = 50.0, 2


@dataclass
class Faults:
    """What is wrong with the plant now. Times in seconds, tags by name.

    - `freeze_all`: the field bus is dead; values and source stamps stand, the server lives. `freeze_values`: stamps run on.
    - `stamp`: the source stamp of every tag, or by tag. `shift_s`, `shift_tag_s`: added to the true stamps, of all or by tag.
    - `bad`: status by tag; `values`: what a tag reads instead, a text or a list too.
    - `alive_stopped`, `alive_value`; `granted_value`: what GRANTED reads whatever is true; `granted_bad`.
    - `watchdog_ignored`: it never expires. `refuse_permit`, `refuse_writes`; `swallow_writes`: answered Good and not taken.
    - `loop_dropped`: the operator has the SP loop in AUTO. `hold_granted`: the grant stays when the permit goes.
    """

    freeze_all: bool = False
    freeze_values: bool = False
    stamp: datetime | dict[str, datetime] | None = None
    shift_s: float = 0.0
    shift_tag_s: dict[str, float] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    alive_stopped: bool = False
    granted_value: Any = None
    granted_bad: bool = False
    watchdog_ignored: bool = False
    refuse_permit: bool = False
    refuse_writes: bool = False
    swallow_writes: bool = False
    loop_dropped: bool = False
    hold_granted: bool = False


class ForeignPlant:
    """Serves the tank. `endpoint` says where; `faults` what is wrong; `writes` every write of a client as (node, value, taken).

    **Arguments:**

    - `port`: 0 takes a free one.
    - `shift`: how many other namespaces come first; each has nodes of the same identifiers, which must not be touched
      (`trespasses` counts the writes to them).
    - `without`: parts of the handshake it does not have: `alive`, `watchdog`, `owner`, `granted`, `permit`, `mode`.
    - `limit`: most operations a request may have; `declared`: whether the server says so.
    - `speed`: plant seconds per wall second; stamps run at it, too.
    """

    def __init__(
        self, port: int = 0, shift: int = 0, without: tuple[str, ...] = (), limit: int = 0, declared: bool = True,
        speed: float = 1.0, seed: int = 1,
    ) -> None:  # fmt: skip
        self._port, self._shift, self._without = port, shift, without
        self._limit, self._declared, self._speed = limit, declared, speed
        self._random = random.Random(seed)
        self.faults = Faults()
        self.writes: list[tuple[int, Any, bool]] = []
        self.trespasses = 0
        self.endpoint = ""
        self.T, self.heat, self.flow = HOME_SP, 30.0, 1.0
        self.set_point, self.stirrer, self.granted = HOME_SP, False, False
        self.reason = ""
        self.scans = 0
        self._permit = False
        self._integral = 30.0
        self._left_s = 0.0
        self._nodes: dict[int, ua.NodeId] = {}
        self._others: set[ua.NodeId] = set()
        self._stamp: dict[str, tuple[datetime, Any]] = {}
        self._start = datetime.now(UTC)
        self._server = Server()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ForeignPlant:
        server = self._server
        await server.init()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{self._port}/area21")
        server.socket_address = ("127.0.0.1", self._port)
        server.set_server_name("Vendor DCS")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        for n in range(self._shift):
            index = await server.register_namespace(OTHER if n == 0 else f"{OTHER}:{n}")
            for identifier in (3001, SP, SP_WRITE, ST, PERMIT, WATCHDOG):
                node = await server.nodes.objects.add_variable(ua.NodeId(identifier, index), f"x{identifier}", 77.0)
                await node.set_writable()
                self._others.add(node.nodeid)
        index = await server.register_namespace(URI)
        area = await server.nodes.objects.add_object(ua.NodeId(1000, index), ua.QualifiedName("Area21", index))

        async def add(identifier: int, name: str, value: Any, kind: ua.VariantType, writable: bool = False) -> None:
            node_id, browse = ua.NodeId(identifier, index), ua.QualifiedName(name, index)
            node = await area.add_variable(node_id, browse, value, varianttype=kind)
            if writable:
                await node.set_writable()
            self._nodes[identifier] = node_id

        for name, (identifier, kind, _) in TAGS.items():
            await add(identifier, name, 0 if kind is V.Int16 else 0.0, kind)
        await add(SP, "SP", HOME_SP, V.Float)
        await add(SP_WRITE, "SPR", HOME_SP, V.Float, writable=True)
        await add(ST, "ST", False, V.Boolean, writable=True)
        for part, arguments in {
            "mode": (SP_MODE, "SPM", RCAS, V.Int32),
            "alive": (ALIVE, "ALV", False, V.Boolean),
            "watchdog": (WATCHDOG, "WDG", 0, V.UInt16, True),
            "permit": (PERMIT, "REQ", False, V.Boolean, True),
            "granted": (GRANTED, "ACK", 0, V.Int32),
            "owner": (OWNER, "TOK", "", V.String, True),
            "reason": (REASON, "WHY", "", V.String),
        }.items():
            if part not in self._without:
                await add(*arguments)
        server.iserver.aspace._is_expected_variant_type = lambda *_: (
            True
        )  # other makes do show a text in a node of numbers
        server.iserver.attribute_service = _Writes(server.iserver.aspace, self)
        if self._limit:
            await self._bound()
        await self._show_set_points()
        self._scan()
        await self._publish()
        await server.start()
        assert server.bserver is not None
        self.endpoint = f"opc.tcp://127.0.0.1:{server.bserver.port}/area21"
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._server.stop()

    async def _bound(self) -> None:
        service = self._server.iserver
        read, create = service.isession.__class__.read, service.isession.__class__.create_monitored_items

        async def bounded_read(session, params):
            if session.external and len(params.NodesToRead) > self._limit:
                raise ua.UaStatusCodeError(ua.StatusCodes.BadTooManyOperations)
            return await read(session, params)

        async def bounded_create(session, params):
            if session.external and len(params.ItemsToCreate) > self._limit:
                raise ua.UaStatusCodeError(ua.StatusCodes.BadTooManyOperations)
            return await create(session, params)

        make = service.create_session

        def create_session(name, user=User(role=UserRole.Anonymous), external=False):
            session = make(name, user, external)
            session.read = bounded_read.__get__(session)
            session.create_monitored_items = bounded_create.__get__(session)
            return session

        service.create_session = create_session
        for name in ("MaxNodesPerRead", "MaxNodesPerWrite", "MaxMonitoredItemsPerCall"):
            node = getattr(ua.ObjectIds, f"Server_ServerCapabilities_OperationLimits_{name}")
            declared = self._limit if self._declared else 0
            await self._server.get_node(ua.NodeId(node)).write_value(ua.Variant(declared, V.UInt32))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SCAN_S / self._speed)
            self._scan()
            await self._publish()

    async def reset(self) -> None:
        """Back to the beginning: no faults, nobody holds it, set-points that rest since 30 hours."""
        self.faults = Faults()
        self._withdraw("")
        self.stirrer = False
        self._stamp.clear()
        self.writes.clear()
        await self._put(OWNER, ua.Variant("", V.String))
        await self._publish()

    def _scan(self) -> None:
        """One scan of the controller and the process."""
        self.scans += 1
        if self.granted and "watchdog" not in self._without and not self.faults.watchdog_ignored:
            self._left_s -= SCAN_S / self._speed
            if self._left_s <= 0:
                self._withdraw("watchdog expired")
        error = self.set_point - self.T
        self._integral = min(max(self._integral + 0.02 * error * SCAN_S, 0.0), 100.0)
        self.heat = min(max(self._integral + 1.5 * error, 0.0), 100.0)
        gain = 1.0 + 0.1 * self.stirrer
        self.T += SCAN_S / 20.0 * (20.0 + gain * self.heat / self.flow - self.T)

    def _withdraw(self, why: str) -> None:
        self.granted, self._permit, self.reason = False, False, why
        self.set_point = HOME_SP

    def write(self, node: ua.NodeId, value: Any) -> int:
        """What becomes of a client's write: a status code."""
        if node in self._others:
            self.trespasses += 1
            return ua.StatusCodes.Good
        identifier = node.Identifier
        code = self._take(identifier, value)
        self.writes.append((identifier, value, code == ua.StatusCodes.Good))
        return code

    def _take(self, identifier: int, value: Any) -> int:
        f = self.faults
        if identifier == WATCHDOG:
            self._left_s = float(value)
        elif identifier == OWNER:
            pass
        elif identifier == PERMIT:
            if f.refuse_permit:
                return ua.StatusCodes.BadUserAccessDenied
            self._permit = bool(value)
            if self._permit:
                self.granted, self.reason, self._left_s = True, "", float(COUNTDOWN_S)
            elif not f.hold_granted:
                self._withdraw("")
        elif identifier in (SP_WRITE, ST):
            if f.refuse_writes or ("permit" not in self._without and not self.granted):
                return ua.StatusCodes.BadInvalidState
            if f.swallow_writes or (f.loop_dropped and identifier == SP_WRITE):
                return ua.StatusCodes.Good
            if identifier == ST:
                self.stirrer = bool(value)
            else:
                self.set_point = float(value)
        else:
            return ua.StatusCodes.BadNotWritable
        return ua.StatusCodes.Good

    async def _publish(self) -> None:
        f, now = self.faults, self._start + (datetime.now(UTC) - self._start) * self._speed
        true = {"T": self.T, "F": self.flow, "P": self.heat, "N": 1000.0 + 10 * self.T}
        for name, (identifier, kind, noise) in TAGS.items():
            value: Any = true[name] + self._random.gauss(0.0, noise)
            stamp = now + timedelta(seconds=f.shift_s + f.shift_tag_s.get(name, 0.0))
            if isinstance(f.stamp, dict):
                stamp = f.stamp.get(name, stamp)
            elif f.stamp is not None:
                stamp = f.stamp
            if f.freeze_all and name in self._stamp:
                stamp, value = self._stamp[name]
            elif f.freeze_values and name in self._stamp:
                value = self._stamp[name][1]
            self._stamp[name] = (stamp, value)
            value = f.values.get(name, value)
            code = f.bad.get(name, ua.StatusCodes.Good)
            wire = _variant(value, kind)
            await self._put(identifier, ua.Variant() if code else wire, stamp, code)
        await self._show_set_points()
        if not f.alive_stopped:
            await self._put(ALIVE, ua.Variant(bool(self.scans % 2), V.Boolean))
        granted = int(self.granted) if f.granted_value is None else f.granted_value
        kind = V.String if isinstance(granted, str) else V.Int32
        code = ua.StatusCodes.BadNoCommunication if f.granted_bad else ua.StatusCodes.Good
        await self._put(GRANTED, ua.Variant(granted, kind), code=code)
        await self._put(SP_MODE, ua.Variant(AUTO if f.loop_dropped else RCAS, V.Int32))
        await self._put(REASON, ua.Variant(self.reason, V.String))

    async def _show_set_points(self) -> None:
        """Set-points are stamped when they change."""
        for name, identifier, value, kind in (
            ("SP", SP, self.set_point, V.Float), ("ST", ST, self.stirrer, V.Boolean),
        ):  # fmt: skip
            if name not in self._stamp or self._stamp[name][1] != value:
                self._stamp[name] = (datetime.now(UTC) - timedelta(hours=30) * (name not in self._stamp), value)
                await self._put(identifier, ua.Variant(value, kind), self._stamp[name][0])

    async def _put(
        self, identifier: int, value: ua.Variant, stamp: datetime | None = None, code: int = ua.StatusCodes.Good
    ) -> None:
        if identifier in self._nodes:
            now = datetime.now(UTC)
            dv = ua.DataValue(value, ua.StatusCode(code), stamp or now, now)
            await self._server.iserver.aspace.write_attribute_value(self._nodes[identifier], ua.AttributeIds.Value, dv)


class _Writes(AttributeService):
    """Clients' writes go to the plant."""

    def __init__(self, aspace: Any, plant: ForeignPlant) -> None:
        super().__init__(aspace)
        self._plant = plant

    async def write(self, params: ua.WriteParameters, user: User = User(role=UserRole.Admin)) -> list[ua.StatusCode]:
        if user.role is UserRole.Admin and params.NodesToWrite and not self._plant.endpoint:
            return await super().write(params, user)
        return [await self._one(item) for item in params.NodesToWrite]

    async def _one(self, item: ua.WriteValue) -> ua.StatusCode:
        node, variant = item.NodeId, item.Value.Value
        if node not in self._aspace:
            return ua.StatusCode(ua.StatusCodes.BadNodeIdUnknown)
        declared = self._aspace.read_attribute_value(node, ua.AttributeIds.DataType).Value.Value
        if node.NamespaceIndex > 1:
            if variant is None or variant.is_array or variant.VariantType.value != declared.Identifier:
                return ua.StatusCode(ua.StatusCodes.BadTypeMismatch)
            if (code := self._plant.write(node, variant.Value)) != ua.StatusCodes.Good:
                return ua.StatusCode(code)
        return await self._aspace.write_attribute_value(node, item.AttributeId, item.Value)


def _variant(value: Any, kind: ua.VariantType) -> ua.Variant:
    if isinstance(value, str):
        return ua.Variant(value, V.String)
    if isinstance(value, list):
        return ua.Variant(value, V.Double)
    return ua.Variant(round(value) if kind is V.Int16 else float(value), kind)


def plant_file(endpoint: str, without: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """What an integrator writes of it, for `PlantSpec.model_validate` or a YAML file, with some fields changed."""

    def tag(
        name: str, role: str, node: int, bounds: tuple[float, float], nominal: float, **more: Any
    ) -> dict[str, Any]:
        return {"name": name, "role": role, "description": name, "unit": "-", "range": bounds, "nominal": nominal,
                "node_id": f"a:i={node}", **more}  # fmt: skip

    set_point = {
        "limits": (30.0, 90.0),
        "rate_per_s": 1.0,
        "safe": 40.0,
        "write_node": f"a:i={SP_WRITE}",
        "optional": True,
    }
    if "mode" not in without:
        set_point["mode"] = {"node": f"a:i={SP_MODE}", "accepts": [RCAS]}
    handshake = {
        "permit": {"node": f"a:i={PERMIT}"},
        "granted": {"node": f"a:i={GRANTED}", "equals": 1},
        "watchdog": {
            "node": f"a:i={WATCHDOG}",
            "form": "countdown",
            "value": COUNTDOWN_S,
            "period_s": 0.5,
            "misses": 4,
        },
        "alive": {"node": f"a:i={ALIVE}", "form": "toggle"},
        "owner": {"node": f"a:i={OWNER}", "form": "token"},
        "reason": {"node": f"a:i={REASON}"},
    }
    return {
        "name": "area21",
        "description": "A heated tank of another make",
        "endpoint": endpoint,
        "sample_time_s": 1.0,
        "scan_time_s": SCAN_S,
        "namespaces": {"a": URI},
        "handshake": {part: value for part, value in handshake.items() if part not in without},
        "tags": [
            tag("T", "CV", 3001, (0.0, 120.0), HOME_SP, noise=0.05, critical=True),
            tag("F", "DV", 3002, (0.0, 5.0), 1.0, noise=0.02),
            tag("P", "AUX", 3003, (-5.0, 105.0), 30.0, noise=0.05),
            tag("N", "AUX", 3004, (0.0, 27648.0), 1500.0, noise=2.0, resolution=1.0),
            tag("SP", "MV", SP, (0.0, 120.0), HOME_SP, move=set_point),
            tag("ST", "MV", ST, (0.0, 1.0), 0.0,
                move={"limits": (0.0, 1.0), "rate_per_s": 10.0, "safe": 0.0, "levels": (0.0, 1.0), "optional": True}),
        ],
        "guardrails": [{"name": "hot", "tag": "T", "max": 95.0}],
        "targets": [{"tag": "T", "value": 55.0, "limits": (35.0, 85.0), "scale": 5.0}],
        **changes,
    }  # fmt: skip
