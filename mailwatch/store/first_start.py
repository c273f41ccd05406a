"""The first start of a ledger, and what tells it from one that lost its files.

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
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.progress import Progress
from mailwatch.store import keys as key_files
from mailwatch.store.errors import LedgerMissing, StoreBroken, broken
from mailwatch.store.keys import Keys, write_whole
from mailwatch.store.schema import checkpoints, database, empty_log, entries, migrate

logger = logging.getLogger(__name__)

SIGNED = "ledger.checkpoint"
"""Beside the keys: the checkpoint that was signed last. A database that has fewer entries lost some."""


def refuse_missing(data_dir: Path) -> None:
    """Raise LedgerMissing where there is a signing key and no database, or one of 0 bytes."""
    path = database(data_dir)
    if path.exists() and path.stat().st_size > 0:
        return
    if (data_dir / "keys" / key_files.SIGNING).exists():
        raise _missing(data_dir, "is empty" if path.exists() else "is gone")


def ready(data_dir: Path, made: sa.Engine, progress: Progress) -> Keys:
    """Bring the tables up to date, and read the keys, or make them for a ledger that has no entry yet.

    Raises StoreError, OSError.
    """
    signing = data_dir / "keys" / key_files.SIGNING
    if signing.exists() and not sa.inspect(made).has_table(entries.name):
        raise _missing(data_dir, "holds no ledger")
    bring_up_to_date(data_dir, made, progress)
    if signing.exists() or _has_rows(made):
        keys = key_files.load(data_dir)
    else:
        with made.connect() as connection:
            empty_log(connection, database(data_dir))
        keys = key_files.make(data_dir)
    key_files.publish(data_dir, keys)
    return keys


def bring_up_to_date(data_dir: Path, made: sa.Engine, progress: Progress) -> None:
    """Give the tables this version's shape. Raises StoreError."""
    path = database(data_dir)
    try:
        migrate(made, progress)
    except CommandError as error:
        if not re.search(r"'\d{4}'", str(error)):
            raise broken(path, "the version of its tables cannot be read") from None
        what = f"was written by a newer MailWatch than this {__version__}"
        raise StoreBroken(
            f"{path} {what}; install that version again, or restore the backup made before the upgrade into an "
            "empty data_dir",
            f"the database {what}",
        ) from None


def keep_signed(data_dir: Path, note: str) -> None:
    """Keep a checkpoint beside the keys. Raises OSError."""
    write_whole(data_dir / "keys" / SIGNED, note.encode())


def signed_size(data_dir: Path, keys: Keys) -> int:
    """Return how many entries the checkpoint beside the keys covers; 0 without one that these keys signed."""
    try:
        return notes.verify((data_dir / "keys" / SIGNED).read_text(), keys.public).size
    except (OSError, UnicodeDecodeError, CheckpointError):
        return 0


def refuse_less(data_dir: Path, keys: Keys, size: int) -> None:
    """Raise StoreBroken where fewer entries are left than were signed: the log is gone, or it is an older copy."""
    if (signed := signed_size(data_dir, keys)) > size:
        what = f"{signed} entries were signed, but the database has {size}"
        raise StoreBroken(
            f"{what}: its file mailwatch.sqlite-wal was removed, or an older copy was put in its place. Put back "
            f"what was there; to go on from the older copy on purpose, remove {data_dir / 'keys' / SIGNED}",
            what,
        )


def begun(data_dir: Path, made: sa.Engine) -> bool:
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


def _missing(data_dir: Path, how: str) -> LedgerMissing:
    return LedgerMissing(
        f"{database(data_dir)} {how}, but the keys of a ledger are in {data_dir / 'keys'}; restore the database "
        "from your backup (docs/how-to/backup.md). To begin a new ledger on purpose, move "
        f"{data_dir / 'keys'} away",
        f"the database {how}, but its keys are there",
    )
