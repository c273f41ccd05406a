"""The one-time code that opens the set-up in the browser.

`mailwatch init --web` prints it, and so does the log of a MailWatch without a config; the file data_dir/setup-code
holds only a digest, readable by its owner. Who can read the log or run a command on the machine may set it up; who
can only reach the port may not. All functions block for some milliseconds: from a coroutine call them in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from mailwatch.files import write_atomic
from mailwatch.times import Millis

FILE = "setup-code"
VALID_MS: Millis = 15 * 60_000
"""Milliseconds from creation until a code expires."""
MAX_TRIES = 5
"""Wrong codes after which only a new code helps."""
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without the signs that are easily taken for one another: I and 1, O and 0."""
_GROUPS, _GROUP_CHARS = 3, 4
"""Three groups of four signs of five bits each: 60 bits."""
_MAX_BYTES = 4096


class CodeResult(StrEnum):
    """The result of a try."""

    ACCEPTED = "accepted"
    WRONG = "wrong"
    EXPIRED = "expired"
    TOO_MANY = "too-many"
    """Too many wrong codes were tried; the right one is no longer accepted either."""
    MISSING = "missing"
    """No code was created, or it was used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredCode:
    """The content of the file. `salt` and `digest` are in hex."""

    salt: str
    digest: str
    expires: Millis
    tries: int = 0


def create_code(data_dir: Path, at: Millis) -> str:
    """Create a code that is valid for VALID_MS from `at`; an earlier one is no longer accepted. Raises OSError.

    Creates `data_dir`, readable only by its owner, if it does not exist.
    """
    signs = "".join(secrets.choice(_ALPHABET) for _ in range(_GROUPS * _GROUP_CHARS))
    salt = secrets.token_hex(16)
    stored = _StoredCode(salt=salt, digest=_digest(salt, signs), expires=at + VALID_MS)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(data_dir / FILE, _to_bytes(stored), durable=False)
    if os.geteuid() == 0:
        # Created by sudo, but read by the monitor, which runs as the owner of its folder.
        owner = data_dir.stat()
        os.chown(data_dir / FILE, owner.st_uid, owner.st_gid)
    return "-".join(signs[first : first + _GROUP_CHARS] for first in range(0, len(signs), _GROUP_CHARS))


def try_code(data_dir: Path, text: str, at: Millis) -> CodeResult:
    """Try a code; an accepted one is used up. Case, blanks and hyphens do not matter. Raises OSError.

    The try is on disk before the result is known, so that tries at the same time are no more than MAX_TRIES.
    """
    with contextlib.ExitStack() as opened:
        try:
            file = os.open(data_dir / FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return CodeResult.MISSING
        opened.callback(os.close, file)
        fcntl.flock(file, fcntl.LOCK_EX)
        stored = _parse(os.read(file, _MAX_BYTES))
        if stored is None:
            return CodeResult.MISSING
        # One that lasts longer than it can: the clock was set back.
        if not at < stored.expires <= at + VALID_MS:
            return CodeResult.EXPIRED
        if stored.tries >= MAX_TRIES:
            return CodeResult.TOO_MANY
        _rewrite(file, _to_bytes(replace(stored, tries=stored.tries + 1)))
        if not hmac.compare_digest(_digest(stored.salt, _signs(text)), stored.digest):
            return CodeResult.WRONG if stored.tries + 1 < MAX_TRIES else CodeResult.TOO_MANY
        _rewrite(file, b"")
        return CodeResult.ACCEPTED


def remove_code(data_dir: Path) -> None:
    """Remove the code, if there is one: the set-up is over. Raises OSError."""
    (data_dir / FILE).unlink(missing_ok=True)


def _signs(text: str) -> str:
    """Return what counts of a code as typed, bounded."""
    return "".join(sign for sign in text[:100].upper() if sign in _ALPHABET)


def _digest(salt: str, signs: str) -> str:
    return hashlib.scrypt(signs.encode(), salt=salt.encode(), n=2**12, r=8, p=1, dklen=32).hex()


def _to_bytes(stored: _StoredCode) -> bytes:
    return json.dumps(asdict(stored)).encode()


def _parse(content: bytes) -> _StoredCode | None:
    """Return the stored code, None if the file is empty (a used code) or damaged."""
    try:
        fields = json.loads(content)
        return _StoredCode(
            salt=str(fields["salt"]),
            digest=str(fields["digest"]),
            expires=int(fields["expires"]),
            tries=int(fields["tries"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _rewrite(file: int, content: bytes) -> None:
    """Rewrite in place: on a full disk that needs no space, and a failure leaves what was there."""
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))
