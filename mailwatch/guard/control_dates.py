"""The true time as a control shows it: the dates of its certificate, and the Date of an HTTP answer over TLS.

Both are authenticated by the control's certificate. Its name, issuer and key are checked as usual; its dates are
not, since our own clock may be wrong. Operators renew certificates in time, so the true time lies between the
dates; an operator that does not is outvoted by the others (guard/time_evidence.py).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from mailwatch import monotonic
from mailwatch.model import ControlState
from mailwatch.times import Millis

NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME; the ssl module has no name for it."""
SLACK_MS: Millis = 2_000
"""Milliseconds: an HTTP Date has whole seconds, and a server's own clock is slightly off."""
MAX_HEAD_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class ControlTime:
    """The true time lay in [earliest, latest] at the reading `at` of the steady clock."""

    at: Millis
    earliest: Millis
    latest: Millis


def without_dates(context: ssl.SSLContext) -> ssl.SSLContext:
    """Make a context check everything but dates; return the context."""
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    return context


async def read_control_time(
    sock: socket.socket, context: ssl.SSLContext, name: str, timeout: float
) -> ControlTime:
    """Do a TLS handshake over a connected socket, and ask for the time; wait `timeout` seconds for the answer.

    Raises OSError; the handshake has no deadline of its own.
    """
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=context, server_hostname=name, limit=MAX_HEAD_BYTES, ssl_handshake_timeout=3600.0
    )
    try:
        connection = writer.get_extra_info("ssl_object")
        if connection is None or not connection.version():
            raise ConnectionResetError(ControlState.DISCONNECTED)
        certificate = connection.getpeercert()
        try:
            earliest, latest = (
                round(ssl.cert_time_to_seconds(certificate[key]) * 1000) for key in ("notBefore", "notAfter")
            )
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise ConnectionAbortedError("the dates of its certificate cannot be read") from error
        at = monotonic.milliseconds()
        date = await _http_date(reader, writer, name, timeout)
        if date is not None and earliest - SLACK_MS <= date.earliest and date.latest <= latest + SLACK_MS:
            return date
        return ControlTime(at, earliest, latest)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def _http_date(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, timeout: float
) -> ControlTime | None:
    """Ask for the Date of an HTTP answer (RFC 9110, section 6.6.1); None if there is none."""
    sent = monotonic.milliseconds()
    request = f"HEAD / HTTP/1.1\r\nHost: {name}\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n"
    try:
        writer.write(request.encode("ascii"))
        async with asyncio.timeout(timeout):
            head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, UnicodeEncodeError):
        return None
    return parse_http_date(head, sent, monotonic.milliseconds())


def parse_http_date(head: bytes, sent: Millis, received: Millis) -> ControlTime | None:
    """Parse the head of an HTTP answer; None without a Date. `sent` and `received`: steady-clock times.

    A cached answer is as old as its Age says (RFC 9111, section 5.1).
    """
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if not status.startswith("HTTP/"):
        return None
    try:
        moment = parsedate_to_datetime(fields["date"])
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        date, age = round(moment.timestamp() * 1000), int(fields.get("age", "0")[:10])
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return None
    latest = date + 1000 + max(age, 0) * 1000 + received - sent + SLACK_MS
    return ControlTime(received, date - SLACK_MS, latest)
