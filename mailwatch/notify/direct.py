"""Messages that bypass the outbox: that the ledger is damaged or was moved, and the test of a channel.

The outbox is in the same file as the ledger, and may be lost with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from mailwatch.model import EventType, Notification
from mailwatch.notify.delivery import deliver
from mailwatch.notify.text import message_text, trial_message
from mailwatch.settings import Channel
from mailwatch.times import DAY_MS, now


async def try_channels(channels: Sequence[Channel], vantage_point: str) -> list[str | None]:
    """Send a test over each channel, in quiet hours too; return for each why it failed, None on success."""
    found = await asyncio.gather(
        *(deliver(channel, *trial_message(channel, vantage_point)) for channel in channels)
    )
    return [None if each is None else each.why for each in found]


logger = logging.getLogger(__name__)


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
        done = "was told" if why is None else f"was not told ({why.why})"
        logger.warning("notify: %s %s of the ledger: %s", channel.name, done, finding)
    if None in sent:
        with contextlib.suppress(OSError):
            marker.touch(mode=0o600)
            marker.write_text(finding)
