"""The store on either engine: what is the same on SQLite and PostgreSQL, and how PostgreSQL's ways are met."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mailwatch.cli import main
from mailwatch.errors import OperationError
from mailwatch.ledger.merkle import CompactRange
from mailwatch.model import Outcome
from mailwatch.store import (
    KeysDifferError,
    NewEntry,
    Outbox,
    Reader,
    Store,
    StoreDamagedError,
    Tokens,
    backup,
)
from mailwatch.store.errors import CommitInDoubtError, DatabaseAwayError, StoreUnavailableError
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.postgres_check import examine
from mailwatch.store.postgres_roles import prepare_tables
from mailwatch.store.schema import head, metadata
from mailwatch.store.sqlite import SqlitePlace
from tests.helpers.ledger_audit import audited
from tests.helpers.ledger_factory import observed
from tests.helpers.requirements import need
from tests.helpers.severing_proxy import SeveringProxy
from tests.servers.postgresql import PASSWORD, PGBOUNCER, SECRETIVE, PgBouncer, PostgreSql
from tests.servers.program import server_folder

TARGETS = "targets: [{name: mail, kind: imap, host: mail.example, port: 993}]\n"


def execute(place: Place, statement: str) -> int:
    """Execute a statement as a program that is not ours, with the rights of the tables' owner."""
    made = place.engine()
    try:
        with made.begin() as connection:
            return connection.exec_driver_sql(statement).rowcount
    finally:
        made.dispose()


def test_entries_number_themselves_and_read_back_also_after_a_restart(place: Place) -> None:
    store = Store.open(place)
    first = store.append_batch([observed("a", 1), observed("b", 2), observed("a", 3)])
    store.checkpoint()
    store.close()
    store = Store.open(place)
    assert (store.size, store.findings) == (3, [])
    more = store.append_batch([observed("a", 4), NewEntry(kind="node", time=5, target=None, payload={})])
    root = store.root
    store.close()
    assert [(e.index, e.number) for e in first + more] == [(0, 1), (1, 1), (2, 2), (3, 3), (4, None)]
    assert audited(place) == []
    reader = Reader.open(place)
    assert list(reader.entries()) == first + more
    assert list(reader.entries(target="a", start_ms=0, end_ms=4)) == [first[0], first[2]]
    assert [one["start"] for one in reader.observation_payloads("a", 0, 10)] == [1, 3, 4]
    assert reader.targets() == ["a", "b"]
    assert reader.last_index(target="a", outcome=Outcome.UP) == 3
    assert (reader.size(), reader.last_checkpoint().size) == (5, 3)  # type: ignore[union-attr]
    assert reader.integrity(lambda: False) == []
    reader.close()
    tree = CompactRange()
    reader = Reader.open(place)
    for leaf in reader.leaf_hashes(0, 5):
        tree.append(leaf)
    reader.close()
    assert tree.root() == root


@pytest.mark.parametrize("table", ["entries", "checkpoints"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET time_ms = 0"])
def test_nothing_that_was_written_can_be_changed(place: Place, table: str, change: str) -> None:
    store = Store.open(place)
    store.append_batch([observed("a", 1)])
    store.checkpoint()
    store.close()
    with pytest.raises(StoreDamagedError, match="the ledger is append-only"):
        execute(place, change.format(table))
    assert audited(place) == []


def test_the_tables_are_what_the_migrations_make(place: Place) -> None:
    Store.open(place).close()
    here = {"ledger_head", "token_files", "entries_by_number", "nodes", "shares", "probe_shares", "probe_messages",
            "probe_messages_to"}  # fmt: skip
    only_here = here if isinstance(place, PostgresPlace) else set()

    def compared(_object: object, name: str | None, *_: object) -> bool:
        return name not in only_here

    made = place.engine(read_only=True)
    with made.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": compared})
        assert compare_metadata(context, metadata) == []
        if only_here:
            found = {column["name"] for column in sa.inspect(connection).get_columns("ledger_head")}
            assert found == {column.name for column in head.columns}
    made.dispose()


def test_names_are_in_the_order_of_their_bytes(place: Place) -> None:
    names = ["a", "B", "é", "z", "Z", "ab", "a b", "ﬁ", "🂡"]
    store = Store.open(place)
    store.append_batch([observed(name, 1) for name in names])
    store.close()
    reader = Reader.open(place)
    assert reader.targets() == sorted(names, key=str.encode)
    reader.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_head SET size = size - 1", "UPDATE ledger_head SET origin = 'x'", "DELETE FROM ledger_head",
        "TRUNCATE entries", "TRUNCATE checkpoints", "TRUNCATE ledger_head",
    ],
)  # fmt: skip
def test_the_head_never_falls_and_no_table_is_emptied(postgresql_place: PostgresPlace, change: str) -> None:
    store = Store.open(postgresql_place)
    store.append_batch([observed("a", 1)])
    store.close()
    with pytest.raises(StoreDamagedError, match=r"never falls|append-only"):
        execute(postgresql_place, change)


def test_the_database_refuses_a_second_entry_of_a_number(postgresql_place: PostgresPlace) -> None:
    store = Store.open(postgresql_place)
    store.append_batch([observed("a", 1)])
    store.close()
    copy = "SELECT idx + 1, kind, time_ms, target, number, outcome, header, payload FROM entries"
    with pytest.raises(StoreDamagedError, match="entries_by_number"):
        execute(postgresql_place, f"INSERT INTO entries {copy}")


def test_a_database_of_another_ledger_is_refused(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    Store.open(postgresql_place).close()
    Store.open(tmp_path / "other").close()
    mixed = PostgresPlace(tmp_path / "other", postgresql_place.url)
    with pytest.raises(KeysDifferError, match="restore keys and database together"):
        Store.open(mixed)


def test_a_head_that_differs_from_the_entries_stops_the_start(postgresql_place: PostgresPlace) -> None:
    store = Store.open(postgresql_place)
    store.append_batch([observed("a", 1)])
    store.close()
    execute(postgresql_place, "UPDATE ledger_head SET size = 2, hashes = substr(hashes, 1, 32)")
    # It says one entry more than there are.
    store = Store.open(postgresql_place)
    with pytest.raises(StoreDamagedError, match="gone"):
        store.append_batch([observed("a", 2)])
    store.close()


def test_what_another_node_appended_comes_first(postgresql_place: PostgresPlace, tmp_path: Path) -> None:
    one = Store.open(postgresql_place)
    one.append_batch([observed("a", 1)])
    (tmp_path / "node").mkdir()
    (postgresql_place.data_dir / "keys").rename(tmp_path / "node" / "keys")
    other = Store.open(PostgresPlace(tmp_path / "node", postgresql_place.url))
    (tmp_path / "node" / "keys").rename(postgresql_place.data_dir / "keys")
    assert other.append_batch([observed("a", 2), observed("b", 2)])[0].index == 1
    late = one.append_batch([observed("a", 3)])
    assert [(e.index, e.number) for e in late] == [(3, 3)]
    again = other.append_batch([observed("b", 4)])
    assert [(e.index, e.number) for e in again] == [(4, 2)]
    one.close()
    other.close()
    assert audited(postgresql_place) == []


@pytest.fixture
def severed(postgresql: PostgreSql, postgresql_place: PostgresPlace) -> Iterator[tuple[Store, SeveringProxy]]:
    """A store behind a proxy that can lose its connection."""
    with SeveringProxy(postgresql.port).running() as proxy:
        url = postgresql_place.url.replace(str(postgresql.port), str(proxy.port))
        store = Store.open(PostgresPlace(postgresql_place.data_dir, url))
        yield store, proxy
        store.close()


def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    severed: tuple[Store, SeveringProxy], postgresql_place: PostgresPlace
) -> None:
    store, proxy = severed
    store.append_batch([observed("a", 1)])
    drafts = [observed("a", 2), observed("a", 3)]
    proxy.sever_answers_after()
    with pytest.raises(CommitInDoubtError, match="does not answer"):
        store.append_batch(drafts)
    assert proxy.severed.is_set()
    # More came meanwhile. The writer may also ask again for one after the other.
    written = store.append_batch(drafts[:1])
    written += store.append_batch([drafts[1], observed("a", 4)])
    assert [(e.index, e.number) for e in written] == [(1, 2), (2, 3), (3, 4)]
    assert store.size == 4
    store.checkpoint()
    assert audited(postgresql_place) == []


def test_a_commit_that_never_arrived_is_made_again(
    severed: tuple[Store, SeveringProxy], postgresql: PostgreSql, postgresql_place: PostgresPlace
) -> None:
    store, _ = severed
    store.append_batch([observed("a", 1)])
    with postgresql.connect() as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    draft = observed("a", 2)
    with pytest.raises(CommitInDoubtError):
        store.append_batch([draft])
    assert [(e.index, e.number) for e in store.append_batch([draft])] == [(1, 2)]
    assert audited(postgresql_place) == []


def test_a_result_that_is_read_no_further_does_not_report_a_lost_connection(
    postgresql_place: PostgresPlace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(Store.open(postgresql_place)) as store:
        store.append_batch([observed("a", number) for number in range(3000)])
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with contextlib.closing(Reader.open(postgresql_place)) as reader:
        reading = reader.entries()
        assert next(reading).index == 0
        postgresql_place.cut()
        # As the collector closes one that nobody holds any more.
        del reading
        gc.collect()
        assert len(list(reader.entries())) == 3000
        # One that reads on gets the error.
        reading = reader.entries()
        next(reading)
        postgresql_place.cut()
        with pytest.raises(DatabaseAwayError):
            list(reading)
    assert unraisable == []
    assert "Traceback" not in caplog.text


def test_a_node_that_is_stopped_within_its_statement_stops_no_other(
    severed: tuple[Store, SeveringProxy], postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    """Wherever the statement stops, the server has all of it or holds no lock."""
    store, proxy = severed
    store.append_batch([observed("a", 1), observed("b", 1)])
    proxy.hold_requests_after(400)
    held = threading.Thread(target=lambda: store.append_batch([observed("b", 2)]))
    held.start()
    assert proxy.severed.wait(60)
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "keys").symlink_to(postgresql_place.data_dir / "keys")
    other = Store.open(PostgresPlace(tmp_path / "node", postgresql_place.url))
    assert other.append_batch([observed("a", 2)])[0].index == 2
    other.close()
    proxy.resume()
    held.join(60)
    assert store.size == 4
    assert audited(postgresql_place) == []


def test_it_works_behind_a_pooler_in_transaction_mode(
    postgresql: PostgreSql, postgresql_place: PostgresPlace
) -> None:
    need(PGBOUNCER)
    with server_folder() as folder, PgBouncer(folder / "pgbouncer", postgresql, size=2).running() as pooler:
        url = postgresql_place.url.replace(str(postgresql.port), str(pooler.port))
        place = PostgresPlace(postgresql_place.data_dir, url)
        for at in range(1, 4):
            store = Store.open(place)
            for _ in range(10):
                store.append_batch([observed("a", at), observed("b", at)])
            store.checkpoint()
            store.close()
        reader = Reader.open(place)
        assert len(list(reader.entries(target="a"))) == 30
        facts = examine(place)
        assert facts is not None
        assert facts.pooled
        reader.close()
        assert audited(place) == []


def test_what_keeps_a_ledger_from_a_database_is_said(postgresql: PostgreSql, tmp_path: Path) -> None:
    with postgresql.database() as name:
        url, role = postgresql.url(name), f"stranger_{name}"
        facts = examine(PostgresPlace(tmp_path, url))
        assert facts is not None
        assert facts.obstacles == ()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {role} LOGIN")
            connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        facts = examine(PostgresPlace(tmp_path, url.replace("owner@", f"{role}@")))
        with postgresql.connect() as connection:
            connection.execute(f"DROP ROLE {role}")
    assert facts is not None
    assert [one.partition(":")[0] for one in facts.obstacles] == [
        "it can only be read",
        "it has no tables yet, and the role may not make them",
    ]


def test_a_password_is_given_at_each_connection_and_shown_nowhere(
    postgresql: PostgreSql, postgresql_place: PostgresPlace
) -> None:
    url = postgresql_place.url.replace("owner@", f"{SECRETIVE}@")
    place = PostgresPlace(postgresql_place.data_dir, url, password=lambda: PASSWORD)
    store = Store.open(place)
    store.append_batch([observed("a", 1)])
    assert PASSWORD not in repr(vars(place)) + str(place) + repr(place.engine())
    store.close()
    wrong = PostgresPlace(postgresql_place.data_dir, url, password=lambda: "other")
    with pytest.raises(StoreUnavailableError, match="refuses our user or password") as refused:
        Store.open(wrong)
    assert "other" not in repr(refused.value.__cause__)


def test_a_backup_holds_the_ledger_in_sqlite_wherever_it_was(place: Place, tmp_path: Path) -> None:
    store = Store.open(place)
    store.append_batch([observed("a", 1), observed("b", 2)])
    store.checkpoint()
    written = store.append_batch([observed("a", 3)])
    outbox, tokens = Outbox(place), Tokens(place)
    outbox.put([], at=1, cursor=2)
    name = tokens.save(b"reply")
    file = tmp_path / "backup.tar.gz"
    made = backup(place, file)
    assert (made.origin, made.entries) == (store.keys.origin, 3)
    more = store.append_batch([observed("a", 4)])
    root, index = store.root, more[0].index
    for one in (store, outbox, tokens):
        one.close()
    restored = tmp_path / "restored"
    with tarfile.open(file) as tar:
        tar.extractall(restored, filter="data")
    reader = Reader.open(restored)
    assert list(reader.entries())[2] == written[0]
    reader.close()
    assert Tokens(restored).get(name) == b"reply"
    assert audited(SqlitePlace(restored)) == []
    outbox = Outbox(restored)
    assert outbox.cursor() == 2
    outbox.close()
    again = Store.open(restored)
    assert again.size == index
    again.close()
    reader = Reader.open(place)
    tree = CompactRange()
    for leaf in reader.leaf_hashes(0, index + 1):
        tree.append(leaf)
    reader.close()
    assert tree.root() == root


def test_the_keys_alone_are_backed_up_where_the_database_is_backed_up_apart(
    postgresql_place: PostgresPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = postgresql_place
    store, tokens = Store.open(place), Tokens(place)
    store.append_batch([observed("a", 1)])
    tokens.save(b"reply")
    for one in (store, tokens):
        one.close()
    config, file = tmp_path / "config.yaml", tmp_path / "keys.tar.gz"
    config.write_text(f"data_dir: {place.data_dir}\ndatabase: {place.url}\n{TARGETS}")
    command = ["--config", str(config), "backup"]
    assert main([*command, "--keys"]) == 2
    assert "--keys needs a FILE" in capsys.readouterr().err
    assert main([*command, "--keys", str(file), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["origin"], made["entries"], made["files"]) == (store.keys.origin, None, 3)
    assert file.stat().st_mode & 0o777 == 0o600
    assert main([*command, "--keys", str(file)]) == 2
    restored = PostgresPlace(tmp_path / "restored", place.url)
    with tarfile.open(file) as tar:
        assert {member.name for member in tar if member.isfile()} == {
            "keys/ledger.pem", "keys/ledger.pub", "keys/targets.key",
        }  # fmt: skip
        tar.extractall(restored.data_dir, filter="data")
    store = Store.open(restored)
    assert (store.size, store.append_batch([observed("a", 2)])[0].number) == (1, 2)
    store.close()


def test_a_role_of_its_own_may_append_and_can_change_nothing(
    postgresql: PostgreSql, postgresql_place: PostgresPlace
) -> None:
    name = postgresql_place.url.rpartition("/")[2]
    role = f"mail watch {name}"
    with postgresql.connect(name) as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN')
        try:
            own = PostgresPlace(
                postgresql_place.data_dir, postgresql_place.url.replace("owner@", role.replace(" ", "%20") + "@")
            )
            with pytest.raises(StoreUnavailableError, match="mailwatch ledger prepare"):
                Store.open(own)
            prepare_tables(postgresql_place, own.user)
            prepare_tables(postgresql_place, own.user)
            store = Store.open(own)
            store.append_batch([observed("a", 1)])
            store.checkpoint()
            store.close()
            tokens = Tokens(own)
            assert tokens.get(tokens.save(b"reply")) == b"reply"
            tokens.close()
            outbox = Outbox(own)
            outbox.put([], at=1, cursor=1)
            assert outbox.cursor() == 1
            outbox.close()
            assert audited(own) == []
            facts = examine(own)
            assert facts is not None
            assert (facts.owner, facts.pooled, facts.durable) == (False, False, False)
            for change in (
                "DROP TRIGGER entries_no_update ON entries", "TRUNCATE entries", "DROP TABLE ledger_head",
                "ALTER TABLE entries DISABLE TRIGGER ALL", "DELETE FROM token_files", "DELETE FROM checkpoints",
            ):  # fmt: skip
                with pytest.raises(StoreUnavailableError, match=r"permission denied|must be owner"):
                    execute(own, change)
        finally:
            connection.execute(f'DROP OWNED BY "{role}"')
            connection.execute(f'DROP ROLE "{role}"')


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda url: url.replace("test", "absent"), StoreUnavailableError, "does not exist"),
        (lambda url: re.sub(r":\d+/", ":1/", url), DatabaseAwayError, "check whether it runs"),
        (lambda url: f"{url}?target_session_attrs=standby", DatabaseAwayError, "does not answer"),
    ],
)
def test_a_database_that_cannot_be_used_says_why(
    postgresql_place: PostgresPlace, spoil: Callable[[str], str], kind: type[Exception], words: str
) -> None:
    place = PostgresPlace(postgresql_place.data_dir, spoil(postgresql_place.url))
    with pytest.raises(kind, match=words):
        Store.open(place)


def test_a_read_only_database_is_away_not_broken(postgresql: PostgreSql, postgresql_place: PostgresPlace) -> None:
    store = Store.open(postgresql_place)
    name = postgresql_place.url.rpartition("/")[2]
    with postgresql.connect() as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    draft = observed("a", 1)
    with pytest.raises(CommitInDoubtError):
        store.append_batch([draft])
    with pytest.raises(StoreUnavailableError, match="read-only") as refused:
        store.append_batch([draft])
    assert store.health.damage is None
    assert not isinstance(refused.value, CommitInDoubtError)
    with postgresql.connect() as connection:
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    with pytest.raises(CommitInDoubtError):
        store.append_batch([draft])
    assert store.append_batch([draft])[0].index == 0
    store.close()


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=[pytest.mark.nightly, pytest.mark.timeout(3000)])])
def test_kill_9_of_the_server_loses_nothing_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    """As users have it: every commit waits for the disk. The writer asks again for what was in doubt, once."""
    with server_folder() as folder, PostgreSql(folder / "postgresql", durable=True).running() as server:
        place = PostgresPlace(tmp_path / "data", server.url(server.make_database()))
        store = Store.open(place)
        acknowledged, waiting = 0, [observed(f"t{number}", 0) for number in range(20)]

        def append_for_ever() -> None:
            nonlocal acknowledged
            while True:
                acknowledged += len(store.append_batch(waiting))
                waiting[:] = [observed(f"t{number}", acknowledged) for number in range(20)]

        for number in range(kills):
            killing = threading.Timer(0.2 + number % 10 / 50, server.kill)
            killing.start()
            with pytest.raises(DatabaseAwayError):
                append_for_ever()
            killing.join()
            server.start()
        acknowledged += len(store.append_batch(waiting))
        assert store.size == acknowledged
        store.close()
        assert audited(place) == []


def test_without_psycopg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(Exception, match=r"pip install 'mailwatch\[postgresql\]'"):
        PostgresPlace(tmp_path, "postgresql://localhost/x")


def test_the_address_is_never_repeated_where_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is not postgresql://") as refused:
        PostgresPlace(tmp_path, "postgresql://user:secret@[::1/x")
    assert "secret" not in str(refused.value)
    assert not isinstance(refused.value, psycopg.Error)


def test_an_option_that_nobody_knows_is_named_unless_it_may_be_of_a_password(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"has the option nosuch after \?, which libpq does not know"):
        PostgresPlace(tmp_path, "postgresql://u@h/db?connect_timeout=3&nosuch=1")
    with pytest.raises(OperationError, match="is not postgresql://") as refused:
        PostgresPlace(tmp_path, "postgresql://h/u:pass?secret=1@h/db")
    assert "secret" not in str(refused.value)
