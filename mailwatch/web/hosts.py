"""By which name one came, and from where: against DNS rebinding, and for the count of wrong passwords.

A page of another site can let its own name point to 127.0.0.1, and the browser then takes our answers for its own.
So where no password protects them, only names count that others cannot have: addresses, localhost, this
machine's own name, and those of `web.hosts`.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from starlette.datastructures import Headers

from mailwatch.config.access import Networks, WebAccess
from mailwatch.net import is_loopback

_FORWARDING = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def is_known_host(access: WebAccess, header: str) -> bool:
    """Whether a Host header is one of ours."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/?#@\s]+)(:[0-9]{1,5})?", header)
    if found is None:
        return False
    name = found[1].strip("[]").casefold().rstrip(".")
    if is_loopback(name) or name in access.hosts:
        return True
    if access.loopback:
        return False
    if not access.hosts and (access.requires_login or access.public or not access.trust_network):
        return True
    own = socket.gethostname().casefold()
    return _is_address(name) or name in (own, f"{own}.local")


def is_forwarded(headers: Headers) -> bool:
    """Whether a proxy passed the request on: then it did not come from where it seems to."""
    return any(name in headers for name in _FORWARDING)


def client_address(peer: str, headers: Headers, proxies: Networks) -> str:
    """Return the address that asks: the peer, or the client that the outermost trusted proxy names.

    X-Forwarded-For is read from its end, where our own proxies write; what a client puts before is not believed.
    Not uvicorn's ProxyHeadersMiddleware (0.54): it takes a word that is no address ("unknown") for the client, so
    that each word has tries of its own, and it does not find an IPv4 proxy that a socket for both families shows
    as ::ffff:192.0.2.1.
    """
    named = [part.strip() for line in headers.getlist("x-forwarded-for") for part in line.split(",")]
    while named and _in_networks(peer, proxies) and _is_address(named[-1]):
        peer = named.pop()
    return peer


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _in_networks(text: str, networks: Networks) -> bool:
    if not _is_address(text):
        return False
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
