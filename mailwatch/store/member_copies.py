"""Copies the ledgers of a hub's members from one database into another, for a move and for a backup.

Each copy is read back whole: its entries must match their headers, and give the root that the owner signed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger.checkpoint import origin_of
from mailwatch.ledger.cosignature import parse_verifier_key
from mailwatch.progress import StartupProgress
from mailwatch.store.copying import copy_tables, one_moment, whole_tree
from mailwatch.store.errors import StoreError, StoreHealth, damaged
from mailwatch.store.first_start import ledger_exists, migrate_database
from mailwatch.store.member_ledger import MemberLedger, member_place
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.postgres_copy import copy_into_postgresql
from mailwatch.store.reader import Reader
from mailwatch.store.schema import head, hub_members
from mailwatch.store.sqlite import SqlitePlace, database, write_ahead_log


@dataclass(frozen=True, slots=True)
class KeptMember:
    """A member whose ledger a hub keeps: its name, and the key of its ledger."""

    name: str
    public: Ed25519PublicKey

    def place(self, hub: Place) -> Place:
        """Return where a hub keeps it."""
        return member_place(hub, origin_of(self.public))


def kept_members(hub: Place) -> list[KeptMember]:
    """Return the members of a hub of which there is a ledger, by name; also those that were removed.

    Raises StoreError.
    """
    made = hub.engine(read_only=True)
    try:
        with made.connect() as connection:
            if not sa.inspect(connection).has_table(hub_members.name):
                return []
            query = sa.select(hub_members.c.name, hub_members.c.key).order_by(hub_members.c.name)
            found = [KeptMember(name, parse_verifier_key(key).public) for name, key in connection.execute(query)]
    finally:
        made.dispose()
    return [one for one in found if _exists(one.place(hub))]


def _exists(place: Place) -> bool:
    if place.absence():
        return False
    made = place.engine(read_only=True)
    try:
        return ledger_exists(place.data_dir, made)
    finally:
        made.dispose()


def copy_member(
    member: KeptMember, source: Place, copy: Place, progress: Callable[[int], None] = lambda _done: None
) -> int:
    """Copy one moment of a member's ledger, also while its hub runs, and check the copy; return its entries.

    What an unfinished copy left there is overwritten, and a finished one stays as it is. Raises StoreError.
    """
    with _named(member):
        if isinstance(copy, PostgresPlace):
            _copy_into_postgresql(member, source, copy, progress)
        elif not _is_finished(source, copy):
            _copy_into_sqlite(source, copy, progress)
        with contextlib.closing(MemberLedger.open(copy, member.public)) as ledger:
            size, root = ledger.size, ledger.root
        tree = whole_tree(copy, progress)
    if (tree.size, tree.root()) != (size, root):
        raise damaged(source, f"the entries of {member.name} do not give the root that their owner signed")
    return size


@contextlib.contextmanager
def _named(member: KeptMember) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise type(error)(f"the ledger of {member.name}: {error}", error.public_reason) from error


def _is_finished(source: Place, copy: Place) -> bool:
    """Return whether the copy has all entries. Raises StoreError if it has more."""
    if copy.absence() or not _exists(copy):
        return False
    here, there = (_size(place) for place in (source, copy))
    if there > here:
        raise StoreError(
            f"{copy} has {there} entries of it already, more than {source}; move it to another folder"
        )
    return there == here


def _size(place: Place) -> int:
    with contextlib.closing(Reader.open(place)) as reader:
        return reader.size()


def _copy_into_sqlite(source: Place, copy: Place, progress: Callable[[int], None]) -> None:
    """Make the file under another name, and give it its own at the end."""
    for folder in (copy.data_dir.parent, copy.data_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = SqlitePlace(copy.data_dir / "part")
    part.data_dir.mkdir(mode=0o700, exist_ok=True)
    database(part.data_dir).unlink(missing_ok=True)
    hold, reading = part.hold(StoreHealth()), one_moment(source)
    try:
        target = hold.open()
        migrate_database(part, target, StartupProgress())
        with reading.connect() as rows, target.begin() as writing:
            copy_tables(rows, writing, progress)
        part.save_tables(target)
    finally:
        reading.dispose()
        hold.release()
    write_ahead_log(copy.data_dir).unlink(missing_ok=True)
    database(part.data_dir).rename(database(copy.data_dir))
    _remove(part.data_dir)


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _copy_into_postgresql(
    member: KeptMember, source: Place, copy: PostgresPlace, progress: Callable[[int], None]
) -> None:
    with contextlib.closing(MemberLedger.open(source, member.public)) as ledger:
        values = {"id": 1, "origin": origin_of(member.public), "size": ledger.size, "hashes": ledger.hashes}
    for folder in (copy.data_dir.parent, copy.data_dir):
        folder.mkdir(mode=0o700, exist_ok=True)
    hold, reading = copy.hold(StoreHealth()), one_moment(source)
    try:
        target = hold.open()
        migrate_database(copy, target, StartupProgress())
        with target.connect() as connection:
            there = connection.execute(sa.select(head.c.size)).scalar()
        if there is not None and there > ledger.size:
            raise StoreError(f"{copy} has {there} entries of it already, more than {source}")
        with reading.connect() as rows:
            copy_into_postgresql(rows, copy, progress)
        with target.begin() as connection:
            connection.execute(sa.insert(head).values(values))
    finally:
        reading.dispose()
        hold.release()
