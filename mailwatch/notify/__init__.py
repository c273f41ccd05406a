"""Notifies people: notifications of the record go into the outbox, and from there to each channel.

The outbox follows the ledger, so that a crash between the two loses nothing.
"""

from __future__ import annotations

from mailwatch.notify.delivery import notify_ledger_broken, try_channels
from mailwatch.notify.heartbeat import Heartbeat, send_heartbeats
from mailwatch.notify.notifier import Notifier

__all__ = ["Heartbeat", "Notifier", "notify_ledger_broken", "send_heartbeats", "try_channels"]
