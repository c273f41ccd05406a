"""Whom we ask, and how we know that it is they who answer.

A completed connection alone is no proof: the box of a hotel or a train accepts it in anybody's place. So the
controls whose names are known must show the certificate of that name.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

IPV4, IPV6 = 4, 6
FAMILIES = (IPV4, IPV6)

OPERATORS: dict[str, frozenset[str]] = {
    "one.one.one.one": frozenset({"1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"}),
    "dns.quad9.net": frozenset({"9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"}),
    "dns.google": frozenset({"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"}),
}
"""Public name servers of several operators: their names, and the addresses for which they are known."""
_NAMES = {address: name for name, addresses in OPERATORS.items() for address in addresses}
_TLS_PORTS = (443, 853)


@dataclass(frozen=True, slots=True)
class Control:
    """Somebody to connect to. With a `name`, only who has its certificate counts (`ca_file`: trust this alone).

    The operators that are known by their addresses are asked for their certificates without being told.
    """

    host: str
    port: int
    name: str = ""
    ca_file: Path | None = None

    @property
    def label(self) -> str:
        """Return "host:port", with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def certified(self) -> str:
        """Return the name whose certificate is asked for, "" when a connection is enough."""
        if self.name:
            return self.name
        if self.ca_file is not None:
            return self.host
        return _NAMES.get(_plain(self.host), "") if self.port in _TLS_PORTS else ""


def family_of(host: str) -> int | None:
    """Return 4 or 6 for an address, None for a name."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).version
    return None


def is_outside(host: str) -> bool:
    """Whether `host` is an address beyond our own house."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_global
    return False


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this very machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def host_of(peer: str) -> str:
    """Return the address of "address:port" or "[address]:port"."""
    return peer.rpartition(":")[0].strip("[]")


def _plain(host: str) -> str:
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    return host
