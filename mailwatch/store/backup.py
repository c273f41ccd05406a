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
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mailwatch.files import sync_folder
from mailwatch.progress import StartupProgress
from mailwatch.store import keys as key_files
from mailwatch.store.audit import audit_database
from mailwatch.store.closed_ledger import ARCHIVE_FOLDER, CLOSED_FILE
from mailwatch.store.copying import copy_tables, copy_token_files, one_moment, whole_tree
from mailwatch.store.errors import (
    DiskFullError,
    StoreDamagedError,
    StoreError,
    StoreHealth,
    StoreUnavailableError,
    damaged,
    translate_error,
)
from mailwatch.store.first_start import check_not_missing, migrate_database
from mailwatch.store.keys import Keys, load_keys
from mailwatch.store.member_copies import copy_member, kept_members
from mailwatch.store.member_ledger import FOLDER as MEMBERS
from mailwatch.store.place import Place, place_of
from mailwatch.store.reader import Reader
from mailwatch.store.sqlite import SqlitePlace, database
from mailwatch.store.store import Store
from mailwatch.store.tokens import Tokens

FOLDERS = {
    "keys": ("*.pem", "*.key", "*.pub", key_files.PREDECESSORS),
    "tokens": ("*.tsr",),
    "oauth": ("*.json",),
    "claims": ("*.jsonl",),
    "declarations": ("*.eml", "*.json"),
}
"""Files of a ledger besides its database, without partial files and locks."""
ARCHIVED = (database(Path()).name, CLOSED_FILE, "keys/*", "tokens/*.tsr")
"""Files of each archived predecessor, which never change."""
PREFIX = ".mailwatch-backup-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """The contents of a backup: the ledger's name, numbers of entries and files, and size in bytes.

    `entries`: None where the database is not in it. `left_out`: why ledgers of a hub's members are not in it.
    """

    origin: str
    entries: int | None
    files: int
    size: int
    left_out: tuple[str, ...] = ()


def backup(where: Path | Place, file: Path) -> Backup:
    """Write a gzipped tar of a ledger, mode 0600, whole or not at all, and synced to disk on return.

    It holds a data_dir with the ledger in SQLite, wherever the ledger is: a backup of PostgreSQL is checked and
    restored like any other, and moves back by `mailwatch migrate`.

    The copy is first verified as `mailwatch run` would open it: checkpoint, keys and entries must match, SQLite
    must find no damaged page, and each entry must match its header under the signed root. It needs space for a
    second copy of the database beside `file`. Raises FileNotFoundError without a ledger, FileExistsError,
    StoreError, OSError; an error of the disk names `file`, not the work folder.
    """
    place = place_of(where)
    check_ledger_exists(place)
    if file.exists():
        raise FileExistsError(f"{file} already exists; name a new file")
    keys = load_keys(place.data_dir)
    beside = file.absolute().parent
    with _errors_of(file), _work_folder(beside) as made:
        _check_space(place, file)
        copy = made / "data"
        copy.mkdir(mode=0o700)
        if place.is_shared:
            _copy_postgresql(place, copy, keys)
        else:
            _copy_database(database(place.data_dir), database(copy))
        try:
            store = Store.open(SqlitePlace(copy), keys=keys)
        except StoreDamagedError as error:
            # The copy is removed by the time the message is read.
            message = str(error).replace(str(database(copy)), str(place))
            raise StoreDamagedError(message, error.public_reason) from None
        origin, entries, root = store.keys.origin, store.size, store.root
        store.close()
        check_undamaged(copy, place, entries, root)
        files, size, left_out = _write(place, copy, made, file)
    return Backup(origin=origin, entries=entries, files=files, size=size, left_out=left_out)


def backup_keys(where: Path | Place, file: Path) -> Backup:
    """Write a gzipped tar of all files of a ledger but its database, for who backs that up apart.

    Raises FileNotFoundError without a ledger, FileExistsError, KeysMissingError, StoreError, OSError.
    """
    place = place_of(where)
    check_ledger_exists(place)
    if file.exists():
        raise FileExistsError(f"{file} already exists; name a new file")
    origin = load_keys(place.data_dir).origin
    with _errors_of(file), _work_folder(file.absolute().parent) as made:
        files, size, _ = _write(place, None, made, file)
    return Backup(origin=origin, entries=None, files=files, size=size)


def _write(place: Place, copy: Path | None, made: Path, file: Path) -> tuple[int, int, tuple[str, ...]]:
    """Write the file, whole or not at all, by way of the work folder; return its numbers of files and bytes, and
    which ledgers of members are left out.
    """
    with _unnamed_file(made) as (whole, folder, name):
        files, left_out = _pack(place, copy, made, whole)
        size = whole.tell()
        # A link, not a rename: it never replaces a file made meanwhile. With a folder's descriptor, since
        # without one Python would link the symbolic link in /proc itself.
        os.link(name, file, src_dir_fd=folder)
    sync_folder(file.absolute().parent)
    return files, size, left_out


@contextlib.contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    """Have the errors of the disk name `file`: the user does not know the work folder, and finds it removed."""
    try:
        yield
    except StoreUnavailableError as error:
        inside = re.escape(str(file.absolute().parent / PREFIX))
        message = re.sub(rf"{inside}\w+(/[\w.-]+)*", lambda _: str(file), str(error))
        raise type(error)(message, error.public_reason) from None
    except OSError as error:
        named = error.filename
        # A write has no name, and only a link, whose source is in the work folder, has two.
        if named is None or error.filename2 is not None or PREFIX in os.fsdecode(named):
            raise OSError(error.errno, error.strerror, str(file)) from None
        raise


def _check_space(place: Place, file: Path) -> None:
    """Raise DiskFullError if the copy of the database surely does not fit beside `file`."""
    disk, needed = os.statvfs(file.absolute().parent), _size(place)
    free = disk.f_bavail * disk.f_frsize
    # Some network shares do not know their size.
    if disk.f_blocks and free < needed:
        raise DiskFullError(
            f"{file}: the disk there has {_megabytes(free)} MB free, and a backup needs {_megabytes(needed)} MB "
            "for a copy of the database, and room for itself; free some space there, or name another place",
            "the disk of the backup is full",
        )


def _size(place: Place) -> int:
    """Return how many bytes a copy of the database takes; 0 where that is not known."""
    return 0 if place.is_shared else database(place.data_dir).stat().st_size


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:.1f}"


def check_ledger_exists(where: Path | Place) -> None:
    """Raise LedgerMissingError if a ledger is missing, FileNotFoundError if there is none yet."""
    place = place_of(where)
    check_not_missing(place)
    if place.absence() == "is gone" or not (place.data_dir / "keys").exists():
        raise FileNotFoundError(f"{place.data_dir} contains no ledger yet; `mailwatch run` creates it")


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


def check_undamaged(copy: Path, place: Place, size: int, root: bytes) -> None:
    """Raise StoreDamagedError if the copy contains damage, which would otherwise be discovered too late.

    No page may be damaged, each payload must match its header, and the headers must hash to `root`, computed at
    the start from the last signed checkpoint on.
    """
    with contextlib.closing(Reader.open(SqlitePlace(copy))) as reader:
        if found := audit_database(reader):
            raise damaged(place, found[0].what)
    tree = whole_tree(SqlitePlace(copy), lambda _done: None)
    if (tree.size, tree.root()) != (size, root):
        raise damaged(place, "its entries do not give the root that was signed")


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


def _copy_postgresql(place: Place, copy: Path, keys: Keys) -> None:
    """Copy one moment of a ledger in PostgreSQL into a new SQLite file, and its tokens into files."""
    hold = SqlitePlace(copy).hold(StoreHealth())
    source = one_moment(place)
    try:
        target = hold.open()
        migrate_database(SqlitePlace(copy), target, StartupProgress())
        with source.connect() as reading:
            with target.begin() as writing:
                copy_tables(reading, writing, lambda _done: None)
            copy_token_files(reading, Tokens(SqlitePlace(copy)).save)
    finally:
        source.dispose()
        hold.release()


def _pack(place: Place, copy: Path | None, made: Path, whole: IO[bytes]) -> tuple[int, tuple[str, ...]]:
    """Pack the copied database, unless there is none, and the ledger's other files; return the number of files,
    and which ledgers of members are left out. `made`: the work folder.
    """
    data_dir, count, left_out = place.data_dir, 0, list[str]()
    # With PostgreSQL the tokens are in the database.
    sources = {"tokens": copy or Path(os.devnull)} if place.is_shared else {}
    with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=6) as tar:
        for folder in FOLDERS:
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(member)
        if copy is not None:
            tar.add(database(copy), database(copy).name, filter=_without_owner)
            count += 1
        for folder, patterns in reversed(FOLDERS.items()):
            for found in sorted(
                path for pattern in patterns for path in (sources.get(folder, data_dir) / folder).glob(pattern)
            ):
                content = found.read_bytes()
                member = tarfile.TarInfo(f"{folder}/{found.name}")
                member.size, member.mode, member.mtime = len(content), 0o600, int(found.stat().st_mtime)
                tar.addfile(member, io.BytesIO(content))
                count += 1
        for path in _kept_ledgers(data_dir):
            tar.add(path, str(path.relative_to(data_dir)), recursive=False, filter=_without_owner)
            count += path.is_file()
        if copy is not None:
            members, left_out = _pack_members(place, made, tar)
            count += members
    whole.flush()
    os.fsync(whole.fileno())
    return count, tuple(left_out)


def _pack_members(place: Place, made: Path, tar: tarfile.TarFile) -> tuple[int, list[str]]:
    """Pack the ledgers of a hub's members, each one moment of it, as files of SQLite.

    Return how many there are, and why any is left out: what is damaged there shall not keep all else from being
    backed up.
    """
    count, left_out, copy = 0, list[str](), SqlitePlace(made / "member")
    for member in kept_members(place):
        shutil.rmtree(copy.data_dir, ignore_errors=True)
        try:
            if place.is_shared:
                copy_member(member, member.place(place), copy)
            else:
                copy.data_dir.mkdir(mode=0o700)
                _copy_database(database(member.place(place).data_dir), database(copy.data_dir))
                copy_member(member, member.place(place), copy)
        except StoreDamagedError as error:
            left_out.append(str(error).replace(str(database(copy.data_dir)), str(member.place(place))))
            continue
        folder = Path(MEMBERS) / member.place(place).data_dir.name
        for path in (folder,) if count else (folder.parent, folder):
            entry = tarfile.TarInfo(str(path))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            tar.addfile(entry)
        tar.add(database(copy.data_dir), str(database(folder)), filter=_without_owner)
        count += 1
    return count, left_out


def _kept_ledgers(data_dir: Path) -> Iterator[Path]:
    """Yield the folders and files of archived predecessors, and the mark that a ledger is closed itself."""
    if (data_dir / CLOSED_FILE).exists():
        yield data_dir / CLOSED_FILE
    for archive in sorted((data_dir / ARCHIVE_FOLDER).glob("*")):
        files = sorted(path for pattern in ARCHIVED for path in archive.glob(pattern) if path.is_file())
        yield from dict.fromkeys(folder for file in files for folder in (archive.parent, archive, file.parent))
        yield from files


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove the owner: on the new machine the file belongs to the user who unpacks it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
