"""A test message for each channel, so that nobody learns in an outage that one does not work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from mailwatch.models import Channel
from mailwatch.notify.sending import send
from mailwatch.notify.words import trial_text


async def try_channels(channels: Sequence[Channel], vantage_point: str) -> list[str | None]:
    """Send a test over each, in quiet hours too; tell for each why it was not taken, None if it was."""
    found = await asyncio.gather(*(send(channel, *trial_text(channel, vantage_point)) for channel in channels))
    return [None if each is None else each.why for each in found]
