"""The first start of a ledger, and how it differs from a ledger that lost its files.

A ledger is created in this order: an empty database, its tables (in the file itself, not in its log), the secret
for target ids, the signing key, the first entry. So a start interrupted between any two steps can continue. Once
there is a signing key, a database without tables means a lost database.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import sqlalchemy as sa
from alembic.util.exc import CommandError

from mailwatch import __version__
from mailwatch.files import write_atomic
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.progress import StartupProgress
from mailwatch.store import keys as key_files
from mailwatch.store.errors import LedgerMissingError, StoreDamagedError, damaged
from mailwatch.store.keys import Keys
from mailwatch.store.schema import checkpoints, database, empty_log, entries, migrate

logger = logging.getLogger(__name__)

SIGNED_CHECKPOINT_FILE = "ledger.checkpoint"
"""File beside the keys with the last signed checkpoint. A database with fewer entries has lost some."""


def check_not_missing(data_dir: Path) -> None:
    """Raise LedgerMissingError if there is a signing key but no database, or one of 0 bytes."""
    path = database(data_dir)
    if path.exists() and path.stat().st_size > 0:
        return
    if (data_dir / "keys" / key_files.SIGNING).exists():
        raise _ledger_missing(data_dir, "is empty" if path.exists() else "is gone")


def prepare_database(data_dir: Path, made: sa.Engine, progress: StartupProgress) -> Keys:
    """Migrate the tables, and read the keys, or create them for a ledger without entries. Raises StoreError,
    OSError.
    """
    signing = data_dir / "keys" / key_files.SIGNING
    if signing.exists() and not sa.inspect(made).has_table(entries.name):
        raise _ledger_missing(data_dir, "contains no ledger")
    migrate_database(data_dir, made, progress)
    if signing.exists() or _has_rows(made):
        keys = key_files.load_keys(data_dir)
    else:
        with made.connect() as connection:
            empty_log(connection, database(data_dir))
        keys = key_files.make_keys(data_dir)
    key_files.publish_public_key(data_dir, keys)
    return keys


def migrate_database(data_dir: Path, made: sa.Engine, progress: StartupProgress) -> None:
    """Migrate the tables to this version's schema. Raises StoreError."""
    path = database(data_dir)
    try:
        migrate(made, progress)
    except CommandError as error:
        if not re.search(r"'\d{4}'", str(error)):
            raise damaged(path, "the version of its tables cannot be read") from None
        what = f"was written by a newer MailWatch than this {__version__}"
        raise StoreDamagedError(
            f"{path} {what}; install that version again, or restore the backup made before the upgrade into an "
            "empty data_dir",
            f"the database {what}",
        ) from None


def save_signed_checkpoint(data_dir: Path, note: str) -> None:
    """Save a checkpoint beside the keys. Raises OSError."""
    write_atomic(data_dir / "keys" / SIGNED_CHECKPOINT_FILE, note.encode())


def signed_size(data_dir: Path, keys: Keys) -> int:
    """Return how many entries the checkpoint beside the keys covers; 0 if there is none signed by these keys."""
    try:
        return checkpoint.verify((data_dir / "keys" / SIGNED_CHECKPOINT_FILE).read_text(), keys.public).size
    except (OSError, UnicodeDecodeError, CheckpointError):
        return 0


def check_not_truncated(data_dir: Path, keys: Keys, size: int) -> None:
    """Raise StoreDamagedError if there are fewer entries than were signed: the write-ahead log was removed, or the
    database is an older copy.
    """
    if (signed := signed_size(data_dir, keys)) > size:
        what = f"{signed} entries were signed, but the database has {size}"
        raise StoreDamagedError(
            f"{what}: its file mailwatch.sqlite-wal was removed, or an older copy was put in its place. Restore "
            "that file; to continue from the older copy on purpose, remove "
            f"{data_dir / 'keys' / SIGNED_CHECKPOINT_FILE}",
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


def _ledger_missing(data_dir: Path, how: str) -> LedgerMissingError:
    return LedgerMissingError(
        f"{database(data_dir)} {how}, but keys of a ledger are in {data_dir / 'keys'}; restore the database "
        "from your backup (docs/how-to/backup.md). To start a new ledger on purpose, move "
        f"{data_dir / 'keys'} away",
        f"the database {how}, but its keys are there",
    )
