"""The controller's side of a plant's handshake: asking for the MVs, showing that we live, knowing that they are ours.

Whatever does not read as the plant file says is named in a line that begins with the field, and is never taken for a yes.
"""

# asyncua re-exports names without declaring them and types ids, codes and stamps by NewTypes that plain values do not meet.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asyncua import ua

from plant.errors import LinkError
from plant.handshake import Handshake, NodeOf, Plain
from plant.link import PlantMode, Quality
from plant.opcua.nodes import good, quality_of, reason_of
from plant.opcua.session import Session
from plant.opcua.types import NUMBERS, comparable, counted, plain_in, same, secret, written
from plant.spec import PlantSpec

_STRING = ua.VariantType.String
_READ = ("granted", "alive", "owner", "speed", "reason", "interlock")
_POLLS = 3.0  # readings of a toggling bit in the time it takes to turn
_FASTEST_S, _SLOWEST_S = 0.05, 5.0  # wall, between two such readings
_FALLS = 3  # falls of a counter in a row that are no new beginning


@dataclass(frozen=True)
class Holding:
    """What the handshake says at one sample; each as in `plant.link.Sample`. `speed` is None where the node does not say it."""

    mode: PlantMode | None = None
    heartbeat: float | None = None
    owned: bool | None = None
    loops: Mapping[str, bool] = field(default_factory=dict)
    reason: str = ""
    interlock: bool | None = None
    speed: float | None = None
    faults: tuple[str, ...] = ()


class Holder:
    """Speaks the handshake of one plant, over one session after another. `learn` it at each connect, then `judge` what the
    nodes of `reads` answered with each sample. `scenario`: what the plant said at the connect that it lives through."""

    def __init__(self, spec: PlantSpec) -> None:
        self._declared = spec.handshake is not None
        self._handshake = spec.handshake or Handshake()
        self._texts = {
            name: a.text
            for name, a in spec.addresses.items()
            if name.startswith("handshake.") or name.endswith((".move.mode.node", ".move.write_node"))
        }
        self._loops = {t.name: t.move.mode for t in spec.mvs if t.move is not None and t.move.mode is not None}
        alive = self._handshake.alive
        self._alive_s = spec.scan_time_s if alive is None or alive.period_s is None else alive.period_s
        self._nodes: Mapping[str, ua.NodeId] = {}
        self._kinds: dict[str, ua.VariantType] = {}
        self._lasting: dict[str, str] = {}  # faults found at connect, by field
        self._reads: list[str] = []
        self._us = re.compile(r"(?!)")
        self._token: Plain | None = None
        self._asked = self._had = False
        self._turns, self._bit = 0, None
        self._counter, self._falls = math.nan, 0
        self._sent = False
        self.scenario = ""

    async def learn(self, session: Session, nodes: Mapping[str, ua.NodeId]) -> None:
        """Look at every node of the handshake; what does not fit is a fault until the next connect. Raises `LinkError` when
        the connection is lost."""
        # The name of our session, and not merely the start or end of a longer one.
        self._us = re.compile(rf"(?<![\w=;]){re.escape(session.name)}(?![\w-])", re.IGNORECASE)  # a GUID's case is free
        self._nodes, self._kinds, self._lasting = nodes, {}, {}
        self._bit, self._counter, self._falls = None, math.nan, 0
        names = [name for name in self._texts if name in nodes]
        for name in self._texts.keys() - nodes.keys():
            self._bar(name, "the server does not have its namespace")
        wanted = (ua.AttributeIds.NodeClass, ua.AttributeIds.DataType, ua.AttributeIds.UserAccessLevel)
        answers = await session.read_attributes(
            [(nodes[n], a) for n in names for a in (*wanted, ua.AttributeIds.Value)]
        )
        for i, name in enumerate(names):
            node_class, data_type, access, value = answers[4 * i : 4 * i + 4]
            found, what = good(node_class), name.rpartition(".")[2]
            expected = {"method": ua.NodeClass.Method, "object": ua.NodeClass.Object}.get(what, ua.NodeClass.Variable)
            if found is None:
                status = node_class.StatusCode
                self._bar(name, f"no such node on the server ({status.name if status else 'no answer'})")
            elif found != expected and not (what == "object" and found == ua.NodeClass.ObjectType):
                self._bar(name, f"the node is not a {expected.name} but a {ua.NodeClass(found).name}")
            elif what in ("node", "write_node"):
                if (kind := await kind_of(session, data_type, value)) is not None:
                    self._kinds[name] = kind
                if name == "handshake.scenario.node":
                    self._learn_scenario(name, value)
                level = good(access)
                if name in self._written() and isinstance(level, int) and not level & ua.AccessLevel.CurrentWrite.mask:
                    self._bar(name, "the node may not be written by us")
            elif what == "method":
                await self._learn_method(session, name)
        self._fit()
        self._reads = [
            n
            for n in names
            if n not in self._lasting
            and (_is_loop_mode(n) or (n.startswith("handshake.") and n.split(".")[1] in _READ))
        ]

    async def look(self, session: Session) -> Holding:
        """What the handshake says now. Raises `LinkError`."""
        return self.judge(await session.read(self.reads))

    @property
    def reads(self) -> list[ua.NodeId]:
        """The nodes whose answers `judge` wants, in its order."""
        return [self._nodes[name] for name in self._reads]

    def judge(self, answers: Sequence[ua.DataValue]) -> Holding:
        """What one answer for each of `reads` means."""
        faults = dict(self._lasting)
        read = {name: self._usable(name, dv, faults) for name, dv in zip(self._reads, answers, strict=True)}
        mode = self._mode(read.get("handshake.granted.node"), faults)
        if mode is PlantMode.REMOTE:
            self._had = self._asked
        elif mode is PlantMode.LOCAL and self._had:
            self._asked = self._had = False  # it was ours and was taken
        lock = read.get("handshake.interlock.node")
        return Holding(
            mode,
            self._heartbeat(read.get("handshake.alive.node"), faults),
            self._owned(read.get("handshake.owner.node")),
            {mv: self._takes(mv, read.get(f"{mv}.move.mode.node"), faults) for mv in self._loops},
            self._reason(read.get("handshake.reason.node"), faults),
            None if lock is None else bool(lock),
            self._speed(read.get("handshake.speed.node"), faults),
            tuple(f"{name} ({self._texts[name]}): {why}" for name, why in faults.items()),
        )

    async def request(self, session: Session, mode: PlantMode) -> str:
        """Ask for the MVs (REMOTE) or give them back (LOCAL). Returns '' or why not."""
        if not self._declared:
            return "the plant file has no handshake, which says who holds the plant: no regulatory layer is known"
        now = await self.look(session)
        if mode is PlantMode.LOCAL:
            return await self._give_back(session, now)
        if now.faults:
            return "; ".join(now.faults)
        session_owned = self._handshake.owner is not None and self._handshake.owner.form == "session"
        if self._handshake.permit is not None and not self._asked and not session_owned and now.mode is mode:
            # A plant that names its holder's session refuses by itself; any other would now be moved by two.
            equals = self._handshake.granted and self._handshake.granted.equals
            return (
                f"handshake.granted.node reads {equals!r} before we asked: another controller holds the plant, or the node"
                " never says otherwise; give the plant back at the plant first"
            )
        if self._handshake.owner is not None and self._handshake.owner.form == "token":
            name = "handshake.owner.node"
            token = secret(self._kinds[name])
            (status,) = await session.write([(self._nodes[name], token)])
            if not status.is_good():
                return f"{name} refuses our token: {reason_of(status)}"
            self._token = token.Value
        refusal = await self._permit(session, on=True)
        self._asked, self._had = not refusal, False
        return refusal

    async def beat(self, session: Session, counter: int) -> str:
        """Show the plant that we live. Returns '' or why it was not taken."""
        dog, name = self._handshake.watchdog, "handshake.watchdog.node"
        if dog.node is None:
            return ""
        if name in self._lasting:
            return f"{name}: {self._lasting[name]}"
        kind = self._kinds[name]
        if dog.form == "toggle":
            self._sent = not self._sent
        value = (
            counted(counter, kind) if dog.form == "counter"
            else written(self._sent if dog.value is None else dog.value, kind)
        )  # fmt: skip
        (status,) = await session.write([(self._nodes[name], value)])
        return "" if status.is_good() else f"{name} refuses the heartbeat: {reason_of(status)}"

    async def watch_alive(self, session: Session, speed: float) -> None:
        """Count the turns of a toggling bit until the session is lost: seen once a sample only, it may always look the same."""
        name = "handshake.alive.node"
        if self._handshake.alive is None or self._handshake.alive.form != "toggle" or name in self._lasting:
            return
        wall_s = self._alive_s / speed if math.isfinite(speed) and speed > 0 else 0.0
        while not session.lost.is_set():
            try:
                (dv,) = await session.read([self._nodes[name]])
            except LinkError:
                return
            self._turned(good(dv))
            await asyncio.sleep(min(max(wall_s / _POLLS, _FASTEST_S), _SLOWEST_S))

    def _turned(self, bit: object) -> None:
        if isinstance(bit, bool | int | float):
            self._turns += self._bit is not None and bit != self._bit
            self._bit = bit

    async def _give_back(self, session: Session, now: Holding) -> str:
        ours = now.owned if now.owned is not None else True
        self._asked = self._had = False
        if not ours:
            return ""  # another's, or nobody's: not ours to give back
        if any(name.startswith("handshake.permit.") for name in self._lasting):
            return next(f"{n}: {why}" for n, why in self._lasting.items() if n.startswith("handshake.permit."))
        refusal = await self._permit(session, on=False)
        if self._token is not None:
            kind = self._kinds["handshake.owner.node"]
            await session.write([(self._nodes["handshake.owner.node"], written("" if kind is _STRING else 0, kind))])
            self._token = None
        return refusal

    async def _permit(self, session: Session, on: bool) -> str:
        permit = self._handshake.permit
        if permit is None:
            return ""
        value = permit.on if on else permit.off
        if permit.node is not None:
            name = "handshake.permit.node"
            (status,) = await session.write([(self._nodes[name], written(value, self._kinds[name]))])
            return "" if status.is_good() else f"{name} refuses {value!r}: {reason_of(status)}"
        name = "handshake.permit.method"
        argument = written(value, self._kinds.get(name, _usual(value)))
        result = await session.call(self._nodes["handshake.permit.object"], self._nodes[name], argument)
        if not result.StatusCode.is_good():
            return f"{name} refuses {value!r}: {reason_of(result.StatusCode)}"
        answer = plain_in(result.OutputArguments[0]) if result.OutputArguments else ""
        return answer if isinstance(answer, str) else f"{name} answers {answer}" if answer is False else ""

    def _learn_scenario(self, name: str, value: ua.DataValue) -> None:
        """Read once: it may be long, and it does not change."""
        text = good(value)
        self.scenario = text if isinstance(text, str) else ""
        if not isinstance(text, str):
            self._bar(name, f"it reads {text!r}, which is no text")

    async def _learn_method(self, session: Session, name: str) -> None:
        (node,) = await session.children([self._nodes[name]], ["InputArguments"])
        declared = good((await session.read([node]))[0]) if node is not None else None
        if not isinstance(declared, list):
            return
        if len(declared) != 1:
            self._bar(name, f"the method takes {len(declared)} arguments, not one")
        elif (kind := await session.builtin(declared[0].DataType)) is not None:
            self._kinds[name] = kind

    def _fit(self) -> None:
        """Whether each node's type can carry what the plant file says of it."""
        h = self._handshake
        if h.permit is not None:
            name = "handshake.permit.node" if h.permit.node else "handshake.permit.method"
            for value in (h.permit.on, h.permit.off):
                self._try(name, lambda kind, v=value: written(v, kind))
        dog = h.watchdog
        if dog.form == "counter":
            self._try("handshake.watchdog.node", lambda kind: counted(1, kind))
        elif dog.node is not None:
            self._try("handshake.watchdog.node", lambda kind: written(True if dog.value is None else dog.value, kind))
        if h.owner is not None and h.owner.form == "token":
            self._try("handshake.owner.node", secret)
        if h.alive is not None:
            numbers = NUMBERS if h.alive.form == "toggle" else NUMBERS - {ua.VariantType.Boolean}
            kind = self._kinds.get("handshake.alive.node")
            if kind is not None and kind not in numbers:
                self._bar("handshake.alive.node", f"its type is {kind.name}, which is no {h.alive.form}")

    def _try(self, name: str, fits: Callable[[ua.VariantType], object]) -> None:
        if name in self._lasting or name not in self._nodes:
            return
        if name not in self._kinds:
            if name.endswith(".node"):
                self._bar(name, "the server does not say the node's type")
            return
        try:
            fits(self._kinds[name])
        except ValueError as e:
            self._bar(name, str(e))

    def _written(self) -> set[str]:
        h = self._handshake
        token = h.owner is not None and h.owner.form == "token"
        moves = [name for name in self._texts if name.endswith(".move.write_node")]
        return {
            "handshake.permit.node",
            "handshake.watchdog.node",
            *(["handshake.owner.node"] if token else []),
            *moves,
        }

    def _bar(self, name: str, why: str) -> None:
        self._lasting.setdefault(name, why)

    def _usable(self, name: str, dv: ua.DataValue, faults: dict[str, str]) -> Plain | None:
        if quality_of(dv.StatusCode) is not Quality.GOOD:
            if not _is_loop_mode(name):  # a loop that does not say its mode is one that does not take our moves
                faults[name] = f"it is not good but {dv.StatusCode.name if dv.StatusCode else 'bad'}"
            return None
        if (value := plain_in(dv.Value)) is None:
            faults[name] = f"a single value is expected, and it reads {dv.Value and dv.Value.Value!r}"[:120]
        return value

    def _mode(self, reading: Plain | None, faults: dict[str, str]) -> PlantMode | None:
        granted = self._handshake.granted
        if granted is None or reading is None:
            return None
        if not comparable(reading, granted.equals):
            faults["handshake.granted.node"] = f"it reads {reading!r}, which can never be {granted.equals!r}"
            return None
        return PlantMode.REMOTE if same(reading, granted.equals) else PlantMode.LOCAL

    def _heartbeat(self, reading: Plain | None, faults: dict[str, str]) -> float | None:
        name = "handshake.alive.node"
        if reading is None or self._handshake.alive is None:
            return None
        if isinstance(reading, str) or not math.isfinite(reading):
            faults[name] = f"it reads {reading!r}, which is no {self._handshake.alive.form}"
            return None
        if self._handshake.alive.form == "toggle":
            self._turned(reading)
            return float(self._turns)
        self._falls = self._falls + 1 if reading < self._counter else 0 if reading > self._counter else self._falls
        self._counter = float(reading)
        if self._falls >= _FALLS:
            faults[name] = f"it fell {self._falls} times in a row, now to {reading:g}: a counter that runs backwards"
        return self._counter

    def _owned(self, reading: Plain | None) -> bool | None:
        owner = self._handshake.owner
        if owner is None:
            return None
        if reading is None:
            return False  # nobody says that it is ours
        if owner.form == "session":
            return self._us.search(str(reading)) is not None
        return self._token is not None and same(reading, self._token)

    def _takes(self, mv: str, reading: Plain | None, faults: dict[str, str]) -> bool:
        accepts = self._loops[mv].accepts
        if reading is not None and not any(comparable(reading, a) for a in accepts):
            faults[f"{mv}.move.mode.node"] = f"it reads {reading!r}, which can never be one of {list(accepts)}"
        return reading is not None and any(same(reading, a) for a in accepts)

    def _speed(self, reading: Plain | None, faults: dict[str, str]) -> float | None:
        if not isinstance(self._handshake.speed, NodeOf):
            return self._handshake.speed
        if reading is None:
            return None
        if isinstance(reading, str) or not reading > 0:
            faults["handshake.speed.node"] = f"it reads {reading!r}, which is no speed"
            return None
        return float(reading)

    def _reason(self, reading: Plain | None, faults: dict[str, str]) -> str:
        if reading is not None and not isinstance(reading, str):
            faults["handshake.reason.node"] = f"it reads {reading!r}, which is no text"
        return reading if isinstance(reading, str) else ""


async def kind_of(session: Session, data_type: ua.DataValue, value: ua.DataValue) -> ua.VariantType | None:
    """The built-in type of a variable, from its DataType and its supertypes, or where that is abstract from its value."""
    declared = good(data_type)
    kind = await session.builtin(declared) if isinstance(declared, ua.NodeId) else None
    if kind is None and value.Value is not None and value.Value.VariantType is not ua.VariantType.Null:
        kind = value.Value.VariantType
    return kind


def _usual(value: Plain) -> ua.VariantType:
    """The type of a method's argument where the server does not say it."""
    kinds = {bool: ua.VariantType.Boolean, int: ua.VariantType.Int32, float: ua.VariantType.Double}
    return kinds.get(type(value), ua.VariantType.String)


def _is_loop_mode(name: str) -> bool:
    return name.endswith(".move.mode.node")
