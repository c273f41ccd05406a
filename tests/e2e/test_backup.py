"""A backup made while a real `mailwatch run` writes is restored on a new machine, and goes on there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailwatch.cli import main
from mailwatch.config import ConfigError, load
from mailwatch.monitor.gaps import SHORTEST_GAP_MS
from mailwatch.store import Entry, KeysMissingError, NewEntry, Reader, Store, StoreDamagedError, backup
from mailwatch.store.tokens import Tokens
from mailwatch.times import now
from tests.helpers.process import MailWatchProcess
from tests.servers import ALICE, Certificates, Dovecot


@pytest.fixture
def process(dovecot: Dovecot, certificates: Certificates, tmp_path: Path) -> Iterator[MailWatchProcess]:
    secret = tmp_path / "secret"
    secret.write_text(dovecot.passwords[ALICE] + "\n")
    secret.chmod(0o600)
    target = {
        "name": "lab-imap",
        "kind": "imap",
        "provider": "lab",
        "host": "localhost",
        "port": dovecot.imaps_port,
        "tls": "implicit",
        "ca_file": str(certificates.ca_file),
        "login": {"username": ALICE, "password_file": str(secret)},
        "interval": "200ms",
        "timeout": "5s",
    }
    folder = tmp_path / "old"
    folder.mkdir()
    mailwatch = MailWatchProcess(folder, [target])
    with mailwatch.running():
        yield mailwatch


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A small ledger that nobody writes."""
    data_dir = tmp_path / "data"
    store = Store.open(data_dir)
    store.append_batch([NewEntry(kind="node", time=1, target=None, payload={"event": "start"})])
    store.checkpoint()
    store.close()
    return data_dir


def restored(file: Path, folder: Path) -> Path:
    """As docs/how-to/backup.md says it."""
    folder.mkdir(mode=0o700)
    subprocess.run(["tar", "-xpf", str(file), "-C", str(folder)], check=True)
    return folder


def headers(data_dir: Path) -> list[str]:
    reader = Reader.open(data_dir)
    try:
        return [entry.header for entry in reader.entries()]
    finally:
        reader.close()


def gaps_from(data_dir: Path, index: int) -> list[Entry]:
    reader = Reader.open(data_dir)
    try:
        return list(reader.entries(kinds=["gap"], from_index=index))
    finally:
        reader.close()


def test_a_backup_made_while_it_writes_is_restored_and_the_same_ledger_goes_on(
    process: MailWatchProcess, tmp_path: Path
) -> None:
    process.wait_until(
        lambda: process.count("lab-imap", "up") + process.count("lab-imap", "down") >= 5, "five observations"
    )
    before = len(headers(process.data_dir))
    file = tmp_path / "backup.tar.gz"
    done = process.command("backup", str(file), "--json")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert reported["entries"] >= before
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob(".mailwatch-backup-*")) == []
    # The old machine goes on for a while, and dies of a power cut.
    process.wait_until(lambda: len(headers(process.data_dir)) > reported["entries"], "going on")
    process.kill()
    original = headers(process.data_dir)

    folder = tmp_path / "new"
    folder.mkdir()
    new = MailWatchProcess(folder, process.settings["targets"])
    restored(file, new.data_dir)
    assert headers(new.data_dir) == original[: reported["entries"]]
    audit = new.command("ledger", "audit", "--json")
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert json.loads(audit.stdout)["origin"] == reported["origin"]
    assert json.loads(audit.stdout)["entries"] == reported["entries"]
    ended = json.loads(original[reported["entries"] - 1])["time"]
    new.wait_until(lambda: now() - ended > 2 * SHORTEST_GAP_MS, "a time worth a gap")
    with new.running():
        new.wait_until(
            lambda: gaps_from(new.data_dir, reported["entries"]), "an observation, and the gap before it"
        )
    assert headers(new.data_dir)[: reported["entries"]] == original[: reported["entries"]]
    audit = new.command("ledger", "audit", "--json")
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert json.loads(audit.stdout)["origin"] == reported["origin"]
    # The time from the backup until now was not watched, and the record says so.
    assert gaps_from(new.data_dir, reported["entries"])


def test_everything_that_belongs_to_a_ledger_is_in_it_and_nothing_half_written(
    ledger: Path, tmp_path: Path
) -> None:
    token = Tokens(ledger).save(b"a reply")
    (ledger / "oauth").mkdir(mode=0o700)
    for name in ("anna@example.org.json", "anna@example.org.lock", "anna@example.org.json.1234.new"):
        (ledger / "oauth" / name).write_text("{}")
    file = tmp_path / "backup.tar.gz"
    made = backup(ledger, file)
    assert (made.entries, made.files) == (1, 6)
    with tarfile.open(file) as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert set(members) == {
        "keys", "tokens", "oauth", "claims", "declarations",
        "mailwatch.sqlite", "keys/ledger.pem", "keys/ledger.pub", "keys/targets.key",
        f"tokens/{token}.tsr", "oauth/anna@example.org.json",
    }  # fmt: skip
    for name, member in members.items():
        assert member.mode == (0o700 if member.isdir() else 0o600), name
        assert (member.uid, member.uname) == (0, ""), name
    copy = restored(file, tmp_path / "copy")
    assert Tokens(copy).get(token) == b"a reply"
    assert (copy / "keys" / "ledger.pem").read_bytes() == (ledger / "keys" / "ledger.pem").read_bytes()


def test_a_file_that_is_there_is_not_replaced(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backup.tar.gz"
    file.write_text("yesterday's")
    config = tmp_path / "config.yaml"
    config.write_text("vantage_point: {name: x}\ntargets: [{name: a, kind: imap, provider: libero}]\n")
    assert main(["--config", str(config), "backup", str(file)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert file.read_text() == "yesterday's"
    assert list(tmp_path.glob(".mailwatch-backup-*")) == []


def test_a_backup_that_could_not_be_restored_is_not_made(ledger: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar.gz"
    aside = tmp_path / "targets.key"
    shutil.move(ledger / "keys" / "targets.key", aside)
    with pytest.raises(KeysMissingError):
        backup(ledger, file)
    shutil.move(aside, ledger / "keys" / "targets.key")
    other = Store.open(tmp_path / "other")
    other.append_batch([NewEntry(kind="node", time=1, target=None, payload={"event": "start"})])
    other.checkpoint()
    other.close()
    for name in ("ledger.pem", "targets.key", "ledger.pub"):
        shutil.copy(tmp_path / "other" / "keys" / name, ledger / "keys" / name)
    with pytest.raises(StoreDamagedError, match="restore keys and database together"):
        backup(ledger, file)
    with pytest.raises(FileNotFoundError, match="no ledger yet"):
        backup(tmp_path / "nowhere", file)
    assert not file.exists()
    assert list(tmp_path.glob(".mailwatch-backup-*")) == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE entries SET payload = 'x' WHERE idx = 0", "entry 0 of the ledger is not what was written"),
        ("UPDATE entries SET header = header || ' ' WHERE idx = 0", "its entries do not give the root"),
    ],
)
def test_a_backup_of_a_damaged_entry_is_not_made(
    ledger: Path, tmp_path: Path, statement: str, message: str
) -> None:
    store = Store.open(ledger)
    store.checkpoint()
    store.close()
    with contextlib.closing(sqlite3.connect(ledger / "mailwatch.sqlite")) as connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute(statement)
        connection.commit()
    # As a start, which reads the entries after the last checkpoint only.
    Store.open(ledger).close()
    with pytest.raises(StoreDamagedError, match=message):
        backup(ledger, tmp_path / "backup.tar.gz")
    assert not list(tmp_path.glob("*backup*"))


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_database(*_: object, **__: object) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"
    raise error


@pytest.mark.parametrize(
    ("where", "failing", "message"),
    [
        ((tarfile, "open"), no_space, "{file}: No space left on device; free some space there, or name another"),
        ((os, "fsync"), no_space, "{file}: No space left on device; free some space there, or name another"),
        ((tempfile, "mkdtemp"), no_space, "{file}: No space left on device; free some space there, or name"),
        ((sqlite3, "connect"), full_database, "the disk of {file} is full; free some space there"),
        (
            (os, "statvfs"),
            lambda _: SimpleNamespace(f_blocks=9, f_bavail=1, f_frsize=1000),
            "{file}: the disk there has 0.0 MB free, and a backup needs 0.",
        ),
    ],
    ids=["packing", "syncing", "folder", "database", "before"],
)
def test_a_full_disk_names_the_backup_and_what_to_do(
    ledger: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: tuple[object, str],
    failing: Callable[..., object],
    message: str,
) -> None:
    folder = tmp_path / "my backups"
    folder.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text("vantage_point: {name: x}\ntargets: [{name: a, kind: imap, provider: libero}]\n")
    monkeypatch.setattr(*where, failing)
    assert main(["--config", str(config), "backup", str(folder / "b.tar.gz")]) == 1
    monkeypatch.undo()
    reported = capsys.readouterr().err
    assert message.format(file=folder / "b.tar.gz") in reported
    assert ".mailwatch-backup" not in reported
    assert list(folder.iterdir()) == []


def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(ledger: Path, tmp_path: Path) -> None:
    path = ledger / "mailwatch.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreDamagedError, match="written by a newer MailWatch"):
        Store.open(ledger)
    with pytest.raises(StoreDamagedError) as refused:
        backup(ledger, tmp_path / "backup.tar.gz")
    assert str(refused.value).startswith(f"{path} was written by a newer MailWatch")
    assert path.read_bytes() == before


def test_the_environment_wins_over_the_file_for_data_and_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("vantage_point: {name: x}\ntargets: [{name: a, kind: imap, provider: libero}]\n")
    assert (load(config).data_dir, load(config).web.listen) == (tmp_path / "data", "127.0.0.1:8080")
    monkeypatch.setenv("MAILWATCH_DATA_DIR", "/elsewhere")
    monkeypatch.setenv("MAILWATCH_LISTEN", "0.0.0.0:9000")
    assert (load(config).data_dir, load(config).web.listen) == (Path("/elsewhere"), "0.0.0.0:9000")
    monkeypatch.setenv("MAILWATCH_DATA_DIR", "")
    assert load(config).data_dir == tmp_path / "data"
    monkeypatch.setenv("MAILWATCH_LISTEN", "nonsense")
    with pytest.raises(ConfigError, match=r"web\.listen \(from MAILWATCH_LISTEN\)"):
        load(config)
