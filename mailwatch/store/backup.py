"""A backup of a data_dir in one file, made even while another process writes the ledger.

The database is copied first, by SQLite's online backup in one read transaction: writers go on, and the copy is one
moment of the ledger. Keys never change, and a timestamp token is on disk before the entry that names it. So the
files copied after the database include all that the copy needs.

However the backup ends, no partial file with a key is left. Only the database is copied into a work folder, which
the next backup removes if this one is killed. The file that receives the keys has no name until it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mailwatch.files import sync_folder
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.store.audit import audit_database
from mailwatch.store.errors import StoreDamagedError, StoreError, damaged, translate_error
from mailwatch.store.first_start import check_not_missing
from mailwatch.store.keys import load_keys
from mailwatch.store.reader import Reader
from mailwatch.store.schema import database
from mailwatch.store.store import Store

FOLDERS = {"keys": ("*.pem", "*.key", "*.pub"), "tokens": ("*.tsr",), "oauth": ("*.json",), "claims": ("*.jsonl",)}
"""Files of a ledger besides its database, without partial files and locks."""
PREFIX = ".mailwatch-backup-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """The contents of a backup: the ledger's name, numbers of entries and files, and size in bytes."""

    origin: str
    entries: int
    files: int
    size: int


def backup(data_dir: Path, file: Path) -> Backup:
    """Write a gzipped tar of `data_dir`, mode 0600, whole or not at all, and synced to disk on return.

    The copy is first verified as `mailwatch run` would open it: checkpoint, keys and entries must match, SQLite
    must find no damaged page, and each entry must match its header under the signed root. It needs space for a
    second copy of the database beside `file`. Raises FileNotFoundError without a ledger, FileExistsError,
    StoreError, OSError.
    """
    check_not_missing(data_dir)
    if not database(data_dir).exists():
        raise FileNotFoundError(f"{data_dir} contains no ledger yet; `mailwatch run` creates it")
    if file.exists():
        raise FileExistsError(f"{file} already exists; name a new file")
    keys = load_keys(data_dir)
    beside = file.absolute().parent
    with _work_folder(beside) as made:
        copy = made / "data"
        copy.mkdir(mode=0o700)
        _copy_database(database(data_dir), database(copy))
        try:
            store = Store.open(copy, keys=keys)
        except StoreDamagedError as error:
            # The copy is removed by the time the message is read.
            message = str(error).replace(str(database(copy)), str(database(data_dir)))
            raise StoreDamagedError(message, error.public_reason) from None
        origin, entries, root = store.keys.origin, store.size, store.root
        store.close()
        _check_undamaged(copy, data_dir, entries, root)
        with _unnamed_file(made) as (whole, folder, name):
            files = _pack(data_dir, copy, whole)
            size = whole.tell()
            # A link, not a rename: it never replaces a file made meanwhile. With a folder's descriptor, since
            # without one Python would link the symbolic link in /proc itself.
            os.link(name, file, src_dir_fd=folder)
    sync_folder(beside)
    return Backup(origin=origin, entries=entries, files=files, size=size)


@contextlib.contextmanager
def _work_folder(beside: Path) -> Iterator[Path]:
    """Make a work folder, removed at the end; remove the work folders of killed backups."""
    for old in beside.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _locked(old):
            shutil.rmtree(old, ignore_errors=True)
    temporary = tempfile.TemporaryDirectory(prefix=PREFIX, dir=beside, ignore_cleanup_errors=True)
    with temporary as made, _locked(Path(made)):
        yield Path(made)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process. Raises BlockingIOError if another process holds the lock."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def _copy_database(source: Path, copy: Path) -> None:
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    there = f"{source.absolute().as_uri()}?mode=rw"
    try:
        with (
            contextlib.closing(sqlite3.connect(there, uri=True, timeout=10)) as reading,
            contextlib.closing(sqlite3.connect(copy)) as writing,
        ):
            reading.execute("PRAGMA query_only=ON")
            # All pages in one step: with several steps, each commit of the writer would restart the copy.
            reading.backup(writing, pages=-1)
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        why = translate_error(copy if full else source, error) or StoreError(f"{source} cannot be copied: {error}")
        raise why from None


def _check_undamaged(copy: Path, data_dir: Path, size: int, root: bytes) -> None:
    """Raise StoreDamagedError if the copy contains damage, which would otherwise be discovered too late.

    No page may be damaged, each payload must match its header, and the headers must hash to `root`, computed at
    the start from the last signed checkpoint on.
    """
    tree = CompactRange()
    with contextlib.closing(Reader.open(copy)) as reader:
        if found := audit_database(reader):
            raise damaged(database(data_dir), found[0].what)
        for *_, header, _payload in reader.raw_entries(0, size):
            tree.append(leaf_hash(header.encode()))
    if (tree.size, tree.root()) != (size, root):
        raise damaged(database(data_dir), "its entries do not give the root that was signed")


@contextlib.contextmanager
def _unnamed_file(made: Path) -> Iterator[tuple[IO[bytes], int, str]]:
    """Open a file that vanishes with this process unless it is linked. Yield it with the folder and name to link.

    Without support for such files (they need Linux and certain file systems), it has a name in `made`.
    """
    try:
        opened = os.open(made, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        folder, name = os.open("/proc/self/fd", os.O_RDONLY | os.O_CLOEXEC), str(opened)
    except (AttributeError, OSError):
        folder, name = os.open(made, os.O_RDONLY | os.O_CLOEXEC), "whole"
        opened = os.open(made / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(opened, "w+b") as file:
            yield file, folder, name
    finally:
        os.close(folder)


def _pack(data_dir: Path, copy: Path, whole: IO[bytes]) -> int:
    """Pack the copied database and the ledger's other files, the keys last; return the number of files."""
    count = 1
    with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=6) as tar:
        for folder in FOLDERS:
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(member)
        tar.add(database(copy), database(copy).name, filter=_without_owner)
        for folder, patterns in reversed(FOLDERS.items()):
            for found in sorted(path for pattern in patterns for path in (data_dir / folder).glob(pattern)):
                content = found.read_bytes()
                member = tarfile.TarInfo(f"{folder}/{found.name}")
                member.size, member.mode, member.mtime = len(content), 0o600, int(found.stat().st_mtime)
                tar.addfile(member, io.BytesIO(content))
                count += 1
    whole.flush()
    os.fsync(whole.fileno())
    return count


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove the owner: on the new machine the file belongs to the user who unpacks it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
