"""What a device runs stands in columns: counting a fleet reads no reports any more."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from wherry.server.engines import Words

revision = "0002"
down_revision = "0001"
_SAID = ("bundle", "bundle_name", "bundle_version")


def upgrade() -> None:
    """Add them, and fill them from the last reports."""
    for name in _SAID:
        op.add_column("device", sa.Column(name, Words, nullable=False, server_default=""))
    op.add_column(
        "device", sa.Column("by_rule", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.create_index("ix_device_bundle", "device", ["bundle"])
    device = sa.table(
        "device",
        *(sa.column(name, Words) for name in ("id", *_SAID)),
        sa.column("by_rule", sa.Boolean),
        sa.column("state", sa.LargeBinary),
    )
    connection = op.get_bind()
    rows = connection.execute(sa.select(device.c.id, device.c.state)).all()
    for name, state in rows:
        if state:
            said = json.loads(state)
            values = {key: str(said.get(key) or "") for key in _SAID}
            change = sa.update(device).where(device.c.id == name)
            connection.execute(change.values(**values, by_rule=bool(said.get("fallback"))))
