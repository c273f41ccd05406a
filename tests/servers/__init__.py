"""Real servers for the tests, each with a configuration, a folder and ports of its own.

Nothing of the system's own installation is read or changed but the programs themselves. Dovecot runs as root or as
any user; Postfix insists on root, and so do Cyrus, Courier, Exim and OpenSMTPD, each in a root folder of its own.
"""

from tests.servers.certificates import Certificate, Certificates
from tests.servers.courier import Courier
from tests.servers.cyrus import Cyrus
from tests.servers.dnsmasq import DNSMASQ, Dnsmasq, resolver_at
from tests.servers.dovecot import ALICE, BOB, DOVECOT, Dovecot
from tests.servers.exim import Exim
from tests.servers.nginx import NGINX, Nginx
from tests.servers.oauth import AuthorizationServer
from tests.servers.opensmtpd import OpenSmtpd
from tests.servers.postfix import POSTFIX, Postfix
from tests.servers.program import HOST, Program, free_port, is_open, server_folder, session_members
from tests.servers.rooted import ROOTS

__all__ = [
    "ALICE",
    "BOB",
    "DNSMASQ",
    "DOVECOT",
    "HOST",
    "NGINX",
    "POSTFIX",
    "ROOTS",
    "AuthorizationServer",
    "Certificate",
    "Certificates",
    "Courier",
    "Cyrus",
    "Dnsmasq",
    "Dovecot",
    "Exim",
    "Nginx",
    "OpenSmtpd",
    "Postfix",
    "Program",
    "free_port",
    "is_open",
    "resolver_at",
    "server_folder",
    "session_members",
]
