"""The notifications to send, by channel, on disk before they are sent. Not asynchronous.

Delivery is at least once: a row is done only after its channel accepted it. Normally it is exactly once: each
channel has a key only once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from mailwatch.model import EventType, Notification
from mailwatch.store.errors import StoreHealth
from mailwatch.store.schema import engine, outbox, outbox_cursor
from mailwatch.times import Millis


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A notification that has waited for one channel since `put_at`."""

    number: int
    put_at: Millis
    notification: Notification


@dataclass(frozen=True, slots=True)
class FailedMessage:
    """A message that was never accepted. `outcome`: refused, denied or dropped, with the reason in brackets."""

    channel: str
    key: str
    topic: str
    time: Millis
    done: Millis
    outcome: str


class Outbox:
    """The outbox of a data_dir whose store is open, for the process that holds its lock.

    Each method raises StoreError.
    """

    def __init__(self, data_dir: Path, health: StoreHealth | None = None, *, read_only: bool = False) -> None:
        self._engine = engine(data_dir, read_only=read_only, health=health)

    def cursor(self) -> int | None:
        """Return the ledger index up to which notifications were put here; None before the first."""
        with self._engine.begin() as connection:
            return connection.execute(sa.select(outbox_cursor.c.idx)).scalar()

    def put(
        self,
        messages: Iterable[tuple[str, Notification]],
        *,
        at: Millis,
        cursor: int | None = None,
        superseded: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Store notifications for channels and move the cursor, in one transaction.

        A key that its channel already has is skipped. `superseded`: (channel, key) pairs that need not be sent any
        more.
        """
        rows = [
            {
                "channel": channel,
                "key": notification.key,
                "event": notification.event_type.value,
                "time_ms": notification.time,
                "put_ms": at,
                "payload": json.dumps(notification.facts, ensure_ascii=False),
            }
            for channel, notification in messages
        ]
        c = outbox.c
        with self._engine.begin() as connection:
            if rows:
                connection.execute(insert(outbox).on_conflict_do_nothing(), rows)
            for channel, key in superseded:
                pending = (c.channel == channel) & (c.key == key) & c.done_ms.is_(None)
                connection.execute(sa.update(outbox).where(pending).values(done_ms=at, outcome="moot"))
            if cursor is not None:
                connection.execute(
                    insert(outbox_cursor)
                    .values(id=1, idx=cursor)
                    .on_conflict_do_update(index_elements=["id"], set_={"idx": cursor})
                )

    def pending(self, channel: str, limit: int) -> list[OutboxMessage]:
        """Return the messages waiting for a channel, oldest first.

        Messages of event types that only a newer version knows wait until they are dropped.
        """
        c = outbox.c
        query = sa.select(c.number, c.put_ms, c.key, c.event, c.time_ms, c.payload)
        known = c.event.in_([topic.value for topic in EventType])
        query = query.where(c.channel == channel, c.done_ms.is_(None), known).order_by(c.number).limit(limit)
        with self._engine.begin() as connection:
            rows = connection.execute(query).all()
        return [
            OutboxMessage(row.number, row.put_ms, Notification(
                key=row.key, event_type=EventType(row.event), time=row.time_ms, facts=_facts(row.payload)
            ))
            for row in rows
        ]  # fmt: skip

    def has_message(self, channel: str, key: str) -> bool:
        """Return whether a channel was sent this key, or will be."""
        c = outbox.c
        query = sa.select(c.outcome).where(c.channel == channel, c.key == key)
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return row is not None and row.outcome in (None, "sent")

    def done(self, numbers: Sequence[int], outcome: str, at: Millis) -> None:
        """Mark these messages as done, with their outcome."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(outbox).where(outbox.c.number.in_(numbers)).values(done_ms=at, outcome=outcome)
            )

    def retry(self, since: Millis, numbers: Collection[int] | None = None) -> None:
        """Requeue the messages put since `since` and denied because of the channel, or only those in `numbers`."""
        c = outbox.c
        wanted = c.outcome.startswith("denied") & (c.put_ms >= since)
        if numbers is not None:
            wanted &= c.number.in_(numbers)
        with self._engine.begin() as connection:
            connection.execute(sa.update(outbox).where(wanted).values(done_ms=None, outcome=None))

    def failed_messages(self, limit: int) -> list[FailedMessage]:
        """Return the messages that failed for good, newest first: refused, denied or dropped."""
        c = outbox.c
        query = sa.select(c.channel, c.key, c.event, c.time_ms, c.done_ms, c.outcome)
        query = query.where(c.outcome.not_in(("sent", "moot"))).order_by(c.number.desc()).limit(limit)
        with self._engine.begin() as connection:
            return [FailedMessage(*row) for row in connection.execute(query)]

    def drop(self, before: Millis, at: Millis) -> list[tuple[str, str]]:
        """Drop the messages waiting since before `before`; return (channel, key) of each."""
        c = outbox.c
        late = c.done_ms.is_(None) & (c.put_ms < before)
        with self._engine.begin() as connection:
            found = [(row.channel, row.key) for row in connection.execute(sa.select(c.channel, c.key).where(late))]
            if found:
                connection.execute(sa.update(outbox).where(late).values(done_ms=at, outcome="dropped"))
        return found

    def delete_done(self, before: Millis) -> None:
        """Delete the messages done before `before`."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(outbox).where(outbox.c.done_ms < before))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _facts(payload: str) -> dict[str, object]:
    """Parse the facts; {} if unreadable, and the code that writes the message then sets it aside."""
    try:
        facts = json.loads(payload)
    except (ValueError, TypeError):
        return {}
    return facts if isinstance(facts, dict) else {}
