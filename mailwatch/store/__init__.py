"""The only room that speaks SQL. Store first: what is shown or sent is already on record here."""

from __future__ import annotations

from mailwatch.store.audit import Finding, audit, audit_database, audit_signed, audit_tokens
from mailwatch.store.backup import Backup, backup
from mailwatch.store.data_dir import Locked, locked
from mailwatch.store.errors import (
    DiskFull,
    Health,
    KeysMissing,
    LedgerMissing,
    StoreBroken,
    StoreError,
    StoreMoved,
    StoreUnavailable,
)
from mailwatch.store.keys import load as load_keys
from mailwatch.store.outbox import Letter, Outbox
from mailwatch.store.reader import UNREADABLE, CheckpointRow, Entry, Reader, Texts
from mailwatch.store.store import Draft, Store
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
    "Health",
    "KeysMissing",
    "LedgerMissing",
    "Letter",
    "Locked",
    "Outbox",
    "Reader",
    "Store",
    "StoreBroken",
    "StoreError",
    "StoreFull",
    "StoreMoved",
    "StoreUnavailable",
    "Texts",
    "Tokens",
    "Writer",
    "audit",
    "audit_database",
    "audit_signed",
    "audit_tokens",
    "backup",
    "load_keys",
    "locked",
]
