"""The running MailWatch audits its own ledger."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mailwatch.ledger.entry import target_id
from mailwatch.metrics import Metrics
from mailwatch.model import EventType, Notification
from mailwatch.monitor import self_audit
from mailwatch.monitor.self_audit import LedgerSelfAudit
from mailwatch.store import Reader, StoreDamagedError, StoreError, StoreHealth, audit
from mailwatch.store.announcements import read_announcements
from mailwatch.store.audit import SLICE_ENTRIES
from mailwatch.store.availability_history import Subject, history_to_keep, read_history
from mailwatch.store.detector_states import keep_detector
from mailwatch.store.kept_audit import HISTORIES_A_DAY, due_histories
from mailwatch.store.kept_states import leaf_of
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.replay import restore_state, rule_book
from mailwatch.times import DAY_MS
from tests.helpers.ledger_factory import MINUTE, write
from tests.helpers.patience import PATIENCE

START = 1_767_225_600_000


class Audits:
    """An audit of a ledger of three slices, and what it reported."""

    def __init__(self, folder: Path) -> None:
        write(
            folder, {"mail": lambda _: "+"}, START, START + 3 * SLICE_ENTRIES * MINUTE, every=700, durable=False
        ).close()
        self.database = folder / "mailwatch.sqlite"
        self.metrics, self.news = Metrics(CollectorRegistry()), list[Notification]()
        self.metrics.audited(True)
        self.health, self.alarms = StoreHealth(), list[StoreError]()
        self.health.alarm = self.alarms.append
        self.reader = Reader.open(folder, self.health)
        self.auditing = LedgerSelfAudit(self.reader, load_keys(folder), self.metrics, self.news.append)

    def spoil(self, statement: str) -> None:
        """Change what is on disk, past the program and its triggers."""
        with sqlite3.connect(self.database) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute(statement)
        connection.close()

    @property
    def valid(self) -> str:
        text = b"".join(self.metrics.exposition()).decode()
        return next(line for line in text.splitlines() if line.startswith("mailwatch_ledger_valid "))


@pytest.fixture
def audits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audits]:
    monkeypatch.setattr(self_audit, "MAX_CPU_SHARE", 1.0)
    audits = Audits(tmp_path)
    yield audits
    audits.reader.close()


def test_a_good_ledger_is_reported_as_one(audits: Audits) -> None:
    assert audits.auditing.latest is None
    audits.auditing.audit()
    assert audits.auditing.latest is not None
    assert (audits.auditing.latest.entries, audits.auditing.latest.findings) == (3 * SLICE_ENTRIES + 1, ())
    assert audits.valid.endswith(" 1")
    assert audits.news == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE entries SET payload = replace(payload, 'up', 'down') WHERE idx = 2345", "entry 2345: its header"),
        ("DELETE FROM entries WHERE idx = 1500", "entry 1501: its header differs in: index, number"),
        ("DELETE FROM entries WHERE idx > 2900", "a checkpoint covers 3001 entries, but there are 2901"),
        ("UPDATE checkpoints SET size = 750 WHERE size = 702", "checkpoint 750: signs 702 entries"),
    ],
)
@pytest.mark.slow
def test_changes_made_by_other_programs_are_found_and_reported(audits: Audits, change: str, found: str) -> None:
    audits.spoil(change)
    audits.auditing.audit()
    assert audits.auditing.latest is not None
    assert any(line.startswith(found) for line in audits.auditing.latest.findings), audits.auditing.latest
    assert audits.valid.endswith(" 0")
    (news,) = audits.news
    assert (news.event_type, news.facts) == (EventType.LEDGER, {"finding": audits.auditing.latest.findings[0]})


def test_after_a_missing_entry_not_every_later_one_is_a_finding(audits: Audits) -> None:
    """Of ten million entries they would fill the memory, and the system would end the monitor."""
    audits.spoil("DELETE FROM entries WHERE idx = 5")
    found = audit(
        audits.reader, load_keys(audits.database.parent).public, b"", max_findings=self_audit.MAX_FINDINGS
    )
    assert self_audit.MAX_FINDINGS <= len(found) < 2 * SLICE_ENTRIES
    audits.auditing.audit()
    assert audits.auditing.latest is not None
    assert len(audits.auditing.latest.findings) == self_audit.MAX_FINDINGS


def test_a_database_without_its_table_is_found_and_reported(audits: Audits) -> None:
    audits.spoil("ALTER TABLE entries RENAME TO gone")
    audits.auditing.audit()
    assert audits.auditing.latest is not None
    assert audits.auditing.latest.findings == ("the database is damaged: no such table: entries",)
    assert audits.valid.endswith(" 0")
    assert ([type(error) for error in audits.alarms], audits.news) == ([StoreDamagedError], [])


def test_a_damaged_index_is_found_though_the_entries_are_whole(audits: Audits) -> None:
    with sqlite3.connect(audits.database) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        # Rows that are written now are not in the index, which SQLite takes for one of no rows at all.
        connection.execute("UPDATE sqlite_master SET sql = sql || ' AND 0' WHERE name = 'entries_by_kind'")
    connection.close()
    audits.auditing.audit()
    assert audits.auditing.latest is not None
    assert any("entries_by_kind" in line for line in audits.auditing.latest.findings), audits.auditing.latest
    assert audits.valid.endswith(" 0")
    assert ([type(error) for error in audits.alarms], audits.news) == ([StoreDamagedError], [])


def test_a_database_that_cannot_be_read_now_says_nothing_of_the_ledger_and_ends_nothing(audits: Audits) -> None:
    moved = audits.database.rename(audits.database.with_suffix(".elsewhere"))
    audits.reader.close()
    audits.auditing.audit()
    assert (audits.auditing.latest, audits.news) == (None, [])
    assert audits.valid.endswith(" 1")
    moved.rename(audits.database)
    audits.auditing.audit()
    assert audits.auditing.latest is not None


async def test_the_self_audit_is_paced_and_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_audit, "FIRST_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(self_audit, "MAX_CPU_SHARE", 1e-6)
    audits = Audits(tmp_path)
    running = asyncio.create_task(audits.auditing.run())
    await asyncio.sleep(0.5)
    assert audits.auditing.latest is None
    running.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()
    assert audits.auditing.latest is None
    audits.reader.close()


def test_a_kept_state_that_the_entries_do_not_give_is_found_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_audit, "MAX_CPU_SHARE", 1.0)
    store = write(tmp_path, {"mail": lambda at: "-" if at > START else "+"}, START, START + 40 * MINUTE)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        subject = Subject("mail", target_id(store.keys.secret, "mail"), read_announcements(reader))
        book = rule_book(reader)
        restored = restore_state(reader, "mail", book)
        last = next(reader.entries(from_index=restored.history.index, limit=1))
        detector = keep_detector("mail", restored.history, last.header, book.at(last.index))
        history = history_to_keep(subject, read_history(reader, subject, START + 50 * MINUTE))
        assert history is not None
        metrics, news = Metrics(CollectorRegistry()), list[Notification]()
        auditing = LedgerSelfAudit(reader, store.keys, metrics, news.append)
        for kept in (detector, history):
            store.keep([kept])
        auditing.audit()
        assert auditing.latest is not None
        assert list(auditing.latest.findings) == []
        earlier = next(reader.entries(from_index=last.index - 5, limit=1))
        for kept, what in ((detector, "the state of mail kept"), (history, "the availability of mail kept")):
            store.keep([replace(kept, index=earlier.index, leaf=leaf_of(earlier.header))])
            auditing.audit()
            assert [one.startswith(what) for one in auditing.latest.findings] == [True]
            assert news.pop().event_type is EventType.LEDGER
            store.keep([kept])
    store.close()


def test_each_day_the_availability_of_other_targets_is_counted_again() -> None:
    names = [f"t{number:02}" for number in range(25)]
    days = [due_histories(names, day * DAY_MS) for day in range(20_000, 20_003)]
    assert sorted(name for due in days for name in due) == names
    assert max(map(len, days)) <= HISTORIES_A_DAY
    assert due_histories([], 0) == []
