"""The first tables: tags, samples, runs, events, audit, decisions and predictions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tag",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("plant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("unit", sa.String(32), nullable=False),
        sa.Column("lo", sa.Float, nullable=False),
        sa.Column("hi", sa.Float, nullable=False),
        sa.UniqueConstraint("plant", "name"),
    )
    op.create_table(
        "sample",
        sa.Column("tag_id", sa.Integer, sa.ForeignKey("tag.id"), primary_key=True),
        sa.Column("ts", sa.BigInteger, primary_key=True),
        sa.Column("value", sa.Float),
        sa.Column("quality", sa.SmallInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("plant", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("start_ts", sa.BigInteger, nullable=False),
        sa.Column("end_ts", sa.BigInteger),
        sa.Column("seed", sa.Integer),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "event",
        sa.Column("uid", sa.String(32), primary_key=True),
        sa.Column("plant", sa.String(64), nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Index("event_by_time", "plant", "ts"),
    )
    op.create_table(
        "audit",
        sa.Column("uid", sa.String(32), primary_key=True),
        sa.Column("plant", sa.String(64), nullable=False),
        sa.Column("ts", sa.BigInteger, nullable=False),
        sa.Column("who", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(128), nullable=False),
        sa.Column("old", sa.Text, nullable=False),
        sa.Column("new", sa.Text, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Index("audit_by_time", "plant", "ts"),
    )
    op.create_table(
        "decision",
        sa.Column("plant", sa.String(64), primary_key=True),
        sa.Column("ts", sa.BigInteger, primary_key=True),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("solve_ms", sa.Float),
        sa.Column("violation", sa.Float),
        sa.Column("surprise", sa.Float),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_table(
        "prediction",
        sa.Column("plant", sa.String(64), primary_key=True),
        sa.Column("decision_ts", sa.BigInteger, primary_key=True),
        sa.Column("step", sa.SmallInteger, primary_key=True),
        sa.Column("tag", sa.String(128), primary_key=True),
        sa.Column("ts", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for name in ("prediction", "decision", "audit", "event", "run", "sample", "tag"):
        op.drop_table(name)
