"""Sends by Apprise, which is synchronous: in a thread, with a deadline. TLS is verified."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from mailwatch.models import Channel
from mailwatch.store import StoreError

logger = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds for one message; Apprise itself waits 4 s for a connection and 4 s for an answer."""


async def send(channel: Channel, title: str, body: str, then: Callable[[], None] = lambda: None) -> str | None:
    """Hand a message to the channel; None once it was taken, else why not. Never raises, and tells no address.

    `then` is called in the thread once it was taken, also if nobody waits any more: MailWatch may be ending.
    What ends at the deadline may still arrive later: then it arrives twice.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[str | None] = loop.create_future()

    def settle(why: str | None) -> None:
        if not answered.done():
            answered.set_result(why)

    def work() -> None:
        why = _notify(channel, title, body)
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
        return "no further thread is to be had on this machine"
    try:
        async with asyncio.timeout(TIMEOUT):
            return await answered
    except TimeoutError:
        return f"no answer in {TIMEOUT:.0f} s"


def _notify(channel: Channel, title: str, body: str) -> str | None:
    # Loaded late: it takes half a second, which only those who have a channel should wait.
    import apprise

    for library in ("urllib3", "requests"):
        # They would log addresses, which hold secrets.
        logging.getLogger(library).disabled = True
    # So would Apprise: what it says goes nowhere but into its result.
    said = logging.getLogger("apprise")
    said.disabled, said.propagate = False, False
    try:
        asset = apprise.AppriseAsset(app_id="MailWatch", app_desc="MailWatch", app_url="", async_mode=False)
        sender: Any = apprise.Apprise(asset=asset)
        if not sender.add(channel.url.get_secret_value()):
            return "Apprise does not understand its address"
        if "overflow=" not in channel.url.get_secret_value():
            # As it comes a text that is too long is refused, today and for ever, and holds up all after it.
            for service in sender:
                service.overflow_mode = apprise.OverflowMode.SPLIT
        result = sender.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT)
        return None if result else _why(entry.message for entry in result.logs())
    except Exception as error:
        # Not its text: it may repeat the address.
        return f"Apprise failed by {type(error).__name__}"


def _why(said: Iterable[str]) -> str:
    """Take from Apprise's words the little that holds no address."""
    words = " ".join(said)
    if found := re.search(r"\berror=(\d{3})\b", words):
        return f"it answered {found[1]}"
    return "no connection, or the login was refused" if "onnection error" in words else "no reason was given"
