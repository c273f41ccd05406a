"""How long a channel waits for more, so that what belongs together is one message."""

from __future__ import annotations

import time
from collections import deque

PACE = (0.0, *[60.0] * 5, 300.0)
"""Seconds from one message to the next, by how many there were within the hour before."""
HOUR = 3600.0


class Pace:
    """Of one channel; `group` seconds are waited for more, and at 0 each goes at once.

    Ten targets that are looked at once a minute go down within a minute; one that flaps does so all night.
    """

    def __init__(self, group: float) -> None:
        self._group = group
        self._sent: deque[float] = deque()

    def sent(self) -> None:
        """Note that a message was taken."""
        self._sent.append(time.monotonic())

    def wait(self, waited: float) -> float:
        """Give the seconds until the next message, of which the first news came `waited` seconds ago."""
        if not self._group:
            return 0.0
        sent, at = self._sent, time.monotonic()
        while sent and at - sent[0] > HOUR:
            sent.popleft()
        next_one = PACE[min(len(sent), len(PACE) - 1)] - (at - sent[-1]) if sent else 0.0
        # A clock that was set back makes nobody wait.
        return max(next_one, self._group - waited if waited >= 0 else 0.0)
