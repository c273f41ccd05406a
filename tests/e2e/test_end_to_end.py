"""The whole of MailWatch on real servers: outages with the truth inside their bounds, and no one else's fault."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.model import Outcome
from mailwatch.store import Reader
from mailwatch.times import now, parse_rfc3339, rfc3339
from tests.helpers.config_entries import INTERVAL_SECONDS, imap
from tests.helpers.process import MailWatchProcess
from tests.servers import ALICE, BOB, Certificates, Dovecot, Postfix


@pytest.fixture
def process(own_dovecot: Dovecot, certificates: Certificates, tmp_path: Path) -> Iterator[MailWatchProcess]:
    """MailWatch on one IMAP target of a Dovecot that the test may stop; leaves no password anywhere."""
    target = imap(own_dovecot, certificates, tmp_path / "secret")
    mailwatch = MailWatchProcess(tmp_path, [target], detection={"recheck": [f"{INTERVAL_SECONDS}s"]})
    with mailwatch.running():
        yield mailwatch
        output = mailwatch.all_output()
    output += mailwatch.all_output()
    assert_absent(own_dovecot.passwords[ALICE], output)


def assert_absent(password: str, displayed: bytes) -> None:
    for user in ("", ALICE, f"\0{ALICE}\0"):
        for canary in (f"{user}{password}".encode(), base64.b64encode(f"{user}{password}".encode())):
            assert canary not in displayed, f"{canary!r} was shown"


def test_the_true_down_time_lies_within_the_bounds(process: MailWatchProcess, own_dovecot: Dovecot) -> None:
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    before_stop = now()
    own_dovecot.stop()
    stopped = now()
    opened = process.wait_until(lambda: process.api("outages?open=true"), "an open outage")[0]
    assert opened["state"] == "open"
    assert opened["duration"]["max"] is None
    assert process.metric("mailwatch_outage_active{") == 1
    assert process.metric("mailwatch_probe_success{") == 0
    # A few more bad probes, so that the outage has a length of its own.
    process.wait_until(lambda: process.count("lab-imap", "down") >= 5, "five failed observations")
    before_start = now()
    own_dovecot.start()
    started = now()
    process.wait_until(lambda: process.api("outages")[0]["state"] == "closed", "a closed outage")
    (outage,) = process.api("outages")
    assert outage["id"] == opened["id"]
    assert outage["first_bad"] == opened["first_bad"]
    # The server went away at some time of stop(), and came back at some time of start().
    times = {k: parse_rfc3339(outage[k]) for k in ("last_good", "first_bad", "last_bad", "first_good")}
    assert times["last_good"] <= stopped
    assert times["first_bad"] >= before_stop
    assert times["last_bad"] <= started
    assert times["first_good"] >= before_start
    assert outage["duration"]["min"] <= (started - before_stop) / 1000
    assert outage["duration"]["max"] >= (before_start - stopped) / 1000
    assert times["first_bad"] - times["last_good"] < 2 * INTERVAL_SECONDS * 1000
    assert times["first_good"] - times["last_bad"] < 2 * INTERVAL_SECONDS * 1000
    assert outage["causes"].keys() <= {"refused", "disconnected"}
    assert outage["unobserved"] == 0
    process.wait_until(lambda: process.state("lab-imap") == "up", "up again")
    assert process.metric("mailwatch_outage_active{") == 0
    assert process.metric("mailwatch_outages_total{") == 1


def test_commands_answer_what_the_api_answers(process: MailWatchProcess, own_dovecot: Dovecot) -> None:
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    own_dovecot.stop()
    process.wait_until(lambda: process.api("outages"), "an outage")
    own_dovecot.start()
    process.wait_until(lambda: process.api("outages")[0]["state"] == "closed", "a closed outage")
    outages = process.api("outages")
    assert json.loads(process.command("outages", "--json").stdout) == outages
    identity = outages[0]["id"]
    assert process.api(f"outages/{identity}") == outages[0]
    assert json.loads(process.command("outages", "show", identity, "--json").stdout) == outages[0]
    displayed = process.command("outages", "show", identity[:6])
    assert f"Outage {identity} of lab-imap" in displayed.stdout
    assert process.command("outages", "show", "zzz").returncode == 1
    day = ("2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z")
    assert json.loads(process.command("outages", "--json", "--to", day[0]).stdout) == []
    reported = json.loads(process.command("availability", "--json", "--from", day[0], "--to", day[1]).stdout)
    assert reported[0]["target"] == "lab-imap"
    assert reported[0]["observations"]["down"] >= 3
    assert 0 < reported[0]["availability"]["lower"] < reported[0]["availability"]["upper"] < 1
    audit = process.command("ledger", "audit", "--json")
    assert (audit.returncode, json.loads(audit.stdout)["findings"]) == (0, [])
    assert process.command("probe").returncode == 0
    probe = json.loads(process.command("probe", "--json", "lab-imap").stdout)
    assert (probe[0]["outcome"], probe[0]["tls"]["version"]) == ("up", "TLSv1.3")
    assert list(probe[0]["phases"]) == ["resolve", "connect", "tls", "greeting", "auth", "mailbox", "fetch"]


def test_kill_9_in_an_outage_leaves_the_same_outage_with_a_gap_inside(
    process: MailWatchProcess, own_dovecot: Dovecot
) -> None:
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    own_dovecot.stop()
    opened = process.wait_until(lambda: process.api("outages"), "an outage")[0]
    process.kill()
    time.sleep(2 * INTERVAL_SECONDS)  # this is the gap itself
    process.start()
    before = opened["observations"]["down"]
    process.wait_until(
        lambda: process.api("outages")[0]["observations"]["down"] > before, "an observation after the restart"
    )
    own_dovecot.start()
    process.wait_until(lambda: process.api("outages")[0]["state"] == "closed", "closed")
    (outage,) = process.api("outages")
    assert (outage["id"], outage["first_bad"]) == (opened["id"], opened["first_bad"])
    assert outage["unobserved"] >= 2 * INTERVAL_SECONDS - 1
    assert outage["largest_gap"] >= 2 * INTERVAL_SECONDS
    assert process.metric("mailwatch_gap_seconds_total{") or 0 > 0
    audit = process.command("ledger", "audit", "--json")
    assert json.loads(audit.stdout)["findings"] == []


def test_a_frozen_process_leaves_a_gap_and_no_outage(process: MailWatchProcess) -> None:
    process.wait_until(lambda: process.count("lab-imap", "up") >= 2, "two observations")
    process.signal(signal.SIGSTOP)
    time.sleep(8)  # longer than the 5 s from which a stall is reported
    process.signal(signal.SIGCONT)
    process.wait_until(lambda: (process.metric("mailwatch_gap_seconds_total{") or 0) > 6, "a gap")
    assert process.api("outages") == []
    assert process.count("lab-imap", "down") == 0
    process.stop()
    reader = Reader.open(process.data_dir)
    gaps = [entry.payload["reason"] for entry in reader.entries(kinds=["gap"])]
    clock = [entry.payload["event"] for entry in reader.entries(kinds=["clock"])]
    reader.close()
    assert gaps == ["suspended"]
    assert "stalled" in clock


def test_a_wrong_password_is_unknown_and_is_tried_once_not_hammered(
    own_dovecot: Dovecot, certificates: Certificates, tmp_path: Path
) -> None:
    target = imap(own_dovecot, certificates, tmp_path / "secret", interval="200ms")
    (tmp_path / "secret").write_text("not the password\n")
    mark = own_dovecot.log_size
    with MailWatchProcess(tmp_path, [target], detection={"recheck": ["200ms"]}).running() as process:
        process.wait_until(lambda: process.count("lab-imap", "unknown") >= 8, "eight observations")
        assert process.state("lab-imap") == "unknown"
        assert process.api("outages") == []
        assert process.metric("mailwatch_probe_success{") is None
        latest = process.api("targets")[0]
        assert latest["cause"] == "credentials"
        # The restart knows it too: an account is not locked by a watchman that is started again and again.
        process.stop()
        process.start()
        count = process.count("lab-imap", "unknown")
        process.wait_until(
            lambda: process.count("lab-imap", "unknown") > count + 3, "observations after the restart"
        )
        assert_absent("not the password", process.all_output())
    assert own_dovecot.log_since(mark).count("auth failed, 1 attempts") == 1


def test_two_good_passwords_rejected_together_are_the_providers_broken_login(
    own_dovecot: Dovecot, certificates: Certificates, tmp_path: Path
) -> None:
    targets = []
    for name, user in (("alice", ALICE), ("bob", BOB)):
        target = imap(own_dovecot, certificates, tmp_path / f"secret-{name}", name=name)
        (tmp_path / f"secret-{name}").write_text(own_dovecot.passwords[user])
        targets.append({**target, "login": {**target["login"], "username": user}})
    with MailWatchProcess(tmp_path, targets, detection={"open_after": 1}).running() as process:
        process.wait_until(lambda: process.count("alice", "up") and process.count("bob", "up"), "both up")
        # The restart must know from the ledger that both passwords were good.
        process.stop()
        for user in (ALICE, BOB):
            own_dovecot.set_password(user, "another")
        process.start()
        (outage,) = process.wait_until(lambda: process.api("outages"), "an outage")
        assert outage["causes"] == {"credentials": 1}
        assert outage["phases"] == {"auth": 1}
        first = "bob" if outage["target"] == "alice" else "alice"
        assert process.count(first, "down") == 0
        assert process.count(first, "unknown") > 0


def test_without_a_route_it_is_unknown_and_no_outage(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        assert not os.environ.get("CI"), "needs root and unshare"
        pytest.skip("a network namespace needs root")
    target = {"name": "far", "kind": "imap", "host": "192.0.2.1", "interval": "300ms", "timeout": "1s"}
    guard = {"controls": ["192.0.2.2:443", "198.51.100.1:443"], "timeout": "500ms"}
    process = MailWatchProcess(tmp_path, [target], guard=guard, detection={"recheck": ["300ms"]})
    # The test itself stays outside: the namespace has a loopback of its own and nothing else.
    process.prefix = ("unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    process.start(ready=False)

    def observations_listed() -> list[dict[str, Any]]:
        try:
            reader = Reader.open(process.data_dir)
        except FileNotFoundError:
            return []
        try:
            return [entry.payload for entry in reader.entries(kinds=["observation"])]
        except Exception:
            return []  # the tables are being made
        finally:
            reader.close()

    process.wait_until(lambda: len(observations_listed()) >= 6, "six observations")
    assert process.stop() == 0
    assert {(observation["outcome"], observation["cause"]) for observation in observations_listed()} == {
        ("unknown", "offline")
    }
    assert all(observation["guard"]["online"] is False for observation in observations_listed())
    assert json.loads(process.command("outages", "--json").stdout) == []
    reader = Reader.open(process.data_dir)
    assert any(entry.payload["online"] is False for entry in reader.entries(kinds=["guard"]))
    reader.close()


def test_smtp_submission_is_monitored_too(
    dovecot: Dovecot, postfix: Postfix, certificates: Certificates, tmp_path: Path
) -> None:
    target = imap(dovecot, certificates, tmp_path / "secret", name="lab-smtp", kind="smtp", tls="starttls")
    target["port"] = postfix.submission_port
    with MailWatchProcess(tmp_path, [target]).running() as process:
        process.wait_until(lambda: process.count("lab-smtp", "up") >= 2, "two good observations")
        last = process.api("observations?target=lab-smtp")[0]
        assert list(last["phases"]) == ["resolve", "connect", "tls", "greeting", "auth", "submit"]
    assert postfix.queue() == []


def test_pop3_is_monitored_too(dovecot: Dovecot, certificates: Certificates, tmp_path: Path) -> None:
    target = imap(
        dovecot, certificates, tmp_path / "secret", name="lab-pop3", kind="pop3", port=dovecot.pop3s_port
    )
    with MailWatchProcess(tmp_path, [target]).running() as process:
        process.wait_until(lambda: process.count("lab-pop3", "up") >= 2, "two good observations")
        last = process.api("observations?target=lab-pop3")[0]
        assert list(last["phases"]) == ["resolve", "connect", "tls", "greeting", "auth", "mailbox", "fetch"]


def test_sighup_rejects_a_faulty_config_and_applies_a_good_one(process: MailWatchProcess) -> None:
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    good = process.settings["targets"]
    process.settings["targets"] = [{**good[0], "intervall": "1s"}]
    process.write_config()
    process.signal(signal.SIGHUP)
    reloaded = "mailwatch_config_last_reload_successful"
    process.wait_until(lambda: process.metric(reloaded) == 0, "the refusal")
    assert "config.yaml:" in process.log.read_text()
    assert "did you mean 'interval'?" in process.log.read_text()
    assert process.state("lab-imap") == "up"
    second = {"name": "greeting", "kind": "imap", "host": "localhost", "port": good[0]["port"]}
    process.settings["targets"] = [*good, {**second, "ca_file": good[0]["ca_file"], "interval": "30m"}]
    process.write_config()
    process.signal(signal.SIGHUP)
    process.wait_until(lambda: process.metric(reloaded) == 1, "the reload")
    # At once, though its interval is half an hour.
    process.wait_until(lambda: process.state("greeting") == "up", "the new target up")
    process.settings["targets"] = good
    process.write_config()
    process.signal(signal.SIGHUP)
    process.wait_until(lambda: len(process.api("targets")) == 1, "the target gone")
    assert 'target="greeting"' not in process.get("/metrics")


def window(minutes: int) -> dict[str, Any]:
    """A single window from a quarter of an hour ago on, in UTC."""
    times = {"start": now() - 15 * 60_000, "end": now() + minutes * 60_000}
    return {"name": "works", "timezone": "UTC", **{key: rfc3339(at)[:19] for key, at in times.items()}}


def test_announced_maintenance_is_left_out_and_what_is_announced_later_hides_nothing(
    process: MailWatchProcess, own_dovecot: Dovecot
) -> None:
    active = "mailwatch_maintenance_active{"
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    own_dovecot.stop()
    process.wait_until(lambda: process.count("lab-imap", "down") >= 4, "an outage")
    assert process.metric(active) == 0
    # The window covers all of it on the calendar, but it is announced only now.
    process.settings["maintenance"] = [window(60)]
    process.write_config()
    process.signal(signal.SIGHUP)
    process.wait_until(lambda: process.metric(active) == 1, "maintenance")
    count = process.count("lab-imap", "down")
    process.wait_until(lambda: process.count("lab-imap", "down") >= count + 3, "observations in maintenance")
    (outage,) = process.api("outages")
    assert 0 < outage["maintenance"] < outage["duration"]["min"]
    # Withdrawn, and announced again: a restart changes nothing of what was said before.
    process.stop()
    process.start()
    process.wait_until(lambda: process.metric(active) == 1, "maintenance after the restart")
    process.settings["maintenance"] = []
    process.write_config()
    process.signal(signal.SIGHUP)
    process.wait_until(lambda: process.metric(active) == 0, "no maintenance")
    own_dovecot.start()
    process.wait_until(lambda: process.api("outages")[0]["state"] == "closed", "closed")
    process.wait_until(lambda: process.state("lab-imap") == "up", "up again")

    reader = Reader.open(process.data_dir)
    nodes = list(reader.entries(kinds=["node"]))
    reader.close()
    reported = [(node.payload["event"], "maintenance" in node.payload) for node in nodes]
    assert reported == [("start", False), ("reload", True), ("stop", True), ("start", True), ("reload", False)]
    announced, withdrawn = nodes[1].time, nodes[4].time
    assert "lab-imap" not in nodes[1].text

    (outage,) = process.api("outages")
    first_bad, last_bad = (parse_rfc3339(outage[key]) for key in ("first_bad", "last_bad"))
    # Of the outage's certain time, just what lies between the announcement and the withdrawal.
    expected = min(last_bad, withdrawn) - max(first_bad, announced)
    assert outage["maintenance"] == expected / 1000
    assert json.loads(process.command("outages", "--json").stdout) == [outage]
    assert "of it in maintenance" in process.command("outages").stdout
    assert "in maintenance" in process.command("outages", "show", outage["id"]).stdout
    (incident,) = process.api("incidents")
    assert incident["outages"][0]["maintenance"] == outage["maintenance"]

    # No probe comes between one answer and the next.
    process.stop()
    day = ("--from", rfc3339(now() - 3_600_000), "--to", rfc3339(now() + 3_600_000))
    (reported,) = json.loads(process.command("availability", "--json", *day).stdout)
    assert reported["maintenance"] == (withdrawn - announced) / 1000
    whole = reported["with_maintenance"]
    assert whole["downtime"]["min"] > reported["downtime"]["min"] > 0
    assert whole["availability"]["upper"] < reported["availability"]["upper"]
    displayed = process.command("availability", *day).stdout
    assert "--with-maintenance" in displayed
    with_it = process.command("availability", "--with-maintenance", *day).stdout
    for bounds, text in ((reported["availability"], displayed), (whole["availability"], with_it)):
        # Rounded outwards: the text claims no more than is known.
        shown = re.search(r"lab-imap +([0-9.]+)\u2013([0-9.]+) %", text)
        assert shown, text
        assert 100 * bounds["lower"] - 0.1 < float(shown[1]) <= 100 * bounds["lower"]
        assert 100 * bounds["upper"] <= float(shown[2]) < 100 * bounds["upper"] + 0.1
    audit = process.command("ledger", "audit", "--json")
    assert json.loads(audit.stdout)["findings"] == []


def test_a_second_process_learns_who_holds_the_data(process: MailWatchProcess) -> None:
    second = process.command("run")
    assert second.returncode == 1
    assert f"process {process.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_pages_answer_and_describe_themselves(process: MailWatchProcess) -> None:
    process.wait_until(lambda: process.state("lab-imap") == "up", "up")
    assert process.get("/healthz") == "ok\n"
    assert "lab-imap" in process.get("/")
    paths = json.loads(process.get("/api/openapi.json"))["paths"]
    assert {
        "/api/v1/targets",
        "/api/v1/outages",
        "/api/v1/observations",
        "/api/v1/availability",
        "/api/v1/offline",
    } <= paths.keys()
    assert process.get("/api/v1/outages?from=yesterday").startswith("422")
    assert process.get("/api/v1/outages/none").startswith("404")
    assert process.get("/api/v1/availability?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z").startswith("422")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=process.get("/metrics"),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_sigterm_ends_it_with_status_0_and_the_record_says_so(process: MailWatchProcess) -> None:
    process.wait_until(lambda: process.count("lab-imap", "up") >= 1, "an observation")
    assert process.stop() == 0
    reader = Reader.open(process.data_dir)
    events = [entry.payload["event"] for entry in reader.entries(kinds=["node"])]
    last, size = reader.last_checkpoint(), reader.size()
    outcomes = {entry.payload["outcome"] for entry in reader.entries(kinds=["observation"])}
    reader.close()
    assert events == ["start", "stop"]
    assert outcomes == {Outcome.UP.value}
    assert last is not None
    assert last.size == size


def test_sigterm_does_not_wait_for_a_server_that_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        target = {
            "name": "silent",
            "kind": "imap",
            "host": "127.0.0.1",
            "port": port,
            "tls": "none",
            "timeout": "60s",
        }
        with MailWatchProcess(tmp_path, [target], defaults={"interval": "60s"}).running() as process:
            silent.settimeout(20)
            connection, _ = silent.accept()
            # stop() fails after the ten seconds that are promised.
            assert process.stop() == 0
            connection.close()
        audit = process.command("ledger", "audit", "--json")
        assert json.loads(audit.stdout)["valid"]
