"""Exim: submission with a login."""

from __future__ import annotations

from pathlib import Path

from tests.servers.certificates import Certificate, Certificates
from tests.servers.program import HOST, free_port
from tests.servers.rooted import Rooted

EXIM_CONF = """\
primary_hostname = localhost
exim_user = exim
exim_group = exim
never_users =
local_interfaces = {host}
daemon_smtp_ports = {submission} : {submissions}
tls_on_connect_ports = {submissions}
tls_advertise_hosts = *
tls_certificate = /srv/server.pem
tls_privatekey = /srv/server.pem
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
spool_directory = /srv/spool
log_file_path = /srv/log/%slog
host_lookup =
rfc1413_hosts =
keep_environment =
smtp_accept_max = {most}
smtp_enforce_sync = false
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt

begin acl
mail:
  deny authenticated = *
       condition = ${{lookup{{$authenticated_id}}lsearch{{/srv/disabled}}{{yes}}{{no}}}}
       message = ${{lookup{{$authenticated_id}}lsearch{{/srv/disabled}}}}
  accept
rcpt:
  accept authenticated = *
  deny message = relay not permitted

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{ {{!eq{{$auth3}}{{}}}} \\
    {{eq{{$auth3}}{{${{lookup{{$auth2}}lsearch{{/srv/users}}{{$value}}fail}}}}}} }}}}
  server_set_id = $auth2
"""


class Exim(Rooted):
    """Submission with STARTTLS on `submission_port`, with implicit TLS on `submissions_port`.

    The right password of a disabled user is accepted, and his message refused at MAIL FROM.
    """

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self.submission_port, self.submissions_port = free_port(), free_port()
        ports = {self.submissions_port: True, self.submission_port: False}
        super().__init__(directory, "exim", ports, "exim", "Debian-exim")
        self.use_certificate(certificates.server)
        for folder in ("srv/spool", "srv/log"):
            self.owned_folder(folder, "exim")
        self.write("srv/disabled", "")
        self.lose_users(lost=False)
        self.set_max_connections(20)
        self.runs(("/usr/sbin/exim4", "-C", "/etc/exim.conf", "-bdf", "-q1h"))

    def use_certificate(self, certificate: Certificate) -> None:
        """Serve another certificate, from the next connection on."""
        self.certificate(certificate, "srv/server.pem", owner="exim")

    def set_max_connections(self, number: int) -> None:
        """How many connections there may be at once; counts from the next start on."""
        conf = EXIM_CONF.format(
            host=HOST, submission=self.submission_port, submissions=self.submissions_port, most=number
        )
        self.write("etc/exim.conf", conf)

    def lose_users(self, *, lost: bool = True) -> None:
        """Take away the file of passwords, or put it back."""
        users = self.write("srv/users", "".join(f"{u}: {p}\n" for u, p in self.passwords.items()), owner="exim")
        if lost:
            users.unlink()

    def disable(self, user: str, words: str) -> None:
        """From now on the user may log in, but not send: 550 with these words, or with the code in them."""
        self.write("srv/disabled", f"{user}: {words}\n", owner="exim")
