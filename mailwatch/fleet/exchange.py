"""Sends and takes the messages of one node, in a thread of its own: the event loop waits for no database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mailwatch import monotonic
from mailwatch.fleet.messages import Message, MessageError, batches, decode, encode
from mailwatch.store.connections import psycopg_error
from mailwatch.store.errors import StoreError
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.probe_messages import Address, Letter, Mailbox
from mailwatch.times import Millis

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.025
"""Seconds between two messages to the same nodes: what comes in between is one message."""
POLL_SECONDS = 0.1
"""Seconds until messages are asked for where no receiver is woken, as behind a pooler in transaction mode."""
RELAXED_SECONDS = 1.0
"""The same, where the last messages did wake us."""
RETRY_SECONDS = 0.5
"""Seconds until a database that is away is asked again."""
FORGET_SECONDS = 20.0
CLOSE_SECONDS = 2.0
"""Seconds to send what waits at the end."""
Item = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Received:
    """A message that came, `taken` at our steady clock; `age` seconds before, by the database's."""

    sender: Address
    message: Message
    taken: Millis
    age: float
    from_active: bool


@dataclass(slots=True)
class _Outbox:
    """What waits to be sent to one address."""

    series: str
    items: list[Item] = field(default_factory=list)


class Exchange:
    """One node's messages. `on_message` and `on_undelivered` are called in the event loop.

    `on_undelivered`: items that did not reach their address: it is gone, or the database is away. After
    `on_reconnected` messages may be missing that were there before: no crash of the database leaves any.
    """

    def __init__(
        self,
        place: PostgresPlace,
        own: Address,
        *,
        on_message: Callable[[Received], None],
        on_undelivered: Callable[[Address, Sequence[Item]], None],
        on_reconnected: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_reconnected = on_reconnected
        self._mailbox = Mailbox(place, own)
        self._on_message, self._on_undelivered = on_message, on_undelivered
        self._outboxes: dict[Address, _Outbox] = {}
        self._received: dict[Address, tuple[Millis, Millis]] = {}
        self._lock = threading.Lock()
        self._stopping, self._ended = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._poll = POLL_SECONDS
        self.dropped = 0
        """How many messages came that were none of ours."""
        self._logged: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Exchange messages while the context lasts; what waits then is sent, within CLOSE_SECONDS."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="probe messages", daemon=True).start()
        try:
            yield
        finally:
            self._stopping.set()
            self._mailbox.wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._ended.wait()

    def send(self, to: Address, series: str, item: Item) -> None:
        """Send an item soon, with others. For the event loop."""
        with self._lock:
            outbox = self._outboxes.setdefault(to, _Outbox(series))
            outbox.series = series
            outbox.items.append(item)
            first = len(self._outboxes) == 1 and len(outbox.items) == 1
        if first:
            self._mailbox.wake()

    def drop(self, what: str) -> None:
        """Count a message or item that is not one of ours, and log each reason once."""
        self.dropped += 1
        if what not in self._logged and len(self._logged) < 100:
            self._logged.add(what)
            logger.warning("nodes: a message between the nodes was dropped: %s", what)

    def _run(self) -> None:
        """Exchange until it is stopped. In its own thread."""
        lost = False
        try:
            while not self._stopping.is_set():
                try:
                    with self._mailbox.connected():
                        if lost:
                            self._in_loop(self._on_reconnected)
                        self._serve()
                except (psycopg_error(), StoreError, OSError) as error:
                    # The membership reports a database that is away.
                    logger.debug("nodes: no messages can be sent: %s", str(error).partition("\n")[0])
                    lost = True
                    self._give_up_all()
                    self._stopping.wait(RETRY_SECONDS)
        except Exception:
            logger.exception("nodes: the exchange of messages ended; probes are made here")
        finally:
            self._give_up_all()
            self._mailbox.close()
            self._in_loop(self._ended.set)

    def _serve(self) -> None:
        sent = asked = forgot = float("-inf")
        while True:
            stopping = self._stopping.is_set()
            now = time.monotonic()
            if self._outboxes and (stopping or now - sent >= TICK_SECONDS):
                self._send_all()
                sent = now = time.monotonic()
            if stopping:
                return
            next_poll = asked + self._poll
            until = min(next_poll, sent + TICK_SECONDS) if self._outboxes else next_poll
            notified = self._mailbox.wait(until - now)
            now = time.monotonic()
            if notified or now >= next_poll:
                asked = now
                self._take(notified=notified)
            if now - forgot >= FORGET_SECONDS:
                forgot = now
                self._mailbox.forget()

    def _take(self, *, notified: bool) -> None:
        letters = self._mailbox.take()
        taken = monotonic.milliseconds()
        if letters:
            # Messages that woke no receiver: we have to ask for the next ones ourselves.
            self._poll = RELAXED_SECONDS if notified else POLL_SECONDS
        for letter in letters:
            self._deliver(letter, taken)

    def _deliver(self, letter: Letter, taken: Millis) -> None:
        try:
            message = decode(letter.body)
        except MessageError as error:
            self._in_loop(self.drop, str(error))
            return
        with self._lock:
            self._received[letter.sender] = (message.sent, taken)
            if len(self._received) > 1000:
                del self._received[next(iter(self._received))]
        received = Received(letter.sender, message, taken, letter.age, letter.from_active)
        self._in_loop(self._on_message, received)

    def _send_all(self) -> None:
        with self._lock:
            outboxes, self._outboxes = self._outboxes, {}
            latest = dict(self._received)
        remaining = dict(outboxes)
        try:
            for to, outbox in outboxes.items():
                for part in batches(outbox.items):
                    message = Message(
                        sent=monotonic.milliseconds(),
                        series=outbox.series,
                        items=tuple(part),
                        received=latest.get(to),
                    )
                    if not self._mailbox.send(to, encode(message)):
                        self._in_loop(self._on_undelivered, to, part)
                del remaining[to]
        finally:
            # The connection was lost: whether the last message was taken is not known.
            for to, outbox in remaining.items():
                self._in_loop(self._on_undelivered, to, outbox.items)

    def _give_up_all(self) -> None:
        with self._lock:
            outboxes, self._outboxes = self._outboxes, {}
        for to, outbox in outboxes.items():
            self._in_loop(self._on_undelivered, to, outbox.items)

    def _in_loop(self, work: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work, *args)
