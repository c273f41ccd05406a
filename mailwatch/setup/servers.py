"""The possible servers of a mail address, and the provider of the catalogue that they belong to."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mailwatch.config import catalogue
from mailwatch.config.errors import FieldError
from mailwatch.config.schema_targets import TLS_BY_PORT
from mailwatch.config.types import split_endpoint
from mailwatch.kinds import KINDS, MAILBOX_KINDS
from mailwatch.model import Kind, TlsMode
from mailwatch.setup.checks import HOST, PORT

ORDER = (Kind.IMAP, Kind.POP3, Kind.SMTP)
"""Order of questions: reading mail first, which matters most to most people."""
MAX_ADDRESS_CHARS = 1000
"""Most characters of a mail address."""
ENCRYPTION = {mode.value: mode for mode in (TlsMode.IMPLICIT, TlsMode.STARTTLS)}
"""The ways to encrypt by their words; a password never goes out in the clear."""
_HOST = re.compile(r"(?!-)[\w-]{1,63}(\.[\w-]{1,63})+", re.ASCII)


class Source(StrEnum):
    """The source of a server candidate."""

    CATALOGUE = "catalogue"
    SRV = "srv"
    GUESSED = "usual"
    GIVEN = "given"
    AUTOCONFIG = "autoconfig"
    ISPDB = "ispdb"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCandidate:
    """A possible server of one kind. `username`: the user name that its source states, "" if it states none."""

    kind: Kind
    host: str
    port: int
    tls: TlsMode
    source: Source
    username: str = ""

    @property
    def endpoint(self) -> str:
        """HOST:PORT, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ascii_domain(address: str) -> str:
    """Return the ASCII domain of an address (RFC 5890), "" if DNS cannot have it."""
    if len(address) > MAX_ADDRESS_CHARS:
        return ""
    try:
        domain = address.rpartition("@")[2].encode("idna").decode().casefold()
    except UnicodeError:
        return ""
    return domain if is_host_name(domain) and not domain.rpartition(".")[2].isdigit() else ""


def is_host_name(text: str) -> bool:
    """Return whether `text` is a host name of two labels or more; never an IP address or localhost."""
    return len(text) <= 253 and bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()


def is_within(host: str, domain: str) -> bool:
    """Return whether a host is in a domain (RFC 6186, section 6)."""
    return f".{host}".casefold().endswith(f".{domain}".casefold())


def provider_of_exchanger(exchanger: str) -> catalogue.Provider | None:
    """Return the provider with the longest domain that contains a mail exchanger, if any.

    The catalogue lists exchangers' domains for this, such as mail.protection.outlook.com. The exchanger may be a
    filter and not the mailbox provider: ask the user.
    """
    labels = exchanger.split(".")
    parents = (".".join(labels[first:]) for first in range(len(labels) - 1))
    return next(filter(None, map(catalogue.by_domain, parents)), None)


def provider_of_servers(candidates: Sequence[ServerCandidate]) -> catalogue.Provider | None:
    """Return the only provider that has all these servers; None if there is none or several."""
    wanted = {(candidate.kind, candidate.host, candidate.port) for candidate in candidates}
    fitting = [
        provider
        for provider in catalogue.providers()
        if wanted and wanted <= {(server.kind, server.host, server.port) for server in provider.servers}
    ]
    return fitting[0] if len(fitting) == 1 else None


@dataclass(frozen=True, slots=True)
class MailboxServers:
    """The servers of an address, with the catalogue provider that they belong to, if any.

    `named_in_config`: whether the config must name the provider, since the address has a domain of its own.
    """

    candidates: tuple[ServerCandidate, ...]
    provider: catalogue.Provider | None = None
    named_in_config: bool = False

    @property
    def username(self) -> str:
        """The user name that the domain's own settings name, "" if none."""
        return next((one.username for one in self.candidates if one.username), "")

    @property
    def by_hand(self) -> bool:
        """Whether the owner entered all of them, and may have mistyped them."""
        return all(one.source is Source.GIVEN for one in self.candidates)


OAUTH_AUTHORITIES = {"outlook": "microsoft", "microsoft365": "microsoft"}
"""OAuth authority of each catalogue provider that accepts only OAuth 2."""


APP_PASSWORD_PAGES = {"gmail": "https://myaccount.google.com/apppasswords"}
"""The page where the owner of an account makes an app password, by the provider's key in the catalogue."""


def provider_servers(provider: catalogue.Provider, wanted: Collection[Kind], *, named: bool) -> MailboxServers:
    """Return the catalogue's servers of the wanted kinds, perhaps none. `named` as in MailboxServers."""
    found = [server for kind in ORDER if kind in wanted and (server := catalogue.server(provider.key, kind))]
    candidates = tuple(
        ServerCandidate(
            kind=server.kind, host=server.host, port=server.port, tls=server.tls, source=Source.CATALOGUE
        )
        for server in found
    )
    return MailboxServers(candidates, provider, named)


def oauth_authority(servers: MailboxServers) -> str:
    """Return the OAuth authority of servers that accept only OAuth 2, "" for those that accept a password."""
    provider = servers.provider
    if provider is None:
        return ""
    found = [catalogue.server(provider.key, candidate.kind) for candidate in servers.candidates]
    takes_password = any(server and server.takes_password for server in found)
    return "" if takes_password else OAUTH_AUTHORITIES.get(provider.key, "")


def parse_server(kind: Kind, text: str, tls: TlsMode | None = None) -> ServerCandidate:
    """Parse HOST or HOST:PORT, with /implicit or /starttls after it where the port does not decide how to encrypt.

    `tls` has been chosen otherwise. Without a choice the usual one of the port counts, else implicit TLS. Raises
    FieldError; its field is "tls" if the server is right and the choice is not.
    """
    if "://" in text:
        raise FieldError("is an address with a scheme; write HOST or HOST:PORT alone")
    where, slash, chosen = text.partition("/")
    if slash:
        tls = ENCRYPTION.get(chosen)
        if tls is None:
            raise FieldError("is not known; use implicit or starttls", "tls")
    bare = ":" not in where
    host, port = (where, KINDS[kind].ports[tls or TlsMode.IMPLICIT]) if bare else split_endpoint(where)
    if wrong := HOST(host) or PORT(port):
        raise FieldError(wrong)
    usual = TLS_BY_PORT.get(port)
    if usual and tls and tls is not usual:
        raise FieldError(f"port {port} is for tls: {usual}; write that, or change the port", "tls")
    return ServerCandidate(
        kind=kind, host=host, port=port, tls=tls or usual or TlsMode.IMPLICIT, source=Source.GIVEN
    )


def parse_server_option(word: str) -> ServerCandidate:
    """Parse KIND=HOST or KIND=HOST:PORT, with /implicit or /starttls after it. Raises ValueError."""
    kind, _, where = word.partition("=")
    return parse_server(Kind(kind if kind in MAILBOX_KINDS else ""), where)


def in_order(candidates: Collection[ServerCandidate]) -> tuple[ServerCandidate, ...]:
    """Return the candidates in the order of questions."""
    return tuple(sorted(candidates, key=lambda candidate: ORDER.index(candidate.kind)))
