"""From the tables of any earlier Wherry to those of this one, in one transaction.

A step that fails takes all steps back with it, so that the former Wherry can go on with its file.
New tables are made as they are now, and marked as if all steps had been gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from wherry_contract.errors import StoreError

HEAD: Final = "0003"  # the newest step; known here, so that Alembic is loaded by who needs it
_FOLDER: Final = Path(__file__).parent
# what 0.1.0 reads, and by which it refuses what is not for it
_VERSION: Final = {"name": "version", "value": "2"}
_MARK: Final = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def migrate(connection: sa.Connection, metadata: sa.MetaData, versions: Path | None = None) -> None:
    """Bring the tables to this Wherry's form; those that have it cost one look.

    Args:
        connection: in a transaction that nobody else writes beside.
        metadata: the tables as they are to be.
        versions: another folder of steps than Wherry's own.

    Raises:
        StoreError: D06, a later Wherry wrote it.
    """
    look = sa.inspect(connection)
    marked, there = (look.has_table(name) for name in ("alembic_version", "meta"))
    found = connection.scalar(sa.select(_MARK.c.version_num)) if marked else None
    if found == HEAD and versions is None:
        return
    meta = metadata.tables["meta"]
    version = meta.c.name == _VERSION["name"]
    if not there:
        metadata.create_all(connection)
        _MARK.create(connection)
        connection.execute(_MARK.insert().values(version_num=HEAD))
    else:
        if not marked and connection.scalar(sa.select(meta.c.value).where(version)) != "1":
            raise _newer("unknown")
        _upgrade(connection, found, versions or _FOLDER / "versions")
        connection.execute(meta.delete().where(version))
    connection.execute(meta.insert().values(**_VERSION))


def _upgrade(connection: sa.Connection, found: str | None, versions: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(versions))
    config.attributes["connection"] = connection
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if found and found not in known:
        raise _newer(found)
    command.upgrade(config, "head")


def _newer(found: str) -> StoreError:
    detail = f"the fleet's tables have revision {found[:20]}, which is not known here"
    return StoreError("D06", detail, cure="use the Wherry that wrote it, or a later one")
