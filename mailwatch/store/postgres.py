"""How a ledger in a PostgreSQL database is opened, held, and appended to.

One database holds one ledger. It is reached by psycopg, which is imported only here and only when it is needed.
Each write is one transaction that depends on no state of its connection, so that a pooler in transaction mode may
stand between (PgBouncer).
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import ExceptionContext

from mailwatch.errors import OperationError
from mailwatch.ledger.merkle import CompactRange
from mailwatch.store.committed_tail import CommittedTail
from mailwatch.store.connections import Connections, psycopg_error
from mailwatch.store.data_dir import DataDirLock
from mailwatch.store.errors import (
    DAMAGE_ADVICE,
    CommitInDoubtError,
    DatabaseAwayError,
    KeysDifferError,
    LedgerClosedError,
    StoreDamagedError,
    StoreHealth,
    StoreUnavailableError,
    damaged,
)
from mailwatch.store.lease import FENCE, Lease, Vouched, check_lease
from mailwatch.store.postgres_errors import translate
from mailwatch.store.schema import entries, head

if TYPE_CHECKING:
    import psycopg

    from mailwatch.store.place import Place

MIN_VERSION = 15
CONNECTION = {
    "connect_timeout": 2,
    # Without it a node whose network was cut notices nothing for minutes while data is under way (tcp(7)).
    "tcp_user_timeout": 4000,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "client_encoding": "UTF8",
}
"""Settings of each connection, unless the address says otherwise. Seconds; `tcp_user_timeout` milliseconds.

https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

PATIENCE_MS = 600_000
"""`tcp_user_timeout` while a ledger is copied."""

_APPEND = """
WITH alive AS ({alive}),
     moved AS (UPDATE ledger_head SET size = :after, hashes = :hashes
               WHERE id = 1 AND size = :before AND hashes = :hashes_before AND successor IS NULL
               AND EXISTS (SELECT 1 FROM alive) RETURNING 1)
INSERT INTO entries (idx, kind, time_ms, target, number, outcome, header, payload)
SELECT r.* FROM moved, ROWS FROM (
    json_to_recordset(CAST(:rows AS json))
        AS (idx bigint, kind text, time_ms bigint, target text, number bigint, outcome text),
    unnest(string_to_array(:headers, E'\n')),
    unnest(string_to_array(:payloads, E'\n'))
) AS r
"""
"""Compare and set in one statement: no lock is ever held between two messages, so a process that is stopped stops
no other. `alive` is empty when this process may not write.

The sealed texts are canonical JSON, without a line break; as JSON within JSON they would cost the server more.
"""
_SHORT_COLUMNS = ("idx", "kind", "time_ms", "target", "number", "outcome")


class PostgresPlace:
    """A database of PostgreSQL. `url`: its address, as libpq reads it, without a password, which `password` gives
    for each connection. `name`: how the server lists our connections.
    """

    is_shared = True

    def __init__(
        self, data_dir: Path, url: str, *, password: Callable[[], str] | None = None, name: str = "mailwatch"
    ) -> None:
        self.data_dir = data_dir
        self._password = password
        self.url = url
        self._given = _parsed(url)
        self.name = name
        self.lease: Lease | None = None
        """This node's lease, where several nodes share the ledger: nothing is written without it."""
        self._connections = Connections()
        self.schema = ""
        """The schema of the tables, "" for that of the role. Set in each transaction, as a pooler needs it."""
        self.lock: DataDirLock | None = None
        """The lock of the data_dir, where this process has it for all its terms."""

    def __str__(self) -> str:
        given = self._given
        at = f"{user}@" if (user := given.get("user")) else ""
        hosts, ports = str(given.get("host", "")).split(","), str(given.get("port", "")).split(",")
        # One port is that of all hosts.
        ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
        where = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=True))
        return f"postgresql://{at}{where}/{given.get('dbname', '')}"

    @property
    def user(self) -> str:
        """The role that connects, "" where libpq chooses it."""
        return str(self._given.get("user") or "")

    def __repr__(self) -> str:
        return f"PostgresPlace({str(self)!r})"

    def patient(self) -> PostgresPlace:
        """Return this place with connections that wait for long, since a server that takes many rows is silent at
        times.
        """
        made = copy.copy(self)
        made.__dict__["_given"] = {"tcp_user_timeout": PATIENCE_MS, **self._given}
        return made

    def in_schema(self, name: str, data_dir: Path) -> PostgresPlace:
        """Return a place for another ledger in a schema of the same database, and a folder of its own.

        It has no lease: an append that another process overtook changes nothing.
        """
        made = copy.copy(self)
        made.schema, made.data_dir, made.lease, made.lock = name, data_dir, None, None
        return made

    def absence(self) -> str:
        """Return "": only a connection shows what there is."""
        return ""

    def engine(self, *, read_only: bool = False, health: StoreHealth | None = None) -> sa.Engine:
        """Return an engine. With a lease, each transaction of one that may write raises EvictedError once the
        lease was ended.
        """
        made = self.unfenced_engine(read_only=read_only, health=health)
        if self.lease is not None and not read_only:
            lease = self.lease

            @sa.event.listens_for(made, "begin")
            def _fence(connection: sa.Connection) -> None:
                check_lease(lease, connection)

        return made

    def unfenced_engine(self, *, read_only: bool = False, health: StoreHealth | None = None) -> sa.Engine:
        """Return an engine for who checks the lease by itself.

        Its connections are tested before use, since the server may have ended them.
        """
        health = health or StoreHealth()
        made = sa.create_engine(
            "postgresql+psycopg://",
            creator=self.connection,
            pool_pre_ping=True,
            pool_size=2,
            max_overflow=18,
            use_native_hstore=False,
            execution_options={"postgresql_readonly": True} if read_only else {},
        )

        if self.schema:
            path = f'SET LOCAL search_path TO "{self.schema}"'

            @sa.event.listens_for(made, "begin")
            def _find_tables(connection: sa.Connection) -> None:
                raw = connection.connection.dbapi_connection
                assert raw is not None
                # Not by SQLAlchemy: for a query with a cursor on the server it would ask for one here too.
                try:
                    with contextlib.closing(raw.cursor()) as cursor:
                        cursor.execute(path)
                except psycopg_error() as cause:
                    if (error := translate(str(self), cause)) is not None:
                        health.note(error)
                        raise error from cause
                    raise

        @sa.event.listens_for(made, "handle_error")
        def _translate(context: ExceptionContext) -> None:
            cause = context.original_exception
            if context.is_pre_ping:
                # The pool opens another connection.
                return
            if (error := translate(str(self), cause)) is not None:
                health.note(error)
                raise error from cause

        return made

    def hold(self, health: StoreHealth) -> PostgresHold:
        """Lock the data_dir for this process. Raises DataDirLockedError, OSError."""
        return PostgresHold(self, health)

    def save_tables(self, made: sa.Engine) -> None:
        """Do nothing: a commit is in the database."""

    def connection(self) -> psycopg.Connection[Any]:
        """Return a new connection. Raises psycopg.Error, and what the password's source raises."""
        import psycopg

        secret = {} if self._password is None else {"password": self._password()}
        settings: dict[str, Any] = {**CONNECTION, "application_name": self.name, **self._given, **secret}
        # Prepared statements belong to a connection, which a pooler changes.
        made = psycopg.connect(**settings, prepare_threshold=None)
        made.server_cursor_factory = _server_cursor()
        self._connections.add(made)
        return made

    def cut(self) -> None:
        """Break all connections, so that who waits for the database fails. For any thread."""
        self._connections.cut()


class PostgresHold:
    """The writing side: the lock of this machine's data_dir, and the connection that appends."""

    def __init__(self, place: PostgresPlace, health: StoreHealth) -> None:
        self._place = place
        self._engine = place.unfenced_engine(health=health)
        self._appending: sa.Connection | None = None
        alive = "SELECT 1" if place.lease is None else FENCE
        self._lease_values = {} if place.lease is None else place.lease.values
        self._statement = sa.text(_APPEND.format(alive=alive))
        self._lock = place.lock or DataDirLock(place.data_dir)
        self.tail = CommittedTail(place.data_dir)
        self._committed = (0, b"")
        self._cluster = ""

    def open(self) -> sa.Engine:
        """Connect, and check that the server can hold a ledger. Raises StoreError."""
        check_server(self._place, self._engine)
        if self._place.schema:
            with self.transaction() as connection:
                connection.exec_driver_sql(f'CREATE SCHEMA IF NOT EXISTS "{self._place.schema}"')
        if self._place.lease is not None:
            with self.transaction() as connection:
                # Before anything is compared: a failover from here on shows.
                self._cluster = self._place.lease.cluster_of(connection)
        return self._engine

    def begin(self) -> None:
        """Open the connection that appends. Raises StoreError."""
        self._appending = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with self.transaction() as connection:
            # First of all: a ledger that went on elsewhere has fewer entries than were signed since.
            successor = connection.execute(sa.select(head.c.successor)).scalar()
        if successor is not None:
            raise self._closed(successor)

    def settle(self, origin: str, tree: CompactRange) -> None:
        """Compare the head row with what the entries give; make it for a new ledger. Raises StoreError."""
        with self.transaction() as connection:
            row = connection.execute(sa.select(head)).one_or_none()
            if row is None and tree.size == 0:
                values = {"id": 1, "origin": origin, "size": 0, "hashes": b""}
                connection.execute(sa.insert(head).values(values))
                self._vouch(tree)
                return
        if row is None:
            what = f"there are {tree.size} entries, but the row of their number is missing"
            raise damaged(self._place, f"{what}; if `mailwatch migrate` was interrupted, run it again")
        if row.origin != origin:
            raise KeysDifferError(
                f"{self._place} is of the ledger {row.origin}, and the keys are of {origin}; restore keys and "
                "database together"
            )
        if row.successor is not None:
            raise self._closed(row.successor)
        # What another node appended since it was checked is found at the first append.
        if row.size < tree.size or (row.size == tree.size and row.hashes != tree.to_bytes()):
            what = f"its head says {row.size} entries, and {tree.size} entries give other hashes"
            raise StoreDamagedError(f"{self._place}: {what}; {DAMAGE_ADVICE}", what)
        self._vouch(tree)

    def _vouch(self, tree: CompactRange) -> None:
        """Tell the lease that the database has all that this node committed."""
        self._committed = (tree.size, tree.to_bytes())
        if self._place.lease is not None:
            self._place.lease.vouched = Vouched(self._cluster, lambda: self._committed)

    def _closed(self, successor: str) -> LedgerClosedError:
        return LedgerClosedError(
            f"the ledger in {self._place} is closed: {successor} goes on for it", "the ledger is closed"
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run statements in one transaction. Raises StoreError."""
        with self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Write in one transaction, as long as this node may. Raises StoreError; EvictedError."""
        with self.transaction() as connection:
            if self._place.lease is not None:
                check_lease(self._place.lease, connection)
            yield connection

    def advance(self, connection: sa.Connection, before: CompactRange, after: CompactRange) -> None:
        """Move the head row within a transaction. Raises StoreUnavailableError if another process moved it."""
        c = head.c
        moved = sa.update(head).where(c.id == 1, c.size == before.size, c.hashes == before.to_bytes())
        if not connection.execute(moved.values(size=after.size, hashes=after.to_bytes())).rowcount:
            raise StoreUnavailableError(f"{self._place}: another process appended to the same ledger")

    def append(self, before: CompactRange, after: CompactRange, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Commit rows, which make the tree `after` of the tree `before`, or nothing.

        False: another process appended first. Raises StoreError; EvictedError if this node's lease was ended;
        CommitInDoubtError if the connection was lost, so that nobody can know yet whether the rows were committed.
        """
        if not self._append(before, after, rows):
            return False
        self.tail.keep(after, orjson.dumps(rows))
        self._committed = (after.size, after.to_bytes())
        return True

    def _append(self, before: CompactRange, after: CompactRange, rows: Sequence[Mapping[str, Any]]) -> bool:
        assert self._appending is not None
        texts = {name: "\n".join([row[name] for row in rows]) for name in ("header", "payload")}
        if any(text.count("\n") != len(rows) - 1 for text in texts.values()):
            raise ValueError("the text of an entry is not canonical JSON: it has a line break")
        values = {
            "before": before.size,
            "hashes_before": before.to_bytes(),
            "after": after.size,
            "hashes": after.to_bytes(),
            "rows": orjson.dumps([{name: row[name] for name in _SHORT_COLUMNS} for row in rows]).decode(),
            "headers": texts["header"],
            "payloads": texts["payload"],
            **self._lease_values,
        }
        try:
            with self._appending.begin():
                done = self._appending.execute(self._statement, values).rowcount
            if done == len(rows):
                return True
            with self._appending.begin():
                # An earlier attempt with the same rows may have been committed after its connection was lost. No
                # two headers are equal, since each holds the digest of a salted payload or its own index and time.
                query = sa.select(entries.c.header).where(entries.c.idx == before.size)
                if self._appending.execute(query).scalar() == rows[0]["header"]:
                    return True
                if self._place.lease is not None:
                    check_lease(self._place.lease, self._appending)
                successor = self._appending.execute(sa.select(head.c.successor)).scalar()
                if successor is not None:
                    raise self._closed(successor)
                return False
        except DatabaseAwayError as error:
            raise CommitInDoubtError(str(error), error.public_reason) from error

    def give_back(self, keep: int, pages: int) -> int:
        """Return 0: the server reuses and shortens its files by itself (autovacuum)."""
        return 0

    def check(self) -> None:
        """Check that no other process took the lock of the data_dir. Raises DataDirLockedError, OSError."""
        self._lock.hold()

    def release(self) -> None:
        """Close the connections and release the lock."""
        self.tail.close()
        if self._appending is not None:
            self._appending.close()
        self._engine.dispose()
        if self._lock is not self._place.lock:
            self._lock.release()


def check_server(place: Place, made: sa.Engine) -> None:
    """Check that the server can hold a ledger. Raises StoreError."""
    with made.connect() as connection:
        version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10_000
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if version < MIN_VERSION:
        raise StoreUnavailableError(
            f"{place} is PostgreSQL {version}; MailWatch needs {MIN_VERSION} or later",
            f"PostgreSQL {version} is too old",
        )
    if encoding != "UTF8":
        raise StoreUnavailableError(
            f"{place} has the encoding {encoding}; create it with `ENCODING 'UTF8' TEMPLATE template0`",
            f"the database has the encoding {encoding}, not UTF8",
        )


@cache
def _server_cursor() -> type[psycopg.ServerCursor[Any]]:
    """Return a cursor that may be dropped: who reads only the beginning of a result ends its transaction, and that
    closes the cursor.
    """
    import psycopg

    class DroppableCursor(psycopg.ServerCursor[Any]):
        def __del__(self, *_: object) -> None:
            """Say nothing."""

        def close(self) -> None:
            """Close it; with its connection it is gone, as the next statement says."""
            with contextlib.suppress(psycopg.OperationalError):
                super().close()

    return DroppableCursor


def _parsed(url: str) -> dict[str, Any]:
    """Return the parts of an address. Raises OperationError for one that libpq does not understand, or without
    psycopg.
    """
    try:
        import psycopg
        from psycopg import conninfo
    except ImportError as error:
        raise OperationError(
            f"PostgreSQL needs psycopg, which cannot be loaded ({error}): pip install 'mailwatch[postgresql]'"
        ) from None
    try:
        return conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # The message of libpq would repeat the address, which may hold a password.
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        if unknown is not None and "@" not in url.partition("?")[2]:
            raise OperationError(
                f"the address of the database has the option {unknown[1]} after ?, which libpq does not know"
            ) from None
        raise OperationError("the address of the database is not postgresql://user@host:port/name") from None
