"""The file of an owner's grant: the refresh token, mode 0600, written atomically and durably.

A provider may rotate the refresh token at each use (RFC 6749, section 6): the new one is on disk before the access
token that came with it is used. The lock keeps a second process from using the old one meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from mailwatch.files import write_atomic
from mailwatch.settings import OAuth2

MAX_GRANT_BYTES = 64 * 1024
LOGIN_COMMAND = "mailwatch login"
"""The command that renews a grant."""
_POLL_SECONDS = 0.05


class GrantError(Exception):
    """There is no usable grant; the text says why, and what to do."""


class GrantBusyError(Exception):
    """Another process holds the lock of the grant for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A refresh token and its client. `identity` is created at the login and survives rotations."""

    identity: str
    refresh_token: SecretStr
    client_id: str
    token_endpoint: str


def new_grant(client: OAuth2, refresh_token: SecretStr) -> Grant:
    """Create the grant of a new login."""
    return Grant(
        identity=secrets.token_hex(16),
        refresh_token=refresh_token,
        client_id=client.client_id,
        token_endpoint=client.token_endpoint,
    )


def read_grant(client: OAuth2, address: str) -> Grant:
    """Read the grant file. Raises GrantError, also if others may read it or another client created it."""
    path, advice = client.grant_file, f"run {LOGIN_COMMAND} {address}"
    try:
        # O_NONBLOCK: a fifo in place of the file must not block us.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise GrantError(f"access is not granted yet; {advice}") from None
    except OSError as error:
        raise GrantError(f"{path} cannot be read: {error.strerror}; {advice}") from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise GrantError(f"{path} is not a file; remove it and {advice}")
        if status.st_mode & 0o077:
            raise GrantError(f"{path} can be read by others; run chmod 600 {path}, and {advice} if they did")
        text = os.read(file, MAX_GRANT_BYTES)
    finally:
        os.close(file)
    try:
        fields = json.loads(text)
        grant = Grant(
            identity=str(fields["identity"]),
            refresh_token=SecretStr(str(fields["refresh_token"])),
            client_id=str(fields["client_id"]),
            token_endpoint=str(fields["token_endpoint"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        # No chain: the parser's message contains the text.
        raise GrantError(f"{path} is damaged; {advice}") from None
    if (grant.client_id, grant.token_endpoint) != (client.client_id, client.token_endpoint):
        raise GrantError(f"access was granted to another client or endpoint; {advice}")
    return grant


def write_grant(path: Path, grant: Grant) -> None:
    """Write the grant file atomically; it is on disk when this returns. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(
        {
            "identity": grant.identity,
            "refresh_token": grant.refresh_token.get_secret_value(),
            "client_id": grant.client_id,
            "token_endpoint": grant.token_endpoint,
        },
        indent=1,
    )
    write_atomic(path, text.encode())


@contextlib.asynccontextmanager
async def lock_grant(path: Path, timeout: float) -> AsyncIterator[None]:
    """Lock the grant against other processes. Raises GrantBusyError after `timeout` seconds, and OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            async with asyncio.timeout(timeout):
                # The kernel reports a free lock only to a thread that waits for it without a limit.
                while not _try_lock(file):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise GrantBusyError(f"another process holds {path} for longer than {timeout:g} s") from None
        yield
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
