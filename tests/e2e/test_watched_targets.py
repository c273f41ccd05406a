"""What is watched is on record, and each observation is judged by what was watched then; with the real program."""

from __future__ import annotations

import contextlib
import json
import signal
import socketserver
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mailwatch.config.recorded_targets import recorded_settings, target_steps
from mailwatch.ledger.entry import login_name_commitment, login_name_key
from mailwatch.ledger.settings_payloads import settings_from, settings_payload
from mailwatch.model import Kind, Rules, TargetChange, TargetEvent, TargetSettings
from mailwatch.settings import Login, MxTask, RoundtripTask, Target, WebmailTask
from mailwatch.store import Reader
from tests.helpers.process import MailWatchProcess
from tests.servers import free_port

SECRET = b"s" * 32
TARGET = Target(name="lab", kind=Kind.IMAP, host="mail.example.org", port=993)


def test_the_ledger_names_targets_but_never_the_login_name() -> None:
    login = Login(username="mario@example.org", password=SecretStr("x"))
    settings = recorded_settings(replace(TARGET, login=login, interval=90.0, timeout=20.0), Rules(), SECRET)
    assert (settings.kind, settings.host, settings.port) == (Kind.IMAP, "mail.example.org", 993)
    assert (settings.interval, settings.timeout) == (90_000, 20_000)
    assert len(settings.login) == 16
    assert "mario" not in str(settings)
    assert settings.login != recorded_settings(replace(TARGET, login=login), Rules(), b"t" * 32).login
    assert (settings.catalogue, settings.own_ca, settings.task) == (False, False, "")
    # Its owner alone can disclose it; a record from before that has none.
    key = login_name_key(SECRET, login.username)
    assert login_name_commitment(key, login.username) == settings.login_name
    assert login_name_commitment(key, "anna@example.org") != settings.login_name
    assert login_name_key(b"t" * 32, login.username) != key
    payload = settings_payload(settings)
    assert settings_from(payload) == settings
    del payload["login_name"]
    assert settings_from(payload) == replace(settings, login_name="")
    assert settings_from(payload).service == settings.service
    assert recorded_settings(replace(TARGET, ca_file=Path("ca.pem")), Rules(), SECRET).own_ca


@pytest.mark.parametrize(
    ("provider", "kind", "host", "expected"),
    [
        ("libero", Kind.IMAP, "imapmail.libero.it", True),
        ("libero", Kind.IMAP, "IMAPmail.libero.it.", True),
        ("libero", Kind.SMTP, "imapmail.libero.it", False),
        ("libero", Kind.IMAP, "imap.example.org", False),
        ("virgilio", Kind.IMAP, "imapmail.libero.it", False),
        ("nobody", Kind.IMAP, "imapmail.libero.it", False),
        ("libero", Kind.MX, "libero.it", True),
        ("libero", Kind.MX, "example.org", False),
    ],
)
def test_a_target_is_recorded_as_catalogue_only_at_a_catalogue_host(
    provider: str, kind: Kind, host: str, expected: bool
) -> None:
    target = replace(TARGET, provider=provider, kind=kind, host=host)
    assert recorded_settings(target, Rules(), SECRET).catalogue is expected


def test_each_setting_that_changes_the_service_starts_a_new_enrolment() -> None:
    def mailbox(name: str, kind: Kind) -> Target:
        login = Login(username=name, password=SecretStr("x"))
        return Target(name=name, kind=kind, host="h", port=1, login=login)

    via, to = mailbox("a@example.org", Kind.SMTP), mailbox("b@example.org", Kind.IMAP)
    other = mailbox("c@example.org", Kind.IMAP)
    trip = RoundtripTask(via=via, to=to, sender="a@example.org", recipient="b@example.org")
    tasks = [
        None,
        MxTask("postmaster@example.org"),
        MxTask("postmaster@example.org", "a@example.org"),
        WebmailTask(url="https://mail.example.org/"),
        WebmailTask(url="https://mail.example.org/in"),
        trip,
        replace(trip, to=other),
        replace(trip, via=replace(via, host="i")),
    ]
    services = {recorded_settings(replace(TARGET, task=task), Rules(), SECRET).service for task in tasks}
    assert len(services) == len(tasks)


HELD = recorded_settings(TARGET, Rules(), SECRET)


def latest(event: TargetEvent) -> TargetChange:
    return TargetChange(target="lab", at=0, event=event, settings=HELD)


@pytest.mark.parametrize(
    ("on_record", "known", "wanted", "expected"),
    [
        (None, False, HELD, ["begin"]),
        (None, True, HELD, ["continue"]),
        (latest(TargetEvent.BEGIN), True, HELD, ["continue"]),
        (latest(TargetEvent.END), True, HELD, ["begin"]),
        (latest(TargetEvent.CONTINUE), True, replace(HELD, interval=1), ["change"]),
        (latest(TargetEvent.CHANGE), True, replace(HELD, rules=Rules(open_after=1)), ["change"]),
        (latest(TargetEvent.CHANGE), True, replace(HELD, own_ca=True), ["change"]),
        (latest(TargetEvent.BEGIN), True, replace(HELD, host="other.example.org"), ["end", "begin"]),
        (latest(TargetEvent.BEGIN), True, replace(HELD, host="MAIL.example.org."), ["change"]),
        (latest(TargetEvent.BEGIN), True, replace(HELD, login="0" * 16), ["end", "begin"]),
        (latest(TargetEvent.BEGIN), True, replace(HELD, kind=Kind.POP3), ["end", "begin"]),
    ],
)
def test_what_happens_to_a_target_at_a_start(
    on_record: TargetChange | None, known: bool, wanted: TargetSettings, expected: list[str]
) -> None:
    found = list(target_steps(on_record, known, wanted, "start"))
    assert [event for event, _, _ in found] == expected
    assert [settings for event, settings, _ in found if event is TargetEvent.END] == [HELD] * (len(found) - 1)
    assert found[-1][1:] == (wanted, "start")


class Greeter:
    """A mail server that greets while it is open, and resets else."""

    def __init__(self) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.wfile.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
                    line = self.rfile.readline()
                    self.wfile.write(b"* BYE\r\n" + line.split()[0] + b" OK\r\n" if line else b"")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def greeter() -> Iterator[Greeter]:
    made = Greeter()
    yield made
    made.close()


def section(port: int, name: str = "lab", **more: Any) -> dict[str, Any]:
    base = {"name": name, "kind": "imap", "host": "127.0.0.1", "port": port, "tls": "none"}
    return {**base, "interval": "1s", "timeout": "1s", **more}


QUICK = {"open_after": 2, "close_after": 1, "recheck": ["200ms"]}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., MailWatchProcess]]:
    made: list[MailWatchProcess] = []

    def make(*targets: dict[str, Any], **sections: Any) -> MailWatchProcess:
        made.append(MailWatchProcess(tmp_path, list(targets), **{"detection": QUICK, **sections}))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def changes(process: MailWatchProcess, name: str | None = None) -> list[tuple[str, str]]:
    reader = Reader.open(process.data_dir)
    found = [entry.payload for entry in reader.entries(kinds=["watch"], target=name)]
    reader.close()
    return [(period["event"], period["reason"]) for period in found]


def reload(process: MailWatchProcess, *targets: dict[str, Any]) -> None:
    """Change the targets, and wait until that is taken over."""
    before = process.log.read_text().count("config reloaded")
    process.settings["targets"] = list(targets)
    process.write_config()
    process.signal(signal.SIGHUP)
    process.wait_until(lambda: process.log.read_text().count("config reloaded") > before, "reloaded")


def outages(process: MailWatchProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = process.api("outages")
    return found


def clean(process: MailWatchProcess) -> None:
    audit = process.command("ledger", "audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_start_and_restart_record_which_targets_are_probed(
    process: Callable[..., MailWatchProcess], greeter: Greeter
) -> None:
    here = process(section(greeter.port))
    with here.running():
        here.wait_until(lambda: here.count("lab", "up"), "up")
    assert changes(here) == [("begin", "start")]
    here.settings["detection"] = {**QUICK, "open_after": 3}
    here.write_config()
    with here.running():
        pass
    with here.running():
        pass
    assert changes(here) == [("begin", "start"), ("change", "start"), ("continue", "start")]
    clean(here)


def test_an_outage_of_a_removed_target_is_unwatched_at_once(
    process: Callable[..., MailWatchProcess], greeter: Greeter
) -> None:
    port = free_port()
    here = process(section(port), section(greeter.port, "other", interval="1h"))
    here.start()
    here.wait_until(lambda: outages(here), "an outage")
    (opened,) = outages(here)
    reload(here, section(greeter.port, "other", interval="1h"))
    (outage,) = outages(here)
    assert (outage["id"], outage["state"], outage["first_good"]) == (opened["id"], "unwatched", None)
    assert outage["duration"]["max"] is None
    assert outage["last_bad"] >= opened["last_bad"]
    # Which settings it belongs to, also when the name is watched otherwise by now; without digests of a login.
    settings = outage["watch"]
    assert (settings["kind"], settings["host"], settings["port"]) == ("imap", "127.0.0.1", port)
    assert not {"login", "task"} & settings.keys()
    assert opened["watch"] == settings
    # It is on record, if not in the config any more.
    assert [one["id"] for one in here.api("outages?target=lab")] == [outage["id"]]
    assert here.api("outages?target=other") == []
    assert here.api("observations?target=lab&limit=1")[0]["target"] == "lab"
    assert here.api("outages?open=true") == []
    (incident,) = here.api("incidents")
    assert (incident["state"], incident["first_good"]) == ("unwatched", None)
    assert incident["stages"][-1]["restored"] == []
    assert incident["stages"][-1]["unwatched"] == ["lab"]
    for language, words in (("en", "no longer monitored"), ("it", "non più controllato")):
        for page in ("outages", f"outages/{outage['id']}", "incidents"):
            assert words in here.get(f"/{page}?lang={language}"), page
    assert changes(here, "lab") == [("begin", "start"), ("end", "removed")]
    here.stop()
    displayed = here.command("outages").stdout
    assert "no longer monitored" in displayed
    assert json.loads(here.command("outages", "--target", "lab", "--json").stdout)[0]["watch"] == settings
    assert json.loads(here.command("outages", "--target", "other", "--json").stdout) == []
    assert f"imap 127.0.0.1:{settings['port']} (tls: none)" in here.command("outages", "show", outage["id"]).stdout
    assert "still down" not in displayed
    assert json.loads(here.command("outages", "--open", "--json").stdout) == []
    assert "no longer monitored" in here.command("incidents").stdout
    # A period is judged by what was watched then, whatever the config has now.
    days = (datetime.now(UTC) + timedelta(days=each) for each in (-1, 1))
    window = [word for way, day in zip(("--from", "--to"), days, strict=True) for word in (way, f"{day:%Y-%m-%d}")]
    counted = json.loads(here.command("availability", "--json").stdout)
    assert sorted(one["target"] for one in counted) == ["lab", "other"]
    bundle = here.data_dir / "period.zip"
    made = here.command("report", *window, "-o", str(bundle))
    assert made.returncode == 0, made.stderr
    stated = json.loads(zipfile.ZipFile(bundle).read("period.json"))
    assert [one["id"] for one in stated["outages"]] == [outage["id"]]
    assert here.command("verify", str(bundle)).returncode == 0
    clean(here)
    bundle = here.folder / "case.zip"
    made = here.command("report", outage["id"], "-o", str(bundle))
    assert made.returncode == 0, made.stderr
    checked = here.command("verify", str(bundle))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    service = json.loads(zipfile.ZipFile(bundle).read("outage.json"))["service"]
    assert service["host"] == "127.0.0.1", "how it was watched is on record, though the config knows it no more"
    period = here.folder / "period.zip"
    here.command("report", "--from", "2020-01-01", "--to", "2060-01-01", "--target", "lab", "-o", str(period))
    (target,) = json.loads(zipfile.ZipFile(period).read("period.json"))["targets"]
    assert (target["kind"], target["service"]) == ("imap", service)


def test_a_target_that_comes_back_is_fresh_and_a_new_outage_begins(
    process: Callable[..., MailWatchProcess], greeter: Greeter
) -> None:
    port, other = free_port(), section(greeter.port, "other", interval="1h")
    here = process(section(port), other)
    here.start()
    here.wait_until(lambda: outages(here), "an outage")
    reload(here, other)
    reload(here, other, section(port))
    here.wait_until(lambda: len(outages(here)) == 2, "a new outage")
    assert sorted(outage["state"] for outage in outages(here)) == ["open", "unwatched"]
    reader = Reader.open(here.data_dir)
    gaps = list(reader.entries(kinds=["gap"], target="lab"))
    reader.close()
    assert gaps == []
    assert here.metric('mailwatch_outage_active{target="lab"') == 1
    assert here.metric('mailwatch_outages_total{target="lab"') == 2
    # Nobody knows when the first one ended.
    assert here.metric("mailwatch_outage_end_timestamp_seconds{") is None
    clean(here)


def test_another_host_under_the_same_name_closes_nothing(
    process: Callable[..., MailWatchProcess], greeter: Greeter
) -> None:
    here = process(section(free_port()))
    here.start()
    here.wait_until(lambda: outages(here), "an outage")
    reload(here, section(greeter.port))
    here.wait_until(lambda: here.state("lab") == "up", "up")
    (outage,) = outages(here)
    assert outage["state"] == "unwatched"
    assert changes(here) == [("begin", "start"), ("end", "replaced"), ("begin", "reload")]
    clean(here)


@pytest.mark.parametrize("how", ["host", "renamed", "removed"])
def test_changes_made_while_stopped_are_recorded_at_the_next_start(
    process: Callable[..., MailWatchProcess], greeter: Greeter, how: str
) -> None:
    here = process(section(free_port()))
    with here.running():
        here.wait_until(lambda: outages(here), "an outage")
    name = "lab" if how == "host" else "new"
    here.settings["targets"] = [section(greeter.port, name)]
    here.write_config()
    with here.running():
        here.wait_until(lambda: here.state(name) == "up", "up")
        (outage,) = outages(here)
        assert (outage["target"], outage["state"]) == ("lab", "unwatched")
        assert f"outages/{outage['id']}" in here.get("/outages")
        assert "no longer monitored" in here.get(f"/outages/{outage['id']}?lang=en")
    assert ("end", "replaced" if how == "host" else "removed") in changes(here, "lab")
    with here.running():
        assert [outage["state"] for outage in outages(here)] == ["unwatched"]
    clean(here)


def test_an_interval_changed_by_sighup_is_on_record_and_makes_no_gap(
    process: Callable[..., MailWatchProcess], greeter: Greeter
) -> None:
    here = process(section(greeter.port, interval="8s"))
    here.start()
    here.wait_until(lambda: here.count("lab", "up") >= 2, "up twice")
    reload(here, section(greeter.port, interval="1s"))
    here.wait_until(lambda: here.count("lab", "up") >= 5, "up")
    assert changes(here) == [("begin", "start"), ("change", "reload")]
    answer = here.api("availability?from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z&target=lab")
    assert answer[0]["availability"]["lower"] == 1.0
    unknown = here.get("/api/v1/availability?from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z&target=lba")
    assert unknown.startswith("404 ")
    assert "is it lab?" in unknown
    here.stop()
    reader = Reader.open(here.data_dir)
    intervals = [entry.payload["settings"]["interval"] for entry in reader.entries(kinds=["watch"])]
    assert list(reader.entries(kinds=["gap"])) == []
    reader.close()
    assert intervals == [8000, 1000]
    clean(here)


def test_another_login_starts_a_new_enrolment_without_recording_its_name(
    process: Callable[..., MailWatchProcess], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("x")
    port = free_port()

    def login(name: str) -> dict[str, Any]:
        return section(port, login={"username": name, "password_file": str(tmp_path / "secret")})

    here = process(login("mario@example.org"))
    here.start()
    here.wait_until(lambda: outages(here), "an outage")
    reload(here, login("luigi@example.org"))
    here.wait_until(lambda: len(outages(here)) == 2, "a new outage")
    assert changes(here) == [("begin", "start"), ("end", "replaced"), ("begin", "reload")]
    here.stop()
    reader = Reader.open(here.data_dir)
    texts = [entry.text for entry in reader.entries()]
    reader.close()
    assert not any("mario" in text or "luigi" in text for text in texts)
    clean(here)
