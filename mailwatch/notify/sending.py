"""Sends by Apprise, which is synchronous: in a thread, with a deadline. TLS is verified."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from mailwatch.models import Channel
from mailwatch.store import OutboxBroken

logger = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds for one message; Apprise itself waits 4 s for a connection and 4 s for an answer."""


async def send(channel: Channel, title: str, body: str, then: Callable[[], None] = lambda: None) -> bool:
    """Hand a message to the channel; whether it was taken. Never raises, and logs no address.

    `then` is called in the thread once it was taken, also if nobody waits any more: MailWatch may be ending.
    What ends at the deadline may still arrive later: then it arrives twice.
    """
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[bool] = loop.create_future()

    def settle(answer: bool) -> None:
        if not taken.done():
            taken.set_result(answer)

    def work() -> None:
        answer = _notify(channel, title, body)
        if answer:
            with contextlib.suppress(OutboxBroken):
                then()
        try:
            loop.call_soon_threadsafe(settle, answer)
        except RuntimeError:
            # The loop has ended: the message is sent again at the next start.
            return

    # A daemon thread: a channel that hangs must not keep MailWatch from ending.
    threading.Thread(target=work, name=channel.name, daemon=True).start()
    try:
        async with asyncio.timeout(TIMEOUT):
            return await taken
    except TimeoutError:
        return False


def _notify(channel: Channel, title: str, body: str) -> bool:
    # Loaded late: it takes half a second, which only those who have a channel should wait.
    import apprise

    for library in ("apprise", "urllib3", "requests"):
        # They would log addresses, which hold secrets.
        logging.getLogger(library).disabled = True
    try:
        asset = apprise.AppriseAsset(app_id="MailWatch", app_desc="MailWatch", app_url="", async_mode=False)
        sender: Any = apprise.Apprise(asset=asset)
        return bool(
            sender.add(channel.url.get_secret_value())
            and sender.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT)
        )
    except Exception as error:
        # Not its text: it may repeat the address.
        logger.error("notify: %s: Apprise failed by %s", channel.name, type(error).__name__)
        return False
