"""A damaged ledger is said to be one, by whatever meets it: never silence, never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.cli import main
from mailwatch.model import EventType, Notification
from mailwatch.store import (
    DiskFullError,
    NewEntry,
    Outbox,
    Reader,
    Store,
    StoreDamagedError,
    StoreError,
    Writer,
    audit,
    load_keys,
)
from mailwatch.store import writer as writer_module
from mailwatch.store.acknowledgements import AcknowledgementTable
from mailwatch.store.errors import translate_error
from tests.helpers.ledger_factory import MINUTE, write
from tests.helpers.notifications import notifying_process
from tests.helpers.page_damage import Page, damaged, is_without_rows, one_of_each, pages
from tests.helpers.webhook import Webhook

START = 1_767_225_600_000
INTERVALS = 150


def pattern(at: int) -> str:
    return "-" if 50 <= (at - START) // MINUTE < 60 else "+"


def make_ledger(folder: Path) -> Path:
    """A ledger of 300 probes with an outage, and a config that names it; return its database."""
    guard = {"asked_at": START, "online": False, "controls": {}}
    write(
        folder / "data",
        {"a": pattern, "b": lambda _: "+"},
        START,
        START + INTERVALS * MINUTE,
        durable=False,
        monitor_entries=[("guard", START, guard), ("guard", START + MINUTE, {**guard, "online": True})],
    ).close()
    outbox = Outbox(folder / "data")
    news = [
        Notification(key=f"open:{n}", event_type=EventType.OPEN, time=START, facts={"id": "x" * 60})
        for n in range(40)
    ]
    outbox.put([("hook", one) for one in news], at=START, cursor=5)
    outbox.rename_channels({}, {f"hook-{number}": "c0" * 32 for number in range(40)})
    outbox.close()
    # An empty table has pages in which nothing can be lost.
    acknowledged = AcknowledgementTable(folder / "data")
    acknowledged.put([f"{number:012x}" for number in range(40)], START, "x" * 60)
    acknowledged.close()
    targets = [{"name": name, "kind": "imap", "provider": "libero"} for name in ("a", "b")]
    config = {"vantage_point": {"name": "here"}, "data_dir": "data", "guard": "off", "targets": targets}
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder / "data" / "mailwatch.sqlite"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ledger(tmp_path_factory.mktemp("damage"))


def command(database: Path, *words: str) -> tuple[int, str, str]:
    config = database.parent.parent / "config.yaml"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["--config", str(config), *words])
    return status, out.getvalue(), err.getvalue()


DAY_OF = ("--from", "2026-01-01", "--to", "2026-01-02")
VERBS = (
    ("outages", "--json"),
    ("incidents", "--json"),
    ("offline", "--json"),
    ("availability", *DAY_OF, "--json"),
)


@pytest.mark.slow
def test_each_damaged_page_is_found_by_the_audit_and_named_by_every_command(
    database: Path, tmp_path: Path
) -> None:
    """One page of each table and index here; `make chaos` spoils them all."""
    assert command(database, "ledger", "audit")[0] == 0
    sound = {words: command(database, *words)[1] for words in VERBS}
    for number, page in enumerate(one_of_each(pages(database))):
        # Half of a page without rows is free space, which damages nothing.
        how = "zeros" if is_without_rows(database, page) else ("zeros", "random", "half")[number % 3]
        with damaged(database, page, how):
            status, out, err = command(database, "ledger", "audit", "--json")
            assert (status, err) == (1, ""), page
            assert not json.loads(out)["valid"], page
            for words in VERBS:
                status, out, err = command(database, *words)
                if status == 0:
                    assert out == sound[words], page
                else:
                    assert (status, out, err.count("\n")) == (1, "", 1), (page, err)
                    assert "restore it from your backup (docs/how-to/backup.md)" in err, (page, err)
            status, _, err = command(database, "backup", str(tmp_path / "backup.tar.gz"))
            assert (status, err.count("\n")) == (1, 1), (page, err)
            assert list(tmp_path.iterdir()) == []


def test_a_report_of_a_damaged_ledger_is_refused_in_a_sentence(database: Path, tmp_path: Path) -> None:
    page = next(page for page in pages(database) if (page.owner, page.kind) == ("entries", "leaf"))
    with damaged(database, page, "zeros"):
        status, _, err = command(database, "report", *DAY_OF, "-o", str(tmp_path / "x.zip"))
    assert (status, err.count("\n")) == (1, 1), err
    assert list(tmp_path.iterdir()) == []


async def test_a_command_started_on_a_damaged_page_reports_it_or_works(tmp_path: Path) -> None:
    database = make_ledger(tmp_path)
    whole, silent, refused = database.read_bytes(), list[Page](), list[str]()
    for number, page in enumerate(one_of_each(pages(database))):
        with damaged(database, page, ("half", "zeros", "random")[number % 3]):
            try:
                store = Store.open(database.parent)
            except StoreDamagedError as error:
                refused.append(str(error))
                continue
            writer = Writer(store)
            await writer.start()
            written = [writer.submit(NewEntry(kind="node", time=n, target=None, payload={})) for n in range(3)]
            await writer.close()
            silent += [page] if not writer.unwritten() and not all(future.done() for future in written) else []
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        (database.parent / "keys" / "ledger.checkpoint").unlink(missing_ok=True)
        database.write_bytes(whole)
    assert silent == []
    assert refused
    assert all("restore it from your backup" in words for words in refused), refused


def without_an_index(database: Path) -> None:
    """Make the running MailWatch meet a damaged index: its root page is one that there is not."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET rootpage = 99999 WHERE name = 'entries_by_time'")
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        connection.execute(f"PRAGMA schema_version = {version + 1}")
        connection.commit()


async def test_an_index_damaged_while_running_is_reported_once_and_drops_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    store = Store.open(tmp_path)
    rung = asyncio.Event()
    collected: list[StoreError] = []
    loop = asyncio.get_running_loop()

    def alarm(error: StoreError) -> None:
        collected.append(error)
        loop.call_soon_threadsafe(rung.set)

    store.health.alarm = alarm
    writer = Writer(store)
    await writer.start()
    await writer.submit(NewEntry(kind="node", time=1, target=None, payload={}))
    without_an_index(tmp_path / "mailwatch.sqlite")
    waiting = [writer.submit(NewEntry(kind="node", time=n, target=None, payload={})) for n in range(3)]
    await rung.wait()
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not writer.healthy
    assert writer.problems() == [
        f"the ledger cannot be written: {collected[0].public_reason}; 3 entries wait in memory"
    ]
    assert not any(future.done() for future in waiting)
    await writer.close()
    assert writer.unwritten() == f"3 entries could not be written and are lost: {collected[0].public_reason}"
    assert len(collected) == 1
    assert sum("cannot be written: " in line and "wait in memory" in line for line in caplog.messages) == 1


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook().open()
    yield receiver
    receiver.close()


def test_a_run_whose_database_is_damaged_says_so_everywhere_and_ends_with_a_status(
    tmp_path: Path, webhook: Webhook
) -> None:
    mailwatch = notifying_process(tmp_path, webhook.url)
    mailwatch.settings["notify"][0]["on"] = ["ledger"]
    mailwatch.write_config()
    mailwatch.start()
    mailwatch.wait_until(lambda: mailwatch.count("lab", "down"), "an observation")
    assert mailwatch.metric("mailwatch_ledger_valid") == 1
    without_an_index(mailwatch.data_dir / "mailwatch.sqlite")
    mailwatch.wait_until(lambda: "503 the ledger" in mailwatch.get("/readyz"), "unready")
    assert "is damaged" in mailwatch.get("/readyz")
    assert str(tmp_path) not in mailwatch.get("/readyz")
    mailwatch.wait_until(lambda: mailwatch.metric("mailwatch_ledger_valid") == 0, "invalid")
    mailwatch.wait_until(lambda: webhook.received, "notified")
    assert "is damaged (" in str(webhook.received[0]["message"])
    displayed = mailwatch.get("/api/v1/observations")
    assert displayed.startswith("503 ")
    assert json.loads(displayed[4:])["detail"].startswith("the ledger cannot be read: the database is damaged: ")
    assert mailwatch.stop() == 1
    log = mailwatch.log.read_text()
    assert log.count("wait in memory") == 1
    assert "could not be written and are lost" in log
    assert "Traceback" not in log
    # The next start refuses it; people hear of one finding once a day.
    mailwatch.start(ready=False)
    mailwatch.wait_until(
        lambda: mailwatch.log.read_text().count("docs/how-to/backup.md") > log.count("docs/how-to/backup.md"),
        "said",
    )
    with contextlib.suppress(AssertionError):
        mailwatch.stop()
    assert len(webhook.received) <= 2


@pytest.mark.parametrize(
    ("statement", "meant"),
    [
        ("SELECT * FROM nowhere", StoreDamagedError),
        ("INSERT INTO t VALUES (1, 'again')", StoreDamagedError),
        ("INSERT INTO t VALUES (2, NULL)", None),
        ("SELECT CAST(x'ff' AS TEXT)", StoreDamagedError),
        ("INSERT INTO t VALUES (3, zeroblob(100000))", DiskFullError),
    ],
)
def test_each_error_of_sqlite_has_its_meaning(
    tmp_path: Path, statement: str, meant: type[StoreError] | None
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x")) as connection:
        connection.executescript("PRAGMA max_page_count=3; CREATE TABLE t (a INTEGER PRIMARY KEY, b NOT NULL)")
        connection.execute("INSERT INTO t VALUES (1, 'first')")
        with pytest.raises(sqlite3.Error) as raised:
            connection.execute(statement).fetchall()
    found = translate_error(tmp_path / "x", raised.value)
    assert type(found) is (meant or type(None))


def test_a_changed_entry_is_not_shown_as_written(tmp_path: Path) -> None:
    database = make_ledger(tmp_path)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute("UPDATE entries SET payload = replace(payload, '\"up\"', '\"uq\"') WHERE idx = 7")
        connection.commit()
    with contextlib.closing(Reader.open(tmp_path / "data")) as reader:
        with pytest.raises(StoreDamagedError, match="entry 7 of the ledger is not what was written"):
            list(reader.entries())
        assert len(list(reader.entries(checked=False))) == reader.size()
        with pytest.raises(StoreDamagedError, match="entry 7 of the ledger is not what was written"):
            list(reader.raw_entries(0, reader.size()))
    status, _, err = command(database, "availability", *DAY_OF)
    assert (status, err.count("\n")) == (1, 1), err
    status, out, _ = command(database, "ledger", "audit")
    assert status == 1
    assert "entry 7: its header differs in: payload" in out


def test_the_audit_of_a_ledger_that_lost_a_page_names_what_is_lost_and_checks_the_rest(database: Path) -> None:
    leaves = [page for page in pages(database) if (page.owner, page.kind) == ("entries", "leaf")]
    keys = load_keys(database.parent)
    with (
        damaged(database, leaves[len(leaves) // 2], "zeros"),
        contextlib.closing(Reader.open(database.parent)) as reader,
    ):
        found = audit(reader, keys.public, keys.secret)
    assert all("cannot be read: the database is damaged" in one.what for one in found), found
    assert 0 < len(found) < 10


@pytest.mark.parametrize("how", ["gone", "empty"])
@pytest.mark.sqlite
def test_every_command_reports_a_lost_database_the_same_way(tmp_path: Path, how: str) -> None:
    database = make_ledger(tmp_path)
    database.unlink()
    if how == "empty":
        database.touch()
    for words in (*VERBS, ("notify", "list"), ("ledger", "audit"), ("backup", str(tmp_path / "x"))):
        status, out, err = command(database, *words)
        assert (status, out, err.count("\n")) == (1, "", 1), (words, err)
        assert f"is {how}, but keys of a ledger are in" in err, (words, err)
