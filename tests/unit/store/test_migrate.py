"""A ledger moves from an SQLite file to PostgreSQL and back: nothing is lost, whenever it is killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from mailwatch.cli import main
from mailwatch.model import EventType, Notification
from mailwatch.store import (
    DataDirLockedError,
    LedgerClosedError,
    LedgerMissingError,
    NewEntry,
    Outbox,
    Reader,
    Store,
    StoreError,
    Tokens,
    audit,
    load_keys,
)
from mailwatch.store.first_start import MIGRATED
from mailwatch.store.migrate import WORK_FOLDER, Move, MoveStep, Progress, to_postgresql, to_sqlite
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.postgres_check import examine
from mailwatch.store.schema import metadata
from mailwatch.store.spool import SPOOL_FILE, Spool, SpooledDraft
from mailwatch.store.sqlite import SqlitePlace, database
from tests.helpers.ledger_factory import MINUTE, observation_of, write

START = 1_767_225_600_000
TARGETS = "targets: [{name: mail, kind: imap, host: mail.example, port: 993}]\n"


def ledger(folder: Path) -> None:
    """Write a ledger with outages, a notification and a token, whose last entries no checkpoint covers."""
    store = write(
        folder, {"mail": lambda at: "-" if 20 <= at // MINUTE % 60 < 25 else "+"}, START, START + 90 * MINUTE
    )
    append(store, 91)
    append(store, 92, "più à 漢 '\\")
    store.close()
    Tokens(folder).save(b"\x00a reply\xff")
    with contextlib.closing(Outbox(folder)) as outbox:
        outbox.put([("mail:a", notification(1))], at=START, cursor=5)


def observe(where: Path | Place, minute: int, target: str = "mail") -> None:
    """Append an observation to a ledger."""
    with contextlib.closing(Store.open(where)) as store:
        append(store, minute, target)


def append(store: Store, minute: int, target: str = "mail") -> None:
    at = START + minute * MINUTE
    store.read_clock = lambda: at + MINUTE
    seen = observation_of(target, "+", at)
    store.append_batch([NewEntry(kind="observation", time=at + 200, target=target, payload=seen)])


def notification(number: int) -> Notification:
    return Notification(key=f"open:{number}", event_type=EventType.OPEN, time=START, facts={"id": "\u00e8"})


def contents(place: Place) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables."""
    made = place.engine(read_only=True)
    with made.connect() as connection:
        found = {
            table.name: [tuple(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key))]
            for table in metadata.sorted_tables
        }
    made.dispose()
    return found


def is_whole(place: Place) -> bool:
    """Whether the ledger opens, and is as it was written."""
    with contextlib.closing(Store.open(place)) as store:
        size = store.size
    keys = load_keys(place.data_dir)
    with contextlib.closing(Reader.open(place)) as reader:
        assert reader.size() == size
        return audit(reader, keys.public, keys.secret) == []


def test_there_and_back_again_it_is_the_same(postgresql_place: PostgresPlace) -> None:
    place, data_dir = postgresql_place, postgresql_place.data_dir
    ledger(data_dir)
    entries = contents(SqlitePlace(data_dir))["entries"]
    moved = to_postgresql(place)
    assert moved.entries == len(entries)
    assert moved.origin == load_keys(data_dir).origin
    assert not database(data_dir).exists()
    there = contents(place)
    assert there["entries"] == entries
    assert [len(there[name]) for name in ("outbox", "checkpoints")] == [1, 4]
    assert is_whole(place)
    (token,) = (data_dir / "tokens").iterdir()
    with contextlib.closing(Tokens(place)) as tokens:
        assert tokens.get(token.stem) == b"\x00a reply\xff"
    # It goes on there, numbers of the database's own included.
    observe(place, 93)
    with contextlib.closing(Outbox(place)) as outbox:
        outbox.put([("mail:a", notification(2))], at=START)
    (data_dir / MIGRATED).unlink()
    token.unlink()
    after = contents(place)
    to_sqlite(place)
    assert sorted(path.name for path in data_dir.iterdir()) == ["keys", "lock", "mailwatch.sqlite", "tokens"]
    assert token.read_bytes() == b"\x00a reply\xff"
    back = contents(SqlitePlace(data_dir))
    assert back.pop("checkpoints")[:-1] == after.pop("checkpoints")
    assert back == after
    assert is_whole(SqlitePlace(data_dir))
    # The database is closed for all nodes, also once more was signed here, and can take the ledger again.
    observe(SqlitePlace(data_dir), 95)
    with pytest.raises(LedgerClosedError, match=r"mailwatch\.sqlite of .* goes on"):
        Store.open(place)
    to_postgresql(place)
    assert is_whole(place)


def killed(kill: MoveStep, move: Callable[[Progress], Move]) -> None:
    """Move a ledger in a process of its own, which dies at a step."""

    def move_and_die() -> None:
        move(lambda step, _done, _of: os.kill(os.getpid(), signal.SIGKILL) if step is kill else None)

    process = multiprocessing.get_context("fork").Process(target=move_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("step", list(MoveStep), ids=lambda step: step.name.lower())
def test_a_kill_leaves_one_ledger_and_the_next_run_goes_on(
    postgresql_place: PostgresPlace, step: MoveStep
) -> None:
    place, data_dir = postgresql_place, postgresql_place.data_dir
    ledger(data_dir)
    killed(step, lambda progress: to_postgresql(place, progress))
    with pytest.raises(StoreError):
        Store.open(place)
    if step is MoveStep.OPENED:
        with pytest.raises(LedgerMissingError, match="Name that in `database:`"):
            Store.open(data_dir)
    else:
        # It goes on as if nothing had been tried.
        observe(data_dir, 93)
    size = 97 if step is MoveStep.OPENED else 98
    assert to_postgresql(place).entries == size
    assert is_whole(place)
    # Once more changes nothing.
    assert to_postgresql(place).entries == size
    (data_dir / MIGRATED).unlink()
    killed(step, lambda progress: to_sqlite(place, progress))
    with pytest.raises(StoreError):
        Store.open(data_dir)
    if step is not MoveStep.OPENED:
        observe(place, 94)
        size += 1
    else:
        with pytest.raises(LedgerClosedError):
            Store.open(place)
    assert to_sqlite(place).entries == size
    assert not (data_dir / WORK_FOLDER).exists()
    assert is_whole(SqlitePlace(data_dir))


def test_a_ledger_in_use_is_not_moved(postgresql_place: PostgresPlace) -> None:
    ledger(postgresql_place.data_dir)
    with contextlib.closing(Store.open(postgresql_place.data_dir)), pytest.raises(DataDirLockedError):
        to_postgresql(postgresql_place)
    to_postgresql(postgresql_place)
    with contextlib.closing(Store.open(postgresql_place)), pytest.raises(DataDirLockedError):
        to_sqlite(postgresql_place)
    assert is_whole(postgresql_place)


def test_what_another_node_appends_meanwhile_keeps_the_ledger_where_it_is(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    ledger(postgresql_place.data_dir)
    to_postgresql(postgresql_place)
    (postgresql_place.data_dir / MIGRATED).unlink()
    elsewhere = PostgresPlace(tmp_path / "other", postgresql_place.url)
    shutil.copytree(postgresql_place.data_dir / "keys", tmp_path / "other" / "keys")

    def append(step: MoveStep, _done: int, _of: int) -> None:
        if step is MoveStep.REPLACING:
            observe(elsewhere, 93)

    with pytest.raises(StoreError, match="stop all nodes"):
        to_sqlite(postgresql_place, append)
    assert is_whole(postgresql_place)
    assert to_sqlite(postgresql_place).entries == 98


def test_a_database_with_a_ledger_of_its_own_is_left_alone(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    other = PostgresPlace(tmp_path / "other", postgresql_place.url)
    observe(other, 0)
    ledger(postgresql_place.data_dir)
    with pytest.raises(StoreError, match="a ledger of its own already, with 1 entries"):
        to_postgresql(postgresql_place)
    assert is_whole(SqlitePlace(postgresql_place.data_dir))
    assert is_whole(other)


def test_files_that_are_in_the_way_are_named(postgresql_place: PostgresPlace) -> None:
    data_dir = postgresql_place.data_dir
    with pytest.raises(FileNotFoundError):
        to_postgresql(postgresql_place)
    ledger(data_dir)
    (data_dir / MIGRATED).touch()
    with pytest.raises(StoreError, match="from an earlier move"):
        to_postgresql(postgresql_place)
    with pytest.raises(StoreError, match="is there already"):
        to_sqlite(postgresql_place)


def test_a_damaged_ledger_stays_where_it_is(postgresql_place: PostgresPlace) -> None:
    ledger(postgresql_place.data_dir)
    with contextlib.closing(sqlite3.connect(database(postgresql_place.data_dir))) as raw:
        raw.execute("DROP TRIGGER entries_no_update")
        raw.execute("UPDATE entries SET header = header || ' ' WHERE idx = 3")
        raw.commit()
    with pytest.raises(StoreError):
        to_postgresql(postgresql_place)
    assert database(postgresql_place.data_dir).exists()


def test_the_command_moves_the_ledger_and_prints_the_line_of_the_config(
    postgresql_place: PostgresPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = postgresql_place.data_dir
    ledger(data_dir)
    config = tmp_path / "config.yaml"
    config.write_text(f"data_dir: {data_dir}\n{TARGETS}")
    url = postgresql_place.url
    assert main(["--config", str(config), "migrate", "--to", "sqlite"]) == 2
    assert "in SQLite already" in capsys.readouterr().err
    assert main(["--config", str(config), "migrate", "--to", url.replace("owner@", "owner:secret@")]) == 2
    assert "holds a password" in (message := capsys.readouterr().err)
    assert "secret" not in message
    password = tmp_path / "password"
    password.write_text("pass\n")
    arguments = ["--config", str(config), "migrate", "--to", url, "--password-file", str(password), "--json"]
    assert main(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    line = {"url": url, "password_file": str(password)}
    assert done == {
        "origin": load_keys(data_dir).origin,
        "entries": 97,
        "source": str(data_dir / MIGRATED),
        "destination": url,
        "database": line,
    }
    config.write_text(f"data_dir: {data_dir}\ndatabase: {json.dumps(line)}\n{TARGETS}")
    # With the password of the config; it was done already.
    assert main(["--config", str(config), "migrate", "--to", url]) == 0
    assert capsys.readouterr().out.endswith(f"database:\n  url: {url}\n  password_file: {password}\n")
    assert main(["--config", str(config), "migrate", "--to", "sqlite"]) == 0
    assert capsys.readouterr().out.endswith("\ndatabase: sqlite\n")
    assert is_whole(SqlitePlace(data_dir))


def test_what_waits_for_the_database_is_recorded_there_before_the_ledger_goes(
    postgresql_place: PostgresPlace,
) -> None:
    observe(postgresql_place, 1)
    spool = Spool(postgresql_place.data_dir, 1_000_000)
    spool.put([SpooledDraft(kind="observation", time=START, target="mail", payload={"outcome": "up"})])
    spool.close()
    with pytest.raises(StoreError, match=r"1 observations wait in .*; start MailWatch with it once more"):
        to_sqlite(postgresql_place)
    assert (postgresql_place.data_dir / SPOOL_FILE).exists()
    observe(postgresql_place, 2)
    spool.open()
    spool.remove([one.number for one in spool.oldest(9)])
    spool.close()
    to_sqlite(postgresql_place)
    found = examine(postgresql_place)
    assert found is not None
    assert ["closed" in obstacle for obstacle in found.obstacles] == [True]
