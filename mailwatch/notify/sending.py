"""Sends by Apprise, which is synchronous: in a thread, with a deadline. TLS is verified."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from mailwatch.models import Channel
from mailwatch.notify.answers import Fault, NotTaken, read
from mailwatch.store import StoreError

logger = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds for one message; Apprise itself waits 4 s for a connection and 4 s for an answer."""


async def send(
    channel: Channel, title: str, body: str, then: Callable[[], None] = lambda: None
) -> NotTaken | None:
    """Hand a message to the channel; None once it was taken, else why not. Never raises, and tells no address.

    `then` is called in the thread once it was taken, also if nobody waits any more: MailWatch may be ending.
    What ends at the deadline may still arrive later: then it arrives twice.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[NotTaken | None] = loop.create_future()

    def settle(why: NotTaken | None) -> None:
        if not answered.done():
            answered.set_result(why)

    def work() -> None:
        why = _notify(channel, sendable(title.replace("\n", " ")), sendable(body))
        if why is None:
            with contextlib.suppress(StoreError):
                then()
        try:
            loop.call_soon_threadsafe(settle, why)
        except RuntimeError:
            # The loop has ended: the message is sent again at the next start.
            return

    # A daemon thread: a channel that hangs must not keep MailWatch from ending.
    try:
        threading.Thread(target=work, name=channel.name, daemon=True).start()
    except RuntimeError:
        return NotTaken(Fault.SILENT, "no further thread is to be had on this machine")
    try:
        async with asyncio.timeout(TIMEOUT):
            return await answered
    except TimeoutError:
        return NotTaken(Fault.SILENT, f"no answer in {TIMEOUT:.0f} s")


def sendable(text: str) -> str:
    """Replace what no service takes: control characters, and halves of characters (surrogates)."""
    clean = "".join(
        one if one == "\n" or one.isprintable() or one.isspace() else "\N{REPLACEMENT CHARACTER}" for one in text
    )
    return clean.replace("\r", " ")


def _notify(channel: Channel, title: str, body: str) -> NotTaken | None:
    # Loaded late: it takes half a second, which only those who have a channel should wait.
    import apprise

    for library in ("urllib3", "requests"):
        # They would log addresses, which hold secrets.
        logging.getLogger(library).disabled = True
    # So would Apprise: what it says goes nowhere but into its result.
    said = logging.getLogger("apprise")
    said.disabled, said.propagate = False, False
    # What a mail server answered is told at this level only (answers.py).
    said.setLevel(logging.DEBUG)
    try:
        asset = apprise.AppriseAsset(app_id="MailWatch", app_desc="MailWatch", app_url="", async_mode=False)
        sender: Any = apprise.Apprise(asset=asset)
        if not sender.add(channel.url.get_secret_value()):
            return NotTaken(Fault.DENIED, "Apprise does not understand its address", "address")
        if "overflow=" not in channel.url.get_secret_value():
            # As it comes a text that is too long is refused, today and for ever, and holds up all after it.
            for service in sender:
                service.overflow_mode = apprise.OverflowMode.SPLIT
        result = sender.notify(
            title=title, body=body, body_format=apprise.NotifyFormat.TEXT, log_level=logging.DEBUG
        )
        return None if result else read(entry.message for entry in result.logs())
    except OSError as error:
        # No file handle, no memory: not now. Not its text: it may repeat the address.
        return NotTaken(Fault.SILENT, f"Apprise failed by {type(error).__name__}")
    except Exception as error:
        return NotTaken(Fault.BUSY, f"Apprise failed by {type(error).__name__}")
