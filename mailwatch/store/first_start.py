"""The first start of a ledger, and how it differs from a ledger that lost its files.

A ledger is created in this order: an empty database, its tables (in the file itself, not in its log), the secret
for target ids, the signing key, the first entry. So a start interrupted between any two steps can continue. Once
there is a signing key, a database without tables means a lost database.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch import __version__
from mailwatch.files import write_atomic
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.progress import StartupProgress
from mailwatch.store import keys as key_files
from mailwatch.store.closed_ledger import check_settled
from mailwatch.store.errors import LedgerMissingError, LedgerRolledBackError, NewerLedgerError, damaged
from mailwatch.store.keys import Keys
from mailwatch.store.place import Place
from mailwatch.store.schema import checkpoints, entries, migrate

logger = logging.getLogger(__name__)

ROLLED_BACK_ADVICE = (
    "if it is lost, `mailwatch run --successor` keeps this database as an archive and begins a new ledger, with a "
    "new key, as its successor (docs/how-to/backup.md)"
)

FAILED_OVER_ADVICE = (
    "it failed over to a replica that had not received them, or an older state of it was restored. Start the node "
    "that was active then: it has a copy of the last ones. If that is lost, begin a successor "
    "(docs/how-to/high-availability.md)"
)

SIGNED_CHECKPOINT_FILE = "ledger.checkpoint"
"""File beside the keys with the last signed checkpoint. A database with fewer entries has lost some."""


MIGRATED = "mailwatch.sqlite.migrated"
"""The file of a ledger that went to PostgreSQL (migrate.py)."""


def check_not_missing(place: Place) -> None:
    """Raise LedgerMissingError if there is a signing key but no database, or one of 0 bytes.

    Raises StoreUnavailableError if a succession was interrupted.
    """
    check_settled(place.data_dir)
    if (how := place.absence()) and (place.data_dir / "keys" / key_files.SIGNING).exists():
        raise _ledger_missing(place, how)


def prepare_database(place: Place, made: sa.Engine, progress: StartupProgress) -> Keys:
    """Migrate the tables, and read the keys, or create them for a ledger without entries. Raises StoreError,
    OSError.
    """
    data_dir = place.data_dir
    signing = data_dir / "keys" / key_files.SIGNING
    if signing.exists() and not sa.inspect(made).has_table(entries.name):
        raise _ledger_missing(place, "contains no ledger")
    migrate_database(place, made, progress)
    if signing.exists() or _has_rows(made):
        keys = key_files.load_keys(data_dir)
    else:
        place.save_tables(made)
        keys = key_files.make_keys(data_dir)
    key_files.publish_public_key(data_dir, keys)
    return keys


def migrate_database(place: Place, made: sa.Engine, progress: StartupProgress) -> None:
    """Migrate the tables to this version's schema. Raises StoreError."""
    # Imported only here, as in migrate().
    from alembic.util.exc import CommandError

    try:
        migrate(made, progress)
    except CommandError as error:
        if not re.search(r"'\d{4}'", str(error)):
            raise damaged(place, "the version of its tables cannot be read") from None
        what = f"was written by a newer MailWatch than this {__version__}"
        raise NewerLedgerError(
            f"{place} {what}; install that version again, or restore the backup made before the upgrade into an "
            "empty data_dir",
            f"the database {what}",
        ) from None


def save_signed_checkpoint(data_dir: Path, note: str) -> None:
    """Save a checkpoint beside the keys. Raises OSError."""
    write_atomic(data_dir / "keys" / SIGNED_CHECKPOINT_FILE, note.encode())


def read_signed_checkpoint(data_dir: Path, public: Ed25519PublicKey) -> str:
    """Return the note of the checkpoint beside the keys; "" if there is none signed by this key."""
    try:
        note = (data_dir / "keys" / SIGNED_CHECKPOINT_FILE).read_bytes().decode()
        checkpoint.verify(note, public)
    except (OSError, UnicodeDecodeError, CheckpointError):
        return ""
    return note


def signed_size(data_dir: Path, keys: Keys) -> int:
    """Return how many entries the checkpoint beside the keys covers; 0 if there is none signed by these keys."""
    note = read_signed_checkpoint(data_dir, keys.public)
    return checkpoint.verify(note, keys.public).size if note else 0


def check_not_rolled_back(place: Place, keys: Keys, size: int, note_at: Callable[[int], str | None]) -> None:
    """Compare the database with the checkpoint beside the keys. `note_at` returns its checkpoint of a size.

    Raises LedgerRolledBackError if entries that were signed are missing: the write-ahead log was removed, or the
    database is an older copy. To go on would give a second root for one size under one key.
    """
    note = read_signed_checkpoint(place.data_dir, keys.public)
    signed = checkpoint.verify(note, keys.public).size if note else 0
    if signed > size:
        what = f"{signed} entries were signed, but the database has {size}"
        if place.is_shared:
            raise LedgerRolledBackError(f"{what}: {FAILED_OVER_ADVICE}", what)
        raise LedgerRolledBackError(
            f"{what}: its file mailwatch.sqlite-wal was removed, or an older copy was put in its place. Restore "
            f"that file; {ROLLED_BACK_ADVICE}",
            what,
        )
    if signed and note_at(signed) != note:
        what = f"the checkpoint of {signed} entries that was signed last is not in the database"
        if place.is_shared:
            raise LedgerRolledBackError(f"{what}: {FAILED_OVER_ADVICE}", what)
        raise LedgerRolledBackError(
            f"{what}: it is an older copy that went on by itself. Restore the database that signed it; "
            f"{ROLLED_BACK_ADVICE}",
            what,
        )


def ledger_exists(data_dir: Path, made: sa.Engine) -> bool:
    """Return whether there is a ledger: not if the first start was interrupted before it made the signing key."""
    if (data_dir / "keys" / key_files.SIGNING).exists():
        return True
    tables = sa.inspect(made)
    return all(tables.has_table(table.name) for table in (entries, checkpoints)) and _has_rows(made)


def _has_rows(made: sa.Engine) -> bool:
    with made.begin() as connection:
        return any(
            connection.execute(
                sa.select(sa.func.count()).select_from(sa.select(table).limit(1).subquery())
            ).scalar()
            for table in (entries, checkpoints)
        )


def _ledger_missing(place: Place, how: str) -> LedgerMissingError:
    if not place.is_shared and (place.data_dir / MIGRATED).exists():
        return LedgerMissingError(
            f"{place} {how}: the ledger went to PostgreSQL. Name that in `database:` of the config; `mailwatch "
            "migrate` prints the line (docs/how-to/postgresql.md)",
            "the ledger went to PostgreSQL, and the config does not name it",
        )
    return LedgerMissingError(
        f"{place} {how}, but keys of a ledger are in {place.data_dir / 'keys'}; restore the database "
        "from your backup (docs/how-to/backup.md). Without one, `mailwatch run --successor` begins a new ledger, "
        "with a new key, as its successor",
        f"the database {how}, but its keys are there",
    )
