"""A hub and a vantage point as processes: joined by an invitation, pushed, cosigned, cut off, removed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailwatch.ledger.checkpoint import origin_of
from mailwatch.store import NewEntry, Reader, Store, load_keys
from mailwatch.store.member_ledger import member_place
from mailwatch.store.sizes import SizeMeter
from mailwatch.times import now
from tests.helpers.altered_rows import alter
from tests.helpers.bundle_files import files_of
from tests.helpers.ledger_factory import DAY, MINUTE, observation_of
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.sqlite_access import wait_for_no_disk
from tests.servers import free_port

SILENT = {"kind": "imap", "host": "127.0.0.1", "port": 9, "tls": "none", "interval": "1s", "timeout": "1s"}
OTHER = SILENT | {"name": "other"}


def entries(process: MailWatchProcess, kind: str) -> list[dict[str, Any]]:
    """The payloads of a kind, oldest first."""
    with contextlib.closing(Reader.open(process.data_dir)) as reader:
        return [entry.payload for entry in reader.entries(kinds=[kind])]


class Pair:
    """A hub, and a vantage point that is to join it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        for name in ("hub", "home"):
            (folder / name).mkdir()
        server = {"listen": f"127.0.0.1:{self.port}"}
        self.hub = MailWatchProcess(folder / "hub", [SILENT | {"name": "lab"}], hub_server=server)
        self.home = MailWatchProcess(
            folder / "home", [SILENT | {"name": "box"}, OTHER], detection={"open_after": 1, "close_after": 1}
        )
        for process in (self.hub, self.home):
            with process.running():
                pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def join(self, *send: str) -> None:
        """By an invitation, while the hub runs."""
        token = self.hub.command("hub", "invite", "grandma").stdout.strip()
        words = [word for each in send for word in ("--send", each)]
        joined = self.home.command("join", self.url, *words, given=f"{token}\n")
        assert joined.returncode == 0, joined.stderr
        self.home.settings |= yaml.safe_load(joined.stdout)
        self.home.settings["hub"]["every"] = "1s"
        self.home.write_config()

    @contextlib.contextmanager
    def reader(self) -> Iterator[Reader]:
        """What the hub has of the vantage point."""
        origin = origin_of(load_keys(self.home.data_dir).public)
        with contextlib.closing(Reader.open(member_place(self.hub.data_dir, origin))) as reader:
            yield reader

    def pushed(self) -> int:
        """How many entries the hub has."""
        try:
            with self.reader() as reader:
                return reader.size()
        except FileNotFoundError:
            return 0


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_vantage_point_pushes_all_and_each_cosigns_the_other(pair: Pair) -> None:
    with pair.hub.running():
        pair.join("all")
        with pair.home.running():
            for one in (pair.home, pair.hub):
                one.wait_until(lambda it=one: "cosignature" in str(entries(it, "witness")), "cosigned")  # type: ignore[misc]
            with contextlib.closing(Reader.open(pair.home.data_dir)) as own:
                size = own.size()
            pair.hub.wait_until(lambda: pair.pushed() > size, "pushed what came since")
        (listed,) = json.loads(pair.hub.command("hub", "list", "--json").stdout)
        assert (listed["name"], listed["send"], bool(listed["agreed"])) == ("grandma", "all", True)
        assert "grandma" in pair.hub.command("hub", "list").stdout
    # The same note is on the record of both.
    assert entries(pair.home, "consent") == entries(pair.hub, "consent")
    with pair.reader() as pushed, contextlib.closing(Reader.open(pair.home.data_dir)) as own:
        size = pushed.size()
        assert list(pushed.raw_entries(0, size)) == list(own.raw_entries(0, size))
    for process in (pair.hub, pair.home):
        assert process.command("ledger", "audit").returncode == 0
    assert f"grandma: {size} entries, as their owner signed them" in pair.hub.command("ledger", "audit").stdout
    origin = origin_of(load_keys(pair.home.data_dir).public)
    alter(member_place(pair.hub.data_dir, origin), "UPDATE entries SET time_ms = time_ms + 1 WHERE idx = 3")
    audited = pair.hub.command("ledger", "audit")
    assert audited.returncode == 1
    assert "grandma: entry 3: its header differs in: time" in audited.stdout


def test_a_hub_that_is_away_gets_all_of_it_later(pair: Pair) -> None:
    with pair.hub.running():
        pair.join("all")
    with pair.home.running():
        pair.home.wait_until(lambda: "hub mailwatch/" in pair.home.log.read_text(), "a line about the hub")
        assert pair.pushed() == 0
        pair.hub.start()
        pair.hub.wait_until(lambda: pair.pushed() > 5, "pushed")
        pair.hub.kill()
        size = pair.pushed()
        pair.hub.start()
        pair.hub.wait_until(lambda: pair.pushed() > size, "pushed after a kill")
        pair.hub.stop()
    assert pair.home.command("ledger", "audit").returncode == 0


@pytest.mark.nightly
def test_of_one_target_nothing_leaves_but_hashes(pair: Pair) -> None:
    with pair.hub.running():
        pair.join("box")
        with pair.home.running():
            pair.hub.wait_until(lambda: pair.pushed() > 10, "pushed")
    with pair.reader() as reader:
        assert reader.targets() == ["box"]
        withheld = [row for row in reader.raw_entries(0, reader.size()) if not row[5]]
    assert withheld
    assert [one["send"] for one in entries(pair.hub, "consent")] == [["box"]]
    (file,) = (pair.hub.data_dir / "hub").rglob("mailwatch.sqlite")
    assert b'"target":"other"' not in file.read_bytes()


def test_the_hub_and_its_member_confirm_what_both_observe(pair: Pair) -> None:
    pair.hub.settings["targets"] = [SILENT | {"name": "box"}, SILENT | {"name": "lab"}]
    pair.hub.settings["detection"] = {"open_after": 1, "quorum": 2}
    pair.hub.write_config()
    with pair.hub.running():
        pair.join("all")
        with pair.home.running():
            pair.hub.wait_until(lambda: entries(pair.hub, "quorum"), "a decision")
            pair.hub.wait_until(lambda: "hub_confirmed_down{" in pair.hub.get("/metrics"), "a metric")
            listed = pair.hub.command("hub", "confirmed").stdout
    assert "box/imap" in listed
    # The member does not observe it, and the hub alone is one.
    assert "lab/imap" not in listed
    decided = entries(pair.hub, "quorum")[0]
    assert [one["sight"] for one in decided["members"]] == ["down", "down"]
    assert pair.hub.command("ledger", "audit").returncode == 0
    (outage,) = json.loads(pair.hub.command("hub", "confirmed", "--json").stdout)
    joint = pair.hub.data_dir.parent / "joint.zip"
    made = pair.hub.command("hub", "evidence", str(outage["entry"]), "-o", str(joint))
    assert (made.returncode, "2 of 2 vantage points" in made.stdout) == (0, True), made.stderr
    verified = pair.hub.command("verify", str(joint), "--json")
    assert verified.returncode == 0, verified.stdout
    # Both observe one server under one name: it is one channel.
    (group,) = json.loads(files_of(joint)["joint.json"])["groups"]
    assert (group["provider"], len(group["vantage_points"])) == ("box", 2)
    nothing = pair.hub.command("hub", "evidence", "0", "-o", str(joint))
    assert (nothing.returncode, "confirmed no outage" in nothing.stderr) == (1, True)


@pytest.mark.nightly
def test_checkpoints_alone_are_cosigned_and_no_entry_leaves(pair: Pair) -> None:
    with pair.hub.running():
        pair.join("checkpoints")
        with pair.home.running():
            for one in (pair.home, pair.hub):
                one.wait_until(lambda it=one: "cosignature" in str(entries(it, "witness")), "cosigned")  # type: ignore[misc]
    assert pair.pushed() == 0
    assert [one["send"] for one in entries(pair.hub, "consent")] == ["checkpoints"]


@pytest.mark.nightly
def test_a_removed_vantage_point_is_refused_and_probes_on(pair: Pair) -> None:
    with pair.hub.running():
        pair.join("all")
        with pair.home.running():
            pair.hub.wait_until(lambda: pair.pushed() > 5, "pushed")
            assert pair.hub.command("hub", "revoke", "grandma").returncode == 0
            pair.home.wait_until(lambda: "was removed from this hub" in pair.home.log.read_text(), "refused")
            size, count = pair.pushed(), pair.home.count("box", "down")
            pair.home.wait_until(lambda: pair.home.count("box", "down") > count + 2, "probing on")
            assert pair.pushed() == size
            assert pair.home.get("/readyz").startswith("ok\n")


@pytest.mark.nightly
def test_an_older_copy_of_the_data_dir_is_found_out(pair: Pair, tmp_path: Path) -> None:
    with pair.hub.running():
        pair.join("all")
        with pair.home.running():
            pair.hub.wait_until(lambda: pair.pushed() > 5, "pushed")
        shutil.copytree(pair.home.data_dir, tmp_path / "copy")
        with contextlib.closing(Reader.open(tmp_path / "copy")) as reader:
            size = reader.size()
        with pair.home.running():
            pair.hub.wait_until(lambda: pair.pushed() > size, "pushed further")
        shutil.rmtree(pair.home.data_dir)
        shutil.copytree(tmp_path / "copy", pair.home.data_dir)
        with pair.home.running():
            pair.home.wait_until(lambda: "two histories" in pair.home.log.read_text(), "an alarm")
            pair.home.wait_until(lambda: entries(pair.home, "hub"), "on record")


FIRST_PUSH_BYTES = 150_000_000
"""Most bytes by which the memory of either side may grow in a first push, which is far longer than that."""


def peak(process: MailWatchProcess) -> int:
    """The most memory that a process has taken, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.nightly
def test_a_first_push_of_a_long_ledger_goes_on_after_kills_of_either_side_in_bounded_memory(pair: Pair) -> None:
    write_long(pair.home.data_dir, 250_000)
    with pair.hub.running():
        pair.join("all")
        before = peak(pair.hub)
        with pair.home.running():
            own = peak(pair.home)
            for killed in (pair.hub, pair.home, pair.hub, pair.home):
                size = pair.pushed()
                pair.hub.wait_until(lambda size=size: pair.pushed() > size + 15_000, "pushed")  # type: ignore[misc]
                assert pair.pushed() < 250_000
                killed.kill()
                killed.start()
            pair.hub.wait_until(lambda: pair.pushed() > 250_000, "pushed all")
            pair.home.wait_until(lambda: "it has all " in pair.home.log.read_text(), "a line about it")
            grown = {"hub": peak(pair.hub) - before, "home": peak(pair.home) - own}
        assert "of 2" in pair.home.log.read_text()
    assert all(bytes_ < FIRST_PUSH_BYTES for bytes_ in grown.values()), grown
    with pair.reader() as pushed, contextlib.closing(Reader.open(pair.home.data_dir)) as own_reader:
        size = pushed.size()
        assert list(pushed.leaf_hashes(0, size)) == list(own_reader.leaf_hashes(0, size))
    assert pair.hub.command("ledger", "audit").returncode == 0


@pytest.mark.nightly
def test_a_running_hub_packs_what_its_members_pushed(pair: Pair) -> None:
    write_long(pair.home.data_dir, 25_000)
    with pair.hub.running():
        pair.join("other")
        with pair.home.running():
            pair.hub.wait_until(lambda: pair.pushed() > 25_000, "pushed")
        size = pair.hub.metric('mailwatch_ledger_bytes{form="packs"}')
        origin = origin_of(load_keys(pair.home.data_dir).public)
        place = member_place(pair.hub.data_dir, origin)
        with contextlib.closing(SizeMeter(place)) as meter:
            # It begins a minute after its start, and packs four times 4,096 withheld entries.
            pair.hub.wait_until(lambda: meter.measure(now()).packed >= 16_384, "packed", 10 * PATIENCE)
            packed = meter.measure(now()).packs
        assert packed < 16_384 * 60
        assert size == 0
        metric = 'mailwatch_ledger_bytes{form="packs"}'
        pair.hub.wait_until(lambda: (pair.hub.metric(metric) or 0) >= packed, "counted", 10 * PATIENCE)
    audited = pair.hub.command("ledger", "audit")
    assert (audited.returncode, "grandma: 2" in audited.stdout) == (0, True)


def write_long(data_dir: Path, entries: int) -> None:
    """Append observations of a year ago to a ledger."""
    with contextlib.closing(Store.open(data_dir)) as store:
        wait_for_no_disk(store)
        begin = now() - 365 * DAY
        for first in range(0, entries, 5000):
            seen = [observation_of("old", "+", begin + at * MINUTE) for at in range(first, first + 5000)]
            store.append_batch(
                [NewEntry(kind="observation", time=one.ended_at, target="old", payload=one) for one in seen]
            )
            store.checkpoint()
