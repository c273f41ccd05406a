"""Which node of a ledger in PostgreSQL may write: rows, timed by the database's clock, with an epoch.

A node registers, and renews its lease while it lives. One of the nodes holds the share of the targets, and
probes; the others stand by. They evict a node that does not renew: its epoch rises and its share is free. Each
append asks for the epoch in the same statement (`FENCE`), so that a node which wakes up late writes nothing,
whatever it believes: an append of the old epoch is committed before the eviction, or finds no row.

The time of a lease decides who takes over, never what is true: that is the epoch's.
Not advisory locks: they carry no epoch, and a pooler keeps them for nobody.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from mailwatch.store.connections import Connections
from mailwatch.store.errors import DatabaseAwayError, EvictedError, StoreError, StoreUnavailableError
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

LEASE_SECONDS = 5.0
"""A node that has not renewed its lease for so long is evicted."""
RENEW_SECONDS = 1.0
"""Seconds between two renewals, each of which also finds others whose lease is over."""
ANSWER_SECONDS = 5.0
"""Seconds after which a database that has not answered is given up, and its connections are cut. Nothing else
bounds the wait for a server, or a pooler, that is stopped while the network lives.
"""
START_SECONDS = 3.5
"""No probe starts later than this after a renewal was sent. The rest of the lease is for a busy machine."""
MAX_OFFSET_MS: Millis = 1000
"""A node whose clock differs more from the database's takes no targets from others: its observations would not be
in the order of their times.
"""
FORGET_DAYS = 30
"""Days after which a node that is gone is no longer listed."""
ALONE_HOURS = 24
"""A node is alone if no other one was alive within these hours."""

FENCE = (
    "SELECT 1 FROM nodes, shares WHERE nodes.id = :node AND nodes.epoch = :epoch "
    "AND shares.share = 0 AND shares.node = nodes.id FOR SHARE"
)
"""One row if the node may write, locked until the end of the transaction: an eviction waits for it."""

_CLUSTER = (
    "(SELECT CAST(system_identifier AS text) FROM pg_control_system()) || '.' || "
    "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
)
"""Which history of which server this is: its identifier and timeline. A promotion begins a timeline, and so does a
recovery to an earlier time. pg_control_checkpoint() shows it late: only after the next checkpoint.
"""

_TIMEOUTS = "SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '4s', true)"
_REGISTER = """
INSERT INTO nodes (id, name, epoch, until, seen, version, config)
VALUES (:node, :name, 1, clock_timestamp() + :lease * interval '1 second', clock_timestamp(), :version, :config)
ON CONFLICT (id) DO UPDATE SET name = :name, version = :version, epoch = nodes.epoch + 1, refusal = '',
    probing = '', until = excluded.until, seen = excluded.seen, config = excluded.config
RETURNING epoch, seen
"""
_RENEW = """
UPDATE nodes SET until = clock_timestamp() + :lease * interval '1 second', seen = clock_timestamp(),
    offset_ms = :offset, bound_ms = :bound, refusal = :refusal, config = :config, probing = :probing
WHERE id = :node AND epoch = :epoch
RETURNING clock_timestamp() AS at, EXISTS (
    SELECT 1 FROM nodes AS other
    WHERE other.id <> :node AND other.seen > clock_timestamp() - :alone * interval '1 hour'
) AS accompanied, {cluster} AS cluster,
    current_setting('synchronous_standby_names') <> '' AND
    current_setting('synchronous_commit') IN ('on', 'remote_apply') AS synchronous
"""
_HEAD = """
SELECT shares.cluster, shares.synchronous, coalesce(shares.node = :node, FALSE) AS held,
    ledger_head.origin, ledger_head.size, ledger_head.hashes, coalesce(former.name, '') AS unsure
FROM shares LEFT JOIN ledger_head ON TRUE LEFT JOIN nodes AS former
    ON former.id = coalesce(shares.node, shares.former) AND former.id <> :node AND former.until < clock_timestamp()
    AND shares.cluster <> :cluster AND NOT shares.synchronous
WHERE shares.share = 0
"""
_VOUCH = "UPDATE shares SET cluster = :cluster, synchronous = :synchronous WHERE share = 0 AND node = :node"
_LAPSED = "SELECT id FROM nodes WHERE until < clock_timestamp() AND until > '-infinity' AND id <> :node"
_EVICT = """
UPDATE nodes SET epoch = epoch + 1, until = '-infinity'
WHERE until < clock_timestamp() AND until > '-infinity' AND id <> :node RETURNING id, name
"""
_FREE = "UPDATE shares SET node = NULL, former = node, reason = :reason WHERE node = ANY(:nodes)"
_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usename = current_user AND datname = current_database() AND application_name = ANY(:names)
"""
_TAKE = """
WITH mine AS (
    SELECT 1 FROM nodes WHERE id = :node AND epoch = :epoch
    AND NOT EXISTS (SELECT 1 FROM ledger_head WHERE origin <> :origin) FOR SHARE
)
UPDATE shares SET node = :node, since = clock_timestamp(), former = coalesce(node, former),
    takeovers = takeovers + CASE WHEN coalesce(node, former, :node) = :node THEN 0 ELSE 1 END,
    reason = CASE coalesce(node, former) WHEN :node THEN 'again' ELSE reason END
WHERE share = 0 AND (node IS NULL OR node = :node) AND EXISTS (SELECT 1 FROM mine)
    AND (cluster IS NULL OR synchronous OR coalesce(node, former, :node) = :node OR cluster = {cluster})
RETURNING former, reason, takeovers, (SELECT nodes.seen FROM nodes WHERE nodes.id = shares.former) AS former_seen
"""
_NODES = """
SELECT id, name, epoch, version, seen, offset_ms, bound_ms, refusal, config, probing, shares.since,
    shares.takeovers,
    (SELECT count(*) FROM probe_shares WHERE probe_shares.node = nodes.id) AS probe_shares,
    CASE WHEN isfinite(until) THEN extract(epoch FROM until - clock_timestamp())::float8
    ELSE '-infinity' END AS left
FROM nodes LEFT JOIN shares ON shares.node = nodes.id ORDER BY name, id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as the database has it. `left`: seconds of its lease, negative once it is over.

    `active`: it holds the targets, `since` then. `refusal`: why it would take none, "" if it would.
    `offset`: how far its clock is ahead of the database's, give or take `bound`; None if not known.
    """

    id: str
    name: str
    epoch: int
    version: str
    left: float
    seen: Millis
    active: bool
    since: Millis | None
    offset: Millis | None
    bound: Millis | None
    refusal: str
    takeovers: int = 0
    """Of the active one: how often the targets went from one node to another."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Digests of the parts of its config, by name; empty where an older MailWatch runs."""
    probing: Mapping[str, Any] = field(default_factory=dict)
    """What it says of its probing (fleet/eligibility.py); empty where it does not probe."""
    probe_shares: int = 0
    """How many of the 256 shares of the targets it probes."""

    def differs_in(self, other: Node) -> list[str]:
        """Return the parts of the config in which another node differs."""
        return [part for part, digest in self.config.items() if other.config.get(part, digest) != digest]

    @property
    def is_over(self) -> bool:
        """Whether its lease is over, and nobody has ended it yet."""
        return -math.inf < self.left <= 0

    @property
    def lives(self) -> bool:
        """Whether its lease is not over."""
        return self.left > 0

    @property
    def state(self) -> str:
        """What it does: active, standby or gone. A node that holds the targets beyond its lease is gone."""
        return "gone" if not self.lives else "active" if self.active else "standby"


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """How a node came to hold the targets. `former`: the id of the node before it, "" without one.

    `reason`: `left` (that node stopped), `lapsed` (it did not renew its lease), `again` (it was this node, before
    a restart), `first` (there was none).
    """

    node: str
    epoch: int
    former: str
    reason: str
    takeovers: int
    """How often the targets went from one node to another, this time included."""
    unattended: bool = False
    """Whether the node before was gone already when this one came: no node ran in between."""

    @property
    def from_another(self) -> bool:
        """Whether another node wrote the ledger before."""
        return self.former not in ("", self.node)


@dataclass(frozen=True, slots=True)
class Vouched:
    """That all this node committed is in the database of the history `cluster`.

    `committed` returns the size and the hashes of the ledger after its latest commit, for any thread.
    """

    cluster: str
    committed: Callable[[], tuple[int, bytes]]


class Lease:
    """One node's registration. `open_engine` opens the database; its connections are the lease's own.

    `origin`: the ledger of this node's keys.
    For one thread at a time. All methods raise StoreError: DatabaseAwayError if the database does not answer.
    """

    def __init__(
        self,
        open_engine: Callable[[], sa.Engine],
        node: str,
        *,
        name: str,
        version: str,
        origin: str,
        config: Mapping[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self.config = config or {}
        """Digests of the parts of this node's config, by name."""
        self.probing: Mapping[str, Any] = {}
        """What this node says of its probing."""
        self.epoch = 0
        self.alone = True
        """Whether no other node was alive lately."""
        self.offset: Millis | None = None
        self.bound: Millis = 0
        self.name, self._version, self._origin, self._monotonic = name, version, origin, monotonic
        self._is_of_other = False
        self._unsure = ""
        self._cluster_query = _CLUSTER
        self.vouched: Vouched | None = None
        """Set by the term of this node once it has compared the database with its own copy."""
        self._engine = open_engine()
        self._connections = Connections()
        sa.event.listen(self._engine, "connect", lambda connection, _: self._connections.add(connection))
        self._sent = float("-inf")
        self._registered: datetime | None = None

    @property
    def values(self) -> dict[str, object]:
        """The values that FENCE asks for."""
        return {"node": self.node, "epoch": self.epoch}

    def start_seconds_left(self) -> float:
        """Return for how many seconds from now probes may start. For any thread."""
        return self._sent + START_SECONDS - self._monotonic()

    def register(self) -> None:
        """Begin an epoch of this node. What an earlier one of it would write is refused from now on."""
        self._probe_cluster_query()
        self.vouched = None
        sent = self._monotonic()
        with self._transaction() as connection:
            forget = (
                "DELETE FROM nodes WHERE seen < clock_timestamp() - :days * interval '1 day' AND id <> :node "
                "AND NOT EXISTS (SELECT 1 FROM shares WHERE shares.node = nodes.id)"
            )
            connection.execute(sa.text(forget), {"days": FORGET_DAYS, "node": self.node})
            values = {
                "node": self.node,
                "name": self.name,
                "version": self._version,
                "lease": LEASE_SECONDS,
                "config": json.dumps(dict(self.config)),
            }
            row = connection.execute(sa.text(_REGISTER), values).one()
            self.epoch, self._registered = row.epoch, row.seen
        self._sent = sent

    def renew(self) -> list[Node]:
        """Renew the lease, and compare the clocks. Return all nodes, by name.

        Raises EvictedError if others have ended it, or if the database failed over and has lost what this node
        committed.
        """
        sent, vouched = self._monotonic(), self.vouched
        # Read before the question: a commit in between is no loss.
        committed = (0, b"") if vouched is None else vouched.committed()
        with self._transaction() as connection:
            values = {
                **self.values,
                "lease": LEASE_SECONDS,
                "alone": ALONE_HOURS,
                "offset": self.offset,
                "bound": self.bound,
                "refusal": self.refusal(),
                "config": json.dumps(dict(self.config)),
                "probing": json.dumps(dict(self.probing)) if self.probing else "",
            }
            began, asked = now(), self._monotonic()
            row = connection.execute(sa.text(_RENEW.format(cluster=self._cluster_query)), values).one_or_none()
            half = (self._monotonic() - asked) * 500
            if row is None:
                raise evicted(self.name)
            share = connection.execute(sa.text(_HEAD), {"node": self.node, "cluster": row.cluster}).one()
            if vouched is not None and vouched.cluster != row.cluster:
                vouched = self._compare(vouched, row.cluster, committed, share)
            is_known = (share.cluster, share.synchronous) == (row.cluster, row.synchronous)
            if share.held and not is_known and vouched is not None and vouched.cluster == row.cluster:
                vouch = {"cluster": row.cluster, "synchronous": row.synchronous, "node": self.node}
                connection.execute(sa.text(_VOUCH), vouch)
            nodes = read_nodes(connection)
        self._sent, self.alone = sent, not row.accompanied
        self._is_of_other, self._unsure = share.origin not in (None, self._origin), share.unsure
        # The database read its clock some time between question and answer.
        self.offset, self.bound = round(began + half - row.at.timestamp() * 1000), round(half) + 1
        return nodes

    def _compare(
        self, vouched: Vouched, cluster: str, committed: tuple[int, bytes], share: sa.Row[Any]
    ) -> Vouched:
        """Return what is known of the database after it failed over. Raises EvictedError for a loss."""
        size, hashes = committed
        if share.size > size:
            # A commit of ours came in between, which the database took; the next time shows it.
            return vouched
        if (share.size, share.hashes) != (size, hashes):
            logger.error("nodes: the database failed over; it has %s of %d entries", share.size, size)
            raise EvictedError(
                f"the database failed over and lacks entries that this node, {self.name}, recorded; it begins "
                "anew",
                "the database failed over and lacks entries",
            )
        logger.warning("nodes: the database failed over; it has all %d entries", size)
        found = Vouched(cluster, vouched.committed)
        if self.vouched is vouched:
            self.vouched = found
        return found

    def _probe_cluster_query(self) -> None:
        """Find out whether this server shows its history; some that are managed do not."""
        try:
            with self._transaction() as connection:
                self.cluster_of(connection)
        except (DatabaseAwayError, EvictedError):
            raise
        except StoreError:
            self._cluster_query = "''"

    def cluster_of(self, connection: sa.Connection) -> str:
        """Return which history of which server this is, "" if it does not show that. Raises StoreError."""
        return str(connection.execute(sa.text(f"SELECT {self._cluster_query}")).scalar_one())

    def refusal(self) -> str:
        """Return why this node takes no targets from others, "" if it would."""
        if self._is_of_other:
            return "its keys are those of another ledger"
        if self._unsure:
            return (
                f"the database failed over to a replica that may lack what node {self._unsure} recorded; start "
                "that one, or begin a successor (docs/how-to/high-availability.md)"
            )
        if self.alone or self.offset is None or abs(self.offset) <= MAX_OFFSET_MS + self.bound:
            return ""
        way = "ahead of" if self.offset > 0 else "behind"
        return f"its clock is {abs(self.offset) / 1000:.1f} s {way} the database's"

    def evict(self) -> list[str]:
        """End the leases that are over; return their nodes. What they hold is free from then on."""
        own = {"node": self.node}
        try:
            with self._transaction() as connection:
                gone = connection.execute(sa.text(_EVICT), own).all()
                ids = [row.id for row in gone]
                if ids:
                    connection.execute(sa.text(_FREE), {"nodes": ids, "reason": "lapsed"})
        except StoreUnavailableError:
            # A session of such a node may hold its row.
            with self._transaction() as connection:
                ids = list(connection.execute(sa.text(_LAPSED), own).scalars())
            self._terminate(ids)
            raise
        for row in gone:
            logger.warning("nodes: %s did not renew its lease, which is ended", row.name)
        self._terminate(ids)
        return ids

    def _terminate(self, nodes: list[str]) -> None:
        """End the sessions of nodes, where the server lets us: no statement of theirs hangs on."""
        if nodes:
            with contextlib.suppress(StoreError), self._transaction() as connection:
                connection.execute(sa.text(_TERMINATE), {"names": [session_name(node) for node in nodes]})

    def take(self) -> Takeover | None:
        """Take the targets if no other node holds them, and this one may. Takes none without a living lease."""
        if self.refusal() or self.start_seconds_left() <= 0:
            return None
        with self._transaction() as connection:
            statement = sa.text(_TAKE.format(cluster=self._cluster_query))
            row = connection.execute(statement, {**self.values, "origin": self._origin}).one_or_none()
        if row is None:
            return None
        return Takeover(
            node=self.node,
            epoch=self.epoch,
            former=row.former or "",
            reason=row.reason,
            takeovers=row.takeovers,
            unattended=self._came_after(row.former_seen),
        )

    def _came_after(self, seen: datetime | None) -> bool:
        """Return whether this node came when one that was seen last then was gone."""
        lease = timedelta(seconds=LEASE_SECONDS)
        return seen is not None and self._registered is not None and self._registered > seen + lease

    def leave(self) -> None:
        """End the lease at once, for another node to take over. Nothing happens if it is ended already."""
        with self._transaction() as connection:
            ended = connection.execute(
                sa.text(
                    "UPDATE nodes SET until = '-infinity', epoch = epoch + 1 WHERE id = :node AND epoch = :epoch"
                ),
                self.values,
            )
            if ended.rowcount:
                connection.execute(sa.text(_FREE), {"nodes": [self.node], "reason": "left"})

    def nodes(self) -> list[Node]:
        """Return all nodes, by name."""
        with self._transaction() as connection:
            return read_nodes(connection)

    def cut(self) -> None:
        """Break the connections: who waits for the database fails. For any thread."""
        self._connections.cut()

    def close(self) -> None:
        """Close the connections. Raises nothing."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """Run statements in one transaction that waits for no lock, and no statement, for long."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql(_TIMEOUTS)
            yield connection


def read_nodes(connection: sa.Connection) -> list[Node]:
    """Return all nodes, by name. Raises StoreError."""
    return [
        Node(
            id=row.id,
            name=row.name,
            epoch=row.epoch,
            version=row.version,
            left=row.left,
            seen=_millis(row.seen),
            active=row.takeovers is not None,
            since=None if row.since is None else _millis(row.since),
            offset=row.offset_ms,
            bound=row.bound_ms,
            refusal=row.refusal,
            takeovers=row.takeovers or 0,
            config=json.loads(row.config or "{}"),
            probing=json.loads(row.probing or "{}"),
            probe_shares=row.probe_shares,
        )
        for row in connection.execute(sa.text(_NODES))
    ]


def config_differences(nodes: Iterable[Node]) -> dict[str, list[str]]:
    """Return in which parts the config of each node, by its id, differs from the active one's; [] for one gone."""
    known = list(nodes)
    active = next((node for node in known if node.state == "active"), None)
    return {node.id: active.differs_in(node) if active is not None and node.lives else [] for node in known}


def list_nodes(made: sa.Engine) -> list[Node]:
    """Return all nodes, by name; none where no node ever ran. Disposes of the engine. Raises StoreError."""
    try:
        with made.connect() as connection:
            return read_nodes(connection) if sa.inspect(connection).has_table("nodes") else []
    finally:
        made.dispose()


def _millis(at: datetime) -> Millis:
    return round(at.timestamp() * 1000)


def session_name(node: str) -> str:
    """Return the application_name of a node's sessions."""
    return f"mailwatch {node}"


def check_lease(lease: Lease, connection: sa.Connection) -> None:
    """Check that a node may write until the end of the transaction. Raises EvictedError."""
    if connection.execute(sa.text(FENCE), lease.values).scalar() is None:
        raise evicted(lease.name)


def evicted(name: str) -> EvictedError:
    """Return the error of a node whose lease was ended."""
    return EvictedError(
        f"another node ended the lease of this node, {name}, and may have taken over; this one stands by again",
        "another node has taken over",
    )
