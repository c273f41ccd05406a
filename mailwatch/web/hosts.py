"""The host name and the client address of a request: against DNS rebinding, and to count wrong passwords.

Another site can point its own name at 127.0.0.1, and the browser then treats our answers as that site's. So where
no password protects the answers, only names that others cannot have are accepted: addresses, localhost, this
machine's own name, and the names in `web.hosts`.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from starlette.datastructures import Headers

from mailwatch.config.access import Networks, WebAccess
from mailwatch.net import is_address, is_loopback, parse_address

_FORWARDING = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def is_known_host(access: WebAccess, header: str) -> bool:
    """Return whether `access` accepts a request with this Host header."""
    name = _host_name(header)
    if name is None:
        return False
    if is_loopback(name) or name in access.hosts:
        return True
    if access.loopback:
        return False
    if not access.hosts and (access.requires_login or access.public or not access.trust_network):
        return True
    return _names_this_machine(name)


def is_metrics_host(access: WebAccess, header: str) -> bool:
    """Return whether the listener for metrics, which asks for no password, accepts a Host header."""
    name = _host_name(header)
    return name is not None and (is_loopback(name) or name in access.hosts or _names_this_machine(name))


def _host_name(header: str) -> str | None:
    """Return the name or address of a Host header; None if it is malformed."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/?#@\s]+)(:[0-9]{1,5})?", header)
    return found and found[1].strip("[]").casefold().rstrip(".")


def _names_this_machine(name: str) -> bool:
    own = socket.gethostname().casefold()
    return is_address(name) or name in (own, f"{own}.local")


def is_forwarded(headers: Headers) -> bool:
    """Return whether a proxy passed the request on: then the peer is not the client."""
    return any(name in headers for name in _FORWARDING)


def client_address(peer: str, headers: Headers, proxies: Networks) -> str:
    """Return the client's address: the peer, or the client named by the outermost trusted proxy.

    X-Forwarded-For is read from its end, where our own proxies write. Entries that a client put before them are
    not trusted. Not uvicorn's ProxyHeadersMiddleware (0.54): it accepts a word that is no address ("unknown") as
    the client, so each such word gets its own password attempts. It also fails to match an IPv4 proxy that a
    dual-stack socket reports as ::ffff:192.0.2.1.
    """
    named = [part.strip() for line in headers.getlist("x-forwarded-for") for part in line.split(",")]
    while named and _in_networks(peer, proxies) and is_address(named[-1]):
        peer = named.pop()
    return peer


def _in_networks(text: str, networks: Networks) -> bool:
    address = parse_address(text)
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
