"""What SQLite and PostgreSQL do differently: how they are opened, locked, and what failed means.

The statements of the store are the same for both. SQLite has one writer at a time, so on
PostgreSQL writers take an advisory lock: numbers of windows and events then become visible in
their order, and whoever reads "what came after the last one" misses nothing.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from wherry_contract.errors import SetupError, StoreError
from wherry_contract.extras import how_to_install

POSTGRES: Final = "postgresql+psycopg://"
_BUSY_SECONDS: Final = 20.0
_FULL_WORDS: Final = ("full", "disk i/o error", "no space left")
_REFUSED_WORDS: Final = ("password", "does not exist", "pg_hba", "not permitted", "permission")
_CONNECT_SECONDS: Final = 5
# a server that was pulled out of the rack holds no lock for longer than about this
_GONE_SECONDS: Final = 30


class Words(sa.TypeDecorator[str]):
    """Text ordered by its code points on either engine; PostgreSQL keeps no NUL, so neither does."""

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """The engine's own type."""
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(sa.String(collation=collation))

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002 - the interface of SQLAlchemy
        """What is stored for a text."""
        return None if value is None else storable(value)


def storable(text: str) -> str:
    """A text without what a database cannot hold: NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


# SQLite numbers rows by themselves only under this very name; sequences go up to 2**53
Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, in the connection's dialect."""
    make = postgresql.insert if is_postgres(connection) else sqlite.insert
    return make(table)


def is_postgres(connection: sa.Connection) -> bool:
    """Whether it is PostgreSQL; otherwise it is SQLite."""
    return connection.dialect.name == "postgresql"


def larger(one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The larger of two values of a row; neither is NULL."""
    return sa.case((one > other, one), else_=other)


def make_engine(where: Path | str) -> sa.Engine:
    """An engine for a file, or for the URL of a PostgreSQL database.

    Raises:
        SetupError: H06, its driver is not installed; H08, it is no such URL.
    """
    if isinstance(where, Path):
        engine = sa.create_engine(
            f"sqlite:///{where}", connect_args={"timeout": _BUSY_SECONDS}, pool_size=8
        )
        sa.event.listen(engine, "connect", _configure)
        sa.event.listen(engine, "begin", _begin)
        return engine
    if not where.startswith(POSTGRES):
        raise SetupError("H08", "--store", cure=f"write it like {POSTGRES}user@host/database")
    try:
        return sa.create_engine(
            where,
            pool_size=8,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "keepalives_idle": _GONE_SECONDS // 3,
                "keepalives_interval": _GONE_SECONDS // 6,
                "keepalives_count": 3,
                "tcp_user_timeout": _GONE_SECONDS * 1000,
                "application_name": "wherry",
            },
        )
    except ModuleNotFoundError as error:
        raise SetupError("H06", "psycopg", cure=how_to_install("postgres")) from error
    except (SQLAlchemyError, ValueError) as error:  # a URL that cannot be read, or its driver
        raise SetupError("H08", "--store", cure=f"write it like {POSTGRES}user@host/db") from error


def key(name: str) -> int:
    """The number of an advisory lock of ours."""
    return 0x57 << 32 | zlib.crc32(name.encode())


def _configure(connection: Any, _record: object) -> None:
    """Hand transactions to us (`_begin`), and make a commit mean that it is on the medium."""
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    """Take the write lock at once: a reader that turns writer half-way fails under WAL."""
    kind = connection.get_execution_options().get("wherry_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def store_error(error: SQLAlchemyError) -> StoreError:
    """What an error of the engine means to us."""
    original = error.orig if isinstance(error, DBAPIError) else None
    text = " ".join(str(original or error).split())
    if any(word in text.lower() for word in _FULL_WORDS):
        return StoreError("D01", f"fleet store: {text[:200]}")
    if original is not None and type(original).__module__.startswith("psycopg"):
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if lost or type(original).__name__ in (
            "OperationalError",
            "InterfaceError",
            "AdminShutdown",
        ):
            return StoreError("D08", text[:200])
    return StoreError("D06", f"fleet store: {text[:200]}")


def may_pass(error: StoreError) -> bool:
    """Whether a database that cannot be reached may soon be; a wrong password stays wrong."""
    return error.code == "D08" and not any(word in error.detail.lower() for word in _REFUSED_WORDS)
