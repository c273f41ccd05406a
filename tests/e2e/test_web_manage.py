"""Management in the browser, without JavaScript: mailboxes, notifications, two people at once, and who may."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.config import load
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need_root
from tests.helpers.visitor import Visitor
from tests.helpers.web_client import HTML, PASSWORD, TOKEN, UNREACHABLE_TARGET, ask, basic, watching_with
from tests.helpers.webhook import Webhook
from tests.servers import Certificates, Dovecot

ALICE = "alice@localhost"
SECRET = "canary-mailbox-password"
COMMENTED = """\
# mine, and it stays
vantage_point: {{name: test}}   # beside
data_dir: data
web:
  listen: 127.0.0.1:{port}
guard: off
clock: {{servers: []}}
targets:
  # a target of my own
  - name: nobody
    kind: imap
    host: 127.0.0.1
    port: 1
    tls: none
"""


@pytest.fixture
def process(tmp_path: Path, certificates: Certificates) -> Iterator[MailWatchProcess]:
    """A MailWatch on loopback, with a config that its owner wrote."""
    made = MailWatchProcess(tmp_path, [UNREACHABLE_TARGET])
    made.config.write_text(COMMENTED.format(port=made.port))
    made.environment = {"SSL_CERT_FILE": str(certificates.ca_file)}
    with made.running():
        yield made


def digest(visitor: Visitor) -> str:
    """The digest of the config that the page was made of."""
    found = re.search(r'name="digest" value="([0-9a-f]{64})"', visitor.page)
    assert found is not None
    return found[1]


def notice(visitor: Visitor) -> str:
    """The result that the page reports."""
    found = re.search(r'<p class="notice [a-z]+"[^>]*>(.*?)</p>', visitor.page, re.DOTALL)
    return found[1].strip() if found else ""


def test_a_mailbox_comes_is_checked_paused_and_goes(process: MailWatchProcess, own_dovecot: Dovecot) -> None:
    own_dovecot.add_user(ALICE, SECRET)
    with Visitor(process) as visitor:
        visitor.get("/manage")
        assert visitor.title == "Manage"
        visitor.get("/manage/mailbox")
        visitor.post("/manage/mailbox/address", address=ALICE)
        visitor.wait_for("Enter the servers")
        visitor.post("/manage/mailbox/servers", imap=f"localhost:{own_dovecot.imaps_port}",
                     pop3=f"localhost:{own_dovecot.pop3s_port}")  # fmt: skip
        visitor.post("/manage/mailbox/login", username=ALICE, password=SECRET)
        visitor.wait_for("The login works")
        visitor.post("/manage/mailbox/save", language="it")
        assert notice(visitor) == f"Added: {ALICE}/imap, {ALICE}/pop3"
        process.wait_for_state(f"{ALICE}/imap", "up")
        text = process.config.read_text()
        assert text.startswith("# mine, and it stays\nvantage_point: {name: test}   # beside\n")
        assert "  # a target of my own\n" in text
        secret = process.folder / "secrets" / ALICE
        assert secret.read_text() == SECRET + "\n"

        visitor.get("/manage/mailbox")
        visitor.post("/manage/mailbox/address", address=ALICE.upper())
        assert visitor.wrong == ["MailWatch checks this mailbox already."]
        visitor.get("/manage")

        # both targets are one mailbox
        visitor.post("/manage/check", name=ALICE)
        assert notice(visitor).startswith("Checking:")
        visitor.post("/manage/check", name=ALICE)
        assert notice(visitor).startswith("Checked just now:")
        process.wait_until(lambda: process.count(f"{ALICE}/imap", "up") > 1, "checked at once")

        visitor.post("/manage/pause", name=ALICE, digest=digest(visitor))
        for kind in ("imap", "pop3"):
            process.wait_for_state(f"{ALICE}/{kind}", "paused")
        assert "Resume" in visitor.page
        visitor.post("/manage/resume", name=ALICE, digest=digest(visitor))
        process.wait_for_state(f"{ALICE}/imap", "up")
        visitor.post("/manage/remove", name=ALICE, digest=digest(visitor))
        assert notice(visitor) == f"Removed: {ALICE}"
        process.wait_until(lambda: len(process.api("targets")) == 1, "removed")
        assert not secret.exists()
        assert process.config.read_text().rstrip() == COMMENTED.format(port=process.port).rstrip()
        assert SECRET not in visitor.seen
    assert SECRET not in process.log.read_text()


def test_the_form_of_ntfy_has_a_token_of_its_own(process: MailWatchProcess) -> None:
    """It stands beside the token of the form's session, which may not be taken for it."""
    word = "tk_abcdefghij0123456789abcdefghi"
    with Visitor(process) as visitor:
        visitor.get("/manage")
        for name, token in (("Open", ""), ("Closed", word)):
            visitor.get("/manage/channel?service=ntfy")
            visitor.post("/manage/channel", service="ntfy", name=name, topic="casa-rossi", server="", token=token)
            assert notice(visitor) == f"Notification added: {name}. Send a test."
        assert word not in process.config.read_text()
        for name in ("Open", "Closed"):
            visitor.get("/manage")
            visitor.post("/manage/remove-channel", name=name, digest=digest(visitor))
        assert load(process.config).notify == ()
        assert not list((process.folder / "secrets").glob("notify-*")), "a token goes with its channel"


def test_a_channel_comes_is_tested_and_goes(process: MailWatchProcess) -> None:
    webhook = Webhook().open()
    canary = "canary-7f3a"
    try:
        with Visitor(process) as visitor:
            visitor.get("/manage")
            visitor.get("/manage/channel?service=webhook")
            visitor.post("/manage/channel", service="webhook", name="", url=f"nonsense-{canary}")
            assert visitor.wrong == ["This is not a web address; it begins with https://", "This is needed."]
            visitor.post("/manage/channel", service="webhook", name="Casa", language="it",
                         url=f"http://127.0.0.1:{webhook.port}/{canary}")  # fmt: skip
            assert notice(visitor) == "Notification added: Casa. Send a test."
            (channel,) = load(process.config).notify
            assert (channel.name, channel.lang) == ("Casa", "it")
            visitor.post("/manage/test-channel", name="Casa")
            assert notice(visitor).startswith("Test sent: Casa")
            assert len(webhook.received) == 1
            webhook.status = 403
            visitor.post("/manage/test-channel", name="Casa")
            assert notice(visitor).startswith("The test was not sent: it answered 403")
            # two of the same name: refused, and the form asks again
            visitor.get("/manage/channel?service=webhook")
            visitor.post(
                "/manage/channel", service="webhook", name="Casa", language="it", url="https://example.org/x"
            )
            assert visitor.wrong == ["the name 'Casa' belongs to a channel above; names must differ"]
            assert 'value="Casa"' in visitor.page
            assert len(load(process.config).notify) == 1
            assert sorted(path.name for path in (process.folder / "secrets").iterdir()) == ["notify-Casa"]
            visitor.get("/manage")
            visitor.post("/manage/remove-channel", name="Casa", digest=digest(visitor))
            assert load(process.config).notify == ()
            assert canary not in visitor.seen
    finally:
        webhook.close()
    assert canary not in process.log.read_text()


def test_an_open_incident_is_acknowledged_and_reminded_of_again(process: MailWatchProcess) -> None:
    process.config.write_text(
        process.config.read_text() + "    interval: 1s\ndetection: {recheck: [50ms], open_after: 2}\n"
    )
    before = process.log.read_text().count("config reloaded")
    process.signal(signal.SIGHUP)
    process.wait_until(lambda: process.log.read_text().count("config reloaded") > before, "reloaded")
    process.wait_until(lambda: process.api("incidents?open=true"), "an incident")
    (incident,) = process.api("incidents?open=true")
    with Visitor(process) as visitor, Visitor(process) as anonymous:
        visitor.get(f"/outages/{incident['outages'][0]['id']}")
        assert 'href="../manage#open">Acknowledge</a>' in visitor.page
        visitor.get("/manage")
        assert 'manage/acknowledge"' in visitor.page
        anonymous.post("/manage/acknowledge", name=incident["id"], form_token="wrong")
        assert "acknowledged" not in process.api("incidents")[0]
        visitor.post("/manage/acknowledge", name=incident["id"], note="<i>Anna calls</i>")
        assert notice(visitor) == f"Acknowledged: {incident['id']}. No more reminders of it."
        assert process.api("incidents")[0]["acknowledged"]["note"] == "<i>Anna calls</i>"
        assert "&lt;i&gt;Anna calls&lt;/i&gt;" in visitor.page
        visitor.post("/manage/remind-again", name=incident["id"])
        assert notice(visitor) == f"Reminders are sent again: {incident['id']}"
        assert "acknowledged" not in process.api("incidents")[0]
        visitor.post("/manage/acknowledge", name="ffffffffffff")
        assert notice(visitor).startswith("Nothing was changed: no outage and no incident has the id")


def test_of_two_people_at_once_the_second_sees_it_again(process: MailWatchProcess) -> None:
    with Visitor(process) as first, Visitor(process) as second:
        first.get("/manage")
        second.get("/manage")
        old = digest(second)
        first.post("/manage/timezone", timezone="Europe/Rome", digest=digest(first))
        assert notice(first) == "Time zone: Europe/Rome"
        second.post("/manage/remove", name="nobody", digest=old)
        assert notice(second).startswith("The configuration changed meanwhile")
        assert "nobody" in second.page
        assert 'value="Europe/Rome"' in second.page
        # by hand too
        process.config.write_text(process.config.read_text() + "# by hand\n")
        first.post("/manage/remove", name="nobody", digest=digest(first))
        assert notice(first).startswith("The configuration changed meanwhile")
        first.post("/manage/timezone", timezone="Mars/Base", digest=digest(first))
        assert first.wrong == ["This is no time zone; write for example Europe/Rome."]
        assert 'value="Mars/Base"' in first.page
        # a mistake of another hand: nothing is written over it
        broken = process.config.read_text() + "nonsense: 1\n"
        process.config.write_text(broken)
        first.get("/manage")
        assert "The configuration on disk has mistakes." in first.page
        assert "nobody" in first.page
        first.post("/manage/timezone", timezone="Europe/Paris", digest=digest(first))
        assert notice(first).startswith("Nothing was changed:")
        assert process.config.read_text() == broken
        # in the reader's language, with file and line
        line = len(broken.splitlines())
        with Visitor(process, "it") as italian:
            italian.get("/manage")
            italian.post("/manage/timezone", timezone="Europe/Paris", digest=digest(italian))
            assert notice(italian).startswith(
                f"Non è stato cambiato nulla: {process.config}:{line}: nonsense: chiave sconosciuta; "
            )
            process.config.write_text(f"{broken}notify: [\n")
            italian.get("/manage")
            assert f"{process.config}:{line + 2}: non è YAML: " in italian.page
            assert "controlla rientri e virgolette" in italian.page


def test_a_config_that_cannot_be_written_says_so_and_offers_nothing(tmp_path: Path) -> None:
    need_root("unshare")
    process = MailWatchProcess(tmp_path, [UNREACHABLE_TARGET])
    mounted = 'mount --bind "$1" "$1" && shift && exec "$@"'
    process.prefix = ("unshare", "--mount", "sh", "-c", mounted, "sh", str(process.config))
    with process.running(), Visitor(process) as visitor:
        visitor.get("/manage")
        assert "The configuration cannot be changed here." in visitor.page
        assert "is mounted as a single file; mount its folder instead" in visitor.page
        assert "nobody" in visitor.page
        with Visitor(process, "it") as italian:
            italian.get("/manage")
            assert "è montato come file singolo; monta invece la sua cartella" in italian.page
        for word in ("Pause", "Remove", "Add a mailbox", "Add a notification", 'name="timezone"'):
            assert word not in visitor.page
        for path in ("/manage/mailbox", "/manage/channel"):
            visitor.get(path)
            assert visitor.title == "Manage"
        visitor.post("/manage/remove", name="nobody", digest="")
        assert len(process.api("targets")) == 1


def test_other_sites_and_visitors_without_the_right_change_nothing(process: MailWatchProcess) -> None:
    before = process.config.read_bytes()
    with Visitor(process) as visitor, Visitor(process) as other:
        visitor.get("/manage")
        right = {"name": "nobody", "digest": digest(visitor)}
        other.get("/manage")
        other_page = other.page
        token = re.search(r'name="form_token" value="([^"]+)"', visitor.page)
        assert token is not None
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            visitor.post("/manage/remove", headers, **right, form_token=token[1])
            assert visitor.status == 403
        other.post("/manage/remove", **right, form_token=token[1])
        assert notice(other) == "The page was open for too long. Try again."
        assert other_page
        with Visitor(process) as anonymous:
            anonymous.post("/manage/remove", **right, form_token=token[1])
        # passed on by a proxy: it may come from anywhere
        assert ask(process, "/manage", HTML | {"X-Forwarded-For": "192.0.2.1"})[0] == 403
        assert ask(process, "/manage", HTML | {"Host": "evil.example"})[0] == 421
        assert ask(process, "/manage/remove")[0] == 405
    assert process.config.read_bytes() == before


def test_with_a_password_only_the_password_manages(tmp_path: Path) -> None:
    process = watching_with(tmp_path, password_file="secret-web", token_file="secret-token")
    with process.running():
        assert ask(process, "/manage", HTML)[0] == 401
        assert ask(process, "/manage", HTML | {"Authorization": f"Bearer {TOKEN}"})[0] == 403
        assert ask(process, "/manage", HTML | basic(PASSWORD))[0] == 200
        for word, status in ((TOKEN, 403), (PASSWORD, 200)):
            with Visitor(process) as visitor:
                visitor.post("/login", password=word, to="")
                assert visitor.status == 200
                visitor.get("/manage")
                assert visitor.status == status
        assert ask(process, "/setup")[0] == 303


def test_the_password_of_the_pages_is_set_and_changed(process: MailWatchProcess) -> None:
    first, second = "canary-first-password", "canary-second-password"
    with Visitor(process) as visitor:
        visitor.get("/manage")
        visitor.post("/manage/password", password="short", again="short", digest=digest(visitor))
        assert visitor.wrong == ["Choose one of at least 8 characters."]
        visitor.post("/manage/password", password=first, again=second, digest=digest(visitor))
        assert visitor.wrong == ["The two passwords differ."]
        visitor.post("/manage/password", password=first, again=first, digest=digest(visitor))
        # from now on it is asked for
        assert visitor.status == 401
        for word, then in ((first, second), (second, first)):
            visitor.post("/login", password=word, to="manage")
            assert visitor.title == "Manage"
            visitor.post("/manage/password", password=then, again=then, digest=digest(visitor))
            assert visitor.status == 401
        assert "canary" not in visitor.seen
    assert "canary" not in process.config.read_text()
    assert process.config.read_text().startswith("# mine, and it stays")


def test_the_public_view_has_none_of_it(tmp_path: Path) -> None:
    process = watching_with(tmp_path, public=True)
    with process.running():
        assert "manage" not in ask(process, "/", HTML)[2]
        assert ask(process, "/manage", HTML)[0] == 403
        assert ask(process, "/manage/channel", HTML)[0] == 403
