"""Sends messages with Apprise, which is synchronous: in a thread, with a deadline. TLS is verified.

Apprise returns True or False. It logs the service's answer: the HTTP status as `error=404`, or the exception of
smtplib for a mail server, `(550, b'...')`. From that follows whether the service refused the message, the channel,
or only this attempt. Texts may contain an address or a secret, so only codes are kept.

A channel has quiet hours, and waits briefly for further messages, to send related ones as one. Two messages bypass
the outbox, which lies in the ledger's file: the test of a channel, and that the ledger is damaged or was moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.model import EventType, Notification
from mailwatch.notify.text import message_text, trial_message
from mailwatch.settings import Channel
from mailwatch.store import StoreError
from mailwatch.times import DAY_MS, Millis, now


class DeliveryFault(StrEnum):
    """The kind of a failed delivery."""

    REFUSED = "refused"
    """Permanent, because of the message: the next one may be accepted."""
    DENIED = "denied"
    """Permanent, because of the address or its login: everything is refused until the owner changes something."""
    BUSY = "busy"
    """Temporary, by an answer of the service (5xx), which this message may cause."""
    SILENT = "silent"
    """Temporary, for any message: no connection, no answer, too many messages."""


@dataclass(frozen=True, slots=True)
class DeliveryFailure:
    """A failed delivery. `code` is a bare code such as "HTTP 404", or ""; `why` is a text without addresses."""

    fault: DeliveryFault
    why: str
    code: str = ""


_HTTP = re.compile(r"\berror=(\d{3})(?:\d{2})?\b")
"""ntfy has codes of its own, whose first three digits are the HTTP status: 40010."""
_SMTP = re.compile(r"\((\d{3}), b['\"]|was refused: (\d{3})\b")
_RETRY_STATUSES = frozenset({408, 425, 429})
"""HTTP: request timeout, too early, too many requests (RFC 9110, RFC 8470, RFC 6585)."""
_DENIED_STATUSES = frozenset({401, 402, 403, 404, 407, 410})
_LOGIN_REPLIES = frozenset({530, 534, 535, 538})
"""Replies about SMTP authentication (RFC 4954, section 6)."""
_SEVERITY = (DeliveryFault.SILENT, DeliveryFault.BUSY, DeliveryFault.DENIED, DeliveryFault.REFUSED)
"""If the parts of a long text get several answers, the first of these decides: the most hopeful."""


def classify_failure(log_lines: Iterable[str]) -> DeliveryFailure:
    """Classify a failure by the lines that Apprise logged."""
    words = " ".join(log_lines)
    found = [(_http(int(code)), f"HTTP {code}") for code in _HTTP.findall(words)]
    found += [(_smtp(int(one or two)), f"SMTP {one or two}") for one, two in _SMTP.findall(words)]
    if found:
        fault, code = min(found, key=lambda each: _SEVERITY.index(each[0]))
        return DeliveryFailure(fault, f"it answered {code.split()[1]}", code)
    if "onnection error" in words or "Exception" in words:
        return DeliveryFailure(DeliveryFault.SILENT, "no connection, or the login was refused")
    # Apprise sent nothing, or failed for a reason of its own: the message may be the cause.
    return DeliveryFailure(DeliveryFault.BUSY, "no reason was given")


def _http(status: int) -> DeliveryFault:
    if status in _RETRY_STATUSES:
        return DeliveryFault.SILENT
    if status >= 500:
        return DeliveryFault.BUSY
    # A service that redirects for ever has moved.
    return DeliveryFault.DENIED if status in _DENIED_STATUSES or status < 400 else DeliveryFault.REFUSED


def _smtp(code: int) -> DeliveryFault:
    if code == 421:
        return DeliveryFault.SILENT
    if code < 500:
        return DeliveryFault.BUSY
    return DeliveryFault.DENIED if code in _LOGIN_REPLIES else DeliveryFault.REFUSED


def in_quiet_hours(channel: Channel, at: Millis) -> bool:
    """Return whether `at` is in the channel's quiet hours, which include their start and may span midnight."""
    if channel.quiet is None:
        return False
    local = datetime.fromtimestamp(at / 1000, ZoneInfo(channel.timezone))
    start, end = channel.quiet
    minute = local.hour * 60 + local.minute
    return start <= minute < end if start < end else minute >= start or minute < end


INTERVALS_SECONDS = (0.0, *[60.0] * 5, 300.0)
"""Seconds between two messages, by the number of messages in the hour before."""
HOUR_SECONDS = 3600.0


class Grouping:
    """Groups the messages of one channel: waits `group` seconds for further ones; 0 sends each at once.

    Ten targets that are probed once a minute go down within a minute; a flapping one changes all night.
    """

    def __init__(self, group: float) -> None:
        self._group = group
        self._sent: deque[float] = deque()
        self._was_end = False

    def note_sent(self, *, is_end: bool = False) -> None:
        """Record that a message was delivered. `is_end`: that something works again."""
        self._sent.append(time.monotonic())
        self._was_end = is_end

    def wait(self, waited: float, *, is_end: bool = False) -> float:
        """Return the seconds until the next message, whose first notification came `waited` seconds ago.

        That all works again waits for no interval, unless the message before said so too: else an owner believes
        for minutes that a mailbox is down.
        """
        if not self._group:
            return 0.0
        sent, at = self._sent, time.monotonic()
        while sent and at - sent[0] > HOUR_SECONDS:
            sent.popleft()
        next_one = INTERVALS_SECONDS[min(len(sent), len(INTERVALS_SECONDS) - 1)] - (at - sent[-1]) if sent else 0.0
        if is_end and not self._was_end:
            next_one = 0.0
        # A clock that was set back must delay nothing.
        return max(next_one, self._group - waited if waited >= 0 else 0.0)


logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 60.0
"""Seconds for one message; Apprise itself waits 4 s for a connection and 4 s for an answer."""


async def deliver(
    channel: Channel, title: str, body: str, on_success: Callable[[], None] = lambda: None
) -> DeliveryFailure | None:
    """Deliver a message; return None on success, else the failure. Never raises, and reveals no address.

    `on_success` is called in the thread on success, even if the caller no longer waits because MailWatch is
    stopping. A message that exceeds the deadline may still arrive later, and then arrives twice.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[DeliveryFailure | None] = loop.create_future()

    def settle(why: DeliveryFailure | None) -> None:
        if not answered.done():
            answered.set_result(why)

    def work() -> None:
        why = _deliver(channel, sendable(title.replace("\n", " ")), sendable(body))
        if why is None:
            with contextlib.suppress(StoreError):
                on_success()
        try:
            loop.call_soon_threadsafe(settle, why)
        except RuntimeError:
            # The loop has ended: the next start sends the message again.
            return

    # A daemon thread, so that a channel that hangs cannot keep MailWatch from stopping.
    try:
        threading.Thread(target=work, name=channel.name, daemon=True).start()
    except RuntimeError:
        return DeliveryFailure(DeliveryFault.SILENT, "no further thread is to be had on this machine")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await answered
    except TimeoutError:
        return DeliveryFailure(DeliveryFault.SILENT, f"no answer in {TIMEOUT_SECONDS:.0f} s")


def sendable(text: str) -> str:
    """Replace characters that no service accepts: control characters and surrogates."""
    clean = "".join(
        one if one == "\n" or one.isprintable() or one.isspace() else "\N{REPLACEMENT CHARACTER}" for one in text
    )
    return clean.replace("\r", " ")


def _deliver(channel: Channel, title: str, body: str) -> DeliveryFailure | None:
    # Imported late: it takes half a second, which only users with a channel should wait.
    import apprise

    for library in ("urllib3", "requests"):
        # These libraries would log addresses, which contain secrets.
        logging.getLogger(library).disabled = True
    # So would Apprise: its log goes only into its result.
    log = logging.getLogger("apprise")
    log.disabled, log.propagate = False, False
    # Apprise logs a mail server's answer only at this level.
    log.setLevel(logging.DEBUG)
    try:
        asset = apprise.AppriseAsset(app_id="MailWatch", app_desc="MailWatch", app_url="", async_mode=False)
        sender: Any = apprise.Apprise(asset=asset)
        if not sender.add(channel.url.get_secret_value()):
            return DeliveryFailure(DeliveryFault.DENIED, "Apprise does not understand its address", "address")
        if "overflow=" not in channel.url.get_secret_value():
            # By default a text that is too long is refused, on each retry, and blocks all after it.
            for service in sender:
                service.overflow_mode = apprise.OverflowMode.SPLIT
        result = sender.notify(
            title=title, body=body, body_format=apprise.NotifyFormat.TEXT, log_level=logging.DEBUG
        )
        return None if result else classify_failure(entry.message for entry in result.logs())
    except OSError as error:
        # Temporary: no file handle, no memory. The error's text is dropped, since it may repeat the address.
        return DeliveryFailure(DeliveryFault.SILENT, f"Apprise failed by {type(error).__name__}")
    except Exception as error:
        return DeliveryFailure(DeliveryFault.BUSY, f"Apprise failed by {type(error).__name__}")


async def try_channels(channels: Sequence[Channel], vantage_point: str) -> list[str | None]:
    """Send a test over each channel, in quiet hours too; return for each why it failed, None on success."""
    found = await asyncio.gather(
        *(deliver(channel, *trial_message(channel, vantage_point)) for channel in channels)
    )
    return [None if each is None else each.why for each in found]


async def notify_ledger_broken(
    channels: Sequence[Channel], data_dir: Path, finding: str, *, moved: bool = False
) -> None:
    """Notify over each channel once, past the outbox, that the ledger is invalid, or `moved`.

    The same finding is sent again only after a day, also by another process.
    """
    marker = data_dir / "told-broken"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        # A marker from the future was written under another clock: it must not silence us until then.
        if marker.read_text() == finding and 0 <= time.time() - marker.stat().st_mtime + 1 < DAY_MS / 1000:
            return
    notification = Notification(
        key="ledger", event_type=EventType.LEDGER, time=now(), facts={"finding": finding, "moved": moved}
    )
    wanted = [channel for channel in channels if EventType.LEDGER in channel.on]
    sent = await asyncio.gather(
        *(deliver(channel, *message_text([notification], channel, now())) for channel in wanted)
    )
    for channel, why in zip(wanted, sent, strict=True):
        done = "was notified" if why is None else f"was not notified ({why.why})"
        logger.warning("notify: %s %s of the ledger: %s", channel.name, done, finding)
    if None in sent:
        with contextlib.suppress(OSError):
            marker.touch(mode=0o600)
            marker.write_text(finding)
