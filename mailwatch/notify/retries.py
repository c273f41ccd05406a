"""Decides which message of a channel is tried next, and when. In memory: a restart begins with the outbox on disk.

While a service cannot be reached, its messages wait in order. A service that answers may fail on one message;
after some tries the others overtake that message. Messages about one outage keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailwatch.notify.delivery import DeliveryFault
from mailwatch.store import OutboxMessage

RETRY_SECONDS = (2.0, 5.0, 15.0, 60.0, 300.0, 900.0)
"""Seconds until each retry of a message; the last value repeats."""
PASS_AFTER = 4
"""Failures of a message after which others overtake it."""


GIVE_UP_AFTER = 6
"""Failures without any reason after which a message is set aside, as one that its service denied."""


class RetryQueue:
    """The queue of one channel. `clock` returns monotonic seconds."""

    def __init__(
        self, clock: Callable[[], float], retry: Sequence[float] = RETRY_SECONDS, pass_after: int = PASS_AFTER
    ) -> None:
        self._clock, self._retry, self._pass_after = clock, retry, pass_after
        self._tries: dict[int, int] = {}
        self._due: dict[int, float] = {}
        self._alone: set[int] = set()
        self._wait_until = 0.0
        self._streak = 0
        self.failures = 0
        """Failures since the last delivery."""
        self.failing_since: float | None = None

    def next_messages(self, messages: Sequence[OutboxMessage]) -> tuple[list[OutboxMessage], float]:
        """Return the messages that may be sent now, the next one first; if none, the seconds to wait."""
        here = self._clock()
        if here < self._wait_until:
            return [], self._wait_until - here
        self._forget({message.number for message in messages})
        held: set[str] = set()
        ready_: list[OutboxMessage] = []
        for message in messages:
            subject, ready = _subject(message), self._due.get(message.number, here) <= here
            if subject not in held and ready:
                ready_.append(message)
            if not ready or self.is_alone(message):
                # Later messages about the same subject wait for this one.
                held.add(subject)
        if not ready_:
            return [], min((self._due.get(message.number, here) for message in messages), default=here) - here
        ready_.sort(key=lambda message: (self._passed(message.number), message.number))
        return ready_, 0.0

    def succeeded(self) -> None:
        """Record a delivery. Retry delayed messages at once, unless only one message was overtaken."""
        if self._streak > 1:
            self._due.clear()
        self._streak = self.failures = 0
        self._wait_until = 0.0
        self.failing_since = None

    def failed(self, numbers: Sequence[int], fault: DeliveryFault) -> None:
        """Record that a message made of the given outbox messages was not delivered."""
        here = self._clock()
        self.failing_since = here if self.failing_since is None else self.failing_since
        if fault in (DeliveryFault.REFUSED, DeliveryFault.DENIED):
            # Final; but a service that refuses everything is not asked in quick succession.
            self._streak += 1
            self._wait_until = here + (0.0 if self._streak < self._pass_after else self._pause(self._streak))
        elif fault is DeliveryFault.SILENT:
            self._wait_until = here + self._pause(self.failures)
        else:
            tries = 0
            for number in numbers:
                self._tries[number] = tries = self._tries.get(number, 0) + 1
            if tries >= self._pass_after:
                self._streak += 1
                self._due |= dict.fromkeys(numbers, here + self._pause(tries))
                tries = 1
            self._wait_until = here + self._pause(max(tries - 1, self._streak - 1))
        self.failures += 1

    def tries(self, numbers: Sequence[int]) -> int:
        """Return how often a message made of these outbox messages failed by itself."""
        return max((self._tries.get(number, 0) for number in numbers), default=0)

    def split(self, numbers: Sequence[int]) -> None:
        """Send grouped messages one by one from now on, since one of them may be the refused one."""
        self._alone |= set(numbers)

    def is_alone(self, message: OutboxMessage) -> bool:
        """Return whether a message is sent by itself."""
        return message.number in self._alone or self._passed(message.number) > 0

    def _pause(self, number: int) -> float:
        return self._retry[min(number, len(self._retry) - 1)]

    def _passed(self, number: int) -> int:
        tries = self._tries.get(number, 0)
        return tries if tries >= self._pass_after else 0

    def _forget(self, waiting: set[int]) -> None:
        for number in self._tries.keys() - waiting:
            del self._tries[number]
        for number in self._due.keys() - waiting:
            del self._due[number]
        self._alone &= waiting


def _subject(message: OutboxMessage) -> str:
    """Return the subject of a message: its outage, else only itself."""
    return str(message.notification.facts.get("id") or message.notification.key)
