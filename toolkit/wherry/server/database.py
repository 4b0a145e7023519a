"""The tables, and the database that they stand in: a file of SQLite, or PostgreSQL by its URL.

What is changed here needs a step in `migrations`; a test compares the two.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from .engines import Whole, Words, is_postgres, key, make_engine, store_error

_VARIABLES: Final = 300  # three times as many where an item is a place
METADATA: Final = sa.MetaData()
_T = TypeVar("_T")

meta = sa.Table(
    "meta",
    METADATA,
    sa.Column("name", Words, primary_key=True),
    sa.Column("value", Words, nullable=False),
)
device = sa.Table(
    "device",
    METADATA,
    sa.Column("id", Words, primary_key=True),
    sa.Column("family", Words, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("enrolled_at", sa.Float, nullable=False),
    sa.Column("online", sa.Boolean, nullable=False, default=False),
    sa.Column("session", Words, nullable=False, default=""),
    sa.Column("seen_at", sa.Float, nullable=False, default=0.0),
    sa.Column("state", sa.LargeBinary),
    # of the state, so that a fleet is counted without reading every report
    sa.Column("bundle", Words, nullable=False, server_default="", index=True),
    sa.Column("bundle_name", Words, nullable=False, server_default=""),
    sa.Column("bundle_version", Words, nullable=False, server_default=""),
    sa.Column("by_rule", sa.Boolean, nullable=False, server_default=sa.false()),
)
_place = ("device", "spool", "seq")
window = sa.Table(
    "window",
    METADATA,
    sa.Column("id", Whole, primary_key=True),
    sa.Column("device", Words, nullable=False),
    sa.Column("spool", Words, nullable=False),
    sa.Column("seq", Whole, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
    sa.Column("closed", sa.Float, nullable=False),
    sa.Column("bundle", Words, nullable=False),
    sa.Column("rows", Whole, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint(*_place),
)
event = sa.Table(
    "event",
    METADATA,
    sa.Column("id", Whole, primary_key=True),
    sa.Column("device", Words, nullable=False),
    sa.Column("spool", Words, nullable=False),
    sa.Column("seq", Whole, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
    sa.Column("code", Words, nullable=False),
    sa.Column("rollout", Words, nullable=False, index=True),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint(*_place),
)
spool = sa.Table(
    "spool",
    METADATA,
    sa.Column("device", Words, primary_key=True),
    sa.Column("spool", Words, primary_key=True),
    sa.Column("oldest", Whole, nullable=False),
    sa.Column("newest", Whole, nullable=False),
    # what retention took away: nothing up to `floor` is stored again
    sa.Column("floor", Whole, nullable=False, default=0),
    sa.Column("purged", Whole, nullable=False, default=0),
)
# places whose message was refused for good: they were not lost on the way
refusal = sa.Table(
    "refusal",
    METADATA,
    sa.Column("device", Words, primary_key=True),
    sa.Column("spool", Words, primary_key=True),
    sa.Column("seq", Whole, primary_key=True),
    sa.Column("received_at", sa.Float, nullable=False, index=True),
)
incident = sa.Table(
    "incident",
    METADATA,
    sa.Column("id", Whole, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("device", Words, nullable=False),
    sa.Column("channel", Words, nullable=False),
    sa.Column("code", Words, nullable=False),
    sa.Column("detail", Words, nullable=False),
    sa.Column("size", Whole, nullable=False),
)
counter = sa.Table(
    "counter",
    METADATA,
    sa.Column("name", Words, primary_key=True),
    sa.Column("value", Whole, nullable=False),
)
bundle = sa.Table(
    "bundle",
    METADATA,
    sa.Column("digest", Words, primary_key=True),
    sa.Column("name", Words, nullable=False),
    sa.Column("version", Words, nullable=False),
    sa.Column("family", Words, nullable=False),
    sa.Column("counter", Whole, nullable=False),
    sa.Column("size", Whole, nullable=False),
    sa.Column("total", Whole, nullable=False),
    sa.Column("edges", Words, nullable=False),
    sa.Column("added_at", sa.Float, nullable=False),
)
rollout = sa.Table(
    "rollout",
    METADATA,
    sa.Column("number", Whole, primary_key=True),
    sa.Column("id", Words, nullable=False, unique=True),
    sa.Column("bundle", Words, nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("version", Words, nullable=False),
    sa.Column("family", Words, nullable=False),
    sa.Column("state", Words, nullable=False, index=True),
    sa.Column("wave", Whole, nullable=False),
    sa.Column("waves", Whole, nullable=False),
    sa.Column("select", sa.JSON, nullable=False),
    sa.Column("policy", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Column("stopped", Words, nullable=False, default=""),
)
exposure = sa.Table(
    "exposure",
    METADATA,
    sa.Column("rollout", Words, primary_key=True),
    sa.Column("device", Words, primary_key=True),
    sa.Column("rank", Whole, nullable=False),
    sa.Column("wave", Whole, nullable=False),
    sa.Column("previous", Words, nullable=False, default=""),
    sa.Column("offered_at", sa.Float, nullable=False, default=0.0),
    sa.Column("reverted_at", sa.Float, nullable=False, default=0.0),
    sa.Column("sequence", Whole, nullable=False, default=0),
    sa.Column("outcome", Words, nullable=False, default=""),
    sa.Column("code", Words, nullable=False, default=""),
    sa.Column("detail", Words, nullable=False, default=""),
    sa.Column("settled_at", sa.Float, nullable=False, default=0.0),
)
decision = sa.Table(
    "decision",
    METADATA,
    sa.Column("id", Whole, primary_key=True),
    sa.Column("rollout", Words, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("before", Words, nullable=False),
    sa.Column("event", Words, nullable=False),
    sa.Column("after", Words, nullable=False),
    sa.Column("wave", Whole, nullable=False),
    sa.Column("figures", sa.JSON, nullable=False),
    sa.Column("reason", Words, nullable=False),
)
assignment = sa.Table(
    "assignment",
    METADATA,
    sa.Column("device", Words, primary_key=True),
    sa.Column("keyid", Words, nullable=False),
    sa.Column("sequence", Whole, nullable=False),
    sa.Column("rollout", Words, nullable=False),
    sa.Column("digest", Words, nullable=False),
    sa.Column("issued_at", sa.Float, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
# groups that operators name, and who is in them
grouping = sa.Table(
    "grouping",
    METADATA,
    sa.Column("name", Words, primary_key=True),
    sa.Column("made_at", sa.Float, nullable=False),
)
member = sa.Table(
    "member",
    METADATA,
    sa.Column("grouping", Words, primary_key=True),
    sa.Column("device", Words, primary_key=True),
)
# what operators said of a rollout, in order: pause, resume, pass
word = sa.Table(
    "word",
    METADATA,
    sa.Column("id", Whole, primary_key=True),
    sa.Column("rollout", Words, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("what", Words, nullable=False),
    sa.Column("why", Words, nullable=False),
    sa.Column("wave", Whole, nullable=False),
)
# what operators ask of devices, and what those answered
question = sa.Table(
    "question",
    METADATA,
    sa.Column("id", Whole, primary_key=True),
    sa.Column("device", Words, nullable=False),
    sa.Column("keyid", Words, nullable=False),
    sa.Column("sequence", Whole, nullable=False),
    sa.Column("ask", Words, nullable=False),
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
    METADATA,
    sa.Column("batch", Words, primary_key=True),
    sa.Column("source", Words, nullable=False),
    sa.Column("added_at", sa.Float, nullable=False),
    sa.Column("labels", Whole, nullable=False),
    sa.Column("positives", Whole, nullable=False),
    sa.Column("first", sa.Float, nullable=False),
    sa.Column("last", sa.Float, nullable=False),
)
label = sa.Table(
    "label",
    METADATA,
    sa.Column("batch", Words, primary_key=True),
    sa.Column("bundle", Words, primary_key=True),
    sa.Column("day", sa.Float, primary_key=True),
    sa.Column("weight", sa.Float, primary_key=True),
    sa.Column("negatives", sa.JSON, nullable=False),
    sa.Column("positives", sa.JSON, nullable=False),
)
claim = sa.Table(
    "claim",
    METADATA,
    sa.Column("digest", Words, primary_key=True),
    sa.Column("device", Words, nullable=False),
    sa.Column("family", Words, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("again", sa.Boolean, nullable=False),
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used_by", Words, nullable=False, default=""),
    sa.Column("fingerprint", Words, nullable=False, default=""),
)
# whose key is which now; `revoked_at` is 0 while it is good
identity = sa.Table(
    "identity",
    METADATA,
    sa.Column("device", Words, primary_key=True),
    sa.Column("fingerprint", Words, nullable=False),
    sa.Column("not_after", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float, nullable=False, default=0.0),
)
certificate = sa.Table(
    "certificate",
    METADATA,
    sa.Column("serial", Words, primary_key=True),
    sa.Column("device", Words, nullable=False, index=True),
    sa.Column("fingerprint", Words, nullable=False),
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
    """Many readers, one writer at a time: of a file's process, or of all servers of a fleet."""

    def __init__(self, where: Path | str) -> None:
        """Open it; make or migrate its tables.

        Args:
            where: a file of SQLite, or the URL of a PostgreSQL database.

        Raises:
            StoreError: D01, D06 or D08; D06 also for tables that a later Wherry wrote.
            SetupError: H06 or H08, the URL cannot be used.
        """
        from .migrations import migrate

        self._lock = threading.Lock()
        self._mine = threading.local()
        self._engine = make_engine(where)
        if isinstance(where, Path):
            where.parent.mkdir(parents=True, exist_ok=True)
            where.touch(mode=0o600)
        try:
            with self.writing() as connection:
                migrate(connection, METADATA)
        except BaseException:
            self.close()
            raise

    @property
    def shared(self) -> bool:
        """Whether other servers may use it, too."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for a block of reads; they see one moment.

        Raises:
            StoreError: D01, D06 or D08.
        """
        try:
            with self._engine.connect() as connection:
                if is_postgres(connection):
                    connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
        except SQLAlchemyError as error:
            raise store_error(error) from error

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction; what it wrote is on the medium when the block has ended.

        Raises:
            StoreError: D01, D06 or D08; nothing was written.
        """
        held = getattr(self._mine, "connection", None)
        try:
            if held is not None:  # the connection whose lock says that this thread may
                with held.begin():
                    _take_turn(held)
                    yield held
                return
            with self._lock, self._engine.connect() as connection:
                writer = connection.execution_options(wherry_begin="IMMEDIATE")
                with writer.begin():
                    _take_turn(writer)
                    yield writer
        except SQLAlchemyError as error:
            raise store_error(error) from error

    def connect(self) -> sa.Connection:
        """A connection that stays, for locks that are held as long as it lives.

        Raises:
            StoreError: D06 or D08.
        """
        try:
            return self._engine.connect()
        except SQLAlchemyError as error:
            raise store_error(error) from error

    @contextmanager
    def through(self, connection: sa.Connection) -> Iterator[None]:
        """Let this thread write through one connection alone: when it is lost, so is the right."""
        self._mine.connection = connection
        try:
            yield
        finally:
            self._mine.connection = None

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _take_turn(connection: sa.Connection) -> None:
    """Wait until no other server writes; the lock goes with the transaction."""
    if is_postgres(connection):
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key("writer"))))
