"""Tells people what happened: what is on record goes into the outbox, and from there to each channel.

The outbox follows the ledger, so that a crash between the two loses nothing.
"""

from __future__ import annotations

from mailwatch.notify.broken import tell_broken
from mailwatch.notify.heartbeat import Heartbeat, heartbeat
from mailwatch.notify.notifier import Notifier
from mailwatch.notify.trial import try_channels

__all__ = ["Heartbeat", "Notifier", "heartbeat", "tell_broken", "try_channels"]
