"""A server that may serve a mailbox, and who says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mailwatch.models import Kind, TlsMode

ORDER = (Kind.IMAP, Kind.POP3, Kind.SMTP)
"""Reading first: it is what most people mean by their mail."""
MAX_ADDRESS = 1000
"""Characters of what is taken for a mail address at all."""
_HOST = re.compile(r"(?!-)[\w-]{1,63}(\.[\w-]{1,63})+", re.ASCII)


class Source(StrEnum):
    """Who says that there is such a server."""

    CATALOGUE = "catalogue"
    SRV = "srv"
    USUAL = "usual"
    GIVEN = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One server of a kind."""

    kind: Kind
    host: str
    port: int
    tls: TlsMode
    source: Source

    @property
    def where(self) -> str:
        """Write host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ascii_domain(address: str) -> str:
    """Give the domain of an address as the name server knows it (RFC 5890), "" if it is no name to ask for."""
    if len(address) > MAX_ADDRESS:
        return ""
    try:
        domain = address.rpartition("@")[2].encode("idna").decode().casefold()
    except UnicodeError:
        return ""
    return domain if is_name(domain) and not domain.rpartition(".")[2].isdigit() else ""


def is_name(text: str) -> bool:
    """Whether it is the name of a host, of two labels or more; never an address or this machine."""
    return len(text) <= 253 and bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()


def within(host: str, domain: str) -> bool:
    """Whether a host belongs to a domain (RFC 6186, section 6)."""
    return f".{host}".casefold().endswith(f".{domain}".casefold())
