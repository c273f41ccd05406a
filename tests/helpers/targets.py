"""Targets of the servers on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from mailwatch.model import Kind, TlsMode
from mailwatch.settings import Login, Target
from tests.servers import ALICE, Certificates, Courier, Cyrus, Dovecot, Exim, OpenSmtpd, Postfix


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
