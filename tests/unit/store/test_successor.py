"""A ledger that was lost has a successor that names it; whatever is interrupted, nothing is lost on the way."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.succession import Link, predecessors
from mailwatch.store import (
    DataDirLockedError,
    KeysDifferError,
    KeysMissingError,
    LedgerClosedError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerWholeError,
    NewEntry,
    Reader,
    Store,
    StoreDamagedError,
    StoreUnavailableError,
    Tokens,
    audit,
    audit_signed,
    backup,
    begin_successor,
    load_keys,
)

pytestmark = pytest.mark.sqlite
"""Of PostgreSQL: test_successor_postgresql.py."""

NODE = NewEntry(kind="node", time=1, target=None, payload={"event": "start"})


def grow(folder: Path, entries: int = 3) -> str:
    """Append entries and sign them; return the ledger's name."""
    with contextlib.closing(Store.open(folder)) as store:
        store.append_batch([NODE] * entries)
        store.checkpoint()
        return store.keys.origin


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A signed ledger of three entries and a token, that nobody has open."""
    folder = tmp_path / "data"
    grow(folder)
    Tokens(folder).save(b"a reply")
    return folder


def chain(folder: Path) -> tuple[Link, ...]:
    """What the first entry of a ledger says of its predecessors, checked."""
    reader = Reader.open(folder)
    try:
        first = next(reader.entries())
        assert [entry.index for entry in reader.entries(kinds=["successor"])] == [0]
    finally:
        reader.close()
    assert first.kind == "successor"
    return predecessors(first.payload, (folder / "keys" / "ledger.pub").read_text().removesuffix("\n"))


def audited(folder: Path) -> list[str]:
    keys, reader = load_keys(folder), Reader.open(folder)
    try:
        return [finding.what for finding in audit(reader, keys.public, keys.secret)]
    finally:
        reader.close()


def lose_database(folder: Path) -> None:
    (folder / "mailwatch.sqlite").unlink()


def restore_older(folder: Path) -> None:
    """Put the state after three entries back, when five were signed."""
    old = folder.with_name("older.sqlite")
    shutil.copy(folder / "mailwatch.sqlite", old)
    grow(folder, 2)
    old.replace(folder / "mailwatch.sqlite")


def lose_keys(folder: Path) -> None:
    shutil.rmtree(folder / "keys")


def lose_signing_key(folder: Path) -> None:
    (folder / "keys" / "ledger.pem").unlink()


def lose_secret(folder: Path) -> None:
    (folder / "keys" / "targets.key").unlink()


def overwrite_database(folder: Path) -> None:
    (folder / "mailwatch.sqlite").write_bytes(b"SQLite format 3\0" + bytes(9000))


LOSSES: dict[str, tuple[Callable[[Path], None], type[Exception], Link]] = {
    "database gone": (
        lose_database,
        LedgerMissingError,
        Link(origin="o", key="k", size=3, root="r", reason="database_lost", kept=None, appointed=True),
    ),
    "older copy": (
        restore_older,
        LedgerRolledBackError,
        Link(origin="o", key="k", size=5, root="r", reason="database_older", kept=3, appointed=True),
    ),
    "keys gone": (
        lose_keys,
        KeysMissingError,
        Link(origin="o", key="", size=3, root="r", reason="keys_lost", kept=3, appointed=False),
    ),
    "signing key gone": (
        lose_signing_key,
        KeysMissingError,
        Link(origin="o", key="k", size=3, root="r", reason="keys_lost", kept=3, appointed=False),
    ),
    "secret gone": (
        lose_secret,
        KeysMissingError,
        Link(origin="o", key="k", size=3, root="r", reason="keys_lost", kept=3, appointed=True),
    ),
    "database overwritten": (
        overwrite_database,
        StoreDamagedError,
        Link(origin="o", key="k", size=3, root="r", reason="database_damaged", kept=None, appointed=True),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_ledger_is_refused_and_has_a_successor_that_names_it(data_dir: Path, loss: str) -> None:
    lose, refused, expected = LOSSES[loss]
    public = (data_dir / "keys" / "ledger.pub").read_text().removesuffix("\n")
    secret = (data_dir / "keys" / "targets.key").read_bytes()
    lose(data_dir)
    with pytest.raises(refused, match="`mailwatch run --successor`"):
        Store.open(data_dir)
    done = begin_successor(data_dir)
    (link,) = chain(data_dir)
    assert link.root is not None
    known = {"o": public.partition("+")[0], "k": public, "": "", "r": link.root}
    assert (link.origin, link.key) == (known[expected.origin], known[expected.key])
    assert (link.size, link.reason, link.kept, link.appointed) == (
        (expected.size, expected.reason, expected.kept, expected.appointed)
    )
    assert (done.predecessor, done.reason) == (link.origin, link.reason)
    assert done.origin == load_keys(data_dir).origin != link.origin
    kept = loss not in ("keys gone", "secret gone")
    assert ((data_dir / "keys" / "targets.key").read_bytes() == secret) == kept
    # It goes on as any other ledger, and all of it is valid.
    grow(data_dir)
    assert audited(data_dir) == []
    assert sorted(path.name for path in data_dir.iterdir()) == ["archive", "keys", "lock", "mailwatch.sqlite"]


def test_an_older_copy_that_went_on_by_itself_is_recognised_by_its_root(data_dir: Path) -> None:
    head = data_dir / "keys" / "ledger.checkpoint"
    restore_older(data_dir)
    signed = head.read_bytes()
    head.unlink()
    grow(data_dir, 4)
    head.write_bytes(signed)
    with pytest.raises(LedgerRolledBackError, match="5 entries that was signed last is not in the database"):
        Store.open(data_dir)
    begin_successor(data_dir)
    (link,) = chain(data_dir)
    assert (link.size, link.kept) == (7, 7)


def test_the_archive_stays_readable_and_signs_nothing_more(data_dir: Path, tmp_path: Path) -> None:
    restore_older(data_dir)
    archive = begin_successor(data_dir).archive
    reader = Reader.open(archive)
    assert reader.size() == 3
    reader.close()
    assert audited(archive) == []
    assert audit_signed(archive, load_keys(archive), 3) == []
    assert Tokens(archive).get(Tokens(archive).save(b"a reply")) == b"a reply"
    before = (archive / "keys" / "ledger.checkpoint").read_bytes()
    with pytest.raises(LedgerClosedError, match=r"is closed: mailwatch/[0-9a-f]{16} goes on for it"):
        Store.open(archive)
    backup(archive, tmp_path / "archive.tar.gz")
    shutil.unpack_archive(tmp_path / "archive.tar.gz", tmp_path / "copy", filter="data")
    with pytest.raises(LedgerClosedError):
        Store.open(tmp_path / "copy")
    assert (archive / "keys" / "ledger.checkpoint").read_bytes() == before


def test_a_chain_of_losses_is_named_whole_even_without_the_databases(data_dir: Path) -> None:
    names = [load_keys(data_dir).origin]
    for lose in (lose_database, restore_older, lose_database):
        lose(data_dir)
        names.append(begin_successor(data_dir).origin)
    assert [link.origin for link in chain(data_dir)] == names[:-1]
    assert all(link.appointed for link in chain(data_dir))
    assert sorted(path.name for path in (data_dir / "archive").iterdir()) == sorted(
        name.partition("/")[2] for name in names[:-1]
    )


def test_a_backup_of_a_successor_holds_the_archive_too(data_dir: Path, tmp_path: Path) -> None:
    restore_older(data_dir)
    archive = begin_successor(data_dir).archive.relative_to(data_dir)
    backup(data_dir, tmp_path / "b.tar.gz")
    with tarfile.open(tmp_path / "b.tar.gz") as tar:
        members = {member.name: f"{member.mode:o}" for member in tar}
    inside = ("closed.json", "keys/ledger.checkpoint", "keys/ledger.pem", "keys/targets.key", "mailwatch.sqlite")
    assert {f"{archive}/{name}" for name in inside} | {"keys/predecessors.json"} <= members.keys()
    assert set(members.values()) == {"700", "600"}
    shutil.unpack_archive(tmp_path / "b.tar.gz", tmp_path / "copy", filter="data")
    assert chain(tmp_path / "copy") == chain(data_dir)


def test_a_whole_ledger_has_no_successor_but_by_its_owners_word(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerWholeError, match="mailwatch ledger successor --older"):
        begin_successor(data_dir)
    with pytest.raises(FileNotFoundError, match="no ledger yet"):
        begin_successor(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    begin_successor(data_dir, older=True)
    (link,) = chain(data_dir)
    assert (link.reason, link.size, link.kept, link.appointed) == ("database_older", 3, 3, True)


def test_keys_of_another_ledger_are_no_loss(data_dir: Path, tmp_path: Path) -> None:
    grow(tmp_path / "other")
    shutil.rmtree(data_dir / "keys")
    (tmp_path / "other" / "keys").rename(data_dir / "keys")
    with pytest.raises(KeysDifferError, match="restore keys and database together"):
        begin_successor(data_dir)


def test_a_ledger_in_use_has_no_successor(data_dir: Path) -> None:
    with contextlib.closing(Store.open(data_dir)), pytest.raises(DataDirLockedError):
        begin_successor(data_dir, older=True)


def test_a_reader_between_the_two_ledgers_is_asked_to_wait(data_dir: Path) -> None:
    (data_dir / "succession").mkdir()
    (data_dir / "succession" / "ready.json").write_text("{}")
    with pytest.raises(StoreUnavailableError, match="`mailwatch run` completes it"):
        Reader.open(data_dir)


def test_what_was_begun_and_not_decided_is_removed(data_dir: Path) -> None:
    lose_database(data_dir)
    (data_dir / "succession" / "keys").mkdir(parents=True)
    (data_dir / "succession" / "keys" / "ledger.pem").write_text("half a key")
    with pytest.raises(LedgerMissingError):
        Store.open(data_dir)
    assert not (data_dir / "succession").exists()
    begin_successor(data_dir)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from mailwatch.store import LedgerRolledBackError, Store, begin_successor, closed_ledger

lost, step, files, decided = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(), sys.argv[4] == "decided"
complete = closed_ledger.complete_succession
if decided:
    # Until it is decided, once; then only the rest is repeated.
    def stop(folder):
        raise KeyboardInterrupt
    closed_ledger.complete_succession = stop
    try:
        begin_successor(lost)
    except KeyboardInterrupt:
        closed_ledger.complete_succession = complete

def start(folder, at):
    seen = 0
    def trace(frame, event, _):
        nonlocal seen
        if Path(frame.f_code.co_filename).name not in files:
            return None
        if event == "line":
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    complete(folder) if decided else begin_successor(folder)
    os._exit(0)

at, status, states = 1, 9, set()
while status:
    folder = lost.with_name(str(at))
    shutil.copytree(lost, folder)
    child = os.fork()
    if child == 0:
        start(folder, at)
    status = os.waitpid(child, 0)[1]
    # What the next start does: it refuses as before, or completes what was decided.
    try:
        Store.open(folder).close()
        states.add("completed")
    except LedgerRolledBackError:
        states.add("refused")
        begin_successor(folder)
    at += step
print(at, *sorted(states))
"""


@pytest.mark.parametrize(
    ("files", "begun", "step"),
    [
        ("closed_ledger.py", "decided", 1),
        pytest.param("closed_ledger.py successor.py", "not decided", 29, marks=pytest.mark.nightly),
    ],
)
def test_a_succession_that_is_killed_loses_nothing(data_dir: Path, files: str, begun: str, step: int) -> None:
    """At each line once it is decided; by night at each 29th of all lines."""
    grow(data_dir)
    restore_older(data_dir)
    old = {name: (data_dir / name).read_bytes() for name in ("keys/ledger.pem", "keys/ledger.checkpoint")}
    command = [sys.executable, "-c", KILLED, str(data_dir), str(step), files, begun]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last, *states = done.stdout.split()
    assert int(last) > 30
    assert states == (["completed"] if begun == "decided" else ["completed", "refused"])
    for folder in [data_dir.with_name(str(at)) for at in range(1, int(last), step)]:
        assert sorted(path.name for path in folder.iterdir()) == ["archive", "keys", "lock", "mailwatch.sqlite"]
        (archive,) = (folder / "archive").iterdir()
        assert {name: (archive / name).read_bytes() for name in old} == old
        with contextlib.closing(sqlite3.connect(archive / "mailwatch.sqlite")) as kept:
            assert kept.execute("SELECT count(*) FROM entries").fetchone() == (6,)
        # One root for one size: the old key signed nothing more, the new one its first entry.
        with contextlib.closing(sqlite3.connect(folder / "mailwatch.sqlite")) as begun_anew:
            assert begun_anew.execute("SELECT kind FROM entries").fetchall() == [("successor",)]
            assert begun_anew.execute("SELECT size FROM checkpoints").fetchall() == [(1,)]
        note = (folder / "keys" / "ledger.checkpoint").read_text()
        assert notes.verify(note, load_keys(folder).public).size == 1
    (link,) = chain(folder)
    assert (link.size, link.kept, link.appointed) == (8, 6, True)
