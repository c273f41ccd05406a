"""Puts notifications of the ledger into the outbox; a worker for each channel sends them (channel_worker.py)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mailwatch import monotonic
from mailwatch.analysis.storage_budget import StorageBudget
from mailwatch.model import EventType, Notification, Observation
from mailwatch.notify.channel_names import renamed_channels
from mailwatch.notify.channel_worker import DROP_AFTER_MS, ChannelWorker
from mailwatch.notify.delivery import deliver, in_quiet_hours
from mailwatch.notify.events import (
    certificate_notifications,
    disk_notifications,
    has_type,
    notifications_of,
    opening_keys,
    wants_reminders,
)
from mailwatch.notify.incident_events import IncidentFollower, Paused, Watched
from mailwatch.notify.text import message_text
from mailwatch.settings import Channel
from mailwatch.store import Entry, Outbox, Reader, StoreDamagedError, StoreError, StoreHealth
from mailwatch.store.acknowledgements import acknowledged_incident
from mailwatch.store.place import Place, place_of
from mailwatch.store.unobserved import unobserved_windows
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
    in announced maintenance at a time, `watched` the watched targets with their providers and accounts, `paused`
    the names of the targets that are paused, `storage` what the ledger takes on disk.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        where: Path | Place,
        reader: Reader,
        *,
        latest: Callable[[], Iterable[Observation]],
        count: Callable[[str, str], None],
        in_maintenance: Callable[[str, Millis], bool] = lambda _target, _at: False,
        watched: Watched = dict,
        paused: Paused = frozenset,
        storage: Callable[[], StorageBudget | None] = lambda: None,
        identify: Callable[[Channel], str] = lambda _channel: "",
        health: StoreHealth | None = None,
    ) -> None:
        self._channels = tuple(channels)
        self._data_dir = place_of(where).data_dir
        self._reader = reader
        self._outbox = Outbox(where, health)
        self._logged: set[str] = set()
        self._latest = latest
        self._storage = storage
        self._count = count
        self._in_maintenance, self._watched, self._paused = in_maintenance, watched, paused
        self._identify = identify
        self._left: set[str] = set()
        """Channels that are gone, of whose messages the log knows."""
        self._switching = threading.Lock()
        """Held while messages are put, so that none is while channels change their names."""
        self._incidents: IncidentFollower | None = None
        """None before the ledger is followed, and after a failure: it is then read again."""
        self._cursor = 0
        self._offset = monotonic.offset()
        self._remind_at = 0.0
        """When reminders are due next, on time.monotonic()."""
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
        self._take_over(self._channels)
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
        present = {channel.name: channel for channel in channels}
        for name, worker in self._workers.items():
            if worker.channel != present.get(name):
                # It must not take what another channel gets under this name.
                worker.change(None)
        try:
            await asyncio.to_thread(self._take_over, channels)
        except StoreError as error:
            self._log_unusable(error)
            self._channels = tuple(channels)
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

    def _take_over(self, channels: Sequence[Channel]) -> None:
        """Use these channels; move the messages of those that have another name than before."""
        addresses = {channel.name: self._identify(channel) for channel in channels}
        with self._switching:
            if all(addresses.values()):
                known = self._outbox.channel_addresses()
                renamed = renamed_channels(channels, addresses, known)
                if addresses and (renamed or addresses != known):
                    # Those that are gone stay known: their address may come back under another name.
                    others = {renamed.get(name, name): address for name, address in known.items()}
                    for old in self._outbox.rename_channels(renamed, {**others, **addresses}):
                        logger.info("notify: the messages of %s are those of %s from now on", old, renamed[old])
            self._channels = tuple(channels)
        self._report_left(addresses.keys())

    def _report_left(self, names: Collection[str]) -> None:
        """Log once that messages wait for a channel that is gone."""
        for name, count in self._outbox.waiting_for_others(names).items():
            if name not in self._left:
                logger.warning(
                    "notify: %d message(s) wait for %s, which is not in the config; MailWatch gives them up after "
                    "%d days, unless a channel of that name or address comes back",
                    count, name, DROP_AFTER_MS // DAY_MS,
                )  # fmt: skip
                self._left.add(name)
        self._left -= set(names)

    def unreachable_reasons(self) -> list[str]:
        """Return why people get no message, if that is so of every channel; [] while one works, or without any."""
        workers = [worker for worker in self._workers.values() if worker.channel is not None]
        if not workers or not all(worker.trouble for worker in workers):
            return []
        said = "; ".join(f"{worker.channel.name}: {worker.trouble}" for worker in workers if worker.channel)
        return [f"no notification arrives: {said}"]

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
        following, self._incidents = self._incidents, None
        following = following or IncidentFollower(
            self._watched, self._in_maintenance, partial(unobserved_windows, self._reader), self._paused
        )
        following.catch_up(self._reader, self._cursor)
        while entries := list(self._reader.entries(from_index=self._cursor, limit=BATCH_ENTRIES)):
            found = [
                notification
                for entry in entries
                if _may_notify(entry) or entry.target in following.resumed
                for notification in self._notifications(entry, following)
            ]
            cursor = entries[-1].index + 1
            self._put(found, cursor)
            self._cursor = cursor
        self._incidents = following
        if time.monotonic() >= self._remind_at:
            try:
                with self._switching:
                    self._remind(following)
            finally:
                self._remind_at = time.monotonic() + STATE_SECONDS

    def _remind(self, following: IncidentFollower) -> None:
        """Remind of each open incident that is not acknowledged, each `remind` seconds of a channel.

        The caller holds the lock, so that no reminder is put under a name that its channel no longer has.
        """
        channels = [channel for channel in self._channels if channel.remind and wants_reminders(channel)]
        known, at = self._reader.acknowledgements() if channels else {}, now()
        probed = self._watched() if channels else {}
        for incident in following.open_incidents() if channels else ():
            if acknowledged_incident(incident, known) or not any(
                member.is_open and member.outage.target in probed for member in incident.members
            ):
                # Of targets only that are removed just now.
                continue
            for channel in channels:
                number = int((at - incident.first_bad) // (channel.remind * 1000))
                if number > 0:
                    reminder = following.reminder(incident, number, at)
                    self._outbox.put([(channel.name, reminder)], at=at)

    def _notifications(self, entry: Entry, following: IncidentFollower) -> list[Notification]:
        try:
            found = [
                self._with_maintenance(notification) for notification in notifications_of(self._reader, entry)
            ]
            incident = following.follow(entry)
            return found if incident is None else [*found, incident]
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
        with self._switching:
            self._put_under_names(found, cursor, but)

    def _put_under_names(self, found: Sequence[Notification], cursor: int | None, but: Channel | None) -> None:
        at = now()
        fresh = [notification for notification in found if at - notification.time < DROP_AFTER_MS]
        messages = [
            (channel.name, notification)
            for notification in fresh
            for channel in self._channels
            if (but is None or channel.name != but.name)
            and has_type(channel, notification)
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
        keys = opening_keys(str(notification.facts["id"]))
        began = notification.facts["first_bad"]
        return (isinstance(began, int) and at - began >= KEEP_MS) or any(
            self._outbox.has_message(channel.name, key) for key in keys
        )

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
        found += disk_notifications(free, free < LOW_DISK_BYTES, self._storage(), at)
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
    return entry.kind in ("outage", "guard", "watch", "quorum") or (
        entry.kind == "observation" and any(word in entry.text for word in keywords)
    )
