"""Begins the successor of a lost ledger: a new ledger with a new key, whose first entry names the old one.

1. What is left of the old ledger is read: its key, the checkpoint signed last, its entries, its own predecessors.
2. The new ledger is built whole in a folder of its own, with the first entry under a signed checkpoint.
3. It is decided, and the files change places (closed_ledger.py).

With PostgreSQL the new ledger begins in another, empty database, which the config names by then. Only its keys are
built in the folder; its first entry waits beside them, and is the first thing that a start writes (store.py).

The secret for opaque ids goes with the new ledger where it is still there, so that a target keeps its id.
"""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mailwatch.errors import OperationError
from mailwatch.files import write_atomic
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger import succession
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.succession import LinkPayload, SuccessorPayload
from mailwatch.progress import StartupProgress
from mailwatch.store import closed_ledger
from mailwatch.store import keys as key_files
from mailwatch.store.data_dir import DataDirLock
from mailwatch.store.errors import (
    KeysDifferError,
    KeysMissingError,
    LedgerMissingError,
    LedgerRolledBackError,
    NewerLedgerError,
    StoreDamagedError,
)
from mailwatch.store.first_start import migrate_database, read_signed_checkpoint
from mailwatch.store.pack_tree import ledger_size
from mailwatch.store.place import Place, place_of
from mailwatch.store.reader import Reader
from mailwatch.store.schema import checkpoints, entries, head
from mailwatch.store.sqlite import SqlitePlace, database, empty_log, engine
from mailwatch.store.store import NewEntry, Store
from mailwatch.times import now


class LedgerWholeError(OperationError):
    """There is nothing to succeed: the ledger can be opened as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """A completed succession: the new ledger's name, the old one's ("" if lost), why, and where it is kept."""

    origin: str
    predecessor: str
    reason: str
    archive: Path


def begin_successor(where: Path | Place, *, older: bool = False) -> Succession:
    """Begin the successor of the ledger in a data_dir that nobody uses.

    `older`: the owner states that the database is an older copy than what was signed, which the files do not show.
    Raises FileNotFoundError without a ledger, LedgerWholeError if it is whole, NewerLedgerError, KeysDifferError,
    DataDirLockedError, StoreUnavailableError, OSError.
    """
    place = place_of(where)
    data_dir = place.data_dir
    if _complete(data_dir):
        return _completed(place)
    if place.is_shared:
        return _begin_in_postgresql(place, older)
    reason = loss_of(data_dir)
    if not reason and not older:
        raise LedgerWholeError(
            f"the ledger in {data_dir} is whole, so it needs no successor; if it is a restored backup, and more "
            "was signed after that backup, say so with `mailwatch ledger successor --older`"
        )
    lock = DataDirLock(data_dir)
    try:
        remains = _Remains.read(data_dir, reason or "database_older")
        archive = _free_name(data_dir, remains.origin)
        successor = _build(data_dir, remains, archive)
        closed_ledger.decide(data_dir, archive, successor)
        closed_ledger.complete_succession(data_dir)
    finally:
        lock.release()
    return _completed(place)


def _begin_in_postgresql(place: Place, older: bool) -> Succession:
    """Begin the successor of the ledger whose keys are in the data_dir, in a database that is empty."""
    data_dir = place.data_dir
    if not any((data_dir / "keys").glob("*")):
        raise FileNotFoundError(f"{data_dir} contains no ledger yet; `mailwatch run` creates it")
    lock = DataDirLock(data_dir)
    made = place.engine()
    try:
        migrate_database(place, made, StartupProgress())
        with made.connect() as connection:
            if ledger_size(connection) or connection.execute(sa.select(head.c.origin)).scalar() is not None:
                raise LedgerWholeError(
                    f"{place} has a ledger; a successor begins in another, empty database: create it, name it in "
                    "the config, and try again. The old one stays as it is, to read"
                )
        remains = _Remains.read(data_dir, _reason_of_keys(data_dir) or _reason_of_database(older))
        archive = _free_name(data_dir, remains.origin)
        successor = _build_keys(data_dir, remains, archive)
        closed_ledger.decide(data_dir, archive, successor)
        closed_ledger.complete_succession(data_dir)
    finally:
        made.dispose()
        lock.release()
    return _completed(place)


def _reason_of_database(older: bool) -> str:
    return "database_older" if older else "database_lost"


def _reason_of_keys(data_dir: Path) -> str:
    try:
        key_files.load_keys(data_dir)
    except KeysMissingError:
        return "keys_lost"
    return ""


def _complete(data_dir: Path) -> bool:
    """Complete an interrupted succession; return whether there was one."""
    if not (data_dir / closed_ledger.WORK_FOLDER).exists():
        return False
    lock = DataDirLock(data_dir)
    try:
        return closed_ledger.complete_succession(data_dir)
    finally:
        lock.release()


def _completed(place: Place) -> Succession:
    with contextlib.closing(Store.open(place)) as store:
        origin = store.keys.origin
    data_dir = place.data_dir
    payload = json.loads((data_dir / "keys" / key_files.PREDECESSORS).read_bytes())
    return Succession(
        origin=origin,
        predecessor=payload.get("origin", ""),
        reason=payload["reason"],
        archive=data_dir / payload["archive"],
    )


def loss_of(data_dir: Path) -> str:
    """Return why a start is refused so that only a backup or a successor helps; "" if the ledger is whole.

    Raises FileNotFoundError without a ledger, NewerLedgerError, KeysDifferError, DataDirLockedError,
    StoreUnavailableError, OSError.
    """
    if not any(path.exists() for path in (database(data_dir), data_dir / "keys" / key_files.SIGNING)):
        raise FileNotFoundError(f"{data_dir} contains no ledger yet; `mailwatch run` creates it")
    try:
        Store.open(data_dir).close()
    except KeysMissingError:
        return "keys_lost"
    except LedgerMissingError:
        return "database_lost"
    except LedgerRolledBackError:
        return "database_older"
    except (NewerLedgerError, KeysDifferError):
        raise
    except StoreDamagedError:
        return "database_damaged"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remains:
    """What is left of a lost ledger."""

    reason: str
    origin: str
    private: Ed25519PrivateKey | None
    public: Ed25519PublicKey | None
    secret: bytes | None
    note: str
    kept: int | None
    earlier: tuple[LinkPayload, ...]

    @classmethod
    def read(cls, data_dir: Path, reason: str) -> _Remains:
        """Read what is left. The checkpoint signed last is the one beside the keys, else that of the database."""
        private, secret = _private_key(data_dir), _secret(data_dir)
        kept, in_database = None, ""
        with contextlib.suppress(StoreDamagedError):
            kept, in_database = _database_of(data_dir)
        public = private.public_key() if private else _public_key(data_dir, in_database)
        note = read_signed_checkpoint(data_dir, public) if public else ""
        if _size(note) < _size(in_database):
            note = in_database
        origin = notes.origin_of(public) if public else note.partition("\n")[0]
        return cls(
            reason=reason,
            origin=origin,
            private=private,
            public=public,
            secret=secret,
            note=note,
            kept=kept,
            earlier=_earlier(data_dir),
        )

    def payload(self, successor: str, archive: str) -> SuccessorPayload:
        """Return the first entry of the ledger with the verifier key `successor`."""
        size, root = _size(self.note), _root(self.note)
        link: SuccessorPayload = {"reason": self.reason, "size": size, "archive": archive}
        if self.origin:
            link["origin"] = self.origin
        if self.public is not None:
            link["key"] = notes.verifier_key(self.origin, self.public)
        if size:
            link["root"], link["checkpoint"] = root, self.note
        if self.kept is not None:
            link["kept"] = self.kept
        if self.private is not None:
            link["appointment"] = succession.appoint(self.private, successor, size, root)
        if self.earlier:
            link["earlier"] = list(self.earlier)
        return link


def _build(data_dir: Path, remains: _Remains, archive: str) -> str:
    """Build the new ledger in the work folder; return its verifier key."""
    work = data_dir / closed_ledger.WORK_FOLDER
    work.mkdir(mode=0o700)
    store = Store.open(work)
    store.close()
    if remains.secret is not None:
        write_atomic(work / "keys" / key_files.NAMING, remains.secret)
    with contextlib.closing(Store.open(work)) as store:
        successor = notes.verifier_key(store.keys.origin, store.keys.public)
        payload = remains.payload(successor, archive)
        # Beside the keys as well: the database may be lost again.
        write_atomic(work / "keys" / key_files.PREDECESSORS, json.dumps(payload).encode())
        store.append_batch([NewEntry(kind=succession.KIND, time=now(), target=None, payload=payload)])
        store.checkpoint()
    return successor


def _build_keys(data_dir: Path, remains: _Remains, archive: str) -> str:
    """Build the new keys in the work folder, with the first entry to be; return the verifier key."""
    work = data_dir / closed_ledger.WORK_FOLDER
    work.mkdir(mode=0o700)
    keys = key_files.make_keys(work)
    if remains.secret is not None:
        write_atomic(work / "keys" / key_files.NAMING, remains.secret)
    key_files.publish_public_key(work, keys)
    successor = notes.verifier_key(keys.origin, keys.public)
    payload = remains.payload(successor, archive)
    write_atomic(work / "keys" / key_files.PREDECESSORS, json.dumps(payload).encode())
    return successor


def recorded_predecessors(reader: Reader) -> list[LinkPayload]:
    """Return the predecessors that the first entry of a ledger names, latest first. Raises StoreError."""
    first = next(reader.entries(to_index=1), None)
    if first is None or first.kind != succession.KIND:
        return []
    payload = first.payload
    return [cast(LinkPayload, payload), *reversed(payload.pop("earlier", []))]


def _free_name(data_dir: Path, origin: str) -> str:
    """Return a name for the archive that is not in use, relative to the data_dir."""
    name = f"{closed_ledger.ARCHIVE_FOLDER}/{origin.partition('/')[2] or 'unknown'}"
    names = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next(one for one in names if not (data_dir / one).exists())


def _private_key(data_dir: Path) -> Ed25519PrivateKey | None:
    try:
        key = load_pem_private_key((data_dir / "keys" / key_files.SIGNING).read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None


def _secret(data_dir: Path) -> bytes | None:
    try:
        secret = (data_dir / "keys" / key_files.NAMING).read_bytes()
    except FileNotFoundError:
        return None
    return secret if len(secret) == key_files.SECRET_BYTES else None


def _public_key(data_dir: Path, note: str) -> Ed25519PublicKey | None:
    """Return the public key beside a lost private one, if it is the one that signed the database's checkpoint."""
    try:
        text = (data_dir / "keys" / key_files.PUBLIC).read_text().removesuffix("\n")
        public = notes.parse_verifier_key(text)
        if note:
            notes.verify(note, public)
    except (OSError, UnicodeDecodeError, CheckpointError):
        return None
    return public


def _earlier(data_dir: Path) -> tuple[LinkPayload, ...]:
    """Return the predecessors of the lost ledger, oldest first."""
    try:
        payload = json.loads((data_dir / "keys" / key_files.PREDECESSORS).read_bytes())
        return (*payload.pop("earlier", ()), cast(LinkPayload, payload))
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return ()


def _database_of(data_dir: Path) -> tuple[int | None, str]:
    """Return the number of entries and the last checkpoint of a database, and move its log into it.

    (None, "") if there is none. Raises StoreDamagedError, StoreUnavailableError.
    """
    path = database(data_dir)
    if not path.exists() or path.stat().st_size == 0:
        return None, ""
    made = engine(data_dir)
    try:
        if not sa.inspect(made).has_table(entries.name):
            return None, ""
        migrate_database(SqlitePlace(data_dir), made, StartupProgress())
        with made.connect() as connection:
            kept = ledger_size(connection)
            last = sa.select(checkpoints.c.note).order_by(checkpoints.c.size.desc()).limit(1)
            note = connection.execute(last).scalar() or ""
        with made.connect() as connection:
            empty_log(connection, path)
    finally:
        made.dispose()
    return kept, _readable(note)


def _readable(note: str) -> str:
    """Return a note if it has the form of a checkpoint, else ""."""
    lines = note.split("\n")
    return note if len(lines) > 2 and lines[1].isdecimal() and lines[0].startswith("mailwatch/") else ""


def _size(note: str) -> int:
    return int(note.split("\n")[1]) if note else 0


def _root(note: str) -> str:
    return base64.b64decode(note.split("\n")[2]).hex() if note else ""
