"""The hours in which a channel keeps quiet."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from mailwatch.models import Channel, Millis


def is_quiet(channel: Channel, at: Millis) -> bool:
    """Whether nothing is sent at that time. From is within, until is not; they may lie around midnight."""
    if channel.quiet is None:
        return False
    local = datetime.fromtimestamp(at / 1000, ZoneInfo(channel.timezone))
    start, end = channel.quiet
    minute = local.hour * 60 + local.minute
    return start <= minute < end if start < end else minute >= start or minute < end
