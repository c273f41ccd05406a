"""The secrets of the pages, kept as digests, and the sessions of those who entered one."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict

from mailwatch.config.access import WebAccess


class Credentials:
    """Keeps valid secrets only as digests, keyed for this process. argon2 verifies a password once per start."""

    def __init__(self, access: WebAccess) -> None:
        self._key = secrets.token_bytes(32)
        self._hash = access.password_hash.get_secret_value() if access.password_hash else ""
        same = access.password is not None and access.password == access.token
        self._token = None if same else access.token
        words = (access.password, access.token)
        self._right = [self._digest_of(word.get_secret_value().encode()) for word in words if word]
        self._one_at_a_time = asyncio.Lock()

    def is_verified(self, word: bytes) -> bool:
        """Return whether `word` has already been verified as a valid secret. Costs next to nothing."""
        digest = self._digest_of(word)
        # A sum, so that the time taken does not reveal which secret matched.
        return sum(hmac.compare_digest(digest, right) for right in self._right) > 0

    def is_only_token(self, word: bytes) -> bool:
        """Return whether `word` is the token and not the password: it reads, and changes nothing."""
        token = self._token
        return token is not None and hmac.compare_digest(
            self._digest_of(word), self._digest_of(token.get_secret_value().encode())
        )

    async def verify(self, word: bytes) -> bool:
        """Return whether `word` is the password or the token. argon2 runs in a thread, one call at a time."""
        if not self._hash:
            return self.is_verified(word)
        async with self._one_at_a_time:
            if self.is_verified(word):
                return True
            if not await asyncio.to_thread(_verify_hash, self._hash, word):
                return False
            self._right.append(self._digest_of(word))
            return True

    def _digest_of(self, word: bytes) -> bytes:
        return hmac.digest(self._key, word, hashlib.sha256)


def _verify_hash(hashed: str, word: bytes) -> bool:
    # Imported here: only installations with a password hash pay for loading argon2.
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error

    try:
        return PasswordHasher().verify(hashed, word)
    except Argon2Error:
        return False


COOKIE = "mailwatch_session"


SESSION_SECONDS = 7 * 86400.0


"""Seconds a session lasts from its login. A restart of MailWatch ends all sessions."""


_MAX_SESSIONS = 1000


class Sessions:
    """The open sessions."""

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, float] = OrderedDict()
        self._readers: set[bytes] = set()

    def open(self, *, manages: bool = True) -> str:
        """Open a session, which may manage MailWatch or only read, and return the value of its cookie."""
        word = secrets.token_urlsafe(32)
        self._ends[_digest(word)] = time.monotonic() + SESSION_SECONDS
        if not manages:
            self._readers.add(_digest(word))
        while len(self._ends) > _MAX_SESSIONS:
            self._readers.discard(self._ends.popitem(last=False)[0])
        return word

    def manages(self, word: str) -> bool:
        """Return whether the open session with this cookie may manage MailWatch."""
        return _digest(word) not in self._readers

    def is_open(self, word: str) -> bool:
        """Return whether the session with this cookie is open. Sought by digest, so that the time taken reveals
        nothing.
        """
        return self._ends.get(_digest(word), 0.0) > time.monotonic()

    def end(self, word: str) -> None:
        """End the session with this cookie, if there is one."""
        self._ends.pop(_digest(word), None)
        self._readers.discard(_digest(word))


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()
