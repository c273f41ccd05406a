"""MailWatch with its ledger in PostgreSQL: outages, evidence, and a database that is killed and comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.config_entries import INTERVAL_SECONDS, imap
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need
from tests.servers import ALICE, Certificates, Dovecot
from tests.servers.postgresql import PASSWORD, PGBOUNCER, POSTGRES, SECRETIVE, PgBouncer, PostgreSql
from tests.servers.program import server_folder


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSql]:
    """A cluster of the test's own, to kill: every commit waits for the disk."""
    need(POSTGRES)
    with server_folder() as folder, PostgreSql(folder / "postgresql", durable=True).running() as server:
        yield server


def installation(
    dovecot: Dovecot, certificates: Certificates, folder: Path, url: str, **database: object
) -> MailWatchProcess:
    target = imap(dovecot, certificates, folder / "secret")
    return MailWatchProcess(
        folder, [target], database={"url": url, **database}, detection={"recheck": [f"{INTERVAL_SECONDS}s"]}
    )


def test_an_outage_outlives_a_killed_database_and_is_proven(
    own_dovecot: Dovecot, certificates: Certificates, own_postgresql: PostgreSql, tmp_path: Path
) -> None:
    server = own_postgresql
    url = server.url(server.make_database(), SECRETIVE)
    password = server.directory / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    process = installation(own_dovecot, certificates, tmp_path, url, password_file=str(password))
    with process.running():
        process.wait_until(lambda: process.state("lab-imap") == "up", "up")
        own_dovecot.stop()
        opened = process.wait_until(lambda: process.api("outages?open=true"), "an open outage")[0]
        server.kill()
        waiting = "the ledger cannot be written: the database does not answer"
        process.wait_until(lambda: waiting in process.get("/readyz"), "unready")
        server.start()
        process.wait_until(lambda: process.get("/readyz").startswith("ok"), "ready again")
        before = process.api("outages")[0]["observations"]["down"]
        process.wait_until(lambda: process.api("outages")[0]["observations"]["down"] > before, "further probes")
        own_dovecot.start()
        process.wait_until(lambda: process.api("outages")[0]["state"] == "closed", "a closed outage")
        (outage,) = process.api("outages")
        assert (outage["id"], outage["first_bad"]) == (opened["id"], opened["first_bad"])
        process.stop()
        process.start()
        process.wait_until(lambda: process.state("lab-imap") == "up", "up after a restart")
        assert process.api("outages") == [outage]
        bundle = tmp_path / "evidence.zip"
        made = process.command("report", outage["id"], "-o", str(bundle))
        assert made.returncode == 0, made.stderr
        verified = process.command("verify", str(bundle))
        assert verified.returncode == 0, verified.stdout + verified.stderr
        audit = process.command("ledger", "audit", "--json")
        assert json.loads(audit.stdout)["findings"] == []
        acknowledged = process.command("ack", outage["id"], "--note", "seen")
        assert acknowledged.returncode == 0, acknowledged.stderr
        assert process.api("outages")[0]["acknowledged"]["note"] == "seen"
    shown = process.all_output() + made.stderr.encode() + audit.stderr.encode()
    for canary in (PASSWORD.encode(), base64.b64encode(PASSWORD.encode()), own_dovecot.passwords[ALICE].encode()):
        assert canary not in shown
    assert not (tmp_path / "data" / "mailwatch.sqlite").exists()


def test_a_start_waits_for_the_database(
    dovecot: Dovecot, certificates: Certificates, own_postgresql: PostgreSql, tmp_path: Path
) -> None:
    server = own_postgresql
    process = installation(dovecot, certificates, tmp_path, server.url(server.make_database()))
    server.stop()
    try:
        process.start(ready=False)
        away = "503 starting: the database does not answer; the start continues once it does\n"
        process.wait_until(lambda: process.get("/readyz") == away, "waiting")
        server.start()
        process.wait_until(lambda: process.get("/readyz").startswith("ok"), "ready")
        process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    finally:
        process.stop()


def test_it_runs_behind_a_pooler_by_a_role_of_its_own(
    dovecot: Dovecot, certificates: Certificates, postgresql: PostgreSql, tmp_path: Path
) -> None:
    need(PGBOUNCER)
    with (
        server_folder() as folder,
        PgBouncer(folder / "pgbouncer", postgresql, size=2).running() as pooler,
        postgresql.database() as name,
        postgresql.connect() as connection,
    ):
        connection.execute("CREATE ROLE mailwatch LOGIN")
        try:
            process = installation(dovecot, certificates, tmp_path, postgresql.url(name, "mailwatch"))
            refused = process.command("config", "check")
            prepared = process.command("ledger", "prepare", "--owner", postgresql.url(name))
            assert (refused.returncode, prepared.returncode) == (1, 0), refused.stderr + prepared.stderr
            assert "the role may not make them: run `mailwatch ledger prepare --owner URL`" in refused.stderr
            checked = process.command("config", "check").stderr
            assert "does not wait for the disk" in checked
            assert "owns the tables" not in checked
            process.settings["database"] = pooler.url(name)
            process.write_config()
            assert "a pooler stands before the database" in process.command("config", "check").stderr
            with process.running():
                process.wait_until(lambda: process.count("lab-imap", "up") >= 3, "three observations")
            audit = process.command("ledger", "audit", "--json")
            assert json.loads(audit.stdout)["findings"] == []
        finally:
            with postgresql.connect(name) as inside:
                inside.execute("DROP OWNED BY mailwatch")
            connection.execute("DROP ROLE mailwatch")


@pytest.mark.nightly
def test_a_lost_database_is_refused_and_the_successor_begins_in_another_one(
    dovecot: Dovecot, certificates: Certificates, postgresql: PostgreSql, tmp_path: Path
) -> None:
    with postgresql.database() as lost, postgresql.database() as other:
        process = installation(dovecot, certificates, tmp_path, postgresql.url(lost))
        with process.running():
            process.wait_until(lambda: process.state("lab-imap") == "up", "up")
        old = (process.data_dir / "keys" / "ledger.pub").read_text().partition("+")[0]
        process.settings["database"] = postgresql.url(other)
        process.write_config()
        refused = process.command("run")
        assert refused.returncode == 1
        assert "`mailwatch run --successor`" in refused.stderr
        made = process.command("ledger", "successor")
        assert made.returncode == 0, made.stderr
        with process.running():
            process.wait_until(lambda: process.state("lab-imap") == "up", "up")
            page = process.get("/ledger")
            assert f"{old}, " in page
            assert "Its key signed that this ledger follows." in page
        audit = process.command("ledger", "audit", "--json")
        assert json.loads(audit.stdout)["findings"] == []
