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
from mailwatch.model import News, Observation, Topic
from mailwatch.notify.delivery import Fault, NotTaken, Pace, is_quiet, send
from mailwatch.notify.events import DAY, of_certificate, of_entry
from mailwatch.notify.retries import PASS_AFTER, RETRY, Turns
from mailwatch.notify.text import LINES, text_of
from mailwatch.settings import Channel
from mailwatch.store import Entry, Health, Letter, Outbox, Reader, StoreBroken, StoreError
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

FOLLOW_EVERY = 1.0
STATE_EVERY = 60.0
FAILING_AFTER = 3600.0
"""Seconds in which a channel took nothing until the other channels say so."""
DROP_AFTER = 7 * DAY
KEEP = 30 * DAY
BATCH = 500
PUT_WITHIN = 15.0
"""Seconds that the disk has for news that may be about itself."""
OURS = "text"
"""The code of a message that we could not write."""
OF_CHANNEL = "channel:"
"""How the keys of news about channels begin."""
LOW_DISK = 500_000_000
"""Bytes."""


class Notifier:
    """`latest` gives the last look of each target.

    `counted` takes (channel, outcome): sent, failed, refused, dropped. `held` tells whether a target was in
    announced maintenance at a time.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        data_dir: Path,
        reader: Reader,
        *,
        latest: Callable[[], Iterable[Observation]],
        counted: Callable[[str, str], None],
        held: Callable[[str, Millis], bool] = lambda _target, _at: False,
        health: Health | None = None,
    ) -> None:
        self._channels = tuple(channels)
        self._data_dir = data_dir
        self._reader = reader
        self._outbox = Outbox(data_dir, health)
        self._said: set[str] = set()
        self._latest = latest
        self._counted = counted
        self._held = held
        self._cursor = 0
        self._offset = monotonic.offset()
        self._woken = {channel.name: asyncio.Event() for channel in channels}
        self._pace = {channel.name: Pace(channel.group) for channel in channels}
        self._changed = asyncio.Event()
        self._renewed = {channel.name: asyncio.Event() for channel in channels}
        """Set when a channel was changed: what its old address did not take is tried again at once."""
        self._turns = {channel.name: self._new_turns() for channel in channels}
        self._denied: dict[str, set[int]] = {channel.name: set() for channel in channels}
        self._tried_twice: set[int] = set()

    @staticmethod
    def _new_turns() -> Turns:
        return Turns(time.monotonic, RETRY, PASS_AFTER)

    def begin(self) -> None:
        """Take up where the ledger was last read; what happened before there was anyone to tell is not told.

        Called before anything is looked at.
        """
        known = self._outbox.cursor() if self._channels else None
        self._cursor = self._reader.size() if known is None else known
        self._outbox.put([], at=now(), cursor=self._cursor)
        # The address or the login that a service denied may be another one by now.
        self._outbox.again(now() - DROP_AFTER)

    async def change(self, channels: Sequence[Channel]) -> None:
        """Send over these channels from now on. What waits for one that is gone is given up in time."""
        if not self._channels:
            # Of what happened while there was no channel, nobody hears.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self.begin)
        before, self._channels = {channel.name: channel for channel in self._channels}, tuple(channels)
        for channel in channels:
            self._woken.setdefault(channel.name, asyncio.Event())
            renewed = self._renewed.setdefault(channel.name, asyncio.Event())
            if before.get(channel.name) != channel:
                self._pace[channel.name] = Pace(channel.group)
                self._turns.setdefault(channel.name, self._new_turns())
                self._denied.setdefault(channel.name, set())
                renewed.set()
        with contextlib.suppress(StoreError):
            # The address or the login that a service denied is another one now.
            await asyncio.to_thread(self._outbox.again, now() - DROP_AFTER)
        for name in before.keys() - {channel.name for channel in channels}:
            self._renewed[name].set()
        for woken in self._woken.values():
            woken.set()
        self._changed.set()

    def close(self) -> None:
        """Close the outbox."""
        self._outbox.close()

    async def run(self) -> None:
        """Tell until cancelled."""
        delivering: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kept(self._follow, FOLLOW_EVERY))
            group.create_task(self._kept(self._states, STATE_EVERY))
            while True:
                self._changed.clear()
                for name in [channel.name for channel in self._channels]:
                    if name not in delivering or delivering[name].done():
                        delivering[name] = group.create_task(self._deliver(name))
                await self._changed.wait()

    async def _kept(self, work: Callable[[], None], every: float) -> None:
        while True:
            try:
                await asyncio.to_thread(work)
                self._said.clear()
            except StoreError as error:
                self._unusable(error)
            except Exception:
                logger.exception("notify: the record could not be followed, by our own fault")
            for woken in self._woken.values():
                woken.set()
            await asyncio.sleep(every)

    def _follow(self) -> None:
        """Put into the outbox what the ledger has gained."""
        if not self._channels:
            return
        while entries := list(self._reader.entries(from_index=self._cursor, limit=BATCH)):
            found = [news for entry in entries if _may_be_news(entry) for news in self._news(entry)]
            cursor = entries[-1].index + 1
            self._put(found, cursor)
            self._cursor = cursor

    def _news(self, entry: Entry) -> list[News]:
        try:
            return [self._marked(news) for news in of_entry(self._reader, entry)]
        except (StoreBroken, LookupError, TypeError, ValueError):
            # Else it would be read again each second, and nothing after it be told.
            logger.exception("notify: nothing is told of entry %d, by our own fault", entry.index)
            return []

    def _marked(self, news: News) -> News:
        """Say of an outage that it began in announced maintenance: it is told all the same."""
        opened = news.topic is Topic.OPEN and not news.facts.get("unwatched")
        if opened and self._held(news.facts["target"], news.facts["first_bad"]):
            return replace(news, facts={**news.facts, "maintenance": True})
        return news

    def tell(self, news: News) -> None:
        """Put news that no entry tells into the outbox; not from the event loop."""
        try:
            self._put([news])
        except StoreError as error:
            logger.error("notify: %s is not told: %s", news.key, error)

    async def report(self, news: News) -> None:
        """Have news sent that no entry gives: past the outbox, once, if the disk does not take it soon."""
        put = asyncio.create_task(asyncio.to_thread(self._put, [news]))
        try:
            async with asyncio.timeout(PUT_WITHIN):
                await asyncio.shield(put)
        except (StoreError, TimeoutError) as error:
            logger.error("notify: %s cannot be kept (%s); it is sent as it is", news.key, error or "no answer")
            at = now()
            for channel in self._channels:
                if news.topic in channel.on and not is_quiet(channel, at):
                    failed = await send(channel, *text_of([news], channel, at))
                    self._counted(channel.name, "sent" if failed is None else "failed")
        finally:
            # Should it end later with an error of its own.
            put.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _put(self, found: Sequence[News], cursor: int | None = None, but: Channel | None = None) -> None:
        at = now()
        fresh = [news for news in found if at - news.time < DROP_AFTER]
        letters = [
            (channel.name, news)
            for news in fresh
            for channel in self._channels
            if channel is not but and news.topic in channel.on and self._concerns(channel, news, at)
        ]
        moot = [
            (channel.name, f"{Topic.OPEN}:{news.facts['id']}")
            for news in fresh
            if news.topic is Topic.CLOSE
            for channel in self._channels
            if is_quiet(channel, news.time) and is_quiet(channel, at)
        ]
        self._outbox.put(letters, at=at, cursor=cursor, moot=moot)

    def _concerns(self, channel: Channel, news: News, at: Millis) -> bool:
        """That an outage is watched no more is of interest to those who heard of it.

        Of one that opened so long ago that the outbox has forgotten it, all are notified.
        """
        if not news.facts.get("unwatched"):
            return True
        key = f"{Topic.OPEN}:{news.facts['id']}"
        return at - news.facts["first_bad"] >= KEEP or self._outbox.took(channel.name, key)

    def _states(self) -> None:
        """Tell of what is not an entry: certificates and the disk; give up what is too old."""
        if not self._channels:
            # So that those who come to be told one day are not told of all that was.
            self.begin()
            return
        at = now()
        found = [news for look in list(self._latest()) for news in of_certificate(look, at)]
        free = shutil.disk_usage(self._data_dir).free
        if free < LOW_DISK:
            facts = {"free": free // 1_000_000}
            found.append(News(key=f"disk:{at // DAY}", topic=Topic.DISK, time=at, facts=facts))
        if found:
            self._put(found)
        # A clock that was set ahead since the start made nothing older.
        ahead = max(0, monotonic.offset() - self._offset)
        for channel, key in self._outbox.drop(at - ahead - DROP_AFTER, at):
            logger.error("notify: %s never took %s; it is given up after %d days", channel, key, DROP_AFTER // DAY)
            self._counted(channel, "dropped")
        self._outbox.clear(at - ahead - KEEP)

    async def _deliver(self, name: str) -> None:
        """Send what waits for a channel, in the order of its turns, until there is none of that name any more."""
        woken, renewed = self._woken[name], self._renewed[name]
        while (channel := next((each for each in self._channels if each.name == name), None)) is not None:
            woken.clear()
            if renewed.is_set():
                renewed.clear()
                self._turns[name] = self._new_turns()
            try:
                wait = await self._next(channel)
            except StoreError as error:
                self._unusable(error)
                wait = RETRY[0]
            except Exception:
                # Our own fault. The probes and the other channels go on.
                logger.exception("notify: %s: a message could not be sent, by our own fault", channel.name)
                wait = RETRY[-1]
            if wait is None:
                await woken.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await renewed.wait()

    async def _next(self, channel: Channel) -> float | None:
        """Send the next message; return the seconds to wait (None: for news)."""
        letters = await asyncio.to_thread(self._outbox.pending, channel.name, BATCH)
        if not letters or is_quiet(channel, now()):
            return None
        turns = self._turns[channel.name]
        due, wait = turns.next(letters)
        if not due:
            return wait
        if (wait := self._pace[channel.name].wait((now() - due[0].put) / 1000)) > 0:
            return wait
        together = (
            due[:1] if turns.is_alone(due[0]) else _together([d for d in due if not turns.is_alone(d)], channel)
        )
        numbers = [letter.number for letter in together]
        try:
            title, body = text_of([letter.news for letter in together], channel, now())
        except (LookupError, TypeError, ValueError):
            # As another version may have left it. Else nothing after it would ever be sent.
            logger.exception("notify: %s: a message could not be written, by our own fault", channel.name)
            await self._failed(channel, together, NotTaken(Fault.REFUSED, "it could not be written", OURS))
            return 0.0
        noted = partial(self._outbox.done, numbers, "sent", now())
        if (answer := await send(channel, title, body, noted)) is not None:
            await self._failed(channel, together, answer)
            return 0.0
        await self._done(noted)
        self._pace[channel.name].sent()
        self._counted(channel.name, "sent")
        await self._took(channel, turns)
        return 0.0

    async def _took(self, channel: Channel, turns: Turns) -> None:
        """The channel works: what it denied before is tried once more, for it may not have been the message."""
        turns.took()
        denied = self._denied[channel.name] - self._tried_twice
        self._denied[channel.name] = set()
        if denied:
            self._tried_twice |= denied
            await self._done(partial(self._outbox.again, now() - DROP_AFTER, denied))

    async def _failed(self, channel: Channel, together: Sequence[Letter], answer: NotTaken) -> None:
        """Set aside what is refused for good; what is not taken now is tried again in its turn."""
        turns, numbers = self._turns[channel.name], [letter.number for letter in together]
        first = turns.failures == 0
        turns.failed(numbers, answer.fault)
        if answer.fault not in (Fault.REFUSED, Fault.DENIED):
            self._counted(channel.name, "failed")
            if first:
                logger.warning(
                    "notify: %s did not take a message: %s; it is tried again", channel.name, answer.why
                )
            since = turns.failing_since
            if since is not None and time.monotonic() - since >= FAILING_AFTER:
                await asyncio.to_thread(self._tell_of_channel, channel, together, "failing", answer)
            return
        if len(together) > 1:
            # It may be one of them; the others need not suffer for it.
            self._counted(channel.name, "failed")
            turns.part(numbers)
            return
        outcome = f"{answer.fault} ({answer.code})"
        await self._done(partial(self._outbox.done, numbers, outcome, now()))
        self._counted(channel.name, "refused")
        if answer.fault is Fault.DENIED:
            self._denied[channel.name] |= set(numbers)
        key = together[0].news.key
        logger.error("notify: %s refuses %s for good: %s; it is set aside", channel.name, key, answer.why)
        await asyncio.to_thread(self._tell_of_channel, channel, together, "refused", answer)

    def _tell_of_channel(self, channel: Channel, letters: Sequence[Letter], sign: str, answer: NotTaken) -> None:
        """Tell the other channels, once a day, that this one does not take messages."""
        if answer.code == OURS or all(letter.news.key.startswith(OF_CHANNEL) for letter in letters):
            # Not the channel's fault; and two that refuse everything would tell of each other for ever.
            return
        at = now()
        facts = {"sign": sign, "channel": channel.name, "answer": answer.code or "-"}
        news = News(
            key=f"{OF_CHANNEL}{sign}:{channel.name}:{at // DAY}", topic=Topic.MONITOR, time=at, facts=facts
        )
        try:
            self._put([news], but=channel)
        except StoreError as error:
            logger.error("notify: %s is not told: %s", news.key, error)

    async def _done(self, noted: Callable[[], None]) -> None:
        """Note again what was sent, should that have failed; until it is, nothing else is sent."""
        while True:
            try:
                await asyncio.to_thread(noted)
            except StoreError as error:
                logger.error("notify: the outbox cannot be written: %s", error)
                await asyncio.sleep(RETRY[0])
            else:
                return

    def _unusable(self, error: StoreError) -> None:
        """Say once why nothing can be read or sent; it is tried again each second."""
        if error.why not in self._said:
            self._said.add(error.why)
            logger.error("notify: ledger and outbox cannot be used now: %s", error)


def _together(letters: Sequence[Letter], channel: Channel) -> list[Letter]:
    """Take from the head what is one message: of one topic all, of several no more than can be written out."""
    if not channel.group:
        return list(letters[:1])
    topic = letters[0].news.topic
    same = list(itertools.takewhile(lambda letter: letter.news.topic is topic, letters))
    return max(same, list(letters[:LINES]), key=len)


def _may_be_news(entry: Entry) -> bool:
    """Without parsing the many looks that are up."""
    telling = ('"credentials"', '"out_of_date"')
    return entry.kind in ("outage", "guard") or (
        entry.kind == "observation" and any(word in entry.text for word in telling)
    )
