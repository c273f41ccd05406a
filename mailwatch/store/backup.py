"""A backup of a data_dir in one file, made while another process writes the ledger.

The database is copied first, by SQLite's online backup in one read transaction: writers go on, and the copy is
one moment of the ledger. Keys never change, and a timestamp token is on disk before the entry that names it:
so what is copied after the database is all that the copy needs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mailwatch.store.keys import KeysMissing
from mailwatch.store.schema import database
from mailwatch.store.store import Store

FOLDERS = {"keys": ("*.pem", "*.key", "*.pub"), "tokens": ("*.tsr",), "oauth": ("*.json",), "claims": ("*.jsonl",)}
"""What belongs to a ledger besides its database; half-written files and locks do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup holds: the ledger's name, how many entries and files, and its size in bytes."""

    origin: str
    entries: int
    files: int
    size: int


def backup(data_dir: Path, file: Path) -> Backup:
    """Write a gzipped tar of `data_dir`, mode 0600, whole or not at all, and on disk when this returns.

    The copy is opened as `mailwatch run` would open it before it counts: checkpoint, keys and entries must fit.
    It needs room for a second copy of the database beside `file` while it works.
    Raises FileNotFoundError without a ledger, FileExistsError, KeysMissing, StoreBroken, OSError.
    """
    if not database(data_dir).exists():
        raise FileNotFoundError(f"{data_dir} holds no ledger yet; `mailwatch run` makes it")
    if file.exists():
        raise FileExistsError(f"{file} is there already; name a new file")
    with tempfile.TemporaryDirectory(prefix=".mailwatch-backup-", dir=file.absolute().parent) as made:
        copy = Path(made) / "data"
        copy.mkdir(mode=0o700)
        _copy_database(database(data_dir), database(copy))
        names = ["mailwatch.sqlite", *_copy_files(data_dir, copy)]
        if not {"keys/ledger.pem", "keys/targets.key"} <= set(names):
            raise KeysMissing(f"{data_dir / 'keys'} lacks a key; a backup without it proves nothing")
        store = Store.open(copy)
        origin, entries = store.keys.origin, store.size
        store.close()
        whole = Path(made) / "whole"
        _pack(copy, names, whole)
        size = whole.stat().st_size
        # A link, not a rename: it never replaces what another made meanwhile.
        os.link(whole, file)
    _sync(file.absolute().parent)
    return Backup(origin=origin, entries=entries, files=len(names), size=size)


def _copy_database(source: Path, copy: Path) -> None:
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=10)) as reading,
            contextlib.closing(sqlite3.connect(copy)) as writing,
        ):
            reading.execute("PRAGMA query_only=ON")
            # All pages in one step: in several, each commit of the writer would begin the copy anew.
            reading.backup(writing, pages=-1)
    except sqlite3.Error as error:
        raise OSError(f"{source} cannot be copied: {error}") from None


def _copy_files(data_dir: Path, copy: Path) -> list[str]:
    names = []
    for folder, patterns in FOLDERS.items():
        (copy / folder).mkdir(mode=0o700)
        for found in sorted(path for pattern in patterns for path in (data_dir / folder).glob(pattern)):
            to = copy / folder / found.name
            file = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "wb") as writer:
                writer.write(found.read_bytes())
            names.append(f"{folder}/{found.name}")
    return names


def _pack(copy: Path, names: list[str], whole: Path) -> None:
    """Pack the files, and the folders that they are in, with the modes they have."""
    file = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as writer:
        with tarfile.open(fileobj=writer, mode="w:gz", compresslevel=6) as tar:
            for folder in FOLDERS:
                tar.add(copy / folder, folder, recursive=False, filter=_nobodys)
            for name in names:
                tar.add(copy / name, name, recursive=False, filter=_nobodys)
        writer.flush()
        os.fsync(writer.fileno())


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who owned it: on the new machine it belongs to whoever unpacks it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
