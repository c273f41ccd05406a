"""Real servers for the tests: Dovecot, Postfix and nginx with a configuration, a folder and ports of their own.

Nothing of the system's own installation is read or changed but the programs themselves. Dovecot runs as
root or as any user; Postfix insists on root.
"""

from tests.servers.certificates import Certificate, Certificates
from tests.servers.dnsmasq import DNSMASQ, Dnsmasq, resolver_at
from tests.servers.dovecot import ALICE, BOB, DOVECOT, Dovecot
from tests.servers.nginx import NGINX, Nginx
from tests.servers.oauth import AuthorizationServer
from tests.servers.postfix import POSTFIX, Postfix
from tests.servers.program import HOST, Program, free_port, is_open, server_folder, session_members

__all__ = [
    "ALICE",
    "BOB",
    "DNSMASQ",
    "DOVECOT",
    "HOST",
    "NGINX",
    "POSTFIX",
    "AuthorizationServer",
    "Certificate",
    "Certificates",
    "Dnsmasq",
    "Dovecot",
    "Nginx",
    "Postfix",
    "Program",
    "free_port",
    "is_open",
    "resolver_at",
    "server_folder",
    "session_members",
]
