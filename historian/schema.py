"""The historian's tables. Times are int64 microseconds of plant time since the Unix epoch (`ts`)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

REVISION = "0001"  # the newest migration in `migrations/versions`
metadata = MetaData()

tag = Table(
    "tag",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("plant", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("role", String(8), nullable=False),
    Column("description", Text, nullable=False),
    Column("unit", String(32), nullable=False),
    Column("lo", Float, nullable=False),
    Column("hi", Float, nullable=False),
    UniqueConstraint("plant", "name"),
)

# What was no number is stored as NULL with its quality: a gap is a fact too. A bad reading keeps its number.
sample = Table(
    "sample",
    metadata,
    Column("tag_id", Integer, ForeignKey("tag.id"), primary_key=True),
    Column("ts", BigInteger, primary_key=True),
    Column("value", Float),
    Column("quality", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("plant", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("start_ts", BigInteger, nullable=False),
    Column("end_ts", BigInteger),
    Column("seed", Integer),
    Column("note", Text, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("uid", String(32), primary_key=True),
    Column("plant", String(64), nullable=False),
    Column("ts", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("source", String(64), nullable=False),
    Column("key", String(128), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text, nullable=False),
    Index("event_by_time", "plant", "ts"),
)

audit = Table(
    "audit",
    metadata,
    Column("uid", String(32), primary_key=True),
    Column("plant", String(64), nullable=False),
    Column("ts", BigInteger, nullable=False),
    Column("who", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(128), nullable=False),
    Column("old", Text, nullable=False),
    Column("new", Text, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Index("audit_by_time", "plant", "ts"),
)

decision = Table(
    "decision",
    metadata,
    Column("plant", String(64), primary_key=True),
    Column("ts", BigInteger, primary_key=True),
    Column("mode", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("solve_ms", Float),
    Column("violation", Float),
    Column("surprise", Float),
    Column("data", Text, nullable=False),
)

prediction = Table(
    "prediction",
    metadata,
    Column("plant", String(64), primary_key=True),
    Column("decision_ts", BigInteger, primary_key=True),
    Column("step", SmallInteger, primary_key=True),
    Column("tag", String(128), primary_key=True),
    Column("ts", BigInteger, nullable=False),
    Column("value", Float),
    sqlite_with_rowid=False,
)
