"""Follows the ledger into the outbox, and empties it into the channels, each in its own order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mailwatch import monotonic
from mailwatch.model import EventType, Notification, Observation
from mailwatch.notify.delivery import DeliveryFailure, DeliveryFault, Grouping, deliver, in_quiet_hours
from mailwatch.notify.events import certificate_notifications, notifications_of
from mailwatch.notify.retries import PASS_AFTER, RETRY_SECONDS, RetryQueue
from mailwatch.notify.text import MAX_LINES, message_text
from mailwatch.settings import Channel
from mailwatch.store import Entry, Outbox, OutboxMessage, Reader, StoreDamagedError, StoreError, StoreHealth
from mailwatch.times import DAY_MS, Millis, now

logger = logging.getLogger(__name__)

FOLLOW_SECONDS = 1.0
STATE_SECONDS = 60.0
FAILING_AFTER_SECONDS = 3600.0
"""Seconds in which a channel took nothing until the other channels say so."""
DROP_AFTER_MS = 7 * DAY_MS
KEEP_MS = 30 * DAY_MS
BATCH_ENTRIES = 500
PUT_WITHIN_SECONDS = 15.0
"""Seconds that the disk has for news that may be about itself."""
OUR_TEXT_ERROR = "text"
"""The code of a message that we could not write."""
CHANNEL_KEY_PREFIX = "channel:"
"""How the keys of news about channels begin."""
LOW_DISK_BYTES = 500_000_000
"""Bytes."""


class Notifier:
    """`latest` returns the latest observation of each target.

    `count` takes (channel, outcome): sent, failed, refused, dropped. `in_maintenance` is whether a target was in
    announced maintenance at a time.
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
        self._woken = {channel.name: asyncio.Event() for channel in channels}
        self._grouping = {channel.name: Grouping(channel.group) for channel in channels}
        self._changed = asyncio.Event()
        self._renewed = {channel.name: asyncio.Event() for channel in channels}
        """Set when a channel was changed: what its old address did not take is tried again at once."""
        self._queues = {channel.name: self._new_queue() for channel in channels}
        self._denied: dict[str, set[int]] = {channel.name: set() for channel in channels}
        self._tried_twice: set[int] = set()

    @staticmethod
    def _new_queue() -> RetryQueue:
        return RetryQueue(time.monotonic, RETRY_SECONDS, PASS_AFTER)

    def restore_cursor(self) -> None:
        """Go on where the ledger was last read; what happened before there was a channel is not sent.

        Called before anything is probed.
        """
        known = self._outbox.cursor() if self._channels else None
        self._cursor = self._reader.size() if known is None else known
        self._outbox.put([], at=now(), cursor=self._cursor)
        # The address or the login that a service denied may be another one by now.
        self._outbox.retry(now() - DROP_AFTER_MS)

    async def change(self, channels: Sequence[Channel]) -> None:
        """Send over these channels from now on. What waits for one that is gone is given up in time."""
        if not self._channels:
            # What happened while there was no channel is not sent.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self.restore_cursor)
        before, self._channels = {channel.name: channel for channel in self._channels}, tuple(channels)
        for channel in channels:
            self._woken.setdefault(channel.name, asyncio.Event())
            renewed = self._renewed.setdefault(channel.name, asyncio.Event())
            if before.get(channel.name) != channel:
                self._grouping[channel.name] = Grouping(channel.group)
                self._queues.setdefault(channel.name, self._new_queue())
                self._denied.setdefault(channel.name, set())
                renewed.set()
        with contextlib.suppress(StoreError):
            # The address or the login that a service denied is another one now.
            await asyncio.to_thread(self._outbox.retry, now() - DROP_AFTER_MS)
        for name in before.keys() - {channel.name for channel in channels}:
            self._renewed[name].set()
        for woken in self._woken.values():
            woken.set()
        self._changed.set()

    def close(self) -> None:
        """Close the outbox."""
        self._outbox.close()

    async def run(self) -> None:
        """Send until cancelled."""
        delivering: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_running(self._follow, FOLLOW_SECONDS))
            group.create_task(self._keep_running(self._check_states, STATE_SECONDS))
            while True:
                self._changed.clear()
                for name in [channel.name for channel in self._channels]:
                    if name not in delivering or delivering[name].done():
                        delivering[name] = group.create_task(self._deliver(name))
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
            for woken in self._woken.values():
                woken.set()
            await asyncio.sleep(every)

    def _follow(self) -> None:
        """Put into the outbox what the ledger has gained."""
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
            # Else it would be read again each second, and nothing after it be sent.
            logger.exception("notify: no message for entry %d: internal error", entry.index)
            return []

    def _with_maintenance(self, notification: Notification) -> Notification:
        """Mark an outage that began in announced maintenance: it is sent all the same."""
        opened = notification.event_type is EventType.OPEN and not notification.facts.get("unwatched")
        if opened and self._in_maintenance(notification.facts["target"], notification.facts["first_bad"]):
            return replace(notification, facts={**notification.facts, "maintenance": True})
        return notification

    def notify(self, notification: Notification) -> None:
        """Put a notification that no entry gives into the outbox; not from the event loop."""
        try:
            self._put([notification])
        except StoreError as error:
            logger.error("notify: %s is not told: %s", notification.key, error)

    async def notify_directly(self, notification: Notification) -> None:
        """Have news sent that no entry gives: past the outbox, once, if the disk does not take it soon."""
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
            # Should it end later with an error of its own.
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
        """That an outage is watched no more matters to channels that were sent its begin.

        Of one that opened so long ago that the outbox has forgotten it, all are notified.
        """
        if not notification.facts.get("unwatched"):
            return True
        key = f"{EventType.OPEN}:{notification.facts['id']}"
        return at - notification.facts["first_bad"] >= KEEP_MS or self._outbox.has_message(channel.name, key)

    def _check_states(self) -> None:
        """Notify of what is not an entry: certificates and the disk; give up what is too old."""
        if not self._channels:
            # So that a new channel is not sent everything that ever happened.
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
        # A clock that was set ahead since the start made nothing older.
        ahead = max(0, monotonic.offset() - self._offset)
        for channel, key in self._outbox.drop(at - ahead - DROP_AFTER_MS, at):
            logger.error(
                "notify: %s never took %s; it is given up after %d days", channel, key, DROP_AFTER_MS // DAY_MS
            )
            self._count(channel, "dropped")
        self._outbox.delete_done(at - ahead - KEEP_MS)

    async def _deliver(self, name: str) -> None:
        """Send what waits for a channel, in the order of its turns, until there is none of that name any more."""
        woken, renewed = self._woken[name], self._renewed[name]
        while (channel := next((each for each in self._channels if each.name == name), None)) is not None:
            woken.clear()
            if renewed.is_set():
                renewed.clear()
                self._queues[name] = self._new_queue()
            try:
                wait = await self._next(channel)
            except StoreError as error:
                self._log_unusable(error)
                wait = RETRY_SECONDS[0]
            except Exception:
                # Our own fault. The probes and the other channels go on.
                logger.exception("notify: %s: a message could not be sent: internal error", channel.name)
                wait = RETRY_SECONDS[-1]
            if wait is None:
                await woken.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await renewed.wait()

    async def _next(self, channel: Channel) -> float | None:
        """Send the next message; return the seconds to wait (None: for news)."""
        messages = await asyncio.to_thread(self._outbox.pending, channel.name, BATCH_ENTRIES)
        if not messages or in_quiet_hours(channel, now()):
            return None
        turns = self._queues[channel.name]
        ready, wait = turns.next_messages(messages)
        if not ready:
            return wait
        if (wait := self._grouping[channel.name].wait((now() - ready[0].put_at) / 1000)) > 0:
            return wait
        together = (
            ready[:1]
            if turns.is_alone(ready[0])
            else _one_message([d for d in ready if not turns.is_alone(d)], channel)
        )
        numbers = [message.number for message in together]
        try:
            title, body = message_text([message.notification for message in together], channel, now())
        except (LookupError, TypeError, ValueError):
            # As another version may have left it. Else nothing after it would ever be sent.
            logger.exception("notify: %s: a message could not be written: internal error", channel.name)
            await self._failed(
                channel,
                together,
                DeliveryFailure(DeliveryFault.REFUSED, "it could not be written", OUR_TEXT_ERROR),
            )
            return 0.0
        noted = partial(self._outbox.done, numbers, "sent", now())
        if (answer := await deliver(channel, title, body, noted)) is not None:
            await self._failed(channel, together, answer)
            return 0.0
        await self._done(noted)
        self._grouping[channel.name].note_sent()
        self._count(channel.name, "sent")
        await self._succeeded(channel, turns)
        return 0.0

    async def _succeeded(self, channel: Channel, turns: RetryQueue) -> None:
        """The channel works: what it denied before is tried once more, for it may not have been the message."""
        turns.succeeded()
        denied = self._denied[channel.name] - self._tried_twice
        self._denied[channel.name] = set()
        if denied:
            self._tried_twice |= denied
            await self._done(partial(self._outbox.retry, now() - DROP_AFTER_MS, denied))

    async def _failed(self, channel: Channel, together: Sequence[OutboxMessage], answer: DeliveryFailure) -> None:
        """Set aside what is refused for good; what is not taken now is tried again in its turn."""
        turns, numbers = self._queues[channel.name], [message.number for message in together]
        first = turns.failures == 0
        turns.failed(numbers, answer.fault)
        if answer.fault not in (DeliveryFault.REFUSED, DeliveryFault.DENIED):
            self._count(channel.name, "failed")
            if first:
                logger.warning(
                    "notify: %s did not take a message: %s; it is tried again", channel.name, answer.why
                )
            since = turns.failing_since
            if since is not None and time.monotonic() - since >= FAILING_AFTER_SECONDS:
                await asyncio.to_thread(self._notify_of_channel, channel, together, "failing", answer)
            return
        if len(together) > 1:
            # It may be one of them; the others need not suffer for it.
            self._count(channel.name, "failed")
            turns.split(numbers)
            return
        outcome = f"{answer.fault} ({answer.code})"
        await self._done(partial(self._outbox.done, numbers, outcome, now()))
        self._count(channel.name, "refused")
        if answer.fault is DeliveryFault.DENIED:
            self._denied[channel.name] |= set(numbers)
        key = together[0].notification.key
        logger.error("notify: %s refuses %s for good: %s; it is set aside", channel.name, key, answer.why)
        await asyncio.to_thread(self._notify_of_channel, channel, together, "refused", answer)

    def _notify_of_channel(
        self, channel: Channel, messages: Sequence[OutboxMessage], sign: str, answer: DeliveryFailure
    ) -> None:
        """Notify the other channels, once a day, that this one does not take messages."""
        if answer.code == OUR_TEXT_ERROR or all(
            message.notification.key.startswith(CHANNEL_KEY_PREFIX) for message in messages
        ):
            # Not the channel's fault; and two that refuse everything would report each other for ever.
            return
        at = now()
        facts = {"sign": sign, "channel": channel.name, "answer": answer.code or "-"}
        notification = Notification(
            key=f"{CHANNEL_KEY_PREFIX}{sign}:{channel.name}:{at // DAY_MS}",
            event_type=EventType.MONITOR,
            time=at,
            facts=facts,
        )
        try:
            self._put([notification], but=channel)
        except StoreError as error:
            logger.error("notify: %s is not told: %s", notification.key, error)

    async def _done(self, noted: Callable[[], None]) -> None:
        """Note again what was sent, should that have failed; until it is, nothing else is sent."""
        while True:
            try:
                await asyncio.to_thread(noted)
            except StoreError as error:
                logger.error("notify: the outbox cannot be written: %s", error)
                await asyncio.sleep(RETRY_SECONDS[0])
            else:
                return

    def _log_unusable(self, error: StoreError) -> None:
        """Say once why nothing can be read or sent; it is tried again each second."""
        if error.public_reason not in self._logged:
            self._logged.add(error.public_reason)
            logger.error("notify: ledger and outbox cannot be used now: %s", error)


def _one_message(messages: Sequence[OutboxMessage], channel: Channel) -> list[OutboxMessage]:
    """Take from the head what is one message: of one topic all, of several no more than can be written out."""
    if not channel.group:
        return list(messages[:1])
    topic = messages[0].notification.event_type
    same = list(itertools.takewhile(lambda letter: letter.notification.event_type is topic, messages))
    return max(same, list(messages[:MAX_LINES]), key=len)


def _may_notify(entry: Entry) -> bool:
    """Without parsing the many up observations."""
    keywords = ('"credentials"', '"out_of_date"')
    return entry.kind in ("outage", "guard") or (
        entry.kind == "observation" and any(word in entry.text for word in keywords)
    )
