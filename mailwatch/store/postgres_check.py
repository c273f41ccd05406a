"""What the settings of a PostgreSQL server mean to a ledger: which promise they do not keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mailwatch.store.place import Place
from mailwatch.store.schema import head

_FACTS = sa.text(
    "SELECT pg_backend_pid() AS backend, current_setting('server_version') AS version, "
    "current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit, "
    "current_setting('synchronous_standby_names') AS synchronous_standbys, "
    "(SELECT count(*) FROM pg_stat_replication) AS standbys, "
    "EXISTS (SELECT 1 FROM pg_class WHERE relname = 'entries' AND relnamespace = current_schema()::regnamespace "
    "AND pg_has_role(relowner, 'USAGE')) AS owner, "
    "to_regclass('entries') IS NOT NULL AS prepared, "
    "has_schema_privilege(current_schema(), 'CREATE') AS may_prepare, "
    "current_setting('server_encoding') AS encoding, "
    "pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on' AS read_only"
)
_NODES = sa.text("SELECT name FROM nodes WHERE seen > clock_timestamp() - interval '1 day'")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """A server as a connection shows it. `pooled`: a pooler stands between. `owner`: our role owns the tables.

    `standbys`: the number of its replicas; `synchronous`: whether a commit waits for one of them. `durable`:
    whether a commit waits for the disk. `nodes`: the names of those that were alive within a day.
    """

    version: str
    pooled: bool
    owner: bool
    standbys: int
    synchronous: bool
    durable: bool
    nodes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    """Why no ledger can begin or go on here."""

    def losses(self) -> list[str]:
        """Return how entries on record may be lost."""
        found = []
        if not self.durable:
            found.append(
                "the database does not wait for the disk, so that a crash loses entries that were on record: set "
                "fsync = on and synchronous_commit = on"
            )
        if self.standbys and not self.synchronous:
            found.append(
                "the replicas of the database are asynchronous, so that a failover loses entries that were on "
                "record: set synchronous_standby_names and synchronous_commit = on"
            )
        return found

    def remarks(self) -> list[str]:
        """Return what else the owner should know."""
        found = []
        if len(self.nodes) > 1 and not self.standbys:
            found.append(
                "another node takes over when this one is lost, but the database has no replica: the record is "
                "lost with it"
            )
        for name in sorted({name for name in self.nodes if self.nodes.count(name) > 1}):
            found.append(
                f"several nodes are called {name}: nodes of one machine fail together; else give each a host name "
                "of its own"
            )
        if self.owner:
            found.append(
                "the role of the database owns the tables, so that it could remove the triggers that keep the "
                "ledger append-only: use two roles"
            )
        if self.pooled:
            found.append(
                "a pooler stands before the database: it must be in transaction or session mode, and sessions of "
                "a stopped node cannot be ended through it"
            )
        return found


def examine(place: Place) -> DatabaseFacts | None:
    """Connect, and return what the server shows; None for SQLite. Raises StoreError."""
    if not place.is_shared:
        return None
    made = place.engine(read_only=True)
    try:
        with made.connect() as connection:
            row = connection.execute(_FACTS).one()
            raw = connection.connection.dbapi_connection
            # A pooler gives out numbers of its own (the key by which a query is cancelled).
            announced = raw.info.backend_pid  # type: ignore[union-attr]
            known = sa.inspect(connection).has_table("nodes")
            nodes = tuple(connection.execute(_NODES).scalars()) if known else ()
            has_head = sa.inspect(connection).has_table(head.name)
            successor = connection.execute(sa.select(head.c.successor)).scalar() if has_head else None
    finally:
        made.dispose()
    return DatabaseFacts(
        version=row.version.partition(" ")[0],
        pooled=announced != row.backend,
        owner=row.owner,
        standbys=row.standbys,
        synchronous=bool(row.synchronous_standbys) and row.synchronous_commit not in ("off", "local"),
        durable=row.fsync == "on" and row.synchronous_commit != "off",
        nodes=nodes,
        obstacles=tuple(_obstacles(row, successor)),
    )


def _obstacles(row: sa.Row[Any], successor: str | None) -> Iterator[str]:
    if successor is not None:
        yield f"the ledger in it is closed: {successor} goes on for it"
    if row.encoding != "UTF8":
        yield f"it has the encoding {row.encoding}; create it with `ENCODING 'UTF8' TEMPLATE template0`"
    if row.read_only:
        yield "it can only be read: it is a replica, or default_transaction_read_only is on"
    if not row.prepared and not row.may_prepare:
        yield ("it has no tables yet, and the role may not make them: run `mailwatch ledger prepare --owner URL`")
