"""Which endpoints may be spoken to, and how: secrets go over verified TLS, or stay on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

MAX_URL_CHARS = 2000


def endpoint_problem(url: str) -> str:
    """Say what is wrong with the address of an endpoint, and what to do; "" if nothing is (RFC 6749, 3.2)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not an address; write for example https://login.example.org/token"
    if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        return "is not an address; write for example https://login.example.org/token"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return "is not a web address; write for example https://login.example.org/token"
    if parts.username is not None or parts.fragment:
        return "contains a user name or a fragment; remove it"
    if parts.scheme == "http" and not is_loopback(host):
        return "would send tokens unencrypted; write https"
    return ""


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this very machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        name = host.casefold().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


def host_of(url: str) -> str:
    """Return the host of an endpoint, for messages."""
    return urlsplit(url).hostname or ""
