"""Sends the pending messages of one channel: their order, their grouping, and the handling of failures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from mailwatch.model import EventType, Notification
from mailwatch.notify.delivery import DeliveryFailure, DeliveryFault, Grouping, deliver, in_quiet_hours
from mailwatch.notify.incident_events import IncidentStep
from mailwatch.notify.incident_rows import LatestRows, latest_rows
from mailwatch.notify.retries import GIVE_UP_AFTER, PASS_AFTER, RETRY_SECONDS, RetryQueue
from mailwatch.notify.text import MAX_LINES, message_text
from mailwatch.settings import Channel
from mailwatch.store import Outbox, OutboxMessage, StoreError
from mailwatch.times import DAY_MS, now

logger = logging.getLogger(__name__)

BATCH_MESSAGES = 500
FAILING_AFTER_SECONDS = 3600.0
"""Seconds without a delivered message after which the other channels report a channel."""
DROP_AFTER_MS = 7 * DAY_MS
"""Age in milliseconds at which an undelivered message is dropped."""
NO_REASON = "no reason"
"""The failure code of a message that failed again and again without a reason."""
OUR_TEXT_ERROR = "text"
"""The failure code of a message whose text we could not write."""
CHANNEL_KEY_PREFIX = "channel:"
"""The prefix of the keys of notifications about channels."""


class ChannelWorker:
    """Sends the messages of one channel.

    `count` takes (channel, outcome): sent, failed, refused. `notify_others` sends a notification over every
    channel but the given one. `on_store_error` takes the error that made the outbox unreadable.
    """

    def __init__(
        self,
        channel: Channel,
        outbox: Outbox,
        *,
        count: Callable[[str, str], None],
        notify_others: Callable[[Channel, Notification], None],
        on_store_error: Callable[[StoreError], None],
    ) -> None:
        self.channel: Channel | None = channel
        """None when the channel is removed."""
        self.trouble = ""
        """Why it seems that nothing arrives over this channel, "" if the latest message did."""
        self._outbox = outbox
        self._count, self._notify_others, self._on_store_error = count, notify_others, on_store_error
        self._news = asyncio.Event()
        self._changed = asyncio.Event()
        """Set when the channel changed: messages that failed at its old address are retried at once."""
        self._grouping = Grouping(channel.group)
        self._queue = _new_queue()
        self._denied: set[int] = set()
        self._tried_twice: set[int] = set()

    def change(self, channel: Channel | None) -> None:
        """Send over the changed channel from now on; None ends `run`."""
        if channel == self.channel:
            return
        self.channel = channel
        self.trouble = ""
        if channel is not None:
            self._grouping = Grouping(channel.group)
        self._changed.set()

    def wake(self) -> None:
        """Read the outbox again, since it may have new messages."""
        self._news.set()

    async def run(self) -> None:
        """Send the pending messages in queue order, until the channel is removed."""
        while (channel := self.channel) is not None:
            self._news.clear()
            if self._changed.is_set():
                self._changed.clear()
                self._queue = _new_queue()
            try:
                wait = await self._next(channel)
            except StoreError as error:
                self._on_store_error(error)
                wait = RETRY_SECONDS[0]
            except Exception:
                # Our own fault. The probes and the other channels continue.
                logger.exception("notify: %s: a message could not be sent: internal error", channel.name)
                wait = RETRY_SECONDS[-1]
            if wait is None:
                await self._news.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()

    async def _next(self, channel: Channel) -> float | None:
        """Send the next message; return the seconds to wait, None to wait for new messages."""
        messages = await asyncio.to_thread(self._outbox.pending, channel.name, BATCH_MESSAGES)
        if self.channel is not channel:
            # Its name may be another channel's now, and what was read that one's.
            return 0.0
        if not messages or in_quiet_hours(channel, now()):
            return None
        turns, rows = self._queue, latest_rows(messages, channel.group, now())
        ready, wait = turns.next_messages(rows.messages)
        if not ready:
            # Incidents that are still growing: the follower wakes this each second.
            return wait if rows.messages else None
        together = (
            ready[:1]
            if turns.is_alone(ready[0])
            else _one_message([d for d in ready if not turns.is_alone(d)], channel)
        )
        is_end = any(_is_end(message.notification) for message in together)
        if (wait := self._grouping.wait((now() - rows.first_put(ready[0])) / 1000, is_end=is_end)) > 0:
            return wait
        try:
            title, body = message_text([message.notification for message in together], channel, now())
        except (LookupError, TypeError, ValueError):
            # Another version may have left such a message. It must not block those after it.
            logger.exception("notify: %s: a message could not be written: internal error", channel.name)
            unwritten = DeliveryFailure(DeliveryFault.REFUSED, "it could not be written", OUR_TEXT_ERROR)
            await self._failed(channel, together, rows, unwritten)
            return 0.0
        numbers = [message.number for message in together] + rows.replaced_numbers(together)
        noted = partial(self._outbox.done, numbers, "sent", now())
        if (answer := await deliver(channel, title, body, noted)) is not None:
            await self._failed(channel, together, rows, answer)
            return 0.0
        await self._done(noted)
        self._grouping.note_sent(is_end=is_end)
        self._count(channel.name, "sent")
        await self._succeeded()
        return 0.0

    async def _succeeded(self) -> None:
        """The channel works: retry denied messages once, since the denial may not have been for the message."""
        self._queue.succeeded()
        self.trouble = ""
        denied = self._denied - self._tried_twice
        self._denied = set()
        if denied:
            self._tried_twice |= denied
            await self._done(partial(self._outbox.retry, now() - DROP_AFTER_MS, denied))

    async def _failed(
        self, channel: Channel, together: Sequence[OutboxMessage], rows: LatestRows, answer: DeliveryFailure
    ) -> None:
        """Set aside a message refused for good; retry others in queue order."""
        turns, numbers = self._queue, [message.number for message in together]
        first = turns.failures == 0
        turns.failed(numbers, answer.fault)
        if answer.fault is DeliveryFault.BUSY and not answer.code and turns.tries(numbers) >= GIVE_UP_AFTER:
            # The service gave no answer to tell from, and never took it: sent again when it takes another one.
            answer = DeliveryFailure(DeliveryFault.DENIED, f"{answer.why}, {GIVE_UP_AFTER} times", NO_REASON)
        if answer.fault not in (DeliveryFault.REFUSED, DeliveryFault.DENIED):
            self._count(channel.name, "failed")
            if first:
                logger.warning(
                    "notify: %s did not take a message: %s; it is tried again", channel.name, answer.why
                )
            since = turns.failing_since
            if since is not None and time.monotonic() - since >= FAILING_AFTER_SECONDS:
                self.trouble = f"no message was taken for an hour ({answer.why})"
                await asyncio.to_thread(self._report, channel, together, "failing", answer)
            return
        if len(together) > 1:
            # One message may be the cause: send each by itself.
            self._count(channel.name, "failed")
            turns.split(numbers)
            return
        outcome = f"{answer.fault} ({answer.code})"
        await self._done(partial(self._outbox.done, numbers, outcome, now(), moot=rows.replaced_numbers(together)))
        self._count(channel.name, "refused")
        if answer.fault is DeliveryFault.DENIED:
            self._denied |= set(numbers)
        if answer.code != OUR_TEXT_ERROR:
            self.trouble = f"it refuses messages for good ({answer.code})"
        key = together[0].notification.key
        logger.error("notify: %s refuses %s for good: %s; it is set aside", channel.name, key, answer.why)
        await asyncio.to_thread(self._report, channel, together, "refused", answer)

    def _report(
        self, channel: Channel, messages: Sequence[OutboxMessage], sign: str, answer: DeliveryFailure
    ) -> None:
        """Report over the other channels, once a day, that this channel does not deliver."""
        if answer.code == OUR_TEXT_ERROR or all(
            message.notification.key.startswith(CHANNEL_KEY_PREFIX) for message in messages
        ):
            # Not the channel's fault, or about a channel: two that refuse everything would alternate for ever.
            return
        at = now()
        facts = {"sign": sign, "channel": channel.name, "answer": answer.code or "-"}
        notification = Notification(
            key=f"{CHANNEL_KEY_PREFIX}{sign}:{channel.name}:{at // DAY_MS}",
            event_type=EventType.MONITOR,
            time=at,
            facts=facts,
        )
        self._notify_others(channel, notification)

    async def _done(self, noted: Callable[[], None]) -> None:
        """Record the outcome in the outbox, retrying on failure; nothing else is sent until it is recorded."""
        while True:
            try:
                await asyncio.to_thread(noted)
            except StoreError as error:
                logger.error("notify: the outbox cannot be written: %s", error)
                await asyncio.sleep(RETRY_SECONDS[0])
            else:
                return


def _is_end(notification: Notification) -> bool:
    """Whether it says that something works again."""
    step = notification.facts.get("step")
    return notification.event_type is EventType.CLOSE or step == IncidentStep.OVER


def _new_queue() -> RetryQueue:
    return RetryQueue(time.monotonic, RETRY_SECONDS, PASS_AFTER)


def _one_message(messages: Sequence[OutboxMessage], channel: Channel) -> list[OutboxMessage]:
    """Return the first messages that form one: all of one event type, or as many as the text lists."""
    if not channel.group:
        return list(messages[:1])
    topic = messages[0].notification.event_type
    same = list(itertools.takewhile(lambda letter: letter.notification.event_type is topic, messages))
    return max(same, list(messages[:MAX_LINES]), key=len)
