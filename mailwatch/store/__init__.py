"""The only package that uses SQL. Store first: everything displayed or sent is already on record here."""

from __future__ import annotations

from mailwatch.store.audit import Finding, audit, audit_database, audit_signed, audit_tokens
from mailwatch.store.backup import Backup, backup
from mailwatch.store.data_dir import DataDirLockedError, lock_holder
from mailwatch.store.errors import (
    DiskFullError,
    KeysMissingError,
    LedgerMissingError,
    StoreDamagedError,
    StoreError,
    StoreHealth,
    StoreMovedError,
    StoreUnavailableError,
)
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.outbox import Outbox, OutboxMessage
from mailwatch.store.reader import UNREADABLE, CheckpointRow, Entry, RawEntry, Reader
from mailwatch.store.store import NewEntry, Store
from mailwatch.store.tokens import Tokens
from mailwatch.store.writer import StoreFullError, Writer

__all__ = [
    "UNREADABLE",
    "Backup",
    "CheckpointRow",
    "DataDirLockedError",
    "DiskFullError",
    "Entry",
    "Finding",
    "KeysMissingError",
    "LedgerMissingError",
    "NewEntry",
    "Outbox",
    "OutboxMessage",
    "RawEntry",
    "Reader",
    "Store",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreHealth",
    "StoreMovedError",
    "StoreUnavailableError",
    "Tokens",
    "Writer",
    "audit",
    "audit_database",
    "audit_signed",
    "audit_tokens",
    "backup",
    "load_keys",
    "lock_holder",
]
