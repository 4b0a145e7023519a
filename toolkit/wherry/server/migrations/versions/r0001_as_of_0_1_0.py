"""The tables of 0.1.0; a file that has them, or most of them, keeps them as they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from wherry.server.engines import Whole, Words

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "assignment",
        sa.Column("device", Words, nullable=False),
        sa.Column("keyid", Words, nullable=False),
        sa.Column("sequence", Whole, nullable=False),
        sa.Column("rollout", Words, nullable=False),
        sa.Column("digest", Words, nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device"),
        if_not_exists=True,
    )
    op.create_table(
        "bundle",
        sa.Column("digest", Words, nullable=False),
        sa.Column("name", Words, nullable=False),
        sa.Column("version", Words, nullable=False),
        sa.Column("family", Words, nullable=False),
        sa.Column("counter", Whole, nullable=False),
        sa.Column("size", Whole, nullable=False),
        sa.Column("total", Whole, nullable=False),
        sa.Column("edges", Words, nullable=False),
        sa.Column("added_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        if_not_exists=True,
    )
    op.create_table(
        "certificate",
        sa.Column("serial", Words, nullable=False),
        sa.Column("device", Words, nullable=False),
        sa.Column("fingerprint", Words, nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("serial"),
        if_not_exists=True,
    )
    op.create_index("ix_certificate_device", "certificate", ["device"], if_not_exists=True)
    op.create_index("ix_certificate_revoked_at", "certificate", ["revoked_at"], if_not_exists=True)
    op.create_table(
        "claim",
        sa.Column("digest", Words, nullable=False),
        sa.Column("device", Words, nullable=False),
        sa.Column("family", Words, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("used_by", Words, nullable=False),
        sa.Column("fingerprint", Words, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        if_not_exists=True,
    )
    op.create_table(
        "counter",
        sa.Column("name", Words, nullable=False),
        sa.Column("value", Whole, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        if_not_exists=True,
    )
    op.create_table(
        "decision",
        sa.Column("id", Whole, nullable=False),
        sa.Column("rollout", Words, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("before", Words, nullable=False),
        sa.Column("event", Words, nullable=False),
        sa.Column("after", Words, nullable=False),
        sa.Column("wave", Whole, nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("reason", Words, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index("ix_decision_rollout", "decision", ["rollout"], if_not_exists=True)
    op.create_table(
        "device",
        sa.Column("id", Words, nullable=False),
        sa.Column("family", Words, nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("enrolled_at", sa.Float(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("session", Words, nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_table(
        "event",
        sa.Column("id", Whole, nullable=False),
        sa.Column("device", Words, nullable=False),
        sa.Column("spool", Words, nullable=False),
        sa.Column("seq", Whole, nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("code", Words, nullable=False),
        sa.Column("rollout", Words, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("device", "spool", "seq"),
        if_not_exists=True,
    )
    op.create_index("ix_event_received_at", "event", ["received_at"], if_not_exists=True)
    op.create_index("ix_event_rollout", "event", ["rollout"], if_not_exists=True)
    op.create_table(
        "exposure",
        sa.Column("rollout", Words, nullable=False),
        sa.Column("device", Words, nullable=False),
        sa.Column("rank", Whole, nullable=False),
        sa.Column("wave", Whole, nullable=False),
        sa.Column("previous", Words, nullable=False),
        sa.Column("offered_at", sa.Float(), nullable=False),
        sa.Column("reverted_at", sa.Float(), nullable=False),
        sa.Column("sequence", Whole, nullable=False),
        sa.Column("outcome", Words, nullable=False),
        sa.Column("code", Words, nullable=False),
        sa.Column("detail", Words, nullable=False),
        sa.Column("settled_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("rollout", "device"),
        if_not_exists=True,
    )
    op.create_table(
        "identity",
        sa.Column("device", Words, nullable=False),
        sa.Column("fingerprint", Words, nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("device"),
        if_not_exists=True,
    )
    op.create_table(
        "incident",
        sa.Column("id", Whole, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("device", Words, nullable=False),
        sa.Column("channel", Words, nullable=False),
        sa.Column("code", Words, nullable=False),
        sa.Column("detail", Words, nullable=False),
        sa.Column("size", Whole, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_table(
        "label",
        sa.Column("batch", Words, nullable=False),
        sa.Column("bundle", Words, nullable=False),
        sa.Column("day", sa.Float(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("negatives", sa.JSON(), nullable=False),
        sa.Column("positives", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("batch", "bundle", "day", "weight"),
        if_not_exists=True,
    )
    op.create_table(
        "label_batch",
        sa.Column("batch", Words, nullable=False),
        sa.Column("source", Words, nullable=False),
        sa.Column("added_at", sa.Float(), nullable=False),
        sa.Column("labels", Whole, nullable=False),
        sa.Column("positives", Whole, nullable=False),
        sa.Column("first", sa.Float(), nullable=False),
        sa.Column("last", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("batch"),
        if_not_exists=True,
    )
    op.create_table(
        "meta",
        sa.Column("name", Words, nullable=False),
        sa.Column("value", Words, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        if_not_exists=True,
    )
    op.create_table(
        "question",
        sa.Column("id", Whole, nullable=False),
        sa.Column("device", Words, nullable=False),
        sa.Column("keyid", Words, nullable=False),
        sa.Column("sequence", Whole, nullable=False),
        sa.Column("ask", Words, nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("answered_at", sa.Float(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("device", "keyid", "sequence"),
        if_not_exists=True,
    )
    op.create_index("ix_question_answered_at", "question", ["answered_at"], if_not_exists=True)
    op.create_index("ix_question_expires", "question", ["expires"], if_not_exists=True)
    op.create_table(
        "refusal",
        sa.Column("device", Words, nullable=False),
        sa.Column("spool", Words, nullable=False),
        sa.Column("seq", Whole, nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("device", "spool", "seq"),
        if_not_exists=True,
    )
    op.create_index("ix_refusal_received_at", "refusal", ["received_at"], if_not_exists=True)
    op.create_table(
        "rollout",
        sa.Column("number", Whole, nullable=False),
        sa.Column("id", Words, nullable=False),
        sa.Column("bundle", Words, nullable=False),
        sa.Column("name", Words, nullable=False),
        sa.Column("version", Words, nullable=False),
        sa.Column("family", Words, nullable=False),
        sa.Column("state", Words, nullable=False),
        sa.Column("wave", Whole, nullable=False),
        sa.Column("waves", Whole, nullable=False),
        sa.Column("select", sa.JSON(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("changed_at", sa.Float(), nullable=False),
        sa.Column("stopped", Words, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id"),
        if_not_exists=True,
    )
    op.create_index("ix_rollout_state", "rollout", ["state"], if_not_exists=True)
    op.create_table(
        "spool",
        sa.Column("device", Words, nullable=False),
        sa.Column("spool", Words, nullable=False),
        sa.Column("oldest", Whole, nullable=False),
        sa.Column("newest", Whole, nullable=False),
        sa.Column("floor", Whole, nullable=False),
        sa.Column("purged", Whole, nullable=False),
        sa.PrimaryKeyConstraint("device", "spool"),
        if_not_exists=True,
    )
    op.create_table(
        "window",
        sa.Column("id", Whole, nullable=False),
        sa.Column("device", Words, nullable=False),
        sa.Column("spool", Words, nullable=False),
        sa.Column("seq", Whole, nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("closed", sa.Float(), nullable=False),
        sa.Column("bundle", Words, nullable=False),
        sa.Column("rows", Whole, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("device", "spool", "seq"),
        if_not_exists=True,
    )
    op.create_index("ix_window_received_at", "window", ["received_at"], if_not_exists=True)
