"""The controller's own OPC UA node set: names, types and ids, shared by the runtime that serves it and its clients."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

CONTROLLER_ENDPOINT = "opc.tcp://127.0.0.1:4841/homeostat/controller"
CONTROLLER_URI = "urn:homeostat:controller"
CONTROLLER_NAMESPACE = 2
CONTROLLER_NODE_ID = f"ns={CONTROLLER_NAMESPACE};s=Controller"

Kind = Literal["String", "Double", "UInt32"]


class Variable(StrEnum):
    """Browse names of the variables under Objects/Controller. All are read-only; the JSON shapes are stated beside."""

    MODE_TARGET = "ModeTarget"
    MODE_ACTUAL = "ModeActual"
    MODE_REASON = "ModeReason"
    PLAN_STATUS = "PlanStatus"
    SOLVE_TIME = "SolveTime"  # ms
    SAMPLE_AGE = "SampleAge"  # plant s
    VIOLATION = "Violation"
    SURPRISE = "Surprise"  # multiple of its limit; NaN while nothing watches
    BLAME = "Blame"  # {tag: share of the surprise}, the largest first
    HEARTBEAT = "Heartbeat"
    MISSED_DEADLINES = "MissedDeadlines"
    CYCLES = "Cycles"
    JITTER_P99 = "JitterP99"  # ms
    TARGETS = "Targets"  # {tag: value}
    ZONES = "Zones"  # {tag: [low, high]}, null where a side is open
    PRICES = "Prices"  # {tag: money by unit and hour}
    SCHEDULE = "Schedule"  # [{"time_s", "tag", "asked": value or [low, high]}], what is to come
    REST = "Rest"  # {mv: where it is to rest}, those that have such a place
    WHY = "Why"  # what an operator should know about the plan, in a sentence
    ACTIVE = "Active"  # what holds the plant at its economic best, and at what price
    LIMITS = "Limits"  # {mv: [low, high]}
    MARGINS = "Margins"  # {guardrail: {"now": , "worst": , "calibrated": }}
    PREDICTION = "Prediction"  # {"time_s": [..], "tags": {tag: [..]}, "moves": {mv: [..]}}
    ALARMS = "Alarms"  # [{"key", "severity", "message", "since_s", "active", "acknowledged"}]
    PLAN_TIME = "PlanTime"  # plant s since the Unix epoch
    TAG_STATUS = "TagStatus"  # {tag: ON, HELD, DROPPED, PREDICTED, BAD, AT HIGH or AT LOW}
    DOUBTS = "Doubts"  # [why the model does not deserve AUTO]; a named person may override these
    PUBLISHED_AT = "PublishedAt"  # wall s since the Unix epoch: nodes that no longer change with this are old


class Method(StrEnum):
    """Browse names of the methods. Each returns one String: '' when accepted, else why it was refused."""

    SET_MODE = "SetMode"
    SET_TARGET = "SetTarget"
    SET_ZONE = "SetZone"  # NaN: that side is open
    SET_COST = "SetCost"  # by unit of the tag and hour, in the plant's currency
    SCHEDULE_TARGET = "ScheduleTarget"  # at: ISO 8601 with a time zone, or plant s since the Unix epoch
    UNSCHEDULE = "Unschedule"  # what is scheduled by hand for the tag
    SET_LIMIT = "SetLimit"
    SET_MOVE = "SetMove"
    ACKNOWLEDGE = "Acknowledge"
    OVERRIDE = "Override"


VARIABLE_KINDS: dict[Variable, Kind] = {
    **dict.fromkeys(Variable, "String"),
    **dict.fromkeys(
        (
            Variable.SOLVE_TIME,
            Variable.SAMPLE_AGE,
            Variable.VIOLATION,
            Variable.SURPRISE,
            Variable.JITTER_P99,
            Variable.PLAN_TIME,
            Variable.PUBLISHED_AT,
        ),
        "Double",
    ),
    **dict.fromkeys((Variable.HEARTBEAT, Variable.MISSED_DEADLINES, Variable.CYCLES), "UInt32"),
}
"""The OPC UA built-in type of each variable."""

METHOD_INPUTS: dict[Method, tuple[tuple[str, Kind], ...]] = {
    Method.SET_MODE: (("mode", "String"), ("who", "String"), ("reason", "String")),
    Method.SET_TARGET: (("tag", "String"), ("value", "Double"), ("who", "String")),
    Method.SET_ZONE: (("tag", "String"), ("low", "Double"), ("high", "Double"), ("who", "String")),
    Method.SET_COST: (("tag", "String"), ("per_unit", "Double"), ("who", "String")),
    Method.SCHEDULE_TARGET: (("tag", "String"), ("value", "Double"), ("at", "String"), ("who", "String")),
    Method.UNSCHEDULE: (("tag", "String"), ("who", "String")),
    Method.SET_LIMIT: (("mv", "String"), ("low", "Double"), ("high", "Double"), ("who", "String")),
    Method.SET_MOVE: (("mv", "String"), ("value", "Double"), ("who", "String")),
    Method.ACKNOWLEDGE: (("key", "String"), ("who", "String")),
    Method.OVERRIDE: (("who", "String"), ("reason", "String")),
}
"""Each method's input arguments, in order."""


def controller_node_id(name: Variable | Method) -> str:
    """The node id of a variable or method of the controller."""
    return f"{CONTROLLER_NODE_ID}.{name.value}"
