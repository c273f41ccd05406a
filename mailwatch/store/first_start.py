"""The first start of a ledger, and what distinguishes it from one that lost its files.

A ledger begins in this order: an empty database, its tables (in the file itself, not in its log), the secret of
the names, the signing key, the first entry. So a start that was ended between any two of them is gone on with; and
once there is a signing key, a database without tables is one that was lost.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import sqlalchemy as sa
from alembic.util.exc import CommandError

from mailwatch import __version__
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.progress import StartupProgress
from mailwatch.store import keys as key_files
from mailwatch.store.errors import LedgerMissingError, StoreDamagedError, damaged
from mailwatch.store.keys import Keys, write_atomic
from mailwatch.store.schema import checkpoints, database, empty_log, entries, migrate

logger = logging.getLogger(__name__)

SIGNED_CHECKPOINT_FILE = "ledger.checkpoint"
"""Beside the keys: the checkpoint that was signed last. A database that has fewer entries lost some."""


def check_not_missing(data_dir: Path) -> None:
    """Raise LedgerMissingError where there is a signing key and no database, or one of 0 bytes."""
    path = database(data_dir)
    if path.exists() and path.stat().st_size > 0:
        return
    if (data_dir / "keys" / key_files.SIGNING).exists():
        raise _ledger_missing(data_dir, "is empty" if path.exists() else "is gone")


def prepare_database(data_dir: Path, made: sa.Engine, progress: StartupProgress) -> Keys:
    """Bring the tables up to date, and read the keys, or make them for a ledger that has no entry yet.

    Raises StoreError, OSError.
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
    """Give the tables this version's shape. Raises StoreError."""
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
    """Keep a checkpoint beside the keys. Raises OSError."""
    write_atomic(data_dir / "keys" / SIGNED_CHECKPOINT_FILE, note.encode())


def signed_size(data_dir: Path, keys: Keys) -> int:
    """Return how many entries the checkpoint beside the keys covers; 0 without one that these keys signed."""
    try:
        return checkpoint.verify((data_dir / "keys" / SIGNED_CHECKPOINT_FILE).read_text(), keys.public).size
    except (OSError, UnicodeDecodeError, CheckpointError):
        return 0


def check_not_truncated(data_dir: Path, keys: Keys, size: int) -> None:
    """Raise StoreDamagedError where fewer entries are left than were signed: the log is gone, or it is an older
    copy.
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
    """Whether there is a ledger: not where a first start was ended before its signing key was made."""
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
