"""The password and the token: whether a word is one of them, in constant time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets

from mailwatch.config.access import WebAccess


class Credentials:
    """Knows the right words only by a digest with a key of this process; argon2 is asked once for each start."""

    def __init__(self, access: WebAccess) -> None:
        self._key = secrets.token_bytes(32)
        self._hash = access.hashed.get_secret_value() if access.hashed else ""
        words = (access.password, access.token)
        self._right = [self._mark(word.get_secret_value().encode()) for word in words if word]
        self._one_at_a_time = asyncio.Lock()

    def known(self, word: bytes) -> bool:
        """Whether it is known already to be one of them, which costs nothing."""
        mark = self._mark(word)
        # A sum, so that the time does not tell which it was.
        return sum(hmac.compare_digest(mark, right) for right in self._right) > 0

    async def hold(self, word: bytes) -> bool:
        """Whether it is the password or the token. argon2 runs in a thread, and never twice at once."""
        if not self._hash:
            return self.known(word)
        async with self._one_at_a_time:
            if self.known(word):
                return True
            if not await asyncio.to_thread(_verified, self._hash, word):
                return False
            self._right.append(self._mark(word))
            return True

    def _mark(self, word: bytes) -> bytes:
        return hmac.digest(self._key, word, hashlib.sha256)


def _verified(hashed: str, word: bytes) -> bool:
    # Only who has a hash pays for loading it.
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error

    try:
        return PasswordHasher().verify(hashed, word)
    except Argon2Error:
        return False
