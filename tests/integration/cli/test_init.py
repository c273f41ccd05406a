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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mailwatch.cli.init.discovery import ServerCandidate, Source
from mailwatch.cli.init.draft import ConfigDraft, config_text
from mailwatch.cli.init.prompts import texts
from mailwatch.cli.init.save import name_secret, save
from mailwatch.cli.init.servers import MailboxServers
from mailwatch.config import ConfigError, build_targets, load
from mailwatch.model import Kind, TlsMode
from tests.helpers import pty as terminal
from tests.helpers.command import mailwatch
from tests.helpers.netns import PROVIDER, IsolatedNetwork
from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE
from tests.helpers.pty import CONTROL_C, Terminal
from tests.helpers.requirements import need_root
from tests.servers import ALICE, DOVECOT, Certificates, Dovecot, Postfix, free_port, server_folder

MAILWATCH = (sys.executable, "-m", "mailwatch")
CANARY = "canary-wrong-password"


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
        return {**kept, "LC_ALL": "C.UTF-8", "SSL_CERT_FILE": str(self.ca_file), **self.more}

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
        terminal.wait_for(f"User name [{ALICE}]: ")
        terminal.type("")
        terminal.wait_for("Password")
        terminal.type(CANARY)
        terminal.wait_for("rejected the login")
        terminal.wait_for("app password")
        terminal.wait_for("Attempt 1 of 3")
        terminal.wait_for("User name")
        terminal.type("")
        terminal.wait_for("Password")
        terminal.type(own_dovecot.passwords[ALICE])
        terminal.wait_for("The login works.")
        terminal.wait_for("short name")
        terminal.type("home-milan")
        terminal.wait_for("Where it is")
        terminal.type('Milano, "IT": #1')
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
        assert [stamp.url for stamp in loaded.timestamps] == ["http://timestamp.digicert.com"]
        checked = desk.run("config", "check")
        assert (checked.returncode, checked.stderr) == (0, "no mistakes: 3 targets\n")
        assert desk.run("probe").returncode == 0


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
            for _ in range(3):
                terminal.wait_for("]: " if _ == 0 else "none: " if _ == 1 else "[Y/n]")
                terminal.type("n" if _ == 2 else "")
        assert terminal.end() == status
        assert CANARY not in terminal.raw
    if status:
        assert desk.left() == []
        return
    loaded = load(desk.config)
    assert (loaded.vantage_point.name, loaded.vantage_point.place, loaded.timestamps) == ("home", "", ())
    assert "no login has worked yet" in desk.config.read_text()
    assert desk.holding(CANARY) == [Path(f"secrets/{ALICE}")]


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


QUESTIONS = ("mail address: ", "User name", "Password", "short name", "Where it is", "Turn timestamps on")


@pytest.mark.parametrize("where", QUESTIONS)
def test_control_c_leaves_no_files_behind(desk: Desk, dovecot: Dovecot, where: str) -> None:
    answers = {"mail address: ": ALICE, "Password": dovecot.passwords[ALICE]}
    with desk.sit(*at_hand(dovecot)) as terminal:
        for question in (
            "mail address: ",
            "User name",
            "Password",
            "short name",
            "Where it is",
            "Turn timestamps on",
        ):
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
USERS = ("a@own.test", "a@usual.test", "a@lured.test", "a@gone.test")


@pytest.fixture(scope="module")
def world() -> Iterator[IsolatedNetwork]:
    """A provider of domains: own.test has SRV, usual.test usual names, lured.test names a foreign server."""
    need_root("ip", "nft", "dnsmasq", str(DOVECOT))
    with server_folder() as folder:
        world = IsolatedNetwork(folder, IMAP, POP, USUAL, ELSEWHERE)
        try:
            world.resolv_conf()
            dovecot = world.dovecot
            for user in USERS:
                dovecot.add_user(user, f"password-of-{user}")
            # The ports that everybody knows, for usual names.
            for port, real in ((993, dovecot.imaps_port), (995, dovecot.pop3s_port), (143, dovecot.imap_port)):
                world.fault(f"before tcp dport {port} redirect to :{real}")
            names = (IMAP, POP, USUAL, ELSEWHERE, "mail.usual.test")
            records = (
                "local=/#/",
                f"srv-host=_imaps._tcp.own.test,{IMAP},{dovecot.imaps_port},0,0",
                f"srv-host=_pop3s._tcp.own.test,{POP},{dovecot.pop3s_port},0,0",
                "srv-host=_submissions._tcp.own.test",
                f"srv-host=_imaps._tcp.lured.test,{ELSEWHERE},{dovecot.imaps_port},0,0",
                "mx-host=lured.test,mx.lured.test,10",
                "mx-host=hosted.test,aspmx.l.google.com,10",
                "srv-host=_imaps._tcp.customer.test,imap.fastmail.com,993,0,0",
                "srv-host=_submissions._tcp.customer.test,smtp.fastmail.com,465,0,0",
            )
            with world.resolver(dict.fromkeys(names, PROVIDER), *records):
                yield world
        finally:
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
            terminal.wait_for("by hand")
            terminal.interrupt("Nothing was written.")
            assert terminal.end() == 130
            assert "a@lured.test" not in world.dovecot.log_since(mark)
            return
        terminal.wait_for("User name")
        terminal.type("")
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
        terminal.wait_for("NXDOMAIN")
        found = terminal.wait_for("Password")
        assert f"reading (IMAP): {USUAL}:993" in found
        assert "No server found for reading (POP3), sending (SMTP)" in found
        assert "mail.usual.test" not in found
        terminal.type(world.dovecot.passwords["a@usual.test"])
        assert terminal.end() == 0
    assert hosts(home.config) == [(Kind.IMAP, USUAL, 993, TlsMode.IMPLICIT)]


def test_unknown_servers_are_asked_for_by_hand(world: IsolatedNetwork, home: Desk) -> None:
    with home.sit("a@gone.test", "--yes", "--username", "a@gone.test") as terminal:
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
        terminal.wait_for("It is not")
        terminal.type(f"{PROVIDER}:143")
        for _ in range(2):
            terminal.wait_for("HOST:PORT: ")
            terminal.type("")
        terminal.wait_for("Password")
        terminal.type(world.dovecot.passwords["a@gone.test"])
        assert terminal.end() == 0
    assert hosts(home.config) == [(Kind.IMAP, PROVIDER, 143, TlsMode.STARTTLS)]


def test_a_domain_at_a_provider_of_the_catalogue_is_known_by_its_exchanger(home: Desk) -> None:
    with home.sit("a@hosted.test") as terminal:
        terminal.wait_for("aspmx.l.google.com, which belongs to GMail, receives the mail")
        terminal.wait_for("kept there too? [Y/n]")
        terminal.type("")
        terminal.wait_for("imap.gmail.com:993")
        terminal.wait_for("expects an app password")
        terminal.wait_for("Password")
        terminal.type(CANARY)
        terminal.wait_for("neither accepted nor rejected")  # nobody resolves its names here
        terminal.wait_for("[y/N]")
        terminal.type("y")
        terminal.wait_for("short name")
        terminal.type("")
        terminal.wait_for("none: ")
        terminal.type("")
        terminal.wait_for("[Y/n]")
        terminal.type("")
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
    assert "neither accepted nor rejected" in done.stderr
    assert "Nothing was written." in done.stderr
    assert home.left() == ["libero"]


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
    text = config_text(draft(name=odd, place=odd, username=odd), texts(language), date(2026, 11, 25))
    config = save(tmp_path / "config.yaml", text, secret, SecretStr(odd))
    assert (config.vantage_point.name, config.vantage_point.place) == (odd, odd)
    (target,) = build_targets(load(tmp_path / "config.yaml"))
    assert target.login is not None
    assert (target.login.username, target.login.password.get_secret_value()) == (odd, odd)


def test_a_server_reply_cannot_escape_its_yaml_comment() -> None:
    text = config_text(
        draft(skipped={Kind.SMTP: "no\nvantage_point: {name: x}\x1b[31m\u2028y"}), texts("en"), date(2026, 1, 1)
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
            config_text(draft(), texts("en"), date(2026, 1, 1)),
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

    assert dict(shape(texts("en").loaded)) == dict(shape(texts("it").loaded))


def test_every_text_of_init_is_used() -> None:
    folder = ROOT / "mailwatch" / "cli"
    code = "".join(path.read_text() for path in folder.glob("init/*.py"))
    expected = texts("en")
    for key in (*expected.keys(), *expected.section("config").keys()):
        assert re.search(rf"""["']{key}["']""", code), key
