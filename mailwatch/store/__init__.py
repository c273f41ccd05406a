"""The only room that speaks SQL. Store first: what is shown or sent is already on record here."""

from __future__ import annotations

from mailwatch.store.audit import Finding, audit
from mailwatch.store.backup import Backup, backup
from mailwatch.store.keys import KeysMissing
from mailwatch.store.lock import Locked, locked
from mailwatch.store.outbox import Letter, Outbox, OutboxBroken
from mailwatch.store.reader import UNREADABLE, CheckpointRow, Entry, Reader, Texts
from mailwatch.store.room import DiskFull
from mailwatch.store.store import Draft, Store, StoreBroken
from mailwatch.store.token_audit import audit_tokens
from mailwatch.store.tokens import Tokens
from mailwatch.store.writer import StoreFull, Writer

__all__ = [
    "UNREADABLE",
    "Backup",
    "CheckpointRow",
    "DiskFull",
    "Draft",
    "Entry",
    "Finding",
    "KeysMissing",
    "Letter",
    "Locked",
    "Outbox",
    "OutboxBroken",
    "Reader",
    "Store",
    "StoreBroken",
    "StoreFull",
    "Texts",
    "Tokens",
    "Writer",
    "audit",
    "audit_tokens",
    "backup",
    "locked",
]
