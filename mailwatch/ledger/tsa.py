"""Client of timestamp authorities, which stamp checkpoints (RFC 3161 over HTTP, section 3.4)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mailwatch import __version__
from mailwatch.certificates import parse_pem, parse_readable
from mailwatch.ledger.timestamp import (
    MAX_REPLY_BYTES,
    TimestampError,
    Token,
    TrustAnchors,
    check_reply,
    timestamp_query,
    verify_reply,
)
from mailwatch.settings import TimestampAuthority
from mailwatch.times import Millis, now

if TYPE_CHECKING:
    # Imported when an authority is queried: httpx takes longer to load than all else that a command needs.
    import httpx

TIMEOUT_SECONDS = 20.0
"""Seconds to wait for an answer."""


@dataclass(frozen=True, slots=True)
class TimestampReply:
    """A token and its raw reply. `distrust_reason`: why its signature was not accepted, "" if it was."""

    reply: bytes
    token: Token
    asked_at: Millis
    answered_at: Millis
    distrust_reason: str

    @property
    def offset_ms(self) -> int:
        """Our clock minus the authority's, at the middle of the exchange; the error is up to half its length."""
        return (self.asked_at + self.answered_at) // 2 - self.token.time


async def request_timestamp(authority: TimestampAuthority, note: str) -> TimestampReply:
    """Request a token over the signed note of a checkpoint. Raises TimestampError, also if the authority is
    unreachable.
    """
    query, nonce = timestamp_query(note)
    asked_at = now()
    reply = await post_query(authority, query)
    answered_at = now()
    token = check_reply(reply, note, nonce)
    distrust = ""
    try:
        verify_reply(reply, note, await asyncio.to_thread(_anchors, authority.ca_file), token)
    except TimestampError as error:
        distrust = str(error)
    return TimestampReply(reply, token, asked_at, answered_at, distrust)


def _anchors(ca_file: Path | None) -> TrustAnchors:
    """Read the trusted certificates each time: they may be renewed while MailWatch runs."""
    if ca_file is None:
        system = ssl.create_default_context().get_ca_certs(binary_form=True)
        return TrustAnchors(parse_readable(system))
    try:
        return TrustAnchors(parse_pem(ca_file.read_bytes()))
    except (OSError, ValueError) as error:
        raise TimestampError(f"{ca_file} cannot be read: {error}") from None


async def post_query(authority: TimestampAuthority, query: bytes) -> bytes:
    """Send a query (DER) and return the raw reply. Raises TimestampError, also if the authority is unreachable."""
    import httpx

    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await _post_within(authority, query)
    except TimeoutError:
        raise TimestampError(f"no answer within {TIMEOUT_SECONDS:.0f} s") from None
    except httpx.HTTPError as error:
        raise TimestampError(f"{type(error).__name__}: {error}"[:200]) from None


async def _post_within(authority: TimestampAuthority, query: bytes) -> bytes:
    headers = {
        "Content-Type": "application/timestamp-query",
        "Accept": "application/timestamp-reply",
        "User-Agent": f"MailWatch/{__version__}",
    }
    async with (
        _client(authority) as client,
        client.stream("POST", authority.url, content=query, headers=headers) as got,
    ):
        if got.status_code != 200:
            raise TimestampError(f"HTTP {got.status_code} {got.reason_phrase}"[:100])
        reply = bytearray()
        # Read raw bytes: a gzip body could unpack to any size.
        async for part in got.aiter_raw():
            reply += part
            if len(reply) > MAX_REPLY_BYTES:
                raise TimestampError(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        return bytes(reply)


@asynccontextmanager
async def _client(authority: TimestampAuthority) -> AsyncIterator[httpx.AsyncClient]:
    import httpx

    login = None
    if authority.login:
        login = httpx.BasicAuth(authority.login.username, authority.login.password.get_secret_value())
    async with httpx.AsyncClient(auth=login, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        yield client
