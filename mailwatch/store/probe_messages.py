"""The messages between the nodes, as rows of a table that survives no crash: sent by INSERT, taken by DELETE.

NOTIFY wakes the receiver. Behind a pooler in transaction mode none is woken: each asks by itself as well.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailwatch.store.postgres import PostgresPlace

if TYPE_CHECKING:
    import psycopg

MAX_WAITING = 200
"""Messages that may wait for one node. It takes them within milliseconds, or it is gone."""
MAX_AGE_SECONDS = 60.0
"""Seconds after which a message that was not taken is deleted."""

_SEND = """
WITH sent AS (
    INSERT INTO probe_messages (node, epoch, sender, sender_epoch, body)
    SELECT id, epoch, %(sender)s, %(sender_epoch)s, %(body)s FROM nodes
    WHERE id = %(node)s AND epoch = %(epoch)s AND until > clock_timestamp()
    AND (SELECT count(*) FROM probe_messages AS waiting WHERE waiting.node = %(node)s) < %(most)s
    RETURNING 1
)
SELECT pg_notify(%(channel)s, '') FROM sent
"""
_TAKE = """
WITH taken AS (DELETE FROM probe_messages WHERE node = %(node)s AND epoch = %(epoch)s
    RETURNING id, sender, sender_epoch, at, body)
SELECT sender, sender_epoch, extract(epoch FROM clock_timestamp() - at)::float8, body,
    EXISTS (SELECT 1 FROM shares JOIN nodes ON nodes.id = shares.node WHERE shares.share = 0
        AND nodes.id = taken.sender AND nodes.epoch = taken.sender_epoch)
FROM taken ORDER BY id
"""
_FORGET = """
DELETE FROM probe_messages WHERE at < clock_timestamp() - %(age)s * interval '1 second'
    OR (node = %(node)s AND epoch <> %(epoch)s)
"""


@dataclass(frozen=True, slots=True)
class Address:
    """A node in one of its epochs."""

    node: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as it was taken. `age`: seconds since it was sent, by the database's clock.

    `from_active`: whether its sender is the node that holds the targets.
    """

    sender: Address
    age: float
    body: str
    from_active: bool


class Mailbox:
    """One node's end of the messages. For the one thread that opened it; `wake` for any."""

    def __init__(self, place: PostgresPlace, own: Address) -> None:
        self._place, self._own = place, own
        self._connection: psycopg.Connection[Any] | None = None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._notified = False
        self._open, self._closing = True, threading.Lock()

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Keep a connection that learns of messages while the context lasts. Raises psycopg.Error, here and there.

        Messages to earlier epochs are deleted.
        """
        made = self._place.connection()
        try:
            made.autocommit = True
            made.add_notify_handler(self._note)
            backend = made.execute("SELECT pg_backend_pid()").fetchone()
            if backend == (made.info.backend_pid,):
                made.execute(f'LISTEN "{channel_of(self._own.node)}"'.encode())
            # Else a pooler stands between: its connection is another one at each statement, and would listen on.
            self._connection, self._notified = made, True
            self.forget()
            yield
        finally:
            self._connection = None
            made.close()

    def _note(self, _: object) -> None:
        self._notified = True

    def send(self, to: Address, body: str) -> bool:
        """Send a message; return False if that node lives no more in that epoch, or takes nothing."""
        values = {
            "node": to.node,
            "epoch": to.epoch,
            "sender": self._own.node,
            "sender_epoch": self._own.epoch,
            "body": body,
            "most": MAX_WAITING,
            "channel": channel_of(to.node),
        }
        return bool(self._execute(_SEND, values).rowcount)

    def take(self) -> list[Letter]:
        """Return the messages that came, oldest first, and delete them."""
        self._notified = False
        rows = self._execute(_TAKE, {"node": self._own.node, "epoch": self._own.epoch}).fetchall()
        return [Letter(Address(row[0], row[1]), row[2], row[3], row[4]) for row in rows]

    def forget(self) -> None:
        """Delete what no node took."""
        values = {"node": self._own.node, "epoch": self._own.epoch, "age": MAX_AGE_SECONDS}
        self._execute(_FORGET, values)

    def _execute(self, query: str, values: dict[str, object]) -> psycopg.Cursor[Any]:
        assert self._connection is not None
        return self._connection.execute(query.encode(), values)

    def wait(self, seconds: float) -> bool:
        """Wait until a message comes or `wake` is called, for at most `seconds`; return whether one came.

        Without NOTIFY it returns False although one may be there.
        """
        assert self._connection is not None
        pg = self._connection.pgconn
        if not self._notified:
            ready, _, _ = select.select([pg.socket, self._woken], [], [], max(0.0, seconds))
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    while len(os.read(self._woken, 4096)) == 4096:
                        pass
            if pg.socket in ready:
                pg.consume_input()
                while pg.notifies() is not None:
                    self._notified = True
        return self._notified

    def wake(self) -> None:
        """End a wait. For any thread."""
        # The number of a closed handle may be another file's by now.
        with self._closing, contextlib.suppress(BlockingIOError):
            if self._open:
                os.write(self._wake, b"\0")

    def close(self) -> None:
        """Free what it has; nothing is sent or taken any more."""
        with self._closing:
            self._open = False
            os.close(self._wake)
            os.close(self._woken)


def channel_of(node: str) -> str:
    """Return the channel on which a node learns that there is a message."""
    return f"mailwatch_{node}"
