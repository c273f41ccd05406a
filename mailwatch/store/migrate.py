"""Moves a ledger from an SQLite file to PostgreSQL, or back, while no MailWatch uses it.

Everything is copied and read back from the other side first. Then the old side is closed, and only after that the
new one is opened: at no moment can both be written, so a kill leaves one ledger, and the next run goes on.

To PostgreSQL: 1. all rows, in one transaction; 2. the file is renamed; 3. the head row, without which nothing can
be appended. To SQLite: 1. a new file in a work folder; 2. the head row names it as successor; 3. the new file is
renamed into its place.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from mailwatch.files import sync_file, sync_folder, write_atomic
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.merkle import CompactRange
from mailwatch.progress import StartupProgress
from mailwatch.store.backup import check_ledger_exists
from mailwatch.store.closed_ledger import check_not_closed
from mailwatch.store.committed_tail import remove_tail
from mailwatch.store.compact import alone
from mailwatch.store.copying import copy_tables, copy_token_files, count_rows, one_moment, read_back
from mailwatch.store.data_dir import DataDirLock
from mailwatch.store.errors import StoreError, StoreHealth
from mailwatch.store.first_start import MIGRATED, migrate_database
from mailwatch.store.keys import Keys, load_keys
from mailwatch.store.member_copies import copy_member, kept_members
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.postgres_copy import copy_into_postgresql
from mailwatch.store.schema import checkpoints, head
from mailwatch.store.spool import SPOOL_FILE, Spool
from mailwatch.store.sqlite import SqlitePlace, database
from mailwatch.store.store import Store
from mailwatch.store.tokens import Tokens

WORK_FOLDER = "migrate.partial"
"""Folder in data_dir with the file that is made of a ledger in PostgreSQL; one that is left was not finished."""
_MARK = "closed"
"""File in it: by which successor the head row was closed, or is about to be."""


class MoveStep(Enum):
    """The steps, in their order."""

    OPENING = "opening the ledger"
    COPYING = "copying the tables"
    CHECKING = "reading the copy back"
    REPLACING = "closing the old side"
    OPENED = "opening the new side"


@dataclass(frozen=True, slots=True)
class Move:
    """A moved ledger: its name, its number of entries, and the two sides in words."""

    origin: str
    entries: int
    source: str
    destination: str


Progress = Callable[[MoveStep, int, int], None]
"""Called with a step, and how many of how many rows or entries are done."""


@dataclass(frozen=True, slots=True)
class _Signed:
    """A ledger whose last checkpoint covers all entries."""

    keys: Keys
    size: int
    root: bytes
    note: str
    hashes: bytes


def _silent(_step: MoveStep, _done: int, _of: int) -> None:
    """Say nothing."""


def to_postgresql(destination: PostgresPlace, progress: Progress = _silent) -> Move:
    """Move the SQLite file of the destination's data_dir into it. The file stays as mailwatch.sqlite.migrated.

    Raises FileNotFoundError without a ledger, DataDirLockedError while MailWatch uses it, StoreError, OSError.
    """
    data_dir = destination.data_dir
    source, old = SqlitePlace(data_dir), data_dir / MIGRATED
    progress(MoveStep.OPENING, 0, 0)
    renamed = old.exists() and not database(data_dir).exists()
    if not renamed:
        check_ledger_exists(data_dir)
        if old.exists():
            raise StoreError(f"{old} is there from an earlier move; remove it, or move it to another folder")
    signed = None if renamed else _sign(source)
    hold = destination.hold(StoreHealth())
    try:
        made = hold.open()
        migrate_database(destination, made, StartupProgress())
        if signed is not None:
            _copy_to_postgresql(source, destination, made, signed, progress)
            for member in kept_members(source):
                copied_rows = partial(_member_progress, progress)
                copy_member(member, member.place(source), member.place(destination), copied_rows)
            progress(MoveStep.REPLACING, 0, 0)
            with alone(database(data_dir)):
                database(data_dir).rename(old)
                sync_folder(data_dir)
        progress(MoveStep.OPENED, 0, 0)
        copied = _last_signed(made, load_keys(data_dir), destination)
        _open_head(made, copied, destination)
        for member in kept_members(destination):
            _set_aside(member.place(source))
    finally:
        hold.release()
    return Move(copied.keys.origin, copied.size, str(old), str(destination))


def _member_progress(progress: Progress, done: int) -> None:
    progress(MoveStep.COPYING, done, 0)


def _set_aside(member: Place) -> None:
    """Rename the file of a member that was moved, as that of the hub itself."""
    file = database(member.data_dir)
    if file.exists():
        file.rename(member.data_dir / MIGRATED)
        sync_folder(member.data_dir)


def _sign(source: Place) -> _Signed:
    """Check a ledger as a start would, and sign all of its entries. Raises StoreError, OSError."""
    with contextlib.closing(Store.open(source)) as store:
        store.checkpoint()
        size, root, keys = store.size, store.root, store.keys
    made = source.engine(read_only=True)
    try:
        signed = _last_signed(made, keys, source)
    finally:
        made.dispose()
    if (signed.size, signed.root) != (size, root):
        raise StoreError(f"{source} changed; does another MailWatch use it?")
    return signed


def _last_signed(made: sa.Engine, keys: Keys, place: Place) -> _Signed:
    """Return the last checkpoint, whose signature is verified. Raises StoreError."""
    with made.connect() as connection:
        row = connection.execute(sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).one_or_none()
    if row is None:
        raise StoreError(f"{place} has no entry yet; nothing is to be moved")
    try:
        note = notes.verify(row.note, keys.public)
        tree = CompactRange.from_bytes(row.size, row.hashes)
    except (CheckpointError, ValueError) as error:
        raise StoreError(f"{place}: the last checkpoint: {error}") from None
    if (note.size, note.root) != (tree.size, tree.root()):
        raise StoreError(f"{place}: the subtrees of the last checkpoint do not give its root")
    return _Signed(keys, note.size, note.root, row.note, row.hashes)


def _copy_to_postgresql(
    source: SqlitePlace, destination: PostgresPlace, made: sa.Engine, signed: _Signed, progress: Progress
) -> None:
    with _reading(source) as reading:
        counts = count_rows(reading)
        of = sum(counts.values())
        with made.connect() as connection:
            _check_replaceable(reading, connection, destination, signed.keys.origin)
        copy_into_postgresql(reading, destination, lambda done: progress(MoveStep.COPYING, done, of))
    _check_copy(destination, made, counts, signed, progress)


def _check_replaceable(source: sa.Connection, other: sa.Connection, destination: Place, origin: str) -> None:
    """Check that the other side has nothing that the source has not. Raises StoreError."""
    row = other.execute(sa.select(head)).one_or_none()
    query = sa.select(checkpoints.c.size, checkpoints.c.note)
    theirs = {found.size: found.note for found in other.execute(query)}
    ours = {found.size: found.note for found in source.execute(query)}
    entries = max(theirs, default=0) if row is None else row.size
    own = any(ours.get(size) != note for size, note in theirs.items())
    if own or (row is not None and (row.origin != origin or row.size > max(theirs, default=0))):
        raise StoreError(
            f"{destination} has a ledger of its own already, with {entries} entries; name an empty database"
        )


def _check_copy(
    place: Place, made: sa.Engine, counts: dict[str, int], signed: _Signed, progress: Progress
) -> None:
    """Compare a copy with what was copied. Raises StoreError."""
    read_back(place, signed.size, signed.root, lambda done: progress(MoveStep.CHECKING, done, signed.size))
    copied = _last_signed(made, signed.keys, place)
    with made.connect() as connection:
        same = count_rows(connection) == counts
    if not same or (copied.note, copied.hashes) != (signed.note, signed.hashes):
        raise StoreError(f"the copy in {place} is not what was copied; the ledger stays where it is")


def _open_head(made: sa.Engine, signed: _Signed, destination: Place) -> None:
    """Make the head row, from which on entries can be appended; nothing if it is there. Raises StoreError."""
    values = {"id": 1, "origin": signed.keys.origin, "size": signed.size, "hashes": signed.hashes}
    with made.begin() as connection:
        row = connection.execute(sa.select(head)).one_or_none()
        if row is None:
            connection.execute(sa.insert(head).values(values))
        elif row.origin != signed.keys.origin or row.size < signed.size or row.successor is not None:
            raise StoreError(f"{destination} has another ledger, or one that is closed; name an empty database")


def to_sqlite(source: PostgresPlace, progress: Progress = _silent) -> Move:
    """Move a ledger from PostgreSQL into a new SQLite file in its data_dir; the database stays, closed.

    Raises FileNotFoundError without a ledger, DataDirLockedError while MailWatch uses it, StoreError, OSError.
    """
    data_dir = source.data_dir
    work, file = data_dir / WORK_FOLDER, database(data_dir)
    progress(MoveStep.OPENING, 0, 0)
    if file.exists():
        raise StoreError(f"{file} is there already; move it to another folder first")
    check_not_closed(data_dir)
    with _locked(data_dir):
        _check_spool(data_dir, source)
    if not _is_closed_by(source, work):
        shutil.rmtree(work, ignore_errors=True)
        signed = _sign(source)
        with _locked(data_dir):
            _make_file(source, work, signed, progress)
            mark = f"{file} of {socket.gethostname()}"
            write_atomic(work / _MARK, mark.encode())
            progress(MoveStep.REPLACING, 0, 0)
            _close_head(source, signed, mark)
    progress(MoveStep.OPENED, 0, 0)
    with _locked(data_dir):
        # Only now: no node takes pushes for a ledger that is closed.
        for member in kept_members(source):
            copied_rows = partial(_member_progress, progress)
            copy_member(member, member.place(source), member.place(SqlitePlace(data_dir)), copied_rows)
        if not file.exists():
            database(work).rename(file)
            sync_folder(data_dir)
        remove_tail(data_dir)
        shutil.rmtree(work)
    with contextlib.closing(Store.open(data_dir)) as store:
        return Move(store.keys.origin, store.size, str(source), str(file))


def _check_spool(data_dir: Path, source: PostgresPlace) -> None:
    """Raise StoreError if observations wait for the database: only a MailWatch that uses it records them."""
    spool = Spool(data_dir, 1_000_000)
    try:
        spool.open()
        if spool.count:
            raise StoreError(
                f"{spool.count} observations wait in {data_dir / SPOOL_FILE} for {source}; start MailWatch with "
                "it once more, until its log says that they are on record, and stop it again"
            )
    finally:
        spool.close()


def _is_closed_by(source: PostgresPlace, work: Path) -> bool:
    """Return whether the ledger was closed for the file in the work folder. Raises StoreError."""
    if not (work / _MARK).exists():
        return False
    made = source.engine(read_only=True)
    try:
        with made.connect() as connection:
            successor = connection.execute(sa.select(head.c.successor)).scalar()
    finally:
        made.dispose()
    return successor is not None and successor == (work / _MARK).read_text()


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    lock = DataDirLock(data_dir)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[sa.Connection]:
    """Yield a connection that reads one moment of a ledger."""
    made = one_moment(place)
    try:
        with made.connect() as connection:
            yield connection
    finally:
        made.dispose()


def _make_file(source: PostgresPlace, work: Path, signed: _Signed, progress: Progress) -> None:
    """Make the whole SQLite file in the work folder, and the files of tokens in their place."""
    work.mkdir(mode=0o700)
    place = SqlitePlace(work)
    hold = place.hold(StoreHealth())
    try:
        made = hold.open()
        migrate_database(place, made, StartupProgress())
        with _reading(source) as reading:
            counts = count_rows(reading)
            of = sum(counts.values())
            with made.begin() as writing:
                copy_tables(reading, writing, lambda done: progress(MoveStep.COPYING, done, of))
            copy_token_files(reading, Tokens(source.data_dir).save)
        _check_copy(place, made, counts, signed, progress)
    finally:
        hold.release()
    sync_file(database(work))
    sync_folder(work)


def _close_head(source: PostgresPlace, signed: _Signed, mark: str) -> None:
    """Name the file as successor, so that no node can append any more. Raises StoreError."""
    made = source.engine()
    try:
        with made.begin() as connection:
            update = sa.update(head).where(head.c.size == signed.size, head.c.successor.is_(None))
            if connection.execute(update.values(successor=mark)).rowcount != 1:
                raise StoreError(f"{source} changed meanwhile: stop all nodes that use it, and start again")
    finally:
        made.dispose()
