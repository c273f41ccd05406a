"""dnsmasq: a name server that knows what a test gives it, and no other to ask."""

from __future__ import annotations

import contextlib
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.message
import dns.query

from tests.servers.program import HOST, Program, free_port

DNSMASQ = Path("/usr/sbin/dnsmasq")

DNSMASQ_CONF = """\
keep-in-foreground
port={port}
listen-address={host}
bind-interfaces
no-resolv
no-hosts
no-poll
user=root
group=root
pid-file=
log-facility={directory}/log
# Names that nobody knows are gone (NXDOMAIN), and no question leaves this machine.
local=/#/
{records}
"""


class Dnsmasq(Program):
    """Answers on `port` by UDP and TCP. `records` are lines of dnsmasq.conf(5), such as mx-host=DOMAIN,HOST,10."""

    def __init__(self, directory: Path, *records: str) -> None:
        self.port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        conf = directory / "dnsmasq.conf"
        conf.write_text(
            DNSMASQ_CONF.format(port=self.port, host=HOST, directory=directory, records="\n".join(records))
        )
        super().__init__(directory, (str(DNSMASQ), f"--conf-file={conf}"), {self.port: False})

    def _serving(self) -> bool:
        with contextlib.suppress(dns.exception.DNSException, OSError):
            query = dns.message.make_query("localhost", "A")
            return bool(dns.query.udp(query, HOST, port=self.port, timeout=0.5))
        return False

    @property
    def resolver(self) -> dns.asyncresolver.Resolver:
        """A resolver that asks this server and no other."""
        return resolver_at(self.port)


def resolver_at(port: int) -> dns.asyncresolver.Resolver:
    """A resolver that asks the name server at this port of the loopback address."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [HOST], port
    return resolver
