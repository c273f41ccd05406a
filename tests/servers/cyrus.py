"""Cyrus: IMAP and POP3, with its users in sasldb."""

from __future__ import annotations

import imaplib
import shutil
import ssl
from pathlib import Path

from tests.helpers.patience import PATIENCE
from tests.servers.certificates import Certificate, Certificates
from tests.servers.dovecot import MESSAGE
from tests.servers.program import HOST, free_port
from tests.servers.rooted import ALICE, Rooted

IMAPD_CONF = """\
configdirectory: /srv/config
defaultpartition: default
partition-default: /srv/mail
admins: cyrus
servername: localhost
unixhierarchysep: yes
virtdomains: userid
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: /srv/sasldb2
sasl_mech_list: PLAIN
allowplaintext: no
tls_server_cert: /srv/server.pem
tls_server_key: /srv/server.pem
tls_session_timeout: 0
autocreate_quota: 0
autocreate_users: a@example.org
syslog_prefix: cyrus
maxlogins_per_user: {most}
"""
CYRUS_CONF = """\
START {{
  recover cmd="/usr/lib/cyrus/bin/ctl_cyrusdb -r"
}}
SERVICES {{
  imap cmd="/usr/lib/cyrus/bin/imapd" listen="{host}:{imap}" proto="tcp4" prefork=0
  imaps cmd="/usr/lib/cyrus/bin/imapd -s" listen="{host}:{imaps}" proto="tcp4" prefork=0
  pop3 cmd="/usr/lib/cyrus/bin/pop3d" listen="{host}:{pop3}" proto="tcp4" prefork=0
  pop3s cmd="/usr/lib/cyrus/bin/pop3d -s" listen="{host}:{pop3s}" proto="tcp4" prefork=0
}}
"""


class Cyrus(Rooted):
    """IMAP with implicit TLS on `imaps_port` and STARTTLS on `imap_port`; POP3 likewise.

    Alice has one message; Bob, who may log in, has no mailbox.
    """

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.imaps_port, self.imap_port = free_port(), free_port()
        self.pop3s_port, self.pop3_port = free_port(), free_port()
        ports = {self.imaps_port: True, self.imap_port: False, self.pop3s_port: True, self.pop3_port: False}
        super().__init__(directory, "cyrus", ports, "cyrus")
        self._certificates = certificates
        self._filled = False
        self.use_certificate(certificates.server)
        for folder in ("srv", "srv/config", "srv/mail", "var/lib/cyrus", "run/cyrus", "run/cyrus/socket"):
            self.owned_folder(folder, "cyrus")
        self.set_max_logins(0)
        self.write(
            "etc/cyrus.conf",
            CYRUS_CONF.format(
                host=HOST, imap=self.imap_port, imaps=self.imaps_port, pop3=self.pop3_port, pop3s=self.pop3s_port
            ),
        )
        for user, password in self.passwords.items():
            name, _, domain = user.partition("@")
            self.inside(
                "/usr/sbin/saslpasswd2", "-p", "-c", "-f", "/srv/sasldb2", "-u", domain, name, said=password
            )
        self.own(self.root / "srv/sasldb2", "cyrus")
        self.runs(("/usr/lib/cyrus/bin/master", "-D", "-C", "/etc/imapd.conf", "-M", "/etc/cyrus.conf"))

    def set_max_logins(self, number: int) -> None:
        """How many logins a user may have at once, 0 without a limit; counts from the next start on."""
        self.write("etc/imapd.conf", IMAPD_CONF.format(most=number))

    def use_certificate(self, certificate: Certificate) -> None:
        """Serve another certificate, from the next process on."""
        self.certificate(certificate, "srv/server.pem", owner="cyrus")

    def start(self) -> None:
        """Start it; at the first start Alice gets her mailbox, with one message."""
        super().start()
        if not self._filled:
            self._filled = True
            with self.session(ALICE) as client:
                assert client.append("INBOX", "", "", MESSAGE % (b"1.test", b"1.test"))[0] == "OK"

    def session(self, user: str) -> imaplib.IMAP4_SSL:
        """The user, logged in with a mail program that is not ours."""
        context = ssl.create_default_context(cafile=str(self._certificates.ca_file))
        client = imaplib.IMAP4_SSL("localhost", self.imaps_port, ssl_context=context, timeout=PATIENCE)
        client.login(user, self.passwords[user])
        return client

    def disable(self, user: str) -> None:
        """From now on the user's right password lets nobody in."""
        self.inside("/usr/lib/cyrus/bin/cyr_deny", "-m", "This account is disabled", user)

    def lose_passwords(self) -> None:
        """From now on the passwords cannot be read."""
        (self.root / "srv/sasldb2").chmod(0)
        self.own(self.root / "srv/sasldb2", "root")

    def lose_mailboxes(self) -> None:
        """From now on the messages are gone from the disk."""
        shutil.rmtree(self.root / "srv/mail")
