"""Tells people what happened: what is on record goes into the outbox, and from there to each channel.

The outbox follows the ledger, so that a crash between the two loses nothing.
"""

from __future__ import annotations

from mailwatch.notify.direct import tell_broken, try_channels
from mailwatch.notify.heartbeat import Heartbeat, heartbeat
from mailwatch.notify.notifier import Notifier

__all__ = ["Heartbeat", "Notifier", "heartbeat", "tell_broken", "try_channels"]
