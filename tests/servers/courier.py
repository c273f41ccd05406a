"""Courier: IMAP and POP3, with its users in userdb."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

from tests.servers.certificates import Certificate, Certificates
from tests.servers.dovecot import MESSAGE
from tests.servers.program import HOST, free_port, session_members
from tests.servers.rooted import Rooted, crypted

AUTHDAEMONRC = """\
authmodulelist="authuserdb"
authmodulelistorig="authuserdb"
daemons=2
authdaemonvar=/run/courier/authdaemon
DEBUG_LOGIN=0
DEFAULTOPTIONS=""
"""
SETTINGS = {
    "IMAP_CAPABILITY": "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE IDLE",
    "IMAP_KEYWORDS": "1",
    "IMAP_CHECK_ALL_FOLDERS": "0",
    "IMAP_OBSOLETE_CLIENT": "0",
    "IMAP_USELOCKS": "0",
    "IMAP_TRASHFOLDERNAME": "Trash",
    "IMAP_EMPTYTRASH": "",
    "IMAP_STARTTLS": "YES",
    "IMAP_TLS_REQUIRED": "1",
    "POP3_STARTTLS": "YES",
    "POP3_TLS_REQUIRED": "1",
    "POP3AUTH_TLS": "PLAIN LOGIN",
    "TLS_CERTFILE": "/srv/server.pem",
    "TLS_VERIFYPEER": "NONE",
    "COURIERTLS": "/usr/bin/couriertls",
    "MAILDIRPATH": "Maildir",
}
WITHIN_TLS = {
    "IMAP_TLS": "1",
    "IMAP_STARTTLS": "NO",
    "IMAP_TLS_REQUIRED": "0",
    "POP3_TLS": "1",
    "POP3_STARTTLS": "NO",
    "POP3_TLS_REQUIRED": "0",
}
"""Otherwise, where TLS comes first."""
AUTHDAEMOND = "/usr/lib/courier/courier-authlib/authdaemond"


class Courier(Rooted):
    """IMAP with implicit TLS on `imaps_port` and STARTTLS on `imap_port`; POP3 likewise.

    It answers a wrong password after five seconds, more or less.
    """

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.imaps_port, self.imap_port = free_port(), free_port()
        self.pop3s_port, self.pop3_port = free_port(), free_port()
        ports = {self.imaps_port: True, self.imap_port: False, self.pop3s_port: True, self.pop3_port: False}
        super().__init__(directory, "courier", ports, "courier", "vmail")
        self.use_certificate(certificates.server)
        self.owned_folder("run/courier/authdaemon", "courier", 0o755)
        self.write("etc/courier/authdaemonrc", AUTHDAEMONRC, owner="courier")
        for user in self.passwords:
            for part in ("cur", "new", "tmp"):
                self.owned_folder(f"{self.maildir(user)}/{part}", "vmail", 0o700)
            for folder in (self.maildir(user), self.home(user)):
                self.owned_folder(folder, "vmail", 0o700)
            self.write(f"{self.maildir(user)}/cur/1.test:2,", MESSAGE % (b"1.test", b"1.test"), owner="vmail")
        self.publish()
        self.set_max_connections(20)

    def home(self, user: str) -> str:
        """The user's folder in the root."""
        return f"home/{list(self.passwords).index(user)}"

    def maildir(self, user: str) -> str:
        """The user's mailbox in the root."""
        return f"{self.home(user)}/Maildir"

    def set_max_connections(self, number: int) -> None:
        """How many connections there may be from one address; counts from the next start on."""
        limits = ("-maxprocs=40", f"-maxperip={number}")
        listen = ("/usr/sbin/couriertcpd", f"-address={HOST}", *limits, "-nodnslookup", "-noidentlookup")
        tls = ("/usr/bin/couriertls", "-server", "-tcpd", "-user=courier")
        login, pop3_login = (f"/usr/lib/courier/courier/{name}" for name in ("imaplogin", "courierpop3login"))
        imap = (login, "/usr/bin/imapd", "Maildir")
        pop3 = (pop3_login, "/usr/lib/courier/courier/courierpop3d", "Maildir")
        self.runs(
            (AUTHDAEMOND,),
            (*listen, str(self.imap_port), *imap),
            (*listen, str(self.imaps_port), *tls, *imap),
            (*listen, str(self.pop3_port), *pop3),
            (*listen, str(self.pop3s_port), *tls, *pop3),
            settings=SETTINGS,
            only={2: WITHIN_TLS, 4: WITHIN_TLS},
        )

    def use_certificate(self, certificate: Certificate) -> None:
        """Serve another certificate, from the next connection on."""
        self.certificate(certificate, "srv/server.pem", owner="courier")

    def publish(self, disabled: str = "") -> None:
        """Write the users with their passwords; one who is disabled can log in nowhere. It counts at once."""
        lines = ["", ""]
        for user, password in self.passwords.items():
            secret = f"{'!' if user == disabled else ''}{crypted(password)}"
            number = self.ids["vmail"]
            lines[0] += f"{user}\tuid={number}|gid={number}|home=/{self.home(user)}|_=\n"
            lines[1] += f"{user}\tsystempw={secret}\n"
        program = "/usr/lib/courier/courier-authlib/makedatprog"
        for name, reply in zip(("userdb", "userdbshadow"), lines, strict=True):
            self.inside(
                program, "-", f"/etc/courier/{name}.tmp", f"/etc/courier/{name}.dat", said=f"{reply}.\n"
            )  # fmt: skip
            (self.root / "etc/courier" / f"{name}.dat").chmod(0o600)

    def hang_logins(self) -> None:
        """From now on the program that checks passwords answers nothing; stopping the server still ends it."""
        self._to_authdaemon(signal.SIGSTOP)

    def kill_logins(self) -> None:
        """From now on there is no program that checks passwords."""
        self._to_authdaemon(signal.SIGKILL)

    def _to_authdaemon(self, what: signal.Signals) -> None:
        for pid in session_members(self.pid):
            with contextlib.suppress(OSError):
                if AUTHDAEMOND in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, what)

    def lose_mailbox(self, user: str) -> None:
        """From now on the user has a home but no mailbox."""
        shutil.rmtree(self.root / self.maildir(user))

    def lose_home(self, user: str) -> None:
        """From now on the user has no home either."""
        shutil.rmtree(self.root / self.home(user))
