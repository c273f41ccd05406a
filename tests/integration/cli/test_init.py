"""`mailwatch init` at a terminal and without one, with real servers and a real name server."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from pydantic import SecretStr

from mailwatch.cli.init.prompts import texts
from mailwatch.config import ConfigError, build_targets, load, web_access
from mailwatch.config.secret_files import name_secret
from mailwatch.i18n import Texts
from mailwatch.model import Kind, TlsMode
from mailwatch.setup.code import CodeResult, try_code
from mailwatch.setup.config_text import config_text
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.save import save
from mailwatch.setup.servers import MailboxServers, ServerCandidate, Source
from mailwatch.setup.texts import texts as config_texts
from mailwatch.times import now
from tests.helpers import pty as terminal
from tests.helpers.command import mailwatch
from tests.helpers.netns import PROVIDER, IsolatedNetwork
from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE
from tests.helpers.pty import CONTROL_C, Terminal
from tests.helpers.requirements import need_root
from tests.servers import (
    ALICE,
    DOVECOT,
    NGINX,
    Certificates,
    Dovecot,
    Nginx,
    Postfix,
    free_port,
    server_folder,
)

MAILWATCH = (sys.executable, "-m", "mailwatch")
CANARY = "canary-wrong-password"
PAGES = "canary-pages-password"
MACHINE_QUESTIONS = (
    "short name", "Where it is", "Time zone", "see the pages too?", "own line?", "Turn timestamps on?",
)  # fmt: skip


@dataclass
class Desk:
    """Where a person sits: a folder, a language, and the authority that this machine trusts."""

    folder: Path
    ca_file: Path
    prefix: Sequence[str] = ()
    more: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment: English, and OpenSSL's own way to name the authorities."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "MAILWATCH_"))
        }
        return {**kept, "LC_ALL": "C.UTF-8", "COLUMNS": "250", "SSL_CERT_FILE": str(self.ca_file), **self.more}

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    def sit(self, *arguments: str) -> contextlib.AbstractContextManager[Terminal]:
        """Run init at a terminal."""
        program = (*self.prefix, *MAILWATCH) if self.prefix else (terminal.MAILWATCH,)
        return Terminal.running([*program, "init", *arguments], cwd=self.folder, env=self.env)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run any verb without a terminal."""
        if not self.prefix:
            return mailwatch(*words, cwd=self.folder, env=self.env, timeout=PATIENCE)
        return subprocess.run(
            [*self.prefix, *MAILWATCH, *words],
            cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip

    def holding(self, words: str) -> list[Path]:
        """The files that hold these words."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder) for path in files if words.encode() in path.read_bytes()]

    def left(self) -> list[str]:
        """All that is in the folder."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def desk(tmp_path: Path, certificates: Certificates) -> Desk:
    """A desk on this machine."""
    return Desk(tmp_path, certificates.ca_file)


def at_hand(dovecot: Dovecot, postfix: Postfix | None = None) -> tuple[str, ...]:
    """Options that name the servers of this machine."""
    servers = [f"imap=localhost:{dovecot.imaps_port}", f"pop3=localhost:{dovecot.pop3s_port}"]
    servers += [f"smtp=localhost:{postfix.submissions_port}"] if postfix else []
    return tuple(word for server in servers for word in ("--server", server))


def test_a_mistyped_password_is_asked_for_again_and_what_is_written_works(
    desk: Desk, own_dovecot: Dovecot, certificates: Certificates
) -> None:
    need_root("postfix")
    with (
        server_folder() as folder,
        Postfix(folder, certificates, own_dovecot.auth_socket).running() as postfix,
        desk.sit(*at_hand(own_dovecot, postfix)) as terminal,
    ):
        terminal.wait_for("mail address: ")
        terminal.type("not an address")
        terminal.wait_for("is not a mail address")
        terminal.wait_for("mail address: ")
        terminal.type(ALICE)
        assert "User name [" not in terminal.wait_for("Password")
        terminal.type(CANARY)
        terminal.wait_for("rejected the login")
        terminal.wait_for("app password")
        terminal.wait_for("Attempt 1 of 3")
        terminal.wait_for(f"User name: {ALICE}")
        terminal.wait_for("Enter alone changes the user name")
        terminal.type(own_dovecot.passwords[ALICE])
        terminal.wait_for("The login works.")
        terminal.wait_for("short name")
        terminal.type("home-milan")
        terminal.wait_for("Where it is")
        terminal.type('Milano, "IT": #1')
        terminal.wait_for("Time zone")
        terminal.type("rome")
        terminal.wait_for("see the pages too? They will ask for a password. [y/N]")
        terminal.type("")
        terminal.wait_for("Check your own line? [Y/n]")
        terminal.type("")
        terminal.wait_for("Turn timestamps on? [Y/n]")
        terminal.type("")
        terminal.wait_for("Next: mailwatch run")
        terminal.wait_for("http://127.0.0.1:8080/")
        assert terminal.end() == 0
        displayed = terminal.raw

        # one slip is one rejection, whatever the number of servers
        assert own_dovecot.log_since(0).count("Password mismatch") == 1
        password = own_dovecot.passwords[ALICE]
        assert password not in displayed
        assert CANARY not in displayed
        assert desk.holding(password) == [Path(f"secrets/{ALICE}")]
        assert desk.holding(CANARY) == []
        assert desk.left() == ["config.yaml", "secrets", f"secrets/{ALICE}"]
        assert [mode(desk.config), mode(desk.folder / "secrets"), mode(desk.folder / "secrets" / ALICE)] == [
            0o600,
            0o700,
            0o600,
        ]
        loaded = load(desk.config)
        assert (loaded.vantage_point.name, loaded.vantage_point.place) == ("home-milan", 'Milano, "IT": #1')
        assert (loaded.timezone, loaded.web.listen) == ("Europe/Rome", "127.0.0.1:8080")
        assert (loaded.guard is None, loaded.web.requires_login) == (False, False)
        assert [stamp.url for stamp in loaded.timestamps] == ["http://timestamp.digicert.com"]
        checked = desk.run("config", "check")
        assert (checked.returncode, checked.stderr) == (0, "no mistakes: 3 targets\n")
        assert desk.run("probe").returncode == 0


def test_enter_alone_changes_the_user_name_and_no_password_is_ever_taken_for_one(
    desk: Desk, own_dovecot: Dovecot
) -> None:
    with desk.sit("mario@example.org", *at_hand(own_dovecot)) as terminal:
        terminal.wait_for("Password")
        terminal.type(own_dovecot.passwords[ALICE])
        terminal.wait_for("rejected the login")
        terminal.wait_for("User name: mario@example.org")
        terminal.wait_for("Enter alone changes the user name): ")
        terminal.type("")
        terminal.wait_for("User name [mario@example.org]: ")
        terminal.type(ALICE)
        terminal.wait_for("Password (hidden while you type): ")
        terminal.type(own_dovecot.passwords[ALICE])
        terminal.wait_for("The login works.")
        answer_about_the_machine(terminal)
        assert terminal.end() == 0
        assert own_dovecot.passwords[ALICE] not in terminal.raw
    log = own_dovecot.log_since(0)
    assert own_dovecot.passwords[ALICE] not in log
    logins = [target.login for target in build_targets(load(desk.config))]
    assert {login.username for login in logins if login} == {ALICE}
    assert desk.left() == ["config.yaml", "secrets", "secrets/mario@example.org"]


def test_the_reply_of_the_server_is_shown_once(desk: Desk, own_dovecot: Dovecot) -> None:
    (desk.folder / "wrong").write_text(CANARY)
    done = desk.run("init", ALICE, "--yes", *at_hand(own_dovecot), "--password-file", "wrong")
    assert done.stderr.count("AUTHENTICATIONFAILED") == 1


def test_a_server_of_ones_own_authority_needs_its_file(desk: Desk, dovecot: Dovecot) -> None:
    desk.more["SSL_CERT_FILE"] = "/nowhere"
    (desk.folder / "no-certificate").write_text("none")
    with desk.sit(ALICE, *at_hand(dovecot)) as terminal:
        terminal.wait_for("Password")
        terminal.type(dovecot.passwords[ALICE])
        shown = terminal.wait_for("certificate is not trusted")
        assert "issuer not trusted" in shown
        assert "provider" not in shown
        terminal.wait_for("Enter for none: ")
        terminal.type("no-certificate")
        terminal.wait_for("It holds no certificate (PEM).")
        terminal.type(str(desk.ca_file))
        terminal.wait_for("The login works.")
        answer_about_the_machine(terminal)
        assert terminal.end() == 0
    assert {target.ca_file for target in load(desk.config).targets} == {desk.ca_file}
    assert desk.run("probe").returncode == 0


def test_the_file_of_an_authority_can_be_an_option(desk: Desk, dovecot: Dovecot) -> None:
    desk.more["SSL_CERT_FILE"] = "/nowhere"
    (desk.folder / "mine").write_text(dovecot.passwords[ALICE])
    (desk.folder / "authority.pem").write_bytes(desk.ca_file.read_bytes())
    words = ("init", ALICE, "--yes", *at_hand(dovecot), "--password-file", "mine", "--ca-file")
    assert "--ca-file gone: cannot be read" in desk.run(*words, "gone").stderr
    done = desk.run(*words, "authority.pem")
    assert done.returncode == 0, done.stderr
    assert "ca_file: authority.pem" in desk.config.read_text()
    assert desk.run("probe").returncode == 0


def test_other_machines_see_the_pages_with_a_password(desk: Desk, dovecot: Dovecot) -> None:
    with desk.sit(ALICE, *at_hand(dovecot)) as terminal:
        terminal.wait_for("Password")
        terminal.type(dovecot.passwords[ALICE])
        terminal.wait_for("short name")
        terminal.type("")
        terminal.wait_for("Where it is")
        terminal.type("")
        terminal.wait_for("Time zone")
        terminal.type("Springfeld")
        terminal.wait_for("Springfeld is not a time zone")
        terminal.wait_for("Time zone")
        terminal.type("europe/rome")
        terminal.wait_for("see the pages too?")
        terminal.type("y")
        terminal.wait_for("[0.0.0.0:8080]: ")
        terminal.type("192.0.2.1")
        terminal.wait_for("is not host:port")
        terminal.wait_for("[0.0.0.0:8080]: ")
        terminal.type("192.0.2.1:8081")
        terminal.wait_for("Choose a password")
        terminal.type("short")
        terminal.wait_for("at least 8 characters")
        terminal.wait_for("Choose a password")
        terminal.type(PAGES)
        terminal.wait_for("same password again")
        terminal.type(PAGES + "x")
        terminal.wait_for("differ")
        terminal.wait_for("Choose a password")
        terminal.type(PAGES)
        terminal.wait_for("same password again")
        terminal.type(PAGES)
        terminal.wait_for("own line?")
        terminal.type("n")
        terminal.wait_for("your own line was not checked")
        terminal.wait_for("Turn timestamps on?")
        terminal.type("")
        terminal.wait_for("http://192.0.2.1:8081/")
        terminal.wait_for("user mailwatch")
        assert terminal.end() == 0
        assert PAGES not in terminal.raw
    loaded = load(desk.config)
    assert (loaded.web.listen, loaded.timezone, loaded.guard) == ("192.0.2.1:8081", "Europe/Rome", None)
    access = web_access(loaded)
    assert access.password_hash is not None
    assert PasswordHasher().verify(access.password_hash.get_secret_value(), PAGES)
    assert desk.holding(PAGES) == []


def test_in_a_container_the_last_words_are_for_its_host(desk: Desk, dovecot: Dovecot) -> None:
    desk.more |= {"MAILWATCH_CONTAINER": "true", "MAILWATCH_LISTEN": "0.0.0.0:8080", "TZ": "Europe/Rome"}
    (desk.folder / "mine").write_text(dovecot.passwords[ALICE])
    done = desk.run("init", ALICE, "--yes", *at_hand(dovecot), "--password-file", "mine")
    assert done.returncode == 0
    assert "Next: docker compose restart mailwatch\n" in done.stderr
    assert "http://THIS-MACHINE:8080/" in done.stderr
    assert "mailwatch run" not in done.stderr
    assert load(desk.config).timezone == "Europe/Rome"


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("--timezone", "Springfield"), "--timezone: Springfield is not a time zone"),
        (("--listen", "8080"), "--listen: is not host:port"),
        (("--listen", "0.0.0.0:8080"), "--listen 127.0.0.1:8080"),
    ],
)
def test_options_about_the_machine_are_checked(
    desk: Desk, dovecot: Dovecot, arguments: tuple[str, ...], wrong: str
) -> None:
    (desk.folder / "mine").write_text(dovecot.passwords[ALICE])
    words = ("init", ALICE, "--yes", *at_hand(dovecot), "--password-file", "mine")
    done = desk.run(*words, *arguments)
    assert done.returncode == 2
    assert wrong in done.stderr
    assert desk.left() == ["mine"]


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en_US.UTF-8", "Your own Internet connection does not work"),
        ("it_IT.UTF-8", "La tua connessione a Internet non funziona"),
    ],
)
def test_without_a_line_it_says_so_and_not_that_the_provider_is_down(
    desk: Desk, language: str, words: str
) -> None:
    need_root("unshare")
    alone = replace(desk, prefix=("unshare", "--net"))
    alone.more["LC_ALL"] = language
    (desk.folder / "mine").write_text(CANARY)
    for address in ("mario.rossi@libero.it", "mario@studiorossi.example"):
        done = alone.run("init", address, "--yes", "--password-file", "mine")
        assert done.returncode == 1
        assert words in done.stderr
        assert "provider may be down" not in done.stderr
        assert "Traceback" not in done.stderr
    assert desk.left() == ["mine"]


def test_three_rejected_passwords_are_the_end_and_nothing_is_written(desk: Desk, own_dovecot: Dovecot) -> None:
    with desk.sit(ALICE, "--username", ALICE, *at_hand(own_dovecot)) as terminal:
        for _ in range(3):
            terminal.wait_for("Password")
            terminal.type(CANARY)
            terminal.wait_for("rejected the login")
        terminal.wait_for("That was the last attempt.")
        terminal.wait_for("Nothing was written.")
        assert terminal.end() == 1
        assert CANARY not in terminal.raw
    assert own_dovecot.log_since(0).count("Password mismatch") == 3
    assert desk.left() == []


def test_a_channel_that_does_not_work_is_left_out_with_a_comment(desk: Desk, dovecot: Dovecot) -> None:
    closed = free_port()
    with desk.sit(
        ALICE, "--yes", "--username", ALICE, *at_hand(dovecot), "--server", f"smtp=localhost:{closed}"
    ) as terminal:
        terminal.wait_for("Password")
        terminal.type(dovecot.passwords[ALICE])
        terminal.wait_for("sending (SMTP) does not work and is left out: refused")
        assert terminal.end() == 0
    assert [target.kind for target in build_targets(load(desk.config))] == [Kind.IMAP, Kind.POP3]
    assert "# smtp is left out: refused: " in desk.config.read_text()


@pytest.mark.parametrize(("answer", "status"), [("", 1), ("n", 1), ("y", 0)])
def test_answers_are_saved_even_if_no_server_works(desk: Desk, answer: str, status: int) -> None:
    server = f"imap=localhost:{free_port()}"
    with desk.sit(ALICE, "--username", ALICE, "--server", server) as terminal:
        terminal.wait_for("Password")
        terminal.type(CANARY)
        terminal.wait_for("neither accepted nor rejected")
        terminal.wait_for("without a working login? [y/N] ")
        terminal.type("perhaps")
        terminal.wait_for("answer y or n")
        terminal.type(answer)
        if status == 0:
            answer_about_the_machine(terminal, timestamps="n")
        assert terminal.end() == status
        assert CANARY not in terminal.raw
    if status:
        assert desk.left() == []
        return
    loaded = load(desk.config)
    assert (loaded.vantage_point.name, loaded.vantage_point.place, loaded.timestamps) == ("home", "", ())
    assert "no login has worked yet" in desk.config.read_text()
    assert desk.holding(CANARY) == [Path(f"secrets/{ALICE}")]


def answer_about_the_machine(terminal: Terminal, timestamps: str = "") -> None:
    """Accept what is offered, but for the timestamps."""
    for question in MACHINE_QUESTIONS:
        terminal.wait_for(question)
        terminal.type(timestamps if question == MACHINE_QUESTIONS[-1] else "")


def test_an_existing_config_is_never_changed(desk: Desk) -> None:
    desk.config.write_text("mine")
    done = desk.run("init", ALICE, "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "already exists" in done.stderr
    dangling = desk.folder / "link.yaml"
    dangling.symlink_to("nowhere.yaml")
    assert desk.run("init", ALICE, "--yes", "--config", str(dangling)).returncode == 1
    assert desk.config.read_text() == "mine"
    assert desk.left() == ["config.yaml", "link.yaml"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ((ALICE,), "--yes"),
        (("--yes",), "ADDRESS"),
        ((ALICE, "--yes", "--server", "imap=localhost:1"), "--password-file FILE"),
        (("a@outlook.com", "--yes"), "--client-id ID"),
        ((ALICE, "--yes", "--channels", "imap,fax"), "use imap, smtp, pop3"),
        ((ALICE, "--yes", "--server", "imap"), "imap=imap.example.org:993"),
        ((ALICE, "--yes", "--server", "fax=localhost:1"), "imap=imap.example.org:993"),
        ((ALICE, "--yes", "--server", "imap=localhost:0"), "imap=imap.example.org:993"),
        ((ALICE, "--yes", "--server", "imap=a.test:1", "--server", "imap=b.test:1"), "names imap twice"),
        (
            (ALICE, "--yes", "--server", "imap=a.test:1", "--client-id", "x"),
            "--client-id does not apply to example.org",
        ),
        (("a@libero.it", "--yes", "--username", "x"), "--username does not apply to Libero"),
        (("a@outlook.com", "--yes", "--password-file", "x"), "--password-file does not apply to Outlook"),
        (("nobody", "--yes"), "ADDRESS: is not a mail address"),
        ((ALICE, "--yes", "--name", " a"), "--name: must be printable"),
        ((ALICE, "--yes", "--server", "imap=localhost:1", "--password-file", "gone"), "--password-file: gone"),
    ],
)
def test_without_a_terminal_it_says_which_option_is_missing(
    desk: Desk, arguments: tuple[str, ...], option: str
) -> None:
    done = desk.run("init", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert desk.left() == []


def test_a_password_file_is_used_where_it_is(desk: Desk, dovecot: Dovecot) -> None:
    given = desk.folder / "elsewhere"
    given.write_text(dovecot.passwords[ALICE])
    given.chmod(0o644)
    done = desk.run(
        "init", ALICE, "--yes", *at_hand(dovecot), "--password-file", "elsewhere", "--place", "Milano, IT",
        "--name", "off",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "others can read elsewhere" in done.stderr
    assert desk.left() == ["config.yaml", "elsewhere"]
    loaded = load(desk.config)
    assert {target.login.password_file for target in loaded.targets if target.login} == {given}
    assert (loaded.vantage_point.name, loaded.vantage_point.place) == ("off", "Milano, IT")
    assert desk.run("probe").returncode == 0


def test_a_rejected_password_file_is_tried_once(desk: Desk, own_dovecot: Dovecot) -> None:
    (desk.folder / "wrong").write_text(CANARY)
    done = desk.run("init", ALICE, "--yes", *at_hand(own_dovecot), "--password-file", "wrong")
    assert done.returncode == 1
    assert "rejected the login" in done.stderr
    assert CANARY not in done.stderr
    assert own_dovecot.log_since(0).count("Password mismatch") == 1
    assert desk.left() == ["wrong"]


def test_a_provider_of_oauth_only_is_written_with_its_next_step(desk: Desk) -> None:
    with desk.sit("mario.rossi@outlook.com", "--yes", "--channels", "imap,smtp") as terminal:
        terminal.wait_for("accepts no passwords")
        terminal.wait_for("Client ID: ")
        terminal.type("0000-1111")
        terminal.wait_for("mailwatch login mario.rossi@outlook.com")
        assert terminal.end() == 0
        assert "Password" not in terminal.output
    (account,) = load(desk.config).accounts
    assert account.oauth2 is not None
    assert (account.oauth2.provider, account.oauth2.client_id) == ("microsoft", "0000-1111")
    assert account.channels == (Kind.IMAP, Kind.SMTP)
    assert desk.left() == ["config.yaml"]
    assert desk.run("config", "check").returncode == 0


QUESTIONS = ("mail address: ", "Password", *MACHINE_QUESTIONS)


def test_access_can_be_granted_at_once(desk: Desk) -> None:
    with desk.sit("mario.rossi@outlook.com") as terminal:
        terminal.wait_for("https://entra.microsoft.com/")
        terminal.wait_for("Client ID: ")
        terminal.type("0000-1111")
        answer_about_the_machine(terminal)
        terminal.wait_for("Grant access now? [Y/n]")
        terminal.type("")
        terminal.wait_for("https://login.microsoftonline.com/")
        terminal.wait_for("paste the address")
        terminal.type(CONTROL_C, enter=False)
        assert terminal.end() == 130
        assert "Nothing was written" not in terminal.output
    assert desk.run("config", "check").returncode == 0


def test_access_can_be_granted_later_in_a_container_too(desk: Desk) -> None:
    desk.more |= {"MAILWATCH_CONTAINER": "true"}
    with desk.sit("mario.rossi@outlook.com", "--client-id", "0000-1111") as terminal:
        answer_about_the_machine(terminal)
        assert "entra.microsoft.com" not in terminal.output
        terminal.wait_for("Grant access now? [Y/n]")
        terminal.type("n")
        terminal.wait_for("docker compose run --rm --no-deps mailwatch login mario.rossi@outlook.com")
        terminal.wait_for("docker compose restart mailwatch")
        assert terminal.end() == 0


def test_gmail_names_the_page_of_app_passwords(home: Desk) -> None:
    with home.sit("mario@gmail.com") as terminal:
        terminal.wait_for("https://myaccount.google.com/apppasswords")
        terminal.wait_for("Password")
        terminal.interrupt("Nothing was written.")


@pytest.mark.parametrize("where", QUESTIONS)
def test_control_c_leaves_no_files_behind(desk: Desk, dovecot: Dovecot, where: str) -> None:
    answers = {"mail address: ": ALICE, "Password": dovecot.passwords[ALICE]}
    with desk.sit(*at_hand(dovecot)) as terminal:
        for question in QUESTIONS:
            terminal.wait_for(question)
            if question == where:
                break
            terminal.type(answers.get(question, ""))
        terminal.interrupt("Nothing was written.")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.output
    assert desk.left() == []


def test_control_c_ends_a_login_that_hangs(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"imap=localhost:{silent.getsockname()[1]}"
        with desk.sit(ALICE, "--yes", "--server", server) as terminal:
            terminal.wait_for("Password")
            terminal.type(CANARY)
            terminal.wait_for("Logging in")
            with silent.accept()[0]:
                terminal.type(CONTROL_C, enter=False)
                terminal.wait_for("Nothing was written.")
                assert terminal.end() == 130
            assert "Traceback" not in terminal.output
    assert desk.left() == []


def test_the_end_of_input_is_an_end_too(desk: Desk, dovecot: Dovecot) -> None:
    with desk.sit(*at_hand(dovecot)) as terminal:
        terminal.wait_for("mail address: ")
        terminal.type("\x04", enter=False)
        terminal.wait_for("Nothing was written.")
        assert terminal.end() == 1


def test_it_speaks_italian(desk: Desk, dovecot: Dovecot) -> None:
    desk.more["LC_ALL"] = "it_IT.UTF-8"
    (desk.folder / "mine").write_text(dovecot.passwords[ALICE])
    done = desk.run("init", ALICE, "--yes", *at_hand(dovecot), "--password-file", "mine")
    assert done.returncode == 0
    assert "L'accesso funziona." in done.stderr
    assert "# i server della casella; mantieni i nomi" in desk.config.read_text()
    assert build_targets(load(desk.config))


# With a name server: the domains of a world in network namespaces.

IMAP, POP = "imap.own.test", "pop.own.test"
USUAL = "imap.usual.test"
ELSEWHERE = "imap.elsewhere.test"
AUTO, AUTOCONFIG = "imap.auto.test", "autoconfig.auto.test"
USERS = ("a@own.test", "a@usual.test", "a@lured.test", "a@gone.test", "b@auto.test")
AUTOCONFIG_FILE = """<clientConfig><emailProvider><incomingServer type="imap">
<hostname>imap.%EMAILDOMAIN%</hostname><port>{port}</port><socketType>SSL</socketType><username>b@%EMAILDOMAIN%</username>
</incomingServer></emailProvider></clientConfig>"""


@pytest.fixture(scope="module")
def world() -> Iterator[IsolatedNetwork]:
    """A provider of domains: own.test has SRV, usual.test usual names, lured.test names a foreign server."""
    need_root("ip", "nft", "dnsmasq", str(DOVECOT), str(NGINX))
    with server_folder() as folder:
        world = IsolatedNetwork(folder, IMAP, POP, USUAL, ELSEWHERE, AUTO, AUTOCONFIG)
        try:
            world.resolv_conf()
            dovecot = world.dovecot
            for user in USERS:
                dovecot.add_user(user, f"password-of-{user}")
            # The ports that everybody knows, for usual names.
            for port, real in ((993, dovecot.imaps_port), (995, dovecot.pop3s_port), (143, dovecot.imap_port)):
                world.fault(f"before tcp dport {port} redirect to :{real}")
            nginx = world.far.run(Nginx, folder / "nginx", world.certificates)
            file = AUTOCONFIG_FILE.format(port=dovecot.imaps_port).replace("\n", " ")
            nginx.configure(
                f"listen {PROVIDER}:443 ssl; location = /mail/config-v1.1.xml {{ return 200 '{file}'; }}"
            )
            names = (IMAP, POP, USUAL, ELSEWHERE, "mail.usual.test", AUTO, AUTOCONFIG)
            records = (
                "local=/#/",
                f"srv-host=_imaps._tcp.own.test,{IMAP},{dovecot.imaps_port},0,0",
                f"srv-host=_pop3s._tcp.own.test,{POP},{dovecot.pop3s_port},0,0",
                "srv-host=_submissions._tcp.own.test",
                f"srv-host=_imaps._tcp.lured.test,{ELSEWHERE},{dovecot.imaps_port},0,0",
                "mx-host=lured.test,mx.lured.test,10",
                "mx-host=hosted.test,aspmx.l.google.com,10",
                "txt-record=auto.test,x",
                "srv-host=_imaps._tcp.customer.test,imap.fastmail.com,993,0,0",
                "srv-host=_submissions._tcp.customer.test,smtp.fastmail.com,465,0,0",
            )
            world.far.run(nginx.start)
            with world.resolver(dict.fromkeys(names, PROVIDER), *records):
                yield world
        finally:
            world.far.run(nginx.stop)
            world.close()


@pytest.fixture
def home(world: IsolatedNetwork, tmp_path: Path) -> Desk:
    """A desk at home, from where the provider is far."""
    return Desk(tmp_path, world.certificates.ca_file, world.home.prefix)


def hosts(config: Path) -> list[tuple[Kind, str, int, TlsMode]]:
    return [(t.kind, t.host, t.port, t.tls) for t in build_targets(load(config))]


def test_servers_are_found_by_srv(world: IsolatedNetwork, home: Desk) -> None:
    with home.sit("a@own.test", "--yes") as terminal:
        terminal.wait_for("SRV records of own.test")
        terminal.wait_for(f"{IMAP}:{world.dovecot.imaps_port}")
        terminal.wait_for("Password")
        terminal.type(world.dovecot.passwords["a@own.test"])
        assert terminal.end() == 0
        assert "own.test states that it does not offer sending (SMTP)" in terminal.output
        assert "usual names" not in terminal.output
    assert hosts(home.config) == [
        (Kind.IMAP, IMAP, world.dovecot.imaps_port, TlsMode.IMPLICIT),
        (Kind.POP3, POP, world.dovecot.pop3s_port, TlsMode.IMPLICIT),
    ]
    assert home.run("probe").returncode == 0


@pytest.mark.parametrize("answer", ["", "y"])
def test_a_server_outside_the_domain_gets_no_password_unless_the_person_knows_it(
    world: IsolatedNetwork, home: Desk, answer: str
) -> None:
    mark = world.dovecot.log_size
    with home.sit("a@lured.test") as terminal:
        terminal.wait_for(f"outside its own domain: {ELSEWHERE}")
        terminal.wait_for("right one? [y/N] ")
        terminal.type(answer)
        if not answer:
            terminal.wait_for(f"{ELSEWHERE} was left out")
            terminal.wait_for("lured.test may publish its mail servers")
            terminal.wait_for("[Y/n]")
            terminal.type("n")
            terminal.wait_for("autoconfig.thunderbird.net would learn")
            terminal.wait_for("[y/N]")
            terminal.type("n")
            terminal.wait_for("by hand")
            terminal.interrupt("Nothing was written.")
            assert terminal.end() == 130
            assert "a@lured.test" not in world.dovecot.log_since(mark)
            return
        terminal.wait_for("User name: a@lured.test")
        terminal.wait_for("Password")
        terminal.type(world.dovecot.passwords["a@lured.test"])
        terminal.wait_for("The login works.")
    assert "a@lured.test" in world.dovecot.log_until("Login: user=<a@lured.test>", mark)


def test_with_yes_a_server_outside_the_domain_is_not_confirmed(home: Desk) -> None:
    done = home.run("init", "a@lured.test", "--yes", "--password-file", "gone")
    assert done.returncode == 2
    assert f"{ELSEWHERE} was left out" in done.stderr
    assert "--server imap=HOST:PORT" in done.stderr


def test_usual_names_count_only_with_a_certificate_that_is_theirs(world: IsolatedNetwork, home: Desk) -> None:
    with home.sit("a@usual.test", "--yes") as terminal:
        terminal.wait_for("usual server names under usual.test")  # its name server denies the domain itself
        found = terminal.wait_for("Password")
        assert "does not exist" not in found
        assert f"reading (IMAP): {USUAL}:993" in found
        assert "No server found for reading (POP3), sending (SMTP)" in found
        assert "mail.usual.test" not in found
        terminal.type(world.dovecot.passwords["a@usual.test"])
        assert terminal.end() == 0
    assert hosts(home.config) == [(Kind.IMAP, USUAL, 993, TlsMode.IMPLICIT)]


def test_a_mistyped_domain_is_asked_about(home: Desk) -> None:
    with home.sit("mario@gmial.com") as terminal:
        terminal.wait_for("Did you mean mario@gmail.com? [y/N] ")
        terminal.type("y")
        terminal.wait_for("gmail.com belongs to GMail")
        terminal.wait_for("Password")
        terminal.interrupt("Nothing was written.")
        assert terminal.end() == 130
        assert "DNS" not in terminal.output


def test_a_mistyped_domain_is_named_where_nothing_is_asked(desk: Desk) -> None:
    done = desk.run("init", "mario@gmial.com", "--yes")
    assert done.returncode != 0
    assert "gmial.com looks like a typing error; maybe you meant mario@gmail.com." in done.stderr


def test_a_domain_that_does_not_exist_is_asked_for_again(world: IsolatedNetwork, home: Desk) -> None:
    with home.sit("a@onw.test") as terminal:
        terminal.wait_for("The domain onw.test does not exist.")
        terminal.wait_for("mail address [a@onw.test]: ")
        terminal.type("a@own.test")
        terminal.wait_for("SRV records of own.test")
        terminal.wait_for("User name: a@own.test")
        terminal.wait_for("Password")
        terminal.type(world.dovecot.passwords["a@own.test"])
        terminal.wait_for("The login works.")
        answer_about_the_machine(terminal)
        assert terminal.end() == 0
    assert [kind for kind, *_ in hosts(home.config)] == [Kind.IMAP, Kind.POP3]
    assert "a@own.test" in home.config.read_text()


def test_servers_are_found_where_thunderbird_finds_them(world: IsolatedNetwork, home: Desk) -> None:
    with home.sit("a@auto.test") as terminal:
        terminal.wait_for("auto.test may publish its mail servers")
        terminal.wait_for("Ask it? [Y/n] ")
        terminal.type("")
        terminal.wait_for("Asking autoconfig.auto.test")
        terminal.wait_for("Published by auto.test:")
        terminal.wait_for(f"reading (IMAP): imap.auto.test:{world.dovecot.imaps_port}")
        terminal.wait_for("User name: b@auto.test")
        terminal.wait_for("Password")
        terminal.type(world.dovecot.passwords["b@auto.test"])
        terminal.wait_for("The login works.")
    assert home.left() == []


def test_unknown_servers_are_asked_for_by_hand(world: IsolatedNetwork, home: Desk) -> None:
    with home.sit("a@gone.test", "--yes", "--username", "a@gone.test") as terminal:
        terminal.wait_for("The domain gone.test does not exist. Is it spelt right?")
        terminal.wait_for("by hand")
        terminal.wait_for("IMAP), HOST or HOST:PORT: ")
        terminal.type("")
        terminal.wait_for("POP3), HOST or HOST:PORT: ")
        terminal.type("")
        terminal.wait_for("SMTP), HOST or HOST:PORT: ")
        terminal.type("")
        terminal.wait_for("enter at least one")
        terminal.wait_for("HOST:PORT: ")
        terminal.type("https://imap.example.org/")
        terminal.wait_for("It is an address with a scheme; write HOST or HOST:PORT alone")
        terminal.type(f"{PROVIDER}:143")
        for _ in range(2):
            terminal.wait_for("HOST:PORT: ")
            terminal.type("")
        terminal.wait_for("Password")
        terminal.type(world.dovecot.passwords["a@gone.test"])
        assert terminal.end() == 0
    assert hosts(home.config) == [(Kind.IMAP, PROVIDER, 143, TlsMode.STARTTLS)]


def test_without_a_terminal_a_domain_that_does_not_exist_is_to_be_corrected(home: Desk) -> None:
    done = home.run("init", "a@gone.test", "--yes")
    assert (done.returncode, home.left()) == (2, [])
    assert "gone.test does not exist; correct the address, or name its servers" in done.stderr


def test_a_domain_at_a_provider_of_the_catalogue_is_known_by_its_exchanger(home: Desk) -> None:
    with home.sit("a@hosted.test") as terminal:
        terminal.wait_for("aspmx.l.google.com, which belongs to GMail, receives the mail")
        terminal.wait_for("kept there too? [Y/n]")
        terminal.type("")
        terminal.wait_for("imap.gmail.com:993")
        terminal.wait_for("expects an app password")
        terminal.wait_for("Password")
        terminal.type(CANARY)
        terminal.wait_for("own Internet connection does not work")  # no name server answers here
        terminal.wait_for("[y/N]")
        terminal.type("y")
        answer_about_the_machine(terminal)
        assert terminal.end() == 0
    (account,) = load(home.config).accounts
    assert (account.provider, account.address) == ("gmail", "a@hosted.test")


def test_a_server_outside_the_domain_that_the_catalogue_knows_is_its_providers(home: Desk) -> None:
    (home.folder / "mine").write_text(CANARY)
    done = home.run("init", "a@customer.test", "--yes", "--channels", "imap,smtp", "--password-file", "mine")
    assert "The catalogue lists imap.fastmail.com as a server of Fastmail" in done.stderr
    assert "These are the servers of Fastmail." in done.stderr
    assert done.returncode == 1  # nobody resolves its names here


def test_a_provider_of_the_catalogue_that_is_out_of_reach(home: Desk) -> None:
    (home.folder / "libero").write_text(CANARY)
    done = home.run("init", "mario.rossi@libero.it", "--yes", "--password-file", "libero")
    assert done.returncode == 1
    assert "imapmail.libero.it:993" in done.stderr
    assert "own Internet connection does not work" in done.stderr
    assert "the provider may be down" not in done.stderr
    assert "Nothing was written." in done.stderr
    assert home.left() == ["libero"]


# The code for the set-up in the browser.


def test_a_code_for_the_browser_is_printed_alone_on_stdout(desk: Desk) -> None:
    done = desk.run("init", "--web")
    assert done.returncode == 0
    assert "valid for 15 minutes, and once" in done.stderr
    assert "http://127.0.0.1:8080/setup" in done.stderr
    assert desk.left() == ["data", "data/setup-code"]
    assert try_code(desk.folder / "data", done.stdout, now()) is CodeResult.ACCEPTED


def test_the_code_goes_where_the_running_monitor_reads_it(desk: Desk) -> None:
    desk.more |= {"MAILWATCH_CONTAINER": "true", "MAILWATCH_LISTEN": "0.0.0.0:8081", "LC_ALL": "it_IT.UTF-8"}
    desk.more["MAILWATCH_DATA_DIR"] = str(desk.folder / "volume")
    done = desk.run("init", "--web")
    assert "http://QUESTA-MACCHINA:8081/setup" in done.stderr
    assert "MAILWATCH_PORT" in done.stderr
    assert try_code(desk.folder / "volume", done.stdout, now()) is CodeResult.ACCEPTED


def test_no_code_is_made_where_the_set_up_is_over(desk: Desk) -> None:
    (desk.folder / "config.yaml").write_text("targets: [{name: a, kind: imap, provider: libero}]\n")
    done = desk.run("init", "--web")
    assert (done.returncode, done.stdout) == (1, "")
    assert "config.yaml exists already" in done.stderr
    assert desk.left() == ["config.yaml"]
    # The example that comes with MailWatch is no config of the owner's.
    (desk.folder / "config.yaml").rename(desk.folder / "config.example.yaml")
    assert desk.run("--config", "config.example.yaml", "init", "--web").returncode == 0


# What is written, and how.


def draft(**said: Any) -> ConfigDraft:
    candidate = ServerCandidate(
        kind=Kind.IMAP, host="imap.example.org", port=993, tls=TlsMode.IMPLICIT, source=Source.GIVEN
    )
    usual = {
        "name": "home", "place": "", "address": ALICE, "username": ALICE, "servers": MailboxServers((candidate,)),
        "kinds": (Kind.IMAP,), "password_file": f"secrets/{ALICE}",
    }  # fmt: skip
    return ConfigDraft(**{**usual, **said})


@pytest.mark.parametrize("listen", ["[::1]:8080", "[::]:8080", "127.0.0.1:8080"])
def test_an_address_of_ipv6_to_listen_on_can_be_read_back(listen: str, tmp_path: Path) -> None:
    text = config_text(draft(listen=listen), config_texts("en"), date(2026, 1, 1))
    (tmp_path / "config.yaml").write_text(text)
    assert load(tmp_path / "config.yaml").web.listen == listen


@pytest.mark.parametrize("language", ["en", "it"])
@pytest.mark.parametrize(
    "odd",
    [
        "true",
        "null",
        "12",
        "1.5",
        "~",
        "a: b",
        "a #b",
        '"a" \\b',
        "- a",
        "{a}",
        "!a",
        "&a",
        "'",
        "città €",
        "%a",
        "@",
    ],
)
def test_every_written_config_loads_again(tmp_path: Path, odd: str, language: str) -> None:
    secret = name_secret(tmp_path, ALICE)
    text = config_text(draft(name=odd, place=odd, username=odd), config_texts(language), date(2026, 11, 25))
    config = save(tmp_path / "config.yaml", text, secret, SecretStr(odd))
    assert (config.vantage_point.name, config.vantage_point.place) == (odd, odd)
    (target,) = build_targets(load(tmp_path / "config.yaml"))
    assert target.login is not None
    assert (target.login.username, target.login.password.get_secret_value()) == (odd, odd)


def test_a_server_reply_cannot_escape_its_yaml_comment() -> None:
    text = config_text(
        draft(skipped={Kind.SMTP: "no\nvantage_point: {name: x}\x1b[31m\u2028y"}),
        config_texts("en"),
        date(2026, 1, 1),
    )
    assert "# smtp is left out: no?vantage_point: {name: x}?[31m?y\n" in text


def test_a_config_that_cannot_be_read_back_is_not_put_in_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        save(tmp_path / "config.yaml", "vantage_point: {}\n", name_secret(tmp_path, ALICE), SecretStr(CANARY))
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_appears_meanwhile_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mine")
    (tmp_path / "secrets").mkdir()
    with pytest.raises(FileExistsError):
        save(
            path,
            config_text(draft(), config_texts("en"), date(2026, 1, 1)),
            name_secret(tmp_path, ALICE),
            SecretStr(CANARY),
        )
    assert path.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "secrets"]


def test_an_existing_password_is_not_overwritten(tmp_path: Path) -> None:
    first = name_secret(tmp_path, ALICE)
    first.parent.mkdir()
    first.write_text("mine")
    second = name_secret(tmp_path, ALICE)
    assert second.name == f"{ALICE}-2"
    with pytest.raises(FileExistsError):
        save(tmp_path / "config.yaml", "", first, SecretStr(CANARY))
    assert first.read_text() == "mine"


@pytest.mark.parametrize("address", ["../../a@b", "a@b/../../c", "/etc/passwd@x", "a@" + "b" * 250, ".@."])
def test_no_address_leads_out_of_the_folder_of_secrets(tmp_path: Path, address: str) -> None:
    path = name_secret(tmp_path, address)
    assert path.resolve().parent == (tmp_path / "secrets").resolve()
    path.parent.mkdir()
    path.touch()


def test_both_languages_say_the_same() -> None:
    def shape(tree: Any, at: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield from shape(value, f"{at}.{key}")
        else:
            places = (name for _, name, _, _ in string.Formatter().parse(tree) if name)
            yield at, tuple(sorted(places))

    for load_in in (texts, config_texts):
        assert dict(shape(load_in("en").loaded)) == dict(shape(load_in("it").loaded))


@pytest.mark.parametrize(("folder", "load_in"), [("mailwatch/cli/init", texts), ("mailwatch/setup", config_texts)])
def test_every_text_of_init_is_used(folder: str, load_in: Callable[[str], Texts]) -> None:
    # `remove` asks in the words of init.
    users = [*(ROOT / folder).glob("*.py"), ROOT / "mailwatch/cli/remove.py"]
    code = "".join(path.read_text() for path in users)
    expected = load_in("en")
    in_sections = expected.section("config").keys() if "config" in expected else ()
    for key in (*expected.keys(), *in_sections):
        assert re.search(rf"""["']{key}["']""", code), key
