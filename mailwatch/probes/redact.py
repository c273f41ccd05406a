"""Removes secrets from the text of a server, which may echo what it was sent."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cached_property, lru_cache

from mailwatch.settings import Login

MAX_CHARS = 500
MASK = "***"


def wire(text: str) -> bytes:
    """Encode text for sending; bytes that the environment could not decode are sent unchanged."""
    return text.encode("utf-8", "surrogateescape")


class Redactor:
    """Replaces a login's password and user name, plain and in base64, by `***` in any letter case."""

    def __init__(self, login: Login | None) -> None:
        self._login = login

    def __call__(self, text: str) -> str:
        """Return `text` fit for the record: without secrets, without control characters, bounded."""
        # Truncated twice: first so that a huge line costs little, last so that no cut leaves half a secret.
        text = self.hide(text[: MAX_CHARS * 8])[:MAX_CHARS]
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    def hide(self, text: str) -> str:
        """Mask the secrets and the user name only."""
        text = self.hide_password(text)
        folded = text.lower()
        for name in self._names:
            if name.lower() in folded:
                # Whole words only: the local part may be as short as "a".
                text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, text, flags=re.IGNORECASE)
        return text

    def hide_password(self, text: str) -> str:
        """Mask the password only: in the headers of our own messages, addresses are evidence."""
        folded = text.lower()
        for secret in self._secrets:
            if secret.lower() in folded:
                text = re.sub(re.escape(secret), MASK, text.replace(secret, MASK), flags=re.IGNORECASE)
        return text

    @cached_property
    def _secrets(self) -> tuple[str, ...]:
        if self._login is None:
            return ()
        username, password = self._login.username, self._login.password.get_secret_value()
        user, secret = wire(username), wire(password)
        known = {password, password.replace("\\", "\\\\").replace('"', '\\"'), secret.decode("latin-1")}
        known |= {_base64(b"\0" + user + b"\0" + secret), _base64(user), _base64(secret)}
        known |= {_inside(secret, offset) for offset in range(3)}
        return tuple(sorted(filter(None, known), key=len, reverse=True))

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self._login is None:
            return ()
        username = self._login.username
        return tuple(filter(None, (username, username.partition("@")[0])))


@lru_cache(maxsize=1024)
def redactor(login: Login | None) -> Redactor:
    """Return the redactor of a login; cached, since computing the forms of the password for each probe is slow."""
    return Redactor(login)


def _base64(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _inside(secret: bytes, offset: int) -> str:
    """Return the part of `secret` in base64 that is the same after any `offset` bytes of a triple."""
    code = b64encode(b"\0" * offset + secret).decode().rstrip("=")
    spare = 1 if (offset + len(secret)) % 3 else 0
    stable = code[(0, 2, 3)[offset] : len(code) - spare]
    return stable if len(stable) >= 6 else ""
