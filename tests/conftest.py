"""Real servers for the tests that ask for them, and targets that name those servers."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
from pydantic import SecretStr

from mailwatch.models import Kind, Login, Target, TlsMode
from tests.lived import bundle, lived, trust  # noqa: F401 - fixtures
from tests.servers import (
    ALICE,
    DOVECOT,
    POSTFIX,
    ROOTS,
    Certificates,
    Courier,
    Cyrus,
    Dovecot,
    Exim,
    OpenSmtpd,
    Postfix,
    server_folder,
)

# No test is timed: a machine that is busy is no defect.
hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("untimed")

LONG = {
    f"test_{name}"
    for name in (
        "end_to_end",
        "web_browser",
        "evidence_mutations",
        "evidence_cases",
        "web_access",
        "campaign",
        "watched",
        "watched_record",
        "clock_steps",
        "evidence_operator",
        "other_servers",
    )
}
"""Files that take minutes: begun first, so that no worker is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the rest stays in its order."""
    items.sort(key=lambda item: item.path.stem not in LONG)


HOW_TO_INSTALL = "run: sh tests/install_servers.sh"


def _need(program: Path, *, root: bool = False) -> None:
    """Skip without the server, but fail where the tests are the gate: there a skip would pass unseen."""
    lacking = None
    if not program.exists():
        lacking = f"{program} is not installed; {HOW_TO_INSTALL}"
    elif root and os.geteuid() != 0:
        lacking = f"{program} runs as root only"
    if lacking is None:
        return
    if os.environ.get("CI") or os.environ.get("MAILWATCH_TESTS_REQUIRE_SERVERS") == "1":
        pytest.fail(lacking)
    pytest.skip(lacking)


def need_program(program: Path) -> None:
    """Skip, or fail where the tests are the gate, without a program or library."""
    _need(program)


def need_root(*programs: str) -> None:
    """Skip, or fail where the tests are the gate, without root or one of the programs."""
    for program in programs:
        _need(Path(shutil.which(program) or f"/usr/sbin/{program}"), root=True)


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """Certificates of a known authority and of one that nobody knows."""
    with server_folder() as folder:
        yield Certificates(folder)


@pytest.fixture(scope="session")
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot that all tests share: leave it as it was."""
    _need(DOVECOT)
    with server_folder() as folder, Dovecot(folder, certificates).running() as server:
        yield server


@pytest.fixture
def own_dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot of the test's own, to stop and to break."""
    _need(DOVECOT)
    with server_folder() as folder, Dovecot(folder, certificates).running() as server:
        yield server


@pytest.fixture(scope="session")
def postfix(certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    """A Postfix that all tests share, with the users of `dovecot`."""
    _need(POSTFIX, root=True)
    with server_folder() as folder, Postfix(folder, certificates, dovecot.auth_socket).running() as server:
        yield server


R = TypeVar("R", Cyrus, Courier, Exim, OpenSmtpd)


@contextlib.contextmanager
def _in_its_root(server: type[R], certificates: Certificates) -> Iterator[R]:
    _need(ROOTS / server.__name__.lower(), root=True)
    with server_folder() as folder, server(folder, certificates).running() as running:
        yield running


@pytest.fixture(scope="session")
def cyrus(certificates: Certificates) -> Iterator[Cyrus]:
    """A Cyrus that all tests share: leave it as it was."""
    with _in_its_root(Cyrus, certificates) as server:
        yield server


@pytest.fixture
def own_cyrus(certificates: Certificates) -> Iterator[Cyrus]:
    """A Cyrus of the test's own, to stop and to break."""
    with _in_its_root(Cyrus, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def courier(certificates: Certificates) -> Iterator[Courier]:
    """A Courier that all tests share: leave it as it was."""
    with _in_its_root(Courier, certificates) as server:
        yield server


@pytest.fixture
def own_courier(certificates: Certificates) -> Iterator[Courier]:
    """A Courier of the test's own, to stop and to break."""
    with _in_its_root(Courier, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def exim(certificates: Certificates) -> Iterator[Exim]:
    """An Exim that all tests share: leave it as it was."""
    with _in_its_root(Exim, certificates) as server:
        yield server


@pytest.fixture
def own_exim(certificates: Certificates) -> Iterator[Exim]:
    """An Exim of the test's own, to stop and to break."""
    with _in_its_root(Exim, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def opensmtpd(certificates: Certificates) -> Iterator[OpenSmtpd]:
    """An OpenSMTPD that all tests share: leave it as it was."""
    with _in_its_root(OpenSmtpd, certificates) as server:
        yield server


@pytest.fixture
def own_opensmtpd(certificates: Certificates) -> Iterator[OpenSmtpd]:
    """An OpenSMTPD of the test's own, to stop and to break."""
    with _in_its_root(OpenSmtpd, certificates) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Targets:
    """Makes targets of the servers on this machine."""

    certificates: Certificates

    def imap(
        self,
        server: Dovecot | Cyrus | Courier,
        tls: TlsMode = TlsMode.IMPLICIT,
        *,
        user: str = ALICE,
        password: str = "",
    ) -> Target:
        """An IMAP target with a login, by default with the user's right password."""
        port = server.imap_port if tls is TlsMode.STARTTLS else server.imaps_port
        return self._target(Kind.IMAP, port, tls, user, password or server.passwords[user])

    def pop3(
        self,
        server: Dovecot | Cyrus | Courier,
        tls: TlsMode = TlsMode.IMPLICIT,
        *,
        user: str = ALICE,
        password: str = "",
    ) -> Target:
        """A POP3 target with a login, by default with the user's right password."""
        port = server.pop3_port if tls is TlsMode.STARTTLS else server.pop3s_port
        return self._target(Kind.POP3, port, tls, user, password or server.passwords[user])

    def smtp(
        self,
        server: Postfix | Exim | OpenSmtpd,
        tls: TlsMode = TlsMode.IMPLICIT,
        *,
        user: str = ALICE,
        password: str,
    ) -> Target:
        """A submission target with a login; Postfix's passwords are those of Dovecot."""
        port = server.submission_port if tls is TlsMode.STARTTLS else server.submissions_port
        return self._target(Kind.SMTP, port, tls, user, password)

    def _target(self, kind: Kind, port: int, tls: TlsMode, user: str, password: str) -> Target:
        return Target(
            name=f"lab-{kind}",
            kind=kind,
            provider="lab",
            host="localhost",
            port=port,
            tls=tls,
            ca_file=self.certificates.ca_file,
            login=Login(username=user, password=SecretStr(password)),
            timeout=10.0,
        )


@pytest.fixture(scope="session")
def targets(certificates: Certificates) -> Targets:
    """The maker of targets."""
    return Targets(certificates)
