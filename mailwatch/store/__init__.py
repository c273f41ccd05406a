"""The only package that uses SQL. Store first: everything displayed or sent is already on record here."""

from __future__ import annotations

from mailwatch.store.audit import Finding, audit, audit_cosignatures, audit_database, audit_signed, audit_tokens
from mailwatch.store.backup import Backup, backup, backup_keys
from mailwatch.store.backup_rotation import RotatedBackup, back_up_and_rotate, latest_backup
from mailwatch.store.data_dir import DataDirLockedError, lock_holder, request_reload
from mailwatch.store.entry_rows import CheckpointRow, Entry, RawEntry
from mailwatch.store.errors import (
    DiskFullError,
    KeysDifferError,
    KeysMissingError,
    LedgerClosedError,
    LedgerMissingError,
    LedgerRolledBackError,
    StoreDamagedError,
    StoreError,
    StoreHealth,
    StoreMovedError,
    StoreUnavailableError,
)
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.outbox import Outbox, OutboxMessage
from mailwatch.store.reader import UNREADABLE, Reader
from mailwatch.store.store import NewEntry, Store
from mailwatch.store.successor import LedgerWholeError, Succession, begin_successor
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
    "KeysDifferError",
    "KeysMissingError",
    "LedgerClosedError",
    "LedgerMissingError",
    "LedgerRolledBackError",
    "LedgerWholeError",
    "NewEntry",
    "Outbox",
    "OutboxMessage",
    "RawEntry",
    "Reader",
    "RotatedBackup",
    "Store",
    "StoreDamagedError",
    "StoreError",
    "StoreFullError",
    "StoreHealth",
    "StoreMovedError",
    "StoreUnavailableError",
    "Succession",
    "Tokens",
    "Writer",
    "audit",
    "audit_cosignatures",
    "audit_database",
    "audit_signed",
    "audit_tokens",
    "back_up_and_rotate",
    "backup",
    "backup_keys",
    "begin_successor",
    "latest_backup",
    "load_keys",
    "lock_holder",
    "request_reload",
]
