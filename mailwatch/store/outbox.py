"""The notifications to send, by channel, on disk before they are sent. Not asynchronous.

Delivery is at least once: a row is done only after its channel accepted it. Normally it is exactly once: each
channel has a key only once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from mailwatch.model import EventType, Notification
from mailwatch.store.errors import StoreHealth
from mailwatch.store.place import Place, place_of
from mailwatch.store.schema import channels, insert, outbox, outbox_cursor
from mailwatch.times import Millis

SENT, MOOT = "sent", "moot"
"""The outcomes of messages that were delivered, and of those that need not be any more."""
_STATE_EVENTS = (EventType.INCIDENT, EventType.OPEN, EventType.CLOSE, EventType.MONITOR)


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

    def __init__(self, where: Path | Place, health: StoreHealth | None = None, *, read_only: bool = False) -> None:
        self._engine = place_of(where).engine(read_only=read_only, health=health)

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
                connection.execute(insert(connection, outbox).on_conflict_do_nothing(), rows)
            for channel, key in superseded:
                pending = (c.channel == channel) & (c.key == key) & c.done_ms.is_(None)
                connection.execute(sa.update(outbox).where(pending).values(done_ms=at, outcome=MOOT))
            if cursor is not None:
                connection.execute(
                    insert(connection, outbox_cursor)
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
        return row is not None and row.outcome in (None, SENT)

    def done(self, numbers: Sequence[int], outcome: str, at: Millis, moot: Sequence[int] = ()) -> None:
        """Mark these messages as done, with their outcome, and those in `moot` as moot, in one transaction."""
        with self._engine.begin() as connection:
            for marked, word in ((numbers, outcome), (moot, MOOT)):
                if marked:
                    these = outbox.c.number.in_(marked)
                    connection.execute(sa.update(outbox).where(these).values(done_ms=at, outcome=word))

    def retry(self, since: Millis, numbers: Collection[int] | None = None) -> None:
        """Requeue the messages put since `since` and denied because of the channel, or only those in `numbers`.

        A message about a state stays denied if its channel got a later one about the same, or will get it.
        """
        c = outbox.c
        wanted = c.outcome.startswith("denied") & (c.put_ms >= since)
        if numbers is not None:
            wanted &= c.number.in_(numbers)
        with self._engine.begin() as connection:
            outdated = _outdated(connection, wanted)
            again = wanted & c.number.not_in(outdated)
            connection.execute(sa.update(outbox).where(again).values(done_ms=None, outcome=None))

    def channel_addresses(self) -> dict[str, str]:
        """Return the address id of each channel of the config that ran last, by name."""
        with self._engine.begin() as connection:
            return {row.name: row.address for row in connection.execute(sa.select(channels))}

    def rename_channels(self, renamed: Mapping[str, str], addresses: Mapping[str, str]) -> list[str]:
        """Move the messages of channels to their new names, all at once, and note the channels' address ids.

        Of two messages with the same key one stays: the one that was sent, else that of the new name. Returns the
        old names that had messages.
        """
        c, moved = outbox.c, []
        with self._engine.begin() as connection:
            # In two steps, since names may be swapped. No channel has such a name; PostgreSQL refuses U+0000.
            for number, old in enumerate(renamed):
                moving = sa.update(outbox).where(c.channel == old).values(channel=f"\1{number}")
                if connection.execute(moving).rowcount:
                    moved.append(old)
            for number, new in enumerate(renamed.values()):
                mine = c.channel == f"\1{number}"
                sent = sa.select(c.key).where(mine, c.outcome == SENT)
                waiting = (c.channel == new) & c.done_ms.is_(None)
                connection.execute(sa.delete(outbox).where(waiting, c.key.in_(sent)))
                there = sa.select(c.key).where(c.channel == new)
                connection.execute(sa.delete(outbox).where(mine, c.key.in_(there)))
                connection.execute(sa.update(outbox).where(mine).values(channel=new))
            connection.execute(sa.delete(channels))
            if addresses:
                rows = [{"name": name, "address": address} for name, address in addresses.items()]
                connection.execute(sa.insert(channels), rows)
        return moved

    def waiting_for_others(self, names: Collection[str]) -> dict[str, int]:
        """Return how many messages wait for channels that are not among `names`."""
        c = outbox.c
        query = sa.select(c.channel, sa.func.count()).where(c.done_ms.is_(None), c.channel.not_in(names))
        with self._engine.begin() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(c.channel))}

    def failed_messages(self, limit: int) -> list[FailedMessage]:
        """Return the messages that failed for good, newest first: refused, denied or dropped."""
        c = outbox.c
        query = sa.select(c.channel, c.key, c.event, c.time_ms, c.done_ms, c.outcome)
        query = query.where(c.outcome.not_in((SENT, MOOT))).order_by(c.number.desc()).limit(limit)
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


def _outdated(connection: sa.Connection, wanted: sa.ColumnElement[bool]) -> list[int]:
    """Return the numbers of the `wanted` messages that a later one of their channel makes untrue."""
    c = outbox.c
    about_states = c.event.in_([event.value for event in _STATE_EVENTS])
    columns = sa.select(c.number, c.channel, c.event, c.payload).where(about_states)
    found = connection.execute(columns.where(wanted)).all()
    if not found:
        return []
    current = (c.outcome.is_(None) | (c.outcome == SENT)) & (c.number > min(row.number for row in found))
    latest: dict[tuple[str, ...], int] = {}
    for row in connection.execute(columns.where(current).order_by(c.number)):
        if subject := _state_subject(row.event, _facts(row.payload)):
            latest[row.channel, *subject] = row.number
    return [
        row.number
        for row in found
        if (subject := _state_subject(row.event, _facts(row.payload)))
        and latest.get((row.channel, *subject), 0) > row.number
    ]


def _state_subject(event: str, facts: Mapping[str, object]) -> tuple[str, ...] | None:
    """Return what a message says the state of; None if it stays true whatever comes later.

    The incidents of a provider never overlap, but two may become one, with one id: so the provider it is.
    """
    if facts.get("proven_afterwards"):
        return None
    if event == EventType.MONITOR:
        return "sign", *(str(facts.get(key, "")) for key in ("sign", "target", "channel"))
    if event == EventType.INCIDENT and facts.get("provider"):
        return "provider", str(facts["provider"])
    targets = facts.get("targets")
    target = targets[0] if isinstance(targets, list) and targets else facts.get("target")
    return ("target", str(target)) if target else None


def _facts(payload: str) -> dict[str, object]:
    """Parse the facts; {} if unreadable, and the code that writes the message then sets it aside."""
    try:
        facts = json.loads(payload)
    except (ValueError, TypeError):
        return {}
    return facts if isinstance(facts, dict) else {}
