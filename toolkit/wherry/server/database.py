"""The tables, and how the file is opened: SQLite in WAL mode, every commit on the medium."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from wherry_contract.errors import StoreError

VERSION: Final = 1
_BUSY_SECONDS: Final = 20.0
_FULL_WORDS: Final = ("full", "disk i/o error")
_VARIABLES: Final = 300  # three times as many where an item is a place
_META = sa.MetaData()
_T = TypeVar("_T")

meta = sa.Table(
    "meta",
    _META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
device = sa.Table(
    "device",
    _META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("family", sa.String, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("enrolled_at", sa.Float, nullable=False),
    sa.Column("online", sa.Boolean, nullable=False, default=False),
    sa.Column("session", sa.String, nullable=False, default=""),
    sa.Column("seen_at", sa.Float, nullable=False, default=0.0),
    sa.Column("state", sa.LargeBinary),
)
_place = ("device", "spool", "seq")
window = sa.Table(
    "window",
    _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("spool", sa.String, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
    sa.Column("closed", sa.Float, nullable=False),
    sa.Column("bundle", sa.String, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint(*_place),
)
event = sa.Table(
    "event",
    _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("spool", sa.String, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("rollout", sa.String, nullable=False, index=True),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint(*_place),
)
spool = sa.Table(
    "spool",
    _META,
    sa.Column("device", sa.String, primary_key=True),
    sa.Column("spool", sa.String, primary_key=True),
    sa.Column("oldest", sa.Integer, nullable=False),
    sa.Column("newest", sa.Integer, nullable=False),
    # what retention took away: nothing up to `floor` is stored again
    sa.Column("floor", sa.Integer, nullable=False, default=0),
    sa.Column("purged", sa.Integer, nullable=False, default=0),
)
# places whose message was refused for good: they were not lost on the way
refusal = sa.Table(
    "refusal",
    _META,
    sa.Column("device", sa.String, primary_key=True),
    sa.Column("spool", sa.String, primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
)
incident = sa.Table(
    "incident",
    _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("channel", sa.String, nullable=False),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
)
counter = sa.Table(
    "counter",
    _META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)
bundle = sa.Table(
    "bundle",
    _META,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("family", sa.String, nullable=False),
    sa.Column("counter", sa.Integer, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("edges", sa.String, nullable=False),
    sa.Column("added_at", sa.Float, nullable=False),
)
rollout = sa.Table(
    "rollout",
    _META,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("bundle", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("family", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("waves", sa.Integer, nullable=False),
    sa.Column("select", sa.JSON, nullable=False),
    sa.Column("policy", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Column("stopped", sa.String, nullable=False, default=""),
)
exposure = sa.Table(
    "exposure",
    _META,
    sa.Column("rollout", sa.String, primary_key=True),
    sa.Column("device", sa.String, primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("previous", sa.String, nullable=False, default=""),
    sa.Column("offered_at", sa.Float, nullable=False, default=0.0),
    sa.Column("reverted_at", sa.Float, nullable=False, default=0.0),
    sa.Column("sequence", sa.Integer, nullable=False, default=0),
    sa.Column("outcome", sa.String, nullable=False, default=""),
    sa.Column("code", sa.String, nullable=False, default=""),
    sa.Column("detail", sa.String, nullable=False, default=""),
    sa.Column("settled_at", sa.Float, nullable=False, default=0.0),
)
decision = sa.Table(
    "decision",
    _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rollout", sa.String, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("before", sa.String, nullable=False),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("after", sa.String, nullable=False),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("figures", sa.JSON, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
)
assignment = sa.Table(
    "assignment",
    _META,
    sa.Column("device", sa.String, primary_key=True),
    sa.Column("keyid", sa.String, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("rollout", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("issued_at", sa.Float, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
# groups that operators name, and who is in them
grouping = sa.Table(
    "grouping",
    _META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("made_at", sa.Float, nullable=False),
)
member = sa.Table(
    "member",
    _META,
    sa.Column("grouping", sa.String, primary_key=True),
    sa.Column("device", sa.String, primary_key=True),
)
# what operators said of a rollout, in order: pause, resume, pass
word = sa.Table(
    "word",
    _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rollout", sa.String, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("wave", sa.Integer, nullable=False),
)
# what operators ask of devices, and what those answered
question = sa.Table(
    "question",
    _META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("keyid", sa.String, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("ask", sa.String, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False, index=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.Column("answered_at", sa.Float, nullable=False, default=0.0, index=True),
    sa.Column("payload", sa.LargeBinary),  # the event that answers
    sa.UniqueConstraint("device", "keyid", "sequence"),
)
# labels that came later, as counts by score bin; a batch counts once
label_batch = sa.Table(
    "label_batch",
    _META,
    sa.Column("batch", sa.String, primary_key=True),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("added_at", sa.Float, nullable=False),
    sa.Column("labels", sa.Integer, nullable=False),
    sa.Column("positives", sa.Integer, nullable=False),
    sa.Column("first", sa.Float, nullable=False),
    sa.Column("last", sa.Float, nullable=False),
)
label = sa.Table(
    "label",
    _META,
    sa.Column("batch", sa.String, primary_key=True),
    sa.Column("bundle", sa.String, primary_key=True),
    sa.Column("day", sa.Float, primary_key=True),
    sa.Column("weight", sa.Float, primary_key=True),
    sa.Column("negatives", sa.JSON, nullable=False),
    sa.Column("positives", sa.JSON, nullable=False),
)
claim = sa.Table(
    "claim",
    _META,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("device", sa.String, nullable=False),
    sa.Column("family", sa.String, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("again", sa.Boolean, nullable=False),
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used_by", sa.String, nullable=False, default=""),
    sa.Column("fingerprint", sa.String, nullable=False, default=""),
)
# whose key is which now; `revoked_at` is 0 while it is good
identity = sa.Table(
    "identity",
    _META,
    sa.Column("device", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("not_after", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float, nullable=False, default=0.0),
)
certificate = sa.Table(
    "certificate",
    _META,
    sa.Column("serial", sa.String, primary_key=True),
    sa.Column("device", sa.String, nullable=False, index=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("issued_at", sa.Float, nullable=False),
    sa.Column("not_after", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float, nullable=False, default=0.0, index=True),
)


def in_parts(items: Iterable[_T]) -> Iterator[list[_T]]:
    """Lists short enough for one statement; SQLite bounds how many variables one may have."""
    rest = iter(items)
    while part := list(itertools.islice(rest, _VARIABLES)):
        yield part


class Database:
    """One file; many readers, one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is not there.

        Raises:
            StoreError: D01 or D06; D06 also for a file that a later Wherry wrote.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._engine = sa.create_engine(
            f"sqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS}, pool_size=8
        )
        sa.event.listen(self._engine, "connect", _configure)
        sa.event.listen(self._engine, "begin", _begin)
        path.touch(mode=0o600)
        self._prepare(path)

    def _prepare(self, path: Path) -> None:
        with self.writing() as connection:
            _META.create_all(connection)
            found = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "version"))
            if found is None:
                connection.execute(meta.insert().values(name="version", value=str(VERSION)))
            elif found != str(VERSION):
                raise StoreError(
                    "D06",
                    f"{path} has version {found[:20]}, known is {VERSION}",
                    cure="use the Wherry that wrote it, or a later one",
                )

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for a block of reads; they see one moment.

        Raises:
            StoreError: D01 or D06.
        """
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _store_error(error) from error

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction; what it wrote is on the medium when the block has ended.

        Raises:
            StoreError: D01 or D06; nothing was written.
        """
        try:
            with self._lock, self._engine.connect() as connection:
                writer = connection.execution_options(wherry_begin="IMMEDIATE")
                with writer.begin():
                    yield writer
        except SQLAlchemyError as error:
            raise _store_error(error) from error

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _configure(connection: Any, _record: object) -> None:
    """Hand transactions to us (`_begin`), and make a commit mean that it is on the medium."""
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    """Take the write lock at once: a reader that turns writer half-way fails under WAL."""
    kind = connection.get_execution_options().get("wherry_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _store_error(error: SQLAlchemyError) -> StoreError:
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    full = any(word in text.lower() for word in _FULL_WORDS)
    return StoreError("D01" if full else "D06", f"fleet store: {text[:200]}")
