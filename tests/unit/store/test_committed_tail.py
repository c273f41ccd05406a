"""A node's copy of its last commits: no commit waits for its disk, and what is signed is on it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

import pytest

from mailwatch.store import Store, committed_tail
from mailwatch.store.committed_tail import CommittedRows
from mailwatch.store.postgres import PostgresPlace
from tests.helpers.ledger_factory import observed
from tests.helpers.patience import PATIENCE, tries


class Disk:
    """A disk that syncs when it may. `synced`: how often it did, `by` which threads."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked = threading.Event()
        self.synced = 0
        self.by: list[threading.Thread] = []
        self.broken = False

    def fdatasync(self, file: int) -> None:
        self.asked.set()
        assert self.may.wait(PATIENCE)
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.by.append(threading.current_thread())
        self.synced += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk of the copy. A commit of PostgreSQL is synced by the server."""
    made = Disk()
    monkeypatch.setattr(committed_tail, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(os, "fdatasync", made.fdatasync)
    yield made
    made.may.set()


def test_a_commit_does_not_wait_until_the_copy_is_on_the_disk(postgresql_place: PostgresPlace, disk: Disk) -> None:
    with contextlib.closing(Store.open(postgresql_place)) as store:
        for number in range(5):
            store.append_batch([observed("t", number)])
            assert b'\\"start\\":%d' % number in (postgresql_place.data_dir / "tail.jsonl").read_bytes()
        assert disk.asked.wait(PATIENCE)
        assert disk.synced == 0
        disk.may.set()
        for _ in tries():
            if disk.synced:
                break
        assert disk.synced


def test_what_is_written_while_the_disk_is_busy_is_synced_after_it(
    postgresql_place: PostgresPlace, disk: Disk
) -> None:
    with contextlib.closing(Store.open(postgresql_place)) as store:
        store.append_batch([observed("t", 1)])
        assert disk.asked.wait(PATIENCE)
        store.append_batch([observed("t", 2)])
        disk.may.set()
        for _ in tries():
            if disk.synced == 2:
                break
        assert disk.synced == 2


def test_what_is_signed_is_on_the_disk(postgresql_place: PostgresPlace, disk: Disk) -> None:
    disk.may.set()
    with contextlib.closing(Store.open(postgresql_place)) as store:
        store.append_batch([observed("t", 1)])
        assert threading.current_thread() not in disk.by
        store.checkpoint()
        # By the thread that signs, before anyone has the signature.
        assert threading.current_thread() in disk.by


def test_a_disk_that_fails_is_logged_once_and_stops_nothing(
    postgresql_place: PostgresPlace, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.broken = True
    disk.may.set()
    with contextlib.closing(Store.open(postgresql_place)) as store:
        for number in range(5):
            disk.asked.clear()
            store.append_batch([observed("t", number)])
            assert disk.asked.wait(PATIENCE)
        for _ in tries():
            if "what a failover loses cannot be restored" in caplog.text:
                break
            store.append_batch([observed("t", 9)])
        assert store._hold.tail is not None
        kept = [one for one in store._hold.tail.read() if isinstance(one, CommittedRows)]
        # Whole all the same, as far as this machine can tell.
        assert [row["idx"] for one in kept for row in one.rows] == list(range(store.size))
    assert caplog.text.count("what a failover loses cannot be restored") == 1
