"""Hosts, addresses and URLs: which are well formed, which are this machine, and where secrets may go."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

MAX_URL_CHARS = 2000
_HOST_NAME = re.compile(r"(?!-)[\w-]{1,63}(\.[\w-]{1,63})*\.?")
_PAGE = re.compile(r"(https?)://([^/?#@\s]+)(?:[/?][^#\s]*)?")


def endpoint_problem(url: str) -> str:
    """Say what is wrong with the address of an endpoint, and what to do; "" if nothing is (RFC 6749, 3.2).

    Secrets go over verified TLS, or stay on this machine.
    """
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


def page_problem(url: str, what: str, example: str, *, schemes: tuple[str, ...]) -> str:
    """Say why `url` is not `what`, such as the https address of a page; "" if it is. `example` has no "/" at its
    end.
    """
    found = _PAGE.fullmatch(url)
    if found is None or found[1] not in schemes:
        return f"is not {what}; write for example {example}/"
    host, _, port = found[2].partition(":")
    if wrong := host_problem(host):
        return wrong
    return f"has an invalid port; write for example {example}:8443/" if port and not is_port(port, least=1) else ""


def host_problem(host: str) -> str:
    """Say why `host` is neither an address nor a name, and what to do; "" if it is."""
    if is_address(host) or (len(host) <= 253 and _HOST_NAME.fullmatch(host)):
        return ""
    return "is not a host name; write for example imap.example.org, without scheme or port"


def is_port(text: str, least: int = 0) -> bool:
    """Whether a text is the number of a port."""
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and least <= int(text) <= 65535


def is_web_address(url: str) -> bool:
    """Whether it is an address that can be asked for."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def url_host(url: str) -> str:
    """Return the host of a URL, for messages."""
    return urlsplit(url).hostname or ""


def peer_host(peer: str) -> str:
    """Return the address of "address:port" or "[address]:port"."""
    return peer.rpartition(":")[0].strip("[]")


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that `host` is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_address(host: str) -> bool:
    """Whether `host` is an address and no name."""
    return parse_address(host) is not None


def family_of(host: str) -> int | None:
    """Return 4 or 6 for an address, None for a name."""
    address = parse_address(host)
    return None if address is None else address.version


def plain_host(host: str) -> str:
    """Return an address in its usual form; a name as it is."""
    address = parse_address(host)
    return host if address is None else str(address)


def is_outside(host: str) -> bool:
    """Whether `host` is an address beyond our own network."""
    address = parse_address(host)
    return address is not None and address.is_global


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or a name, can only be this very machine."""
    address = parse_address(host)
    if address is not None:
        return address.is_loopback
    name = host.casefold().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")
