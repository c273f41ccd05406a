"""Sends by Apprise, which is synchronous: in a thread, with a deadline. TLS is verified."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from mailwatch.models import Channel

TIMEOUT = 60.0
"""Seconds for one message; Apprise itself waits 4 s for a connection and 4 s for an answer."""


async def send(channel: Channel, title: str, body: str) -> bool:
    """Hand a message to the channel; whether it was taken. Never raises, and logs no address.

    What ends at the deadline may still arrive later: then it arrives twice.
    """
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[bool] = loop.create_future()

    def settle(answer: bool) -> None:
        if not taken.done():
            taken.set_result(answer)

    def work() -> None:
        answer = _notify(channel, title, body)
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
    except Exception:
        return False
