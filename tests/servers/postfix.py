"""Postfix: submission, with the users of Dovecot, and the exchanger of example.org."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from tests.helpers.patience import PATIENCE
from tests.servers.certificates import Certificates
from tests.servers.program import HOST, Program, free_port

POSTFIX = Path("/usr/sbin/postfix")

POSTFIX_MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/log
maillog_file_prefixes = {directory}
myhostname = localhost
mydestination = example.org
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
disable_dns_lookups = yes
alias_maps =
alias_database =
local_recipient_maps =
local_transport = {transport}
defer_transports = {deferred}
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
default_transport = error:only example.org is known here
smtpd_peername_lookup = no
smtpd_tls_chain_files = {certificates.server.key}, {certificates.server.chain}
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {auth_socket}
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
# No growing delays after rejected logins.
smtpd_error_sleep_time = 0
smtpd_soft_error_limit = 1000
smtpd_hard_error_limit = 1000
"""

POSTFIX_MASTER_CF = """\
{host}:{submission} inet n - n - - smtpd
{host}:{submissions} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
{host}:{exchanger} inet n - n - - smtpd
{as_exchanger}
  -o smtpd_recipient_restrictions=permit
{host}:{greylisting} inet n - n - - smtpd
{as_exchanger}
  -o {{smtpd_recipient_restrictions=check_policy_service inet:{host}:{policy}}}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

AS_EXCHANGER = """\
  -o smtpd_sasl_auth_enable=no
  -o smtpd_relay_restrictions=reject_unauth_destination
  -o {local_recipient_maps=inline:{{postmaster=x}, {alice=x}}}"""


class Postfix(Program):
    """Submission with STARTTLS on `submission_port`, with implicit TLS on `submissions_port`.

    At submission only Dovecot's users may send, to example.org alone. What they send is delivered to `lmtp_port`;
    without one it stays in the queue, where a test can see it.

    On `exchanger_port` it takes mail for postmaster and alice of example.org from anyone, with STARTTLS on offer;
    on `greylisting_port` too, but there it asks the policy server at `policy_port`, which a test may play.
    """

    def __init__(
        self, directory: Path, certificates: Certificates, auth_socket: Path, *, lmtp_port: int = 0
    ) -> None:
        self.submission_port, self.submissions_port = free_port(), free_port()
        self.exchanger_port, self.greylisting_port, self.policy_port = free_port(), free_port(), free_port()
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory / "etc"
        for name in ("etc", "queue", "data"):
            (directory / name).mkdir(exist_ok=True)
        shutil.chown(directory / "data", "postfix")
        (self._config / "main.cf").write_text(
            POSTFIX_MAIN_CF.format(
                directory=directory,
                certificates=certificates,
                auth_socket=auth_socket,
                transport=f"lmtp:inet:{HOST}:{lmtp_port}" if lmtp_port else "discard:",
                deferred="" if lmtp_port else "discard",
            )
        )
        (self._config / "master.cf").write_text(
            POSTFIX_MASTER_CF.format(
                host=HOST,
                submission=self.submission_port,
                submissions=self.submissions_port,
                exchanger=self.exchanger_port,
                greylisting=self.greylisting_port,
                policy=self.policy_port,
                as_exchanger=AS_EXCHANGER,
            )
        )
        # The master itself, since "postfix start" leaves no child of ours to wait for.
        daemons = self._say("postconf", "-h", "daemon_directory").strip()
        command = (f"{daemons}/master", "-d", "-c", str(self._config))
        ports = {self.submissions_port: True, self.submission_port: False}
        ports |= {self.exchanger_port: False, self.greylisting_port: False}
        super().__init__(directory, command, ports)
        self._say("postfix", "check")  # makes the folders of the queue

    def mark(self) -> int:
        """Where the log stands between sessions, for `log_of_sessions`."""
        self.log_of_sessions(0)
        return self.log_size

    def log_of_sessions(self, mark: int) -> str:
        """What was logged since `mark`, once a session was and all have ended; it comes a little late."""
        deadline = time.monotonic() + PATIENCE
        while True:
            result = self.log_since(mark)
            begun, ended = result.count(": connect from"), result.count(": disconnect from")
            if begun == ended > 0:
                return result
            assert time.monotonic() < deadline, f"{begun} sessions began, {ended} ended:\n{result}"
            time.sleep(0.01)

    def queue(self) -> list[str]:
        """The messages in the queue, one JSON object each."""
        return self._say("postqueue", "-j").splitlines()

    def hold(self, held: bool) -> None:
        """Keep what is accepted in the queue, or let it go."""
        self._say("postconf", "-e", f"defer_transports={'lmtp' if held else ''}")
        self._say("postfix", "reload")
        if not held:
            self._say("postqueue", "-f")

    def _say(self, program: str, *arguments: str) -> str:
        """Run a program of Postfix on this configuration."""
        command = [f"/usr/sbin/{program}", "-c", str(self._config), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{program}: {done.stderr or done.stdout}"
        return done.stdout
