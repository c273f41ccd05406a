"""Who logged in by the form: a random word in a cookie, of which only the digest is kept, and only in memory."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict

COOKIE = "mailwatch_session"
LASTS = 7 * 86400.0
"""Seconds from the log-in. A restart of MailWatch ends all."""
_AT_MOST = 1000


class Sessions:
    """Those that are open."""

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def open(self) -> str:
        """Begin one; return the word for its cookie."""
        word = secrets.token_urlsafe(32)
        self._ends[_digest(word)] = time.monotonic() + LASTS
        while len(self._ends) > _AT_MOST:
            self._ends.popitem(last=False)
        return word

    def holds(self, word: str) -> bool:
        """Whether a word opens anything. Found by its digest, so that the time tells nothing of it."""
        return self._ends.get(_digest(word), 0.0) > time.monotonic()

    def end(self, word: str) -> None:
        """End one, if there is one."""
        self._ends.pop(_digest(word), None)


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()
