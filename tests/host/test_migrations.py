"""Tables of every earlier Wherry become those of this one; a step that fails takes nothing along."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from support_fleet import BUNDLE, open_store, state
from support_postgres import postgres

from wherry.server.database import METADATA, Database
from wherry.server.intake import Batch
from wherry.server.migrations import HEAD, migrate
from wherry.server.place import open_database, place_of
from wherry_contract.errors import StoreError

STEPS = Path(migrate.__code__.co_filename).parent / "versions"


def place(kind: str, folder: Path) -> Path | str:
    """Where an empty database is."""
    return folder / "fleet.sqlite" if kind == "sqlite" else postgres().empty_database()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_all_steps_lead_to_the_tables_as_they_are_made_now(kind: str, tmp_path: Path) -> None:
    """Who changes a table in `database` and adds no step sees here what it must do."""
    where = place(kind, tmp_path)
    url = f"sqlite:///{where}" if isinstance(where, Path) else where
    engine = sa.create_engine(url)
    with engine.begin() as connection:  # as if 0.1.0 had made it, without a single table yet
        connection.exec_driver_sql(
            "CREATE TABLE meta (name VARCHAR NOT NULL PRIMARY KEY, value VARCHAR NOT NULL)"
        )
        connection.exec_driver_sql("INSERT INTO meta VALUES ('version', '1')")
    Database(where).close()
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), METADATA)
        assert [item for item in found if "alembic_version" not in str(item)] == []
    engine.dispose()


def test_the_newest_step_is_known() -> None:
    assert ScriptDirectory(str(STEPS.parent), [str(STEPS)]).get_current_head() == HEAD


def of_0_1_0(folder: Path) -> Path:
    """A file as 0.1.0 left it: with what it stored, and without what came later."""
    with open_store(folder, "a") as store:
        store.add(Batch(7.0, states={"a": state("a", bundle=BUNDLE, fallback=True)}))
    path = folder / "fleet.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE alembic_version")
        connection.execute("UPDATE meta SET value = '1'")
        connection.execute("DROP INDEX ix_device_bundle")
        for name in ("bundle", "bundle_name", "bundle_version", "by_rule"):
            connection.execute(f"ALTER TABLE device DROP COLUMN {name}")
        connection.commit()
    return path


def test_a_file_of_0_1_0_goes_on(tmp_path: Path) -> None:
    of_0_1_0(tmp_path)
    with open_store(tmp_path) as store:
        (row,) = store.devices()
        assert row.state
        assert row.state.bundle == BUNDLE
        (runs,) = store.census.counts().runs
        assert (runs.bundle, runs.devices, runs.by_rule) == (BUNDLE, 1, 1)


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = of_0_1_0(tmp_path)
    steps = tmp_path / "steps"
    shutil.copytree(STEPS, steps)
    (steps / "r9999.py").write_text(
        f"from alembic import op\nrevision, down_revision = '9999', '{HEAD}'\n"
        "def upgrade():\n    op.execute('CREATE TABLE half (id INTEGER)')\n    raise RuntimeError\n"
    )
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())
    database = Database(tmp_path / "other.sqlite")
    engine = sa.create_engine(f"sqlite:///{path}")
    sa.event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    with pytest.raises(RuntimeError), engine.begin() as connection:
        migrate(connection, METADATA, steps)
    engine.dispose()
    database.close()
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before


def test_a_folder_says_where_its_store_is(tmp_path: Path) -> None:
    assert place_of(tmp_path) == tmp_path / "fleet.sqlite"
    url = postgres().database()
    (tmp_path / "store.url").write_text(f"{url}\n")
    database = open_database(tmp_path)
    assert database.shared
    database.close()
    assert not (tmp_path / "fleet.sqlite").exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(("@127.0.0.1:{port}/", "@127.0.0.1:9/"), "D08", id="nobody listens"),
        pytest.param(("/made", "/nothing"), "D08", id="no such database"),
        pytest.param(("+psycopg", ""), "H08", id="another driver"),
    ],
)
def test_a_store_that_cannot_be_opened(change: tuple[str, str], code: str) -> None:
    postgres().database()
    url = f"postgresql+psycopg://wherry@127.0.0.1:{postgres().port}/made"
    old, new = (part.format(port=postgres().port) for part in change)
    with pytest.raises((StoreError, Exception)) as caught:
        Database(url.replace(old, new))
    assert getattr(caught.value, "code", "") == code
