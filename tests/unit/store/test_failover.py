"""The database fails over to a replica: what was acknowledged is there, comes back, or is reported as lost."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailwatch.store import Reader, Store, Tokens
from mailwatch.store.committed_tail import TAIL_FILE
from mailwatch.store.errors import DatabaseAwayError, EvictedError, LedgerRolledBackError, StoreError
from mailwatch.store.lease import Lease, session_name
from mailwatch.store.postgres import PostgresPlace
from tests.helpers.ledger_audit import audited
from tests.helpers.ledger_factory import observed
from tests.helpers.patience import tries
from tests.helpers.requirements import need
from tests.servers.postgresql import POSTGRES, PostgreSql
from tests.servers.program import server_folder
from tests.servers.replicated import Replicated, replicated


class Writing:
    """A node that appends. `acknowledged`: the headers of what is on record for it, by index."""

    def __init__(self, folder: Path, name: str, url: str, keys: Path | None = None) -> None:
        self.acknowledged: dict[int, str] = {}
        self.place = PostgresPlace(folder / name, url, name=session_name(name))
        if keys is not None:
            self.place.data_dir.mkdir()
            (self.place.data_dir / "keys").symlink_to(keys)
        else:
            Store.open(PostgresPlace(folder / name, url)).close()
        origin = (self.place.data_dir / "keys" / "ledger.pub").read_text().partition("+")[0]
        self.lease = self.place.lease = Lease(
            self.place.unfenced_engine, name, name=name.upper(), version="1", origin=origin, monotonic=lambda: 0.0
        )
        self.store: Store

    def begin(self) -> None:
        """Register, take the targets, and open the ledger, as soon as the database answers."""
        for _ in tries():
            with contextlib.suppress(DatabaseAwayError):
                self.lease.register()
                self.lease.renew()
                assert self.lease.take() is not None
                self.store = Store.open(self.place)
                return
        raise AssertionError("the database does not answer")

    def end(self) -> None:
        """Give up the term, as after an eviction."""
        self.store.close()

    def append(self, number: int) -> None:
        """Append an observation."""
        (entry,) = self.store.append_batch([observed("t", number)])
        self.acknowledged[entry.index] = entry.header

    def close(self) -> None:
        """Close the lease."""
        self.lease.close()


def on_record(place: PostgresPlace) -> dict[int, str]:
    """Return the headers of all entries by index."""
    reader = Reader.open(place)
    found = {entry.index: entry.header for entry in reader.entries()}
    reader.close()
    return found


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Replicated]:
    need(POSTGRES)
    with server_folder() as folder, replicated(folder, synchronous=request.param == "synchronous") as made:
        yield made


def asynchronous() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", ["asynchronous"], indirect=True)


@pytest.mark.parametrize("pair", ["synchronous"], indirect=True)
def test_a_failover_to_a_synchronous_replica_loses_nothing(pair: Replicated, tmp_path: Path) -> None:
    node = Writing(tmp_path, "a", pair.url)
    node.begin()
    node.lease.renew()
    promoted, first = [0.0], [0.0]
    stop = threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            # One in doubt is asked for again, as the writer does.
            draft = observed("t", number)
            for _ in tries():
                try:
                    (entry,) = node.store.append_batch([draft])
                except StoreError:
                    continue
                node.acknowledged[entry.index] = entry.header
                if promoted[0] and not first[0]:
                    first[0] = time.monotonic()
                break

    thread = threading.Thread(target=load)
    thread.start()
    wait(lambda: len(node.acknowledged) > 50)
    pair.fail_over()
    promoted[0] = time.monotonic()
    before = len(node.acknowledged)
    wait(lambda: first[0] and len(node.acknowledged) > before + 50)
    # The node has all of it in the new history, so that it goes on in its term.
    node.lease.renew()
    node.lease.renew()
    stop.set()
    thread.join()
    node.store.checkpoint()
    found = on_record(node.place)
    assert node.acknowledged == found
    assert audited(node.place) == []
    node.end()
    node.close()


def wait(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    for _ in tries():
        if holds():
            return
    raise AssertionError("it did not happen")


def reply_of(place: PostgresPlace, name: str) -> bytes | None:
    """The reply of a timestamp authority in the database."""
    tokens = Tokens(place)
    found = tokens.get(name)
    tokens.close()
    return found


def lag(pair: Replicated, node: Writing, *, signed: bool, reply: bytes = b"") -> None:
    """Have a replica lose the second half of what a node recorded, and be promoted."""
    node.begin()
    for number in range(1, 11):
        node.append(number)
    node.store.checkpoint()
    node.lease.renew()
    pair.wait_streaming()
    pair.cut()
    for number in range(11, 21):
        node.append(number)
        if signed and number == 15:
            node.store.checkpoint()
    if reply:
        tokens = Tokens(node.place)
        tokens.save(reply)
        tokens.close()
        node.store.keep_reply(reply)
    pair.fail_over()


@asynchronous()
def test_what_an_asynchronous_replica_lacks_comes_back_from_the_nodes_own_copy(
    pair: Replicated, tmp_path: Path
) -> None:
    node = Writing(tmp_path, "a", pair.url)
    reply = b"\x00a reply\xff"
    name = hashlib.sha256(reply).hexdigest()
    lag(pair, node, signed=True, reply=reply)
    assert reply_of(node.place, name) is None
    notes = (node.place.data_dir / "keys" / "ledger.checkpoint").read_text()
    root = node.store.root
    # Neither an entry nor a checkpoint over what is lost.
    for write in (lambda: node.append(99), lambda: node.append(99), node.store.checkpoint):
        with pytest.raises(StoreError):
            write()
    with pytest.raises(EvictedError, match="failed over and lacks entries"):
        node.lease.renew()
    other = Writing(tmp_path, "b", pair.url, node.place.data_dir / "keys")
    with pytest.raises(AssertionError):
        # It does not know what the first one recorded, and would sign another history.
        other.begin()
    node.end()
    assert len(on_record(node.place)) == 10
    node.begin()
    lost = "lost 10 entries and 1 checkpoints, and 1 replies of timestamp authorities"
    assert [one for one in node.store.findings if lost in one] != []
    assert reply_of(node.place, name) == reply
    assert node.store.root == root
    assert on_record(node.place) == node.acknowledged
    node.append(21)
    reader = Reader.open(node.place)
    kept = reader.last_checkpoint()
    reader.close()
    assert kept is not None
    assert kept.note == notes
    node.lease.renew()
    node.end()
    node.lease.leave()
    assert audited(node.place) == []
    # Compared once, the new history is good for all.
    other.begin()
    other.append(22)
    other.end()
    assert audited(node.place) == []
    for one in (node, other):
        one.close()


@asynchronous()
@pytest.mark.nightly
@pytest.mark.parametrize("damage", ["gone", "torn", "of another history"])
def test_without_a_sound_copy_what_was_signed_closes_the_ledger(
    pair: Replicated, tmp_path: Path, damage: str
) -> None:
    node = Writing(tmp_path, "a", pair.url)
    lag(pair, node, signed=True)
    node.end()
    tail = node.place.data_dir / TAIL_FILE
    if damage == "gone":
        tail.unlink()
    elif damage == "torn":
        tail.write_bytes(tail.read_bytes()[: len(tail.read_bytes()) // 2])
    else:
        kept = tail.read_bytes()
        assert b'\\"start\\":15' in kept
        tail.write_bytes(kept.replace(b'\\"start\\":15', b'\\"start\\":16'))
    with pytest.raises(LedgerRolledBackError, match="entries were signed, but the database has"):
        node.begin()
    with contextlib.suppress(StoreError):
        assert len(on_record(node.place)) <= 20
    node.close()


@asynchronous()
@pytest.mark.nightly
def test_what_was_lost_unsigned_is_reported(pair: Replicated, tmp_path: Path) -> None:
    node = Writing(tmp_path, "a", pair.url)
    lag(pair, node, signed=False)
    node.end()
    lines = (node.place.data_dir / TAIL_FILE).read_bytes().splitlines(keepends=True)
    (node.place.data_dir / TAIL_FILE).write_bytes(b"".join(lines[:12] + lines[14:]))
    node.begin()
    assert [one for one in node.store.findings if "had recorded are lost" in one] != []
    node.append(99)
    node.end()
    node.close()
    assert audited(node.place) == []


def test_the_copy_of_one_ledger_never_comes_into_another(
    postgresql: PostgreSql, postgresql_template: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        with postgresql.database(postgresql_template) as name:
            place = PostgresPlace(tmp_path / "data", postgresql.url(name))
            store = Store.open(place)
            assert (store.size, store.findings) == (0, [])
            store.append_batch([observed("t", number)])
            store.close()
        # Its database is gone with the test's, its keys by the owner.
        shutil.rmtree(tmp_path / "data" / "keys")
    assert (tmp_path / "data" / TAIL_FILE).exists()
