"""OpenSMTPD: submission with a login."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.certificates import Certificate, Certificates
from tests.servers.program import HOST, free_port
from tests.servers.rooted import Rooted, crypted

SMTPD_CONF = """\
pki localhost cert "/srv/chain.pem"
pki localhost key "/srv/key.pem"
table users file:/srv/users
listen on {host} port {submissions} smtps pki localhost auth <users> hostname localhost
listen on {host} port {submission} tls-require pki localhost auth <users> hostname localhost
action "out" relay
match auth from any for any action "out"
"""

SPOOL = (
    (".", "root", 0o711),
    ("corrupt", "opensmtpq", 0o700),
    ("incoming", "opensmtpq", 0o700),
    ("offline", "root", 0o770),
    ("purge", "opensmtpq", 0o700),
    ("queue", "opensmtpq", 0o700),
    ("temporary", "opensmtpq", 0o700),
)


class OpenSmtpd(Rooted):
    """Submission with STARTTLS on `submission_port`, with implicit TLS on `submissions_port`."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.submission_port, self.submissions_port = free_port(), free_port()
        ports = {self.submissions_port: True, self.submission_port: False}
        super().__init__(directory, "opensmtpd", ports, "opensmtpd", "opensmtpq")
        self.use_certificate(certificates.rsa)
        for folder, owner, mode in SPOOL:
            made = self.owned_folder(f"var/spool/smtpd/{folder}", owner, mode)
            os.chown(made, self.ids[owner], self.ids["opensmtpq"] if folder == "offline" else 0)
        self.write(
            "etc/smtpd.conf",
            SMTPD_CONF.format(host=HOST, submission=self.submission_port, submissions=self.submissions_port),
        )
        self.publish()
        self.write("srv/key.c", (Path(__file__).parent / "opensmtpd_key.c").read_bytes())
        self.inside("/usr/bin/tcc", "-shared", "-nostdlib", "-o", "/srv/key.so", "/srv/key.c")
        self.write("etc/ld.so.preload", "/srv/key.so\n")
        self.runs(("/usr/sbin/smtpd", "-d"))

    def use_certificate(self, certificate: Certificate) -> None:
        """Serve another certificate; counts from the next start on."""
        self.write("srv/chain.pem", certificate.chain.read_bytes(), mode=0o600)
        self.write("srv/key.pem", certificate.key.read_bytes(), mode=0o600)

    def publish(self) -> None:
        """Write the users with their passwords; counts from the next start on."""
        self.write("srv/users", "".join(f"{user} {crypted(p)}\n" for user, p in self.passwords.items()))

    def disable(self, user: str) -> None:
        """Lock the password, as usermod -L does; counts from the next start on."""
        lines = [f"{u} {'!' if u == user else ''}{crypted(p)}\n" for u, p in self.passwords.items()]
        self.write("srv/users", "".join(lines))
