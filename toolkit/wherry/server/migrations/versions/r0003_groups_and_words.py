"""Groups that operators name, and what they say of a rollout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from wherry.server.engines import Whole, Words

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make their tables."""
    op.create_table(
        "grouping",
        sa.Column("name", Words, primary_key=True),
        sa.Column("made_at", sa.Float, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "member",
        sa.Column("grouping", Words, primary_key=True),
        sa.Column("device", Words, primary_key=True),
        if_not_exists=True,
    )
    op.create_table(
        "word",
        sa.Column("id", Whole, primary_key=True),
        sa.Column("rollout", Words, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("what", Words, nullable=False),
        sa.Column("why", Words, nullable=False),
        sa.Column("wave", Whole, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_word_rollout", "word", ["rollout"], if_not_exists=True)
