"""The database goes away while MailWatch runs: it probes on, and all is on record once the database is back."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.store import Reader
from mailwatch.store.postgres import PostgresPlace
from mailwatch.times import rfc3339
from tests.helpers.config_entries import INTERVAL_SECONDS, imap
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need
from tests.helpers.webhook import Webhook
from tests.servers import Certificates, Dovecot, free_port
from tests.servers.postgresql import POSTGRES, PostgreSql
from tests.servers.program import server_folder


@pytest.fixture
def database() -> Iterator[PostgreSql]:
    """A cluster of the test's own, to stop: every commit waits for the disk."""
    need(POSTGRES)
    with server_folder() as folder, PostgreSql(folder / "postgresql", durable=True).running() as server:
        yield server


class Waiting:
    """A running MailWatch, its database, and what it keeps meanwhile."""

    def __init__(self, folder: Path, server: PostgreSql, targets: list[dict[str, Any]], **sections: Any) -> None:
        self.server, self.url = server, server.url(server.make_database())
        recheck = {"recheck": [f"{INTERVAL_SECONDS}s"]}
        self.process = MailWatchProcess(folder, targets, database=self.url, detection=recheck, **sections)

    def waiting(self) -> int:
        """How many observations wait, as the metrics say."""
        return int(self.process.metric("mailwatch_spool_observations ") or 0)

    def wait_for_more(self) -> None:
        """Wait for two observations more."""
        before = self.waiting()
        self.process.wait_until(lambda: self.waiting() >= before + 2, "more observations that wait")

    def wait_drained(self) -> None:
        self.process.wait_until(
            lambda: self.process.get("/readyz").startswith("ok"), "ready, with nothing waiting"
        )
        assert self.waiting() == 0
        assert not (self.process.data_dir / "spool.sqlite").exists()

    def spooled(self) -> list[dict[str, Any]]:
        """The observations in the spool of a process that does not run, oldest first."""
        with contextlib.closing(sqlite3.connect(self.process.data_dir / "spool.sqlite")) as raw:
            rows = raw.execute("SELECT payload FROM drafts WHERE target IS NOT NULL ORDER BY number").fetchall()
        return [json.loads(payload) for (payload,) in rows]

    def recorded(self, *kinds: str) -> list[dict[str, Any]]:
        """The payloads on record."""
        with contextlib.closing(Reader.open(PostgresPlace(self.process.data_dir, self.url))) as reader:
            return [entry.payload for entry in reader.entries(kinds=kinds)]

    def assert_sound(self) -> None:
        """Assert that the audit finds nothing, and that no observation is there twice."""
        audit = self.process.command("ledger", "audit", "--json")
        assert json.loads(audit.stdout)["findings"] == [], audit.stdout
        seen = [(one["target"], one["start"]) for one in self.recorded("observation")]
        assert len(seen) == len(set(seen))


def messages_of(webhook: Webhook) -> str:
    """All that was notified."""
    return "\n".join(one["message"] for one in webhook.received)


def test_an_outage_within_an_absence_and_a_kill_has_its_true_bounds_and_is_notified_once(
    own_dovecot: Dovecot, certificates: Certificates, database: PostgreSql, tmp_path: Path
) -> None:
    webhook = Webhook().open()
    target = imap(own_dovecot, certificates, tmp_path / "secret")
    here = Waiting(tmp_path, database, [target], notify=[{"url": webhook.url, "on": ["open", "close"]}])
    process = here.process
    try:
        process.start()
        process.wait_for_state("lab-imap", "up")
        database.stop()
        process.wait_until(lambda: "the record waits: " in process.get("/readyz"), "waiting")
        own_dovecot.stop()
        here.wait_for_more()
        here.wait_for_more()
        own_dovecot.start()
        here.wait_for_more()
        here.wait_for_more()
        # Nothing of it is shown, and the pages say that what they show is old.
        assert process.state("lab-imap") == "up"
        assert "the ledger cannot be read: the database does not answer" in process.get("/api/v1/outages")
        page = process.get("/")
        assert "may be out of date" in page
        assert "checks wait for the database. The oldest is of " in page, page[page.index("<main") :][:600]
        assert webhook.received == []
        process.kill()
        kept = here.spooled()
        database.start()
        process.start()
        here.wait_drained()
        (outage,) = process.api("outages")
        process.wait_until(
            lambda: messages_of(webhook).count(outage["id"]) == 2, "notified of its beginning and its end"
        )
        assert process.stop() == 0
    finally:
        process.stop()
        webhook.close()
    downs = [one for one in kept if one["outcome"] == "down"]
    ups = [one for one in kept if one["outcome"] == "up" and one["start"] > downs[-1]["start"]]
    assert rfc3339(downs[0]["start"]) <= outage["first_bad"] <= rfc3339(downs[0]["end"])
    assert rfc3339(ups[0]["start"]) <= outage["first_good"] <= rfc3339(ups[0]["end"])
    seen = [{**one, "salt": ""} for one in here.recorded("observation")]
    assert [one for one in kept if {**one, "salt": ""} not in seen] == []
    assert here.recorded("late") == []
    here.assert_sound()
    assert messages_of(webhook).count(outage["id"]) == 2


@pytest.mark.nightly
def test_a_stop_loses_nothing_and_what_waits_of_a_removed_target_is_late(
    dovecot: Dovecot, certificates: Certificates, database: PostgreSql, tmp_path: Path
) -> None:
    targets = [imap(dovecot, certificates, tmp_path / "secret", name=name) for name in ("kept", "removed")]
    here = Waiting(tmp_path, database, targets)
    process = here.process
    try:
        process.start()
        process.wait_for_state("removed", "up")
        database.stop()
        here.wait_for_more()
        here.wait_for_more()
        # Its last entry is lost, and it says so; no observation is.
        assert process.stop() == 1
        assert (
            "1 entries could not be written and are lost: the database does not answer" in process.log.read_text()
        )
        kept = here.spooled()
        process.settings["targets"] = targets[:1]
        process.write_config()
        database.start()
        process.start()
        here.wait_drained()
        assert process.stop() == 0
    finally:
        process.stop()
    seen = [{**one, "salt": ""} for one in here.recorded("observation")]
    late = [{**one["observation"], "salt": ""} for one in here.recorded("late")]
    waited = [{**one, "salt": ""} for one in kept]
    assert [one for one in waited if one["target"] == "kept" and one not in seen] == []
    assert [one for one in waited if one["target"] == "removed"] == late != []
    here.assert_sound()


@pytest.mark.nightly
def test_at_its_bound_nothing_is_probed_and_the_record_has_a_gap_that_says_why(
    database: PostgreSql, tmp_path: Path
) -> None:
    nobody = {"kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none", "interval": "1s"}
    names = [f"t{number}" for number in range(40)]
    targets = [{"name": name, "timeout": "1s", **nobody} for name in names]
    here = Waiting(tmp_path, database, targets, limits={"spool": "1 MB"})
    process = here.process
    try:
        process.start()
        process.wait_until(lambda: process.count("t39", "down"), "probed")
        database.stop()
        full = "limits.spool is reached, and nothing is probed"
        process.wait_until(lambda: full in process.get("/readyz"), "full", 240)
        assert process.metric("mailwatch_spool_used_ratio ") == 1
        assert 500_000 < (process.data_dir / "spool.sqlite").stat().st_size < 2_000_000
        waited = here.waiting()
        database.start()
        here.wait_drained()
        before = {name: process.count(name, "down") for name in names}
        for name, count in before.items():
            process.wait_for_more(name, "down", count)
        assert process.stop() == 0
    finally:
        process.stop()
    gaps = here.recorded("gap")
    assert {gap["target"] for gap in gaps if gap["reason"] == "store"} == set(names)
    assert len(here.recorded("observation")) >= waited
    here.assert_sound()
