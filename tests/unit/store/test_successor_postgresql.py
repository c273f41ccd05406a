"""A ledger that was lost in PostgreSQL has a successor in another, empty database, which names it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from mailwatch.ledger.succession import Link, predecessors
from mailwatch.progress import StartupProgress
from mailwatch.store import (
    KeysDifferError,
    KeysMissingError,
    LedgerClosedError,
    LedgerRolledBackError,
    LedgerWholeError,
    NewEntry,
    Reader,
    Store,
    begin_successor,
    load_keys,
)
from mailwatch.store import closed_ledger as closing
from mailwatch.store.node import join, leave
from mailwatch.store.postgres import PostgresPlace
from tests.helpers.ledger_audit import audited
from tests.helpers.ledger_factory import observed
from tests.servers.postgresql import PostgreSql

START = NewEntry(kind="node", time=1, target=None, payload={"event": "start"})


@pytest.fixture
def lost(postgresql_place: PostgresPlace) -> PostgresPlace:
    """A signed ledger of three entries, that nobody has open."""
    with contextlib.closing(Store.open(postgresql_place)) as store:
        store.append_batch([START, observed("a", 1), observed("a", 2)])
        store.checkpoint()
    return postgresql_place


@pytest.fixture
def elsewhere(postgresql: PostgreSql, lost: PostgresPlace) -> Iterator[PostgresPlace]:
    """The same data_dir with another database, which is empty."""
    with postgresql.database() as name:
        yield PostgresPlace(lost.data_dir, postgresql.url(name))


def chain(place: PostgresPlace) -> tuple[Link, ...]:
    """What the first entry of a ledger says of its predecessors, checked."""
    with contextlib.closing(Reader.open(place)) as reader:
        first = next(reader.entries(to_index=1))
        assert first.kind == "successor"
        assert reader.last_checkpoint() is not None
    return predecessors(first.payload, (place.data_dir / "keys" / "ledger.pub").read_text().removesuffix("\n"))


def test_a_successor_begins_in_another_database_and_names_the_lost_ledger(
    lost: PostgresPlace, elsewhere: PostgresPlace
) -> None:
    keys = load_keys(lost.data_dir)
    with pytest.raises(LedgerWholeError, match="begins in another, empty database"):
        begin_successor(lost)
    with pytest.raises(LedgerRolledBackError, match="3 entries were signed, but the database has 0"):
        # With tables, as `mailwatch ledger prepare` makes them.
        Store.open(prepared(elsewhere))
    done = begin_successor(elsewhere)
    assert (done.predecessor, done.reason) == (keys.origin, "database_lost")
    assert load_keys(lost.data_dir).origin == done.origin != keys.origin
    assert load_keys(lost.data_dir).secret == keys.secret
    (link,) = chain(elsewhere)
    assert (link.origin, link.size, link.kept, link.appointed) == (keys.origin, 3, None, True)
    assert not list(lost.data_dir.glob("succession"))
    # It goes on as any other ledger, also as a node; a second succession has nothing to do.
    with contextlib.closing(Store.open(elsewhere)) as store:
        assert store.append_batch([observed("a", 3)])[0].index == 1
        store.checkpoint()
    assert audited(elsewhere) == []
    with pytest.raises(LedgerWholeError):
        begin_successor(elsewhere)
    # The old ledger stays to read, and signs nothing more.
    archive = PostgresPlace(done.archive, lost.url)
    with contextlib.closing(Reader.open(archive)) as reader:
        assert reader.size() == 3
    with pytest.raises(LedgerClosedError, match="goes on for it"):
        Store.open(archive)
    with pytest.raises(KeysDifferError):
        Store.open(lost)


def prepared(place: PostgresPlace) -> PostgresPlace:
    """The database with its tables, which were made for other keys."""
    other = PostgresPlace(place.data_dir.with_name("other"), place.url)
    made = other.engine()
    from mailwatch.store.first_start import migrate_database

    migrate_database(other, made, StartupProgress())
    made.dispose()
    return place


def test_lost_keys_are_named_as_the_reason(lost: PostgresPlace, elsewhere: PostgresPlace) -> None:
    (lost.data_dir / "keys" / "ledger.pem").unlink()
    with pytest.raises(KeysMissingError):
        Store.open(lost)
    assert begin_successor(elsewhere).reason == "keys_lost"
    (link,) = chain(elsewhere)
    assert (link.size, link.appointed) == (3, False)
    shutil.rmtree(lost.data_dir)
    with pytest.raises(FileNotFoundError, match="no ledger yet"):
        begin_successor(elsewhere)


@pytest.mark.parametrize("moment", ["before it is decided", "decided", "complete but for its first entry"])
def test_a_succession_that_is_killed_is_completed_by_the_next_start(
    lost: PostgresPlace, elsewhere: PostgresPlace, moment: str
) -> None:
    origin = load_keys(lost.data_dir).origin

    def begin_and_die() -> None:
        complete, decide = closing.complete_succession, closing.decide

        def die(*_: object) -> None:
            if moment.startswith("complete"):
                complete(lost.data_dir)
            os.kill(os.getpid(), signal.SIGKILL)

        if moment.startswith("before"):
            closing.decide = die  # type: ignore[assignment]
        else:
            closing.complete_succession = die  # type: ignore[assignment]
        begin_successor(elsewhere)
        closing.decide = decide

    process = get_context("fork").Process(target=begin_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    if moment.startswith("before"):
        with pytest.raises(LedgerRolledBackError):
            Store.open(elsewhere)
        begin_successor(elsewhere)
    else:
        # As a start does.
        node = PostgresPlace(Path(elsewhere.data_dir), elsewhere.url)
        assert join(node, StartupProgress()).take() is not None
        Store.open(node).close()
        leave(node)
    (link,) = chain(elsewhere)
    assert (link.origin, link.appointed) == (origin, True)
    assert audited(elsewhere) == []
