"""Dovecot 2.3: IMAP, POP3, and the logins of Postfix."""

from __future__ import annotations

import base64
import contextlib
import grp
import imaplib
import os
import pwd
import re
import secrets
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.patience import PATIENCE
from tests.servers.certificates import Certificate, Certificates
from tests.servers.program import HOST, Program, free_port, session_members

DOVECOT = Path("/usr/sbin/dovecot")
ALICE = "a@example.org"
BOB = "b@example.org"

MESSAGE = b"""From: Alice <a@example.org>\r
To: Bob <b@example.org>\r
Subject: %b\r
Date: Thu, 22 Jan 2026 21:55:00 +0000\r
Message-ID: <%b@example.org>\r
\r
A message of a test.\r
"""

DOVECOT_CONF = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = {protocols}
listen = {host}
ssl = yes
disable_plaintext_auth = yes
auth_mechanisms = plain login {mechanisms}
auth_username_chars =
auth_verbose = yes
auth_failure_delay = 0
mail_location = maildir:~/Maildir
mail_uid = {owner}
mail_gid = {group}
first_valid_uid = 1
{settings}
{tokens}passdb {{
  driver = passwd-file
  args = username_format=%u {directory}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {directory}/users
}}
service imap-login {{
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = {imaps_port}
    ssl = yes
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = {pop3s_port}
    ssl = yes
  }}
}}
service auth {{
  unix_listener {directory}/sasl {{
    mode = 0666
  }}
}}
service anvil {{
  # No growing delays after rejected logins.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""

DOVECOT_CONF_LMTP = """\
service lmtp {{
  inet_listener lmtp {{
    address = {host}
    port = {lmtp_port}
  }}
}}
namespace inbox {{
  inbox = yes
  mailbox Junk {{
    auto = create
    special_use = \\Junk
  }}
}}
protocol lmtp {{
  mail_plugins = quota
}}
plugin {{
  quota = maildir:User quota
}}
"""

DOVECOT_CONF_UNPRIVILEGED = """\
default_internal_user = {owner}
default_internal_group = {group}
default_login_user = {owner}
service imap-login {{
  chroot =
}}
service pop3-login {{
  chroot =
}}
service anvil {{
  chroot =
}}
"""


class Dovecot(Program):
    """IMAP with implicit TLS on `imaps_port` and STARTTLS on `imap_port`; POP3 likewise; Postfix's login.

    `passwords` are those of the users; each has two new messages. `max_connections` is per user and address.
    With `lmtp` mail can be delivered on `lmtp_port`, and each user has a folder Junk. `settings` are further ones.
    With an `introspection_url` (RFC 7662) users may log in with access tokens too, by `mechanisms`.
    """

    def __init__(
        self,
        directory: Path,
        certificates: Certificates,
        *,
        users: tuple[str, ...] = (ALICE, BOB),
        messages: int = 2,
        max_connections: int = 100,
        lmtp: bool = False,
        settings: dict[str, str] | None = None,
        introspection_url: str = "",
        mechanisms: str = "oauthbearer xoauth2",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.imaps_port, self.imap_port = free_port(), free_port()
        self.pop3s_port, self.pop3_port = free_port(), free_port()
        config = directory / "dovecot.conf"
        command = (str(DOVECOT), "-F", "-c", str(config))
        ports = {self.imaps_port: True, self.imap_port: False, self.pop3s_port: True, self.pop3_port: False}
        self.lmtp_port = free_port() if lmtp else 0
        if lmtp:
            ports[self.lmtp_port] = False
        super().__init__(directory, command, ports)
        self._certificates = certificates
        self.auth_socket = directory / "sasl"
        self.passwords: dict[str, str] = {}
        self._config = config
        self._blocks = ""
        self._settings = {"mail_max_userip_connections": str(max_connections), **(settings or {})}
        self._full: set[str] = set()
        self._messages = messages
        self._introspection_url = introspection_url
        self._mechanisms = mechanisms if introspection_url else ""
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        for user in users:
            self.add_user(user, secrets.token_urlsafe(12))
        self.use_certificate(certificates.server)

    def stop(self) -> None:
        """Stop it and return once its ports are closed and no process is left. Twice does no harm."""
        # A login process that outlives the auth process says "Authentication failed" to the login under way. The
        # master is stopped first, so that it starts no other one.
        with contextlib.suppress(ProcessLookupError):
            if self._process:
                os.kill(self.pid, signal.SIGSTOP)
        for pid in session_members(self.pid) if self._process else ():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().rstrip().endswith("-login"):
                    os.kill(pid, signal.SIGKILL)
        super().stop()

    def add_user(self, user: str, password: str) -> None:
        """A user with a mailbox; any name and password, which for a running server count at once."""
        self.passwords[user] = password
        for part in ("cur", "new", "tmp"):
            (self.maildir(user) / part).mkdir(parents=True)
        for number in range(self._messages):
            name = f"{number}.test"
            (self.maildir(user) / "new" / name).write_bytes(MESSAGE % (name.encode(), name.encode()))
        self._own(self.home(user))
        self._publish(user)

    def set_password(self, user: str, password: str) -> None:
        """Change a password and return once the running server takes it."""
        assert user in self.passwords
        self.passwords[user] = password
        self._publish(user)

    def _publish(self, user: str) -> None:
        self._write_users()
        if self._process is None:
            return
        # Dovecot notices a changed file by its time in whole seconds, so it may take a second.
        deadline = time.monotonic() + PATIENCE
        while refusal := self._refusal(user):
            assert time.monotonic() < deadline, f"dovecot does not take the new password of {user}: {refusal}"

    def _refusal(self, user: str) -> str:
        """Return what doveadm says against the user's password; "" if it counts."""
        # After "--" a password that begins with "-" is no option.
        test = ["doveadm", "-c", str(self._config), "auth", "test", "--", user, self.passwords[user]]
        done = subprocess.run(test, capture_output=True, check=False, text=True)
        return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stdout}{done.stderr}"

    @contextlib.contextmanager
    def session(self, user: str) -> Iterator[imaplib.IMAP4]:
        """The user, logged in with a mail program that is not ours."""
        context = ssl.create_default_context(cafile=str(self._certificates.ca_file))
        with imaplib.IMAP4_SSL("localhost", self.imaps_port, ssl_context=context, timeout=PATIENCE) as client:
            client.login(user, self.passwords[user])
            yield client

    def fill(self, user: str) -> None:
        """From now on no mail can be delivered to the user: the quota is used up."""
        self._full.add(user)
        self._write_users()

    def break_mailbox(self, user: str) -> None:
        """From now on the user can log in but not open a mailbox."""
        self.maildir(user).chmod(0)

    def repair_mailbox(self, user: str) -> None:
        """Undo `break_mailbox`."""
        self.maildir(user).chmod(0o700)

    def use_certificate(self, certificate: Certificate) -> None:
        """Serve another certificate; a running server is restarted for it."""
        self.set(ssl_cert=f"<{certificate.chain}", ssl_key=f"<{certificate.key}")

    def set_max_connections(self, number: int) -> None:
        """How many connections a user may have from one address; a running server is restarted for it."""
        self.set(mail_max_userip_connections=str(number))

    def set(self, blocks: str = "", **settings: str) -> None:
        """Change settings of its configuration, and add blocks; a running server is restarted for them."""
        self._settings |= settings
        self._blocks += blocks
        self._configure()
        if self._process is not None:
            self.restart()

    def _tokens(self) -> str:
        """Let an authorization server say whose an access token is."""
        if not self._introspection_url:
            return ""
        config = self.directory / "dovecot-oauth2.conf.ext"
        config.write_text(
            f"introspection_url = {self._introspection_url}\nintrospection_mode = post\n"
            "username_attribute = email\nactive_attribute = active\nactive_value = true\n"
        )
        return f"passdb {{\n  driver = oauth2\n  mechanisms = {self._mechanisms}\n  args = {config}\n}}\n"

    def home(self, user: str) -> Path:
        """The user's folder; its name says nothing of the user, whose name may hold any character."""
        return self.directory / "home" / str(list(self.passwords).index(user))

    def maildir(self, user: str) -> Path:
        """The user's mailboxes; INBOX is the folder itself."""
        return self.home(user) / "Maildir"

    def _own(self, folder: Path) -> None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _write_users(self) -> None:
        # Dovecot searches for the name with its quotes escaped; a colon in it cannot be written at all.
        # For passwords it knows Base64.
        lines = []
        for user, password in self.passwords.items():
            name = re.sub(r"""(["'\\])""", r"\\\1", user)
            secret = base64.b64encode(password.encode()).decode()
            more = "userdb_quota_rule=*:bytes=10" if user in self._full else ""
            lines.append(f"{name}:{{PLAIN.b64}}{secret}::::{self.home(user)}::{more}\n")
        users = self.directory / "users"
        fresh = users.with_suffix(".new")
        fresh.write_text("".join(lines))
        if users.exists():
            # A new time in whole seconds even when two changes fall into one second.
            later = users.stat().st_mtime_ns + 1_000_000_000
            os.utime(fresh, ns=(later, later))
        fresh.replace(users)

    def _configure(self) -> None:
        owner = self._owner
        group = grp.getgrgid(owner.pw_gid).gr_name
        settings = "".join(f"{key} = {value}\n" for key, value in self._settings.items())
        settings += self._blocks
        config = DOVECOT_CONF.format(
            directory=self.directory,
            host=HOST,
            imap_port=self.imap_port,
            imaps_port=self.imaps_port,
            pop3_port=self.pop3_port,
            pop3s_port=self.pop3s_port,
            settings=settings,
            protocols="imap pop3 lmtp" if self.lmtp_port else "imap pop3",
            mechanisms=self._mechanisms,
            tokens=self._tokens(),
            owner=owner.pw_name,
            group=group,
        )
        if self.lmtp_port:
            config += DOVECOT_CONF_LMTP.format(host=HOST, lmtp_port=self.lmtp_port)
        if os.geteuid() != 0:
            config += DOVECOT_CONF_UNPRIVILEGED.format(owner=owner.pw_name, group=group)
        self._config.write_text(config)
