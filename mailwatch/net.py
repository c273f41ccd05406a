"""Hosts, addresses and URLs: which are valid, which are on this machine, and where secrets may be sent."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

MAX_URL_CHARS = 2000
_HOST_NAME = re.compile(r"(?!-)[\w-]{1,63}(\.[\w-]{1,63})*\.?")
_PAGE = re.compile(r"(https?)://([^/?#@\s]+)(?:[/?][^#\s]*)?")


def endpoint_problem(url: str) -> str:
    """Return what is wrong with an endpoint's address, and how to fix it; "" if valid (RFC 6749, section 3.2).

    Secrets are sent over verified TLS, or stay on this machine.
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


def page_problem(url: str, wrong: str, example: str, *, schemes: tuple[str, ...]) -> str:
    """Return `wrong` (is not the https address of a page) with an example, or why its host or port is wrong.

    "" if nothing is. `example` has no final "/".
    """
    found = _PAGE.fullmatch(url)
    if found is None or found[1] not in schemes:
        return f"{wrong}; write for example {example}/"
    host, _, port = found[2].partition(":")
    if wrong_host := host_problem(host):
        return wrong_host
    return f"has an invalid port; write for example {example}:8443/" if port and not is_port(port, least=1) else ""


def host_problem(host: str) -> str:
    """Return why `host` is neither an address nor a name, and how to fix it; "" if it is one."""
    if is_address(host) or (len(host) <= 253 and _HOST_NAME.fullmatch(host)):
        return ""
    return "is not a host name; write for example imap.example.org, without scheme or port"


def is_port(text: str, least: int = 0) -> bool:
    """Return whether a text is a port number."""
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and least <= int(text) <= 65535


def is_web_address(url: str) -> bool:
    """Return whether the text is an http or https address with a host."""
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
    """Return the address if `host` is one, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_address(host: str) -> bool:
    """Return whether `host` is an address, not a name."""
    return parse_address(host) is not None


def family_of(host: str) -> int | None:
    """Return 4 or 6 for an address, None for a name."""
    address = parse_address(host)
    return None if address is None else address.version


def plain_host(host: str) -> str:
    """Return an address in canonical form; a name unchanged."""
    address = parse_address(host)
    return host if address is None else str(address)


def is_outside(host: str) -> bool:
    """Return whether `host` is an address outside our own network."""
    address = parse_address(host)
    return address is not None and address.is_global


LOCAL_SUFFIXES = (".localhost", ".local", ".lan", ".home", ".home.arpa", ".internal", ".localdomain")


def is_near(host: str) -> bool:
    """Return whether `host`, an address or a name, is in our own network, by its form alone."""
    if parse_address(host) is not None:
        return not is_outside(host)
    name = host.casefold().rstrip(".")
    return "." not in name or name.endswith(LOCAL_SUFFIXES)


def is_loopback(host: str) -> bool:
    """Return whether `host`, an address or a name, can only be this machine."""
    address = parse_address(host)
    if address is not None:
        return address.is_loopback
    name = host.casefold().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")
