"""A whole `mailwatch run` notifies over a real webhook and mail server: killed, and with its secrets kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest

from mailwatch.config import Config, ConfigError, build_channels, channel_warnings, effective_yaml, load
from mailwatch.config.channels import build_heartbeat
from tests.helpers.notifications import notifying_process, unreachable_target
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need_root
from tests.helpers.webhook import Webhook
from tests.servers import ALICE, POSTFIX, Certificates, Dovecot, Postfix, free_port, server_folder

CANARY = "canary-7f3a"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    receiver = Webhook().open()
    yield receiver
    receiver.close()


@pytest.fixture
def provider(certificates: Certificates) -> Iterator[tuple[Dovecot, Postfix]]:
    """A Postfix that hands on to a Dovecot what it takes."""
    need_root(str(POSTFIX))
    with (
        server_folder() as one,
        Dovecot(one, certificates, lmtp=True).running() as dovecot,
        server_folder() as other,
        Postfix(other, certificates, dovecot.auth_socket, lmtp_port=dovecot.lmtp_port).running() as postfix,
    ):
        yield dovecot, postfix


def test_killed_between_commit_and_send_it_notifies_after_the_restart_and_once(
    tmp_path: Path, webhook: Webhook
) -> None:
    mailwatch = notifying_process(tmp_path, webhook.url, names=("a", "b", "c"), channel={"group": "10s"})
    mailwatch.start()
    mailwatch.wait_until(lambda: len(mailwatch.api("outages?open=true")) == 3, "three outages")
    # Committed, and not sent: the channel waits ten seconds for more.
    mailwatch.kill()
    assert webhook.received == []
    with mailwatch.running():
        mailwatch.wait_until(lambda: webhook.received, "notified", 40)
        mailwatch.wait_until(
            lambda: mailwatch.metric('mailwatch_notifications_total{channel="json-1",outcome="sent"'), "noted"
        )
    # Killed after it was reported: nothing is reported again.
    mailwatch.start()
    mailwatch.kill()
    with mailwatch.running():
        output = mailwatch.all_output()
    assert webhook.titles == ["MailWatch: lab: 3 of 3 targets down"]
    assert CANARY.encode() not in output
    assert f"127.0.0.1:{webhook.port}".encode() not in output


def test_a_provider_down_is_one_message_with_its_name_local_time_and_a_link(
    tmp_path: Path, webhook: Webhook
) -> None:
    names = ("a", "b", "c")
    sent_to = {"group": "5s", "lang": "it", "name": "telephone"}
    mailwatch = notifying_process(tmp_path, webhook.url, names=names, channel=sent_to, timezone="Asia/Kathmandu")
    mailwatch.settings["web"]["url"] = "https://mw.example.org/"
    for target in mailwatch.settings["targets"]:
        target["provider"] = "libero"
    mailwatch.write_config()
    with mailwatch.running():
        mailwatch.wait_until(lambda: webhook.received, "notified", 60)
        mailwatch.wait_until(
            lambda: mailwatch.metric('mailwatch_notifications_total{channel="telephone",outcome="sent"'), "noted"
        )
        (incident,) = mailwatch.api("incidents")
        assert mailwatch.metric('mailwatch_incident_targets_down{provider="libero"') == 3
    (message,) = webhook.received
    assert message["title"] == "MailWatch: Libero: 3 servizi su 3 non funzionano"
    first_bad = datetime.fromisoformat(incident["first_bad"]).astimezone(ZoneInfo("Asia/Kathmandu"))
    headline, cause, named, link = message["message"].splitlines()
    assert headline.startswith(f"Libero: 3 servizi su 3 non funzionano dalle {first_bad:%H:%M}")
    assert cause == "Causa: connessione rifiutata (osservato da test)"
    assert named == "a, b, c"
    assert link == f"https://mw.example.org/incidents/{incident['id']}"


def test_a_receiver_that_is_away_is_notified_later_and_no_secret_is_shown(
    tmp_path: Path, webhook: Webhook
) -> None:
    webhook.close()
    mailwatch = notifying_process(tmp_path, webhook.url, channel={"group": "0s", "lang": "it"})
    with mailwatch.running():
        failed = 'mailwatch_notifications_total{channel="json-1",outcome="failed"'
        mailwatch.wait_until(lambda: (mailwatch.metric(failed) or 0) >= 1, "a failed attempt")
        webhook.open()
        mailwatch.wait_until(lambda: webhook.received, "notified")
        output = mailwatch.all_output()
    output += mailwatch.all_output()
    assert webhook.titles == ["MailWatch: lab non funziona"]
    assert CANARY.encode() not in output
    assert f"127.0.0.1:{webhook.port}".encode() not in output
    assert b"notify: json-1 did not take a message: no connection" in output


def test_the_heartbeat_comes_while_all_is_healthy_and_its_address_is_not_shown(
    tmp_path: Path, webhook: Webhook
) -> None:
    (tmp_path / "secret-ping").write_text(f"http://127.0.0.1:{webhook.port}/{CANARY}\n")
    heartbeat = {"url_file": "secret-ping", "every": "100ms"}
    mailwatch = MailWatchProcess(tmp_path, [unreachable_target()], heartbeat=heartbeat)
    with mailwatch.running():
        mailwatch.wait_until(lambda: len(webhook.pings) >= 3, "three pings")
        webhook.status = 500
        mailwatch.wait_until(
            lambda: b"heartbeat: it was not taken: status 500" in mailwatch.all_output(), "said so"
        )
        webhook.status = 200
        mailwatch.wait_until(lambda: b"heartbeat: it is taken again" in mailwatch.all_output(), "said so")
        output = mailwatch.all_output()
    so_far = len(webhook.pings)
    assert set(webhook.pings) == {f"/{CANARY}"}
    assert CANARY.encode() not in output + mailwatch.all_output()
    assert len(webhook.pings) == so_far


def test_a_real_mail_server_accepts_the_message_over_verified_tls(
    tmp_path: Path,
    certificates: Certificates,
    provider: tuple[Dovecot, Postfix],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dovecot, postfix = provider
    password = dovecot.passwords[ALICE]
    login = f"{quote(ALICE, safe='')}:{quote(password, safe='')}"
    where = f"localhost:{postfix.submissions_port}?mode=ssl&from={ALICE}&to={ALICE}"
    mailwatch = notifying_process(tmp_path, f"mailtos://{login}@{where}")

    def arrived() -> list[EmailMessage]:
        with dovecot.session(ALICE) as imap:
            imap.select("INBOX", readonly=True)
            _, (numbers,) = imap.search(None, "ALL")
            fetched = [imap.fetch(number, "(RFC822)")[1][0] for number in numbers.split()]
        raw = [answer[1] for answer in fetched if isinstance(answer, tuple)]
        messages = [message_from_bytes(each, policy=default) for each in raw]
        return [message for message in messages if message["Subject"] == "MailWatch: lab is down"]

    before = len(arrived())
    # Not by an authority that is not trusted.
    with mailwatch.running():
        failed = 'mailwatch_notifications_total{channel="mailtos-1",outcome="failed"'
        mailwatch.wait_until(lambda: (mailwatch.metric(failed) or 0) >= 1, "a failed attempt", 40)
    assert len(arrived()) == before
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    with mailwatch.running():
        sent = 'mailwatch_notifications_total{channel="mailtos-1",outcome="sent"'
        mailwatch.wait_until(lambda: (mailwatch.metric(sent) or 0) >= 1, "sent", 40)
        mailwatch.wait_until(lambda: len(arrived()) > before, "arrived")
        output = mailwatch.all_output()
    assert len(arrived()) == before + 1
    tried = mailwatch.command("notify", "test")
    assert (tried.returncode, tried.stdout) == (0, "mailtos-1: sent\n"), tried.stderr
    body = arrived()[-1].get_body(("plain", "html"))
    assert body is not None
    assert "lab is down since" in body.get_content()
    assert password.encode() not in output


def test_a_channel_can_be_tested_and_reports_why_it_fails(tmp_path: Path, webhook: Webhook) -> None:
    refusing = Webhook().open()
    refusing.status = 401
    unreachable = f"json://127.0.0.1:{free_port()}/{CANARY}"
    answering = {"url": webhook.url, "lang": "it", "quiet_hours": "00:00-23:59"}
    more = [answering, {"url": refusing.url}, {"url": unreachable}]
    mailwatch = MailWatchProcess(tmp_path, [unreachable_target()], notify=more)
    tried = mailwatch.command("notify", "test")
    refusing.close()
    assert tried.returncode == 1
    assert tried.stdout.splitlines() == [
        "json-1: sent",
        "json-2: FAILED: it answered 401",
        "json-3: FAILED: no connection, or the login was refused",
    ]
    assert webhook.titles == ["MailWatch: prova"]
    assert "messaggio di prova di MailWatch (test)" in webhook.received[0]["message"]
    one = mailwatch.command("notify", "test", "json-1", "--json")
    assert one.returncode == 0
    assert json.loads(one.stdout) == [{"channel": "json-1", "taken": True, "why": None}]
    assert CANARY not in tried.stdout + tried.stderr + one.stderr
    assert not mailwatch.data_dir.exists()


def test_a_trial_without_a_channel_or_of_one_that_is_not_there_fails(tmp_path: Path, webhook: Webhook) -> None:
    mailwatch = MailWatchProcess(tmp_path, [unreachable_target()])
    tried = mailwatch.command("notify", "test")
    assert (tried.returncode, tried.stdout) == (1, "")
    assert "the config has no notify" in tried.stderr
    mailwatch.settings["notify"] = [{"url": webhook.url}]
    mailwatch.write_config()
    tried = mailwatch.command("notify", "test", "ntfys-1")
    assert tried.returncode == 2
    assert "no channel ntfys-1; the channels are: json-1" in tried.stderr
    assert webhook.received == []


def config_of(folder: Path, *channels: dict[str, Any], **more: Any) -> Config:
    path = folder / "config.yaml"
    target = {"name": "a", "kind": "imap", "provider": "libero"}
    settings = {"vantage_point": {"name": "here"}, "targets": [target], "notify": list(channels), **more}
    path.write_text(json.dumps(settings))
    return load(path)


@pytest.mark.parametrize(
    ("urls", "warned"),
    [
        (["mailtos://u:p@libero.it"], True),
        (["mailtos://u:p@smtp.example.net?to=a@libero.it"], True),
        (["mailtos://u:p@smtp.example.net?to=a@example.net"], False),
        (["mailtos://u:p@libero.it", "json://127.0.0.1/x"], False),
        (["json://127.0.0.1/x"], False),
        ([], False),
    ],
)
def test_config_warns_when_the_only_channel_is_a_monitored_mailbox(
    tmp_path: Path, urls: list[str], warned: bool
) -> None:
    found = list(channel_warnings(config_of(tmp_path, *({"url": url} for url in urls))))
    assert ["itself monitors" in mistake.message for mistake in found] == [True] * warned


@pytest.mark.parametrize(
    "url", [f"jsons://{CANARY}.example/?verify=no", f"nonsense://{CANARY}.example/", CANARY, f"ntfy:/{CANARY}"]
)
def test_an_address_that_cannot_be_used_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_channels(config_of(tmp_path, {"url": url}))
    assert "notify[0].url" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_an_address_without_its_file_or_of_a_heartbeat_without_http_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"notify\[0\].url_file"):
        build_channels(config_of(tmp_path, {"url_file": "gone"}))
    (tmp_path / "ping").write_text(f"ftp://{CANARY}/")
    with pytest.raises(ConfigError, match="is not an http") as caught:
        build_heartbeat(config_of(tmp_path, heartbeat={"url_file": "ping"}))
    assert CANARY not in str(caught.value)


def test_the_effective_config_shows_the_scheme_only(tmp_path: Path) -> None:
    url = f"https://127.0.0.1/{CANARY}"
    displayed = effective_yaml(
        config_of(tmp_path, {"url": f"json://u:{CANARY}@h/{CANARY}"}, heartbeat={"url": url})
    )
    assert CANARY not in displayed
    assert "json://..." in displayed
    assert "https://..." in displayed
