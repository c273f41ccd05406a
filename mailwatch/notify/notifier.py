"""Follows the ledger into the outbox, and empties it into the channels, each in its own order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mailwatch.models import Channel, Millis, News, Observation, Topic, now
from mailwatch.notify.news import DAY, of_certificate, of_entry
from mailwatch.notify.pace import Pace
from mailwatch.notify.quiet import is_quiet
from mailwatch.notify.sending import send
from mailwatch.notify.words import LINES, text_of
from mailwatch.store import Entry, Health, Letter, Outbox, Reader, StoreBroken, StoreError

logger = logging.getLogger(__name__)

FOLLOW_EVERY = 1.0
STATE_EVERY = 60.0
RETRY = (2.0, 5.0, 15.0, 60.0, 300.0, 900.0)
"""Seconds until a message is tried again, the last for ever."""
DROP_AFTER = 7 * DAY
KEEP = 30 * DAY
BATCH = 500
LOW_DISK = 500_000_000
"""Bytes."""


class Notifier:
    """`latest` gives the last look of each target, `counted` takes (channel, outcome): sent, failed, dropped.

    `held` tells whether a target was in announced maintenance at a time.
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
        self._woken = {channel.name: asyncio.Event() for channel in channels}
        self._pace = {channel.name: Pace(channel.group) for channel in channels}
        self._changed = asyncio.Event()
        self._renewed = {channel.name: asyncio.Event() for channel in channels}
        """Set when a channel was changed: what its old address did not take is tried again at once."""

    def begin(self) -> None:
        """Take up where the ledger was last read; what happened before there was anyone to tell is not told.

        Called before anything is looked at.
        """
        known = self._outbox.cursor() if self._channels else None
        self._cursor = self._reader.size() if known is None else known
        self._outbox.put([], at=now(), cursor=self._cursor)

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
                renewed.set()
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

    def _put(self, found: Sequence[News], cursor: int | None = None) -> None:
        at = now()
        fresh = [news for news in found if at - news.time < DROP_AFTER]
        letters = [
            (channel.name, news)
            for news in fresh
            for channel in self._channels
            if news.topic in channel.on and self._concerns(channel, news, at)
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
        for channel, key in self._outbox.drop(at - DROP_AFTER, at):
            logger.error("notify: %s never took %s; it is given up after %d days", channel, key, DROP_AFTER // DAY)
            self._counted(channel, "dropped")
        self._outbox.clear(at - KEEP)

    async def _deliver(self, name: str) -> None:
        """Send what waits for a channel, the oldest first, until there is none of that name any more.

        What is not taken holds up the rest.
        """
        failures, woken, renewed = 0, self._woken[name], self._renewed[name]
        while (channel := next((each for each in self._channels if each.name == name), None)) is not None:
            woken.clear()
            if renewed.is_set():
                renewed.clear()
                failures = 0
            try:
                wait, failures = await self._next(channel, failures)
            except StoreError as error:
                self._unusable(error)
                wait = RETRY[0]
            except Exception:
                # One that an older or newer version left, say. The looks and the other channels go on.
                logger.exception("notify: %s: a message could not be written, by our own fault", channel.name)
                wait = RETRY[-1]
            if wait is None:
                await woken.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await renewed.wait()

    async def _next(self, channel: Channel, failures: int) -> tuple[float | None, int]:
        """Send the next message; return the seconds to wait (None: for news) and the failures in a row."""
        letters = await asyncio.to_thread(self._outbox.pending, channel.name, BATCH)
        if not letters or is_quiet(channel, now()):
            return None, failures
        pace = self._pace[channel.name]
        if (wait := pace.wait((now() - letters[0].put) / 1000)) > 0:
            return wait, failures
        together = _together(letters, channel)
        title, body = text_of([letter.news for letter in together], channel, now())
        noted = partial(self._outbox.done, [letter.number for letter in together], "sent", now())
        if (why := await send(channel, title, body, noted)) is not None:
            self._counted(channel.name, "failed")
            if failures == 0:
                logger.warning("notify: %s did not take a message: %s; it is tried again", channel.name, why)
            return RETRY[min(failures, len(RETRY) - 1)], failures + 1
        await self._done(noted)
        pace.sent()
        self._counted(channel.name, "sent")
        return 0.0, 0

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
