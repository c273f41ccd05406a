"""The first set-up in the browser, without JavaScript, against a real Dovecot."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.config import build_targets, load
from mailwatch.model import Kind
from tests.helpers.process import MailWatchProcess
from tests.helpers.visitor import Visitor
from tests.helpers.web_client import UNREACHABLE_TARGET, ask
from tests.servers import Certificates, Dovecot, free_port

ALICE = "alice@localhost"
"""An address that no name server is asked about."""
SECRET = "canary-mailbox-password"
CANARY = "canary-wrong-password"
PAGES_PASSWORD = "canary-pages-password"
CODE = re.compile(r"set-up code: ([A-Z0-9-]{14}), valid 15 min: (http://\S+/setup)")


@pytest.fixture
def fresh(tmp_path: Path, certificates: Certificates) -> Iterator[MailWatchProcess]:
    """A MailWatch that runs on the example config, which names no mailbox."""
    process = MailWatchProcess(tmp_path, [UNREACHABLE_TARGET | {"kind": "imap"}])
    process.config.unlink()
    process.config = tmp_path / "config.example.yaml"
    process.write_config()
    process.environment = {"SSL_CERT_FILE": str(certificates.ca_file)}
    with process.running():
        yield process


def code_of(process: MailWatchProcess) -> str:
    """The one-time code in the log."""
    process.wait_until(lambda: CODE.search(process.log.read_text()), "a code")
    return str(CODE.findall(process.log.read_text())[-1][0])


def entered(process: MailWatchProcess, visitor: Visitor) -> None:
    """Enter the code, and a password for the pages."""
    visitor.get("/setup")
    visitor.post("/setup/code", code=code_of(process).lower().replace("-", " "))
    assert visitor.title == "The password of these pages"
    visitor.post("/setup/pages", password=PAGES_PASSWORD, again=PAGES_PASSWORD, timezone="Europe/Rome")
    assert visitor.title == "Your mailbox"


def at_servers(visitor: Visitor, dovecot: Dovecot, smtp: int = 0) -> None:
    """Enter the address and, since no name server knows it, the servers."""
    visitor.post("/setup/address", address=ALICE)
    visitor.wait_for("Enter the servers")
    servers = {"imap": f"localhost:{dovecot.imaps_port}", "pop3": f"localhost:{dovecot.pop3s_port}"}
    visitor.post("/setup/servers", None, **servers, smtp=f"localhost:{smtp}" if smtp else "")
    assert visitor.title == f"Password of {ALICE}"


def test_a_code_that_cannot_be_checked_says_so_and_is_not_used_up(fresh: MailWatchProcess) -> None:
    code, file = code_of(fresh), fresh.data_dir / "setup-code"
    aside = file.rename(file.with_name("aside"))
    # As on a disk that fails: the system refuses to open it.
    file.symlink_to(file)
    for language, words in (
        ("en", "could not check the code: its disk may be full"),
        ("it", "potrebbe essere pieno"),
    ):
        for _ in range(6):
            with Visitor(fresh) as visitor:
                visitor.get(f"/setup?lang={language}")
                visitor.post(f"/setup/code?lang={language}", code=code)
                assert words in visitor.page
                assert str(fresh.data_dir) not in visitor.page
    assert "the set-up code could not be checked: [Errno" in fresh.log.read_text()
    file.unlink()
    aside.rename(file)
    with Visitor(fresh) as visitor:
        entered(fresh, visitor)


def test_from_the_code_to_a_monitored_mailbox(fresh: MailWatchProcess, own_dovecot: Dovecot) -> None:
    own_dovecot.add_user(ALICE, SECRET)
    assert "Set up your mailbox" in fresh.get("/")
    with Visitor(fresh) as visitor:
        entered(fresh, visitor)
        at_servers(visitor, own_dovecot, smtp=free_port())
        visitor.post("/setup/login", username=ALICE, password=CANARY)
        visitor.wait_for("The server rejected the login")
        assert 'name="username"' not in visitor.page
        assert "Attempts left: 2" in visitor.page
        visitor.post("/setup/login", password=SECRET)
        visitor.wait_for("The login works")
        visitor.post("/setup/save", timestamps="", language="en")
        assert visitor.title == "● Done: the mailbox is being checked"
        assert f"{ALICE}/imap" in visitor.page
        # logged in by the set-up itself
        visitor.get("/")
        assert visitor.status == 200
        assert "Log out" in visitor.page
        seen = visitor.seen

    fresh.wait_until(lambda: "monitoring 2 target" in fresh.log.read_text(), "reloaded")
    written = fresh.folder / "config.yaml"
    config = load(written)
    assert [target.kind for target in build_targets(config)] == [Kind.IMAP, Kind.POP3]
    assert (config.timezone, config.timestamps) == ("Europe/Rome", ())
    assert config.web.password_hash is not None
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    secret = fresh.folder / "secrets" / ALICE
    assert secret.read_text() == SECRET + "\n"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600

    for word in (SECRET, CANARY, PAGES_PASSWORD, config.web.password_hash.get_secret_value()):
        assert word not in seen
        assert word not in fresh.log.read_text()
    assert own_dovecot.log_since(0).count("Password mismatch") == 1

    # closed for good, also for the code
    assert ask(fresh, "/setup")[0] == 303
    assert ask(fresh, "/", {"Accept": "text/html"})[0] == 401
    assert not (fresh.data_dir / "setup-code").exists()


def test_wrong_codes_use_it_up_and_another_one_helps(fresh: MailWatchProcess) -> None:
    right = code_of(fresh)
    with Visitor(fresh) as visitor:
        visitor.get("/setup")
        for _ in range(4):
            visitor.post("/setup/code", code="AAAA-BBBB-CCCC")
            assert (visitor.status, visitor.wrong) == (401, ["This code is not right."])
        visitor.post("/setup/code", code="")
        assert visitor.wrong == ["Too many wrong codes: make another."]
        visitor.post("/setup/code", code=right)
        assert visitor.wrong == ["Too many wrong codes: make another."]
        made = fresh.command("init", "--web")
        visitor.post("/setup/code", code=made.stdout.strip())
        assert visitor.title == "The password of these pages"
        # once only
        visitor.post("/setup/code", code=made.stdout.strip())
        assert visitor.wrong == ["This code is no longer valid, or was used: make another."]


def test_a_code_expires(fresh: MailWatchProcess) -> None:
    file = fresh.data_dir / "setup-code"
    right = code_of(fresh)
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"expires": stored["expires"] - 16 * 60_000}))
    with Visitor(fresh) as visitor:
        visitor.get("/setup")
        visitor.post("/setup/code", code=right)
        assert visitor.wrong == ["The code has expired: make another."]


def test_without_the_code_or_from_another_site_there_is_nothing(fresh: MailWatchProcess) -> None:
    with Visitor(fresh) as visitor, Visitor(fresh) as other:
        entered(fresh, visitor)
        token = re.search(r'name="form_token" value="([^"]+)"', visitor.page)
        assert token is not None
        # a token without the cookie of its session
        other.post("/setup/address", form_token=token[1], address=ALICE)
        assert other.title == "Set up your mailbox"
        # the cookie without the token
        visitor.page = ""
        visitor.post("/setup/address", address=ALICE)
        assert visitor.title == "Your mailbox"
        for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "", "origin": "http://evil.example"}):
            visitor.post("/setup/address", headers, form_token=token[1], address=ALICE)
            assert visitor.status == 403
        assert ask(fresh, "/setup/events")[0] == 404
        assert ask(fresh, "/setup", {"Host": "evil.example"})[0] == 421
        # no GET changes anything
        for path in ("/setup/code", "/setup/address", "/setup/save", "/setup/login"):
            assert ask(fresh, path)[0] == 405


def test_what_is_wrong_stands_beside_its_field_and_what_was_typed_stays(fresh: MailWatchProcess) -> None:
    with Visitor(fresh) as visitor:
        visitor.get("/setup")
        visitor.post("/setup/code", code=code_of(fresh))
        visitor.post("/setup/pages", password="short", again="other", timezone="Europe/Springfield")
        assert visitor.wrong == [
            "Choose one of at least 8 characters.", "This is no time zone; write for example Europe/Rome.",
        ]  # fmt: skip
        assert 'value="Europe/Springfield"' in visitor.page
        assert "Type the password again" in visitor.page
        visitor.post("/setup/pages", password=" " * 8, again=" " * 8, timezone="Rome")
        assert visitor.wrong == ["Blanks at the ends do not count: choose one of at least 8 other characters."]
        assert 'value="Rome"' in visitor.page
        visitor.post("/setup/pages", password=PAGES_PASSWORD, again=CANARY, timezone="Europe/Rome")
        assert visitor.wrong == ["The two passwords differ."]
        # on loopback none is needed
        visitor.post("/setup/pages", password="", again="", timezone="Rome")
        assert visitor.title == "Your mailbox"
        visitor.post("/setup/address", address="<b>x</b>@libero.it")
        assert visitor.wrong == ["This is not a mail address; write for example mario.rossi@libero.it"]
        visitor.post("/setup/address", address="mario@gmial.com")
        visitor.wait_for("Did you mean gmail.com?")
        visitor.post("/setup/back")
        visitor.post("/setup/address", address="nobody@")
        assert visitor.wrong == ["This is not a mail address; write for example mario.rossi@libero.it"]
        assert 'value="nobody@"' in visitor.page
        visitor.post("/setup/address", address=ALICE)
        visitor.wait_for("Enter the servers")
        visitor.post("/setup/servers")
        assert visitor.wrong == ["Enter at least one server."]
        visitor.post("/setup/servers", imap="localhost:99999", smtp="two words")
        assert len(visitor.wrong) == 2
        assert 'value="two words"' in visitor.page
        assert CANARY not in visitor.seen
        assert sorted(path.name for path in fresh.folder.iterdir()) == ["config.example.yaml", "data", "log"]
        # servers by hand that do not answer: no word against a provider, and a way back to them
        typed = f"localhost:{free_port()}"
        visitor.post("/setup/servers", imap=typed, imap_tls="starttls")
        visitor.post("/setup/login", username=ALICE, password=CANARY)
        visitor.wait_for("Check name, port and encryption of the servers that you entered.")
        assert "provider may be down" not in visitor.page
        visitor.post("/setup/change-servers")
        assert visitor.title == "Enter the servers"
        assert f'value="{typed}"' in visitor.page
        assert '<option value="starttls" selected>' in visitor.page
        visitor.post("/setup/servers", imap=typed, imap_tls="starttls")
        visitor.post("/setup/login", username=ALICE, password=CANARY)
        visitor.wait_for("Save anyway")
        visitor.post("/setup/save", language="en")
        assert visitor.title == "? Saved, but no login has worked yet"


def test_three_rejected_passwords_are_all(fresh: MailWatchProcess, own_dovecot: Dovecot) -> None:
    own_dovecot.add_user(ALICE, SECRET)
    with Visitor(fresh) as visitor:
        entered(fresh, visitor)
        at_servers(visitor, own_dovecot)
        for _ in range(3):
            visitor.post("/setup/login", username=ALICE, password=CANARY)
            visitor.wait_for("The server rejected the login")
        assert "You can try again in" in visitor.page
        assert 'type="password"' not in visitor.page
        # neither by a request nor by beginning anew
        visitor.post("/setup/login", password=SECRET)
        visitor.post("/setup/back")
        at_servers(visitor, own_dovecot)
        assert "You can try again in" in visitor.page
        visitor.post("/setup/save")
        assert "rejected" not in visitor.title
    assert own_dovecot.log_since(0).count("Password mismatch") == 3
    assert not (fresh.folder / "config.yaml").exists()


def test_a_config_that_appears_meanwhile_is_not_touched(fresh: MailWatchProcess, own_dovecot: Dovecot) -> None:
    own_dovecot.add_user(ALICE, SECRET)
    with Visitor(fresh) as visitor:
        entered(fresh, visitor)
        at_servers(visitor, own_dovecot)
        visitor.post("/setup/login", username=ALICE, password=SECRET)
        visitor.wait_for("The login works")
        mine = fresh.folder / "config.yaml"
        mine.write_text("mine")
        visitor.post("/setup/save", language="en")
        # No one else learns how the set-up of this visitor ended.
        visitor.wait_for("Nothing was saved")
        visitor.wait_for("set up elsewhere meanwhile")
        assert mine.read_text() == "mine"
        assert not (fresh.folder / "secrets").exists()
        # by now the set-up is closed
        assert ask(fresh, "/setup")[0] == 303
