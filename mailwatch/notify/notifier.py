"""Puts notifications of the ledger into the outbox; a worker for each channel sends them (channel_worker.py)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from mailwatch import monotonic
from mailwatch.model import EventType, Notification, Observation
from mailwatch.notify.channel_worker import DROP_AFTER_MS, ChannelWorker
from mailwatch.notify.delivery import deliver, in_quiet_hours
from mailwatch.notify.events import certificate_notifications, notifications_of
from mailwatch.notify.text import message_text
from mailwatch.settings import Channel
from mailwatch.store import Entry, Outbox, Reader, StoreDamagedError, StoreError, StoreHealth
from mailwatch.times import DAY_MS, Millis, now

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 1.0
STATE_SECONDS = 60.0
KEEP_MS = 30 * DAY_MS
BATCH_ENTRIES = 500
PUT_WITHIN_SECONDS = 15.0
"""Seconds for the disk to take a notification, which may be about the disk itself."""
LOW_DISK_BYTES = 500_000_000
"""Bytes of free disk space below which people are notified."""


class Notifier:
    """Follows the ledger, and runs the channels' workers. `latest` returns the latest observation of each target.

    `count` takes (channel, outcome): sent, failed, refused, dropped. `in_maintenance` returns whether a target was
    in announced maintenance at a time.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        data_dir: Path,
        reader: Reader,
        *,
        latest: Callable[[], Iterable[Observation]],
        count: Callable[[str, str], None],
        in_maintenance: Callable[[str, Millis], bool] = lambda _target, _at: False,
        health: StoreHealth | None = None,
    ) -> None:
        self._channels = tuple(channels)
        self._data_dir = data_dir
        self._reader = reader
        self._outbox = Outbox(data_dir, health)
        self._logged: set[str] = set()
        self._latest = latest
        self._count = count
        self._in_maintenance = in_maintenance
        self._cursor = 0
        self._offset = monotonic.offset()
        self._changed = asyncio.Event()
        self._workers = {channel.name: self._new_worker(channel) for channel in channels}
        """The workers by channel name, with those of removed channels."""

    def _new_worker(self, channel: Channel) -> ChannelWorker:
        return ChannelWorker(
            channel,
            self._outbox,
            count=self._count,
            notify_others=self._notify_others,
            on_store_error=self._log_unusable,
        )

    def restore_cursor(self) -> None:
        """Continue where the ledger was last read; events before the first channel existed are not sent.

        Call this before anything is probed.
        """
        known = self._outbox.cursor() if self._channels else None
        self._cursor = self._reader.size() if known is None else known
        self._outbox.put([], at=now(), cursor=self._cursor)
        # The address or login that a service denied may have changed meanwhile.
        self._outbox.retry(now() - DROP_AFTER_MS)

    async def change(self, channels: Sequence[Channel]) -> None:
        """Send over these channels from now on. Messages for a removed channel are dropped in time."""
        if not self._channels:
            # Events while there was no channel are not sent.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self.restore_cursor)
        self._channels = tuple(channels)
        present = {channel.name: channel for channel in channels}
        for name, worker in self._workers.items():
            worker.change(present.get(name))
        self._workers |= {
            name: self._new_worker(channel) for name, channel in present.items() if name not in self._workers
        }
        with contextlib.suppress(StoreError):
            # The address or login that a service denied has changed now.
            await asyncio.to_thread(self._outbox.retry, now() - DROP_AFTER_MS)
        self._wake_workers()
        self._changed.set()

    def close(self) -> None:
        """Close the outbox."""
        self._outbox.close()

    async def run(self) -> None:
        """Follow the ledger and send, until cancelled."""
        delivering: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_running(self._follow, FOLLOW_SECONDS))
            group.create_task(self._keep_running(self._check_states, STATE_SECONDS))
            while True:
                self._changed.clear()
                for name, worker in self._workers.items():
                    if worker.channel is not None and (name not in delivering or delivering[name].done()):
                        delivering[name] = group.create_task(worker.run())
                await self._changed.wait()

    async def _keep_running(self, work: Callable[[], None], every: float) -> None:
        while True:
            try:
                await asyncio.to_thread(work)
                self._logged.clear()
            except StoreError as error:
                self._log_unusable(error)
            except Exception:
                logger.exception("notify: the record could not be read: internal error")
            self._wake_workers()
            await asyncio.sleep(every)

    def _wake_workers(self) -> None:
        for worker in self._workers.values():
            worker.wake()

    def _follow(self) -> None:
        """Put the notifications of new ledger entries into the outbox."""
        if not self._channels:
            return
        while entries := list(self._reader.entries(from_index=self._cursor, limit=BATCH_ENTRIES)):
            found = [
                notification
                for entry in entries
                if _may_notify(entry)
                for notification in self._notifications(entry)
            ]
            cursor = entries[-1].index + 1
            self._put(found, cursor)
            self._cursor = cursor

    def _notifications(self, entry: Entry) -> list[Notification]:
        try:
            return [self._with_maintenance(notification) for notification in notifications_of(self._reader, entry)]
        except (StoreDamagedError, LookupError, TypeError, ValueError):
            # Skip this entry: else it would be read each second, and block all after it.
            logger.exception("notify: no message for entry %d: internal error", entry.index)
            return []

    def _with_maintenance(self, notification: Notification) -> Notification:
        """Mark an outage that began in announced maintenance; it is sent all the same."""
        facts = notification.facts
        opened = notification.event_type is EventType.OPEN and not facts.get("unwatched")
        target, began = facts.get("target"), facts.get("first_bad")
        if opened and isinstance(target, str) and isinstance(began, int) and self._in_maintenance(target, began):
            return replace(notification, facts={**notification.facts, "maintenance": True})
        return notification

    def notify(self, notification: Notification) -> None:
        """Put a notification without a ledger entry into the outbox. Not to be called in the event loop."""
        try:
            self._put([notification])
        except StoreError as error:
            logger.error("notify: no message is sent of %s: %s", notification.key, error)

    async def notify_directly(self, notification: Notification) -> None:
        """Send a notification without a ledger entry; if the disk is slow or fails, past the outbox, once."""
        put = asyncio.create_task(asyncio.to_thread(self._put, [notification]))
        try:
            async with asyncio.timeout(PUT_WITHIN_SECONDS):
                await asyncio.shield(put)
        except (StoreError, TimeoutError) as error:
            logger.error(
                "notify: %s cannot be kept (%s); it is sent as it is", notification.key, error or "no answer"
            )
            at = now()
            for channel in self._channels:
                if notification.event_type in channel.on and not in_quiet_hours(channel, at):
                    failed = await deliver(channel, *message_text([notification], channel, at))
                    self._count(channel.name, "sent" if failed is None else "failed")
        finally:
            # Retrieves the exception of a task that fails later.
            put.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _put(self, found: Sequence[Notification], cursor: int | None = None, but: Channel | None = None) -> None:
        at = now()
        fresh = [notification for notification in found if at - notification.time < DROP_AFTER_MS]
        messages = [
            (channel.name, notification)
            for notification in fresh
            for channel in self._channels
            if channel is not but
            and notification.event_type in channel.on
            and self._is_wanted(channel, notification, at)
        ]
        moot = [
            (channel.name, f"{EventType.OPEN}:{notification.facts['id']}")
            for notification in fresh
            if notification.event_type is EventType.CLOSE
            for channel in self._channels
            if in_quiet_hours(channel, notification.time) and in_quiet_hours(channel, at)
        ]
        self._outbox.put(messages, at=at, cursor=cursor, superseded=moot)

    def _is_wanted(self, channel: Channel, notification: Notification, at: Millis) -> bool:
        """Return whether a channel wants a notification; "unwatched" only goes where the opening was sent.

        If the outage opened before the outbox's memory, all channels get it.
        """
        if not notification.facts.get("unwatched"):
            return True
        key = f"{EventType.OPEN}:{notification.facts['id']}"
        began = notification.facts["first_bad"]
        return (isinstance(began, int) and at - began >= KEEP_MS) or self._outbox.has_message(channel.name, key)

    def _check_states(self) -> None:
        """Notify of certificates and disk space, which have no ledger entry; drop messages that are too old."""
        if not self._channels:
            # So that a new channel does not get the whole past.
            self.restore_cursor()
            return
        at = now()
        found = [
            notification
            for observation in list(self._latest())
            for notification in certificate_notifications(observation, at)
        ]
        free = shutil.disk_usage(self._data_dir).free
        if free < LOW_DISK_BYTES:
            facts = {"free": free // 1_000_000}
            found.append(Notification(key=f"disk:{at // DAY_MS}", event_type=EventType.DISK, time=at, facts=facts))
        if found:
            self._put(found)
        # A clock set ahead since the start makes no message older.
        ahead = max(0, monotonic.offset() - self._offset)
        for channel, key in self._outbox.drop(at - ahead - DROP_AFTER_MS, at):
            logger.error(
                "notify: %s never took %s; it is given up after %d days", channel, key, DROP_AFTER_MS // DAY_MS
            )
            self._count(channel, "dropped")
        self._outbox.delete_done(at - ahead - KEEP_MS)

    def _notify_others(self, channel: Channel, notification: Notification) -> None:
        try:
            self._put([notification], but=channel)
        except StoreError as error:
            logger.error("notify: no message is sent of %s: %s", notification.key, error)

    def _log_unusable(self, error: StoreError) -> None:
        """Log once why ledger and outbox cannot be used; each second MailWatch tries again."""
        if error.public_reason not in self._logged:
            self._logged.add(error.public_reason)
            logger.error("notify: ledger and outbox cannot be used now: %s", error)


def _may_notify(entry: Entry) -> bool:
    """Return whether an entry may notify, without parsing the many up observations."""
    keywords = ('"credentials"', '"out_of_date"')
    return entry.kind in ("outage", "guard") or (
        entry.kind == "observation" and any(word in entry.text for word in keywords)
    )
