"""The catalogue of mail providers: which provider serves an address, its servers, and who grants OAuth 2 access.

`providers.tsv` and `authorization.tsv` name their sources and dates. Nothing here touches the network.

    >>> by_domain("mario.rossi@libero.it").key
    'libero'
    >>> server("libero", Kind.IMAP).host
    'imapmail.libero.it'
    >>> authorization_server("google").token
    'https://oauth2.googleapis.com/token'
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from itertools import groupby
from typing import NamedTuple

from mailwatch.model import Kind, TlsMode

SOURCE = "Thunderbird autoconfig ISPDB"
SOURCE_DATE = "2026-03-12"

_COLUMNS = ("key", "name", "kind", "host", "port", "tls", "auth", "username", "domains")


class UsernameForm(StrEnum):
    """The form of user name that a server expects."""

    ADDRESS = "address"
    LOCAL_PART = "local-part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server of a provider. `auth` lists "password", "password-encrypted", "oauth2", preferred first."""

    kind: Kind
    host: str
    port: int
    tls: TlsMode
    auth: tuple[str, ...]
    username: UsernameForm

    def username_for(self, address: str) -> str:
        """Return the user name that this server expects for `address`."""
        return address.rpartition("@")[0] if self.username is UsernameForm.LOCAL_PART else address

    @property
    def takes_password(self) -> bool:
        """Whether a password is enough, without OAuth 2."""
        return any(way.startswith("password") for way in self.auth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """The operator of mailboxes. The first of several servers of a kind is the preferred one."""

    key: str
    name: str
    domains: tuple[str, ...]
    servers: tuple[Server, ...]


@cache
def providers() -> tuple[Provider, ...]:
    """Load the catalogue, once. Libero and Virgilio come first."""
    return parse(resources.files(__name__).joinpath("providers.tsv").read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Provider, ...]:
    """Parse a catalogue from tab-separated text. Raises ValueError with the line number."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        cells = line.split("\t")
        if cells == list(_COLUMNS):
            continue
        try:
            rows.append(_row(cells))
        except ValueError as error:
            raise ValueError(f"catalogue line {number}: {error}") from error
    return tuple(
        Provider(key=key, name=name, domains=group[0][2], servers=tuple(row[3] for row in group))
        for (key, name), group in ((who, list(same)) for who, same in groupby(rows, lambda row: row[:2]))
    )


def search_providers(search: str) -> tuple[Provider, ...]:
    """Return the providers whose key, name, domains or hosts contain `search`, in catalogue order."""
    wanted = search.strip().casefold()
    return tuple(
        provider
        for provider in providers()
        if any(wanted in text.casefold() for text in (provider.key, provider.name, *provider.domains))
        or any(wanted in server.host for server in provider.servers)
    )


def by_key(key: str) -> Provider | None:
    """Return the provider with a key, or None."""
    return _keys().get(key)


def by_domain(address: str) -> Provider | None:
    """Return the provider that serves an address (or a bare domain), or None."""
    return _domains().get(address.rpartition("@")[2].strip().casefold())


def server(provider_key: str, kind: Kind, tls: TlsMode | None = None) -> Server | None:
    """Return a provider's preferred server of `kind`, with TLS mode `tls` if given, or None."""
    provider = by_key(provider_key)
    if provider is None:
        return None
    return next((s for s in provider.servers if s.kind is kind and tls in (None, s.tls)), None)


@cache
def _keys() -> dict[str, Provider]:
    return {provider.key: provider for provider in providers()}


@cache
def _domains() -> dict[str, Provider]:
    return {domain: provider for provider in providers() for domain in provider.domains}


def _row(cells: list[str]) -> tuple[str, str, tuple[str, ...], Server]:
    # The file has no trailing tabs, since editors remove them.
    if not len(_COLUMNS) - 1 <= len(cells) <= len(_COLUMNS):
        raise ValueError(f"expected {len(_COLUMNS)} columns, got {len(cells)}")
    row = dict(zip(_COLUMNS, cells, strict=False))
    server = Server(
        kind=Kind(row["kind"]),
        host=row["host"],
        port=int(row["port"]),
        tls=TlsMode(row["tls"]),
        auth=tuple(row["auth"].split("/")),
        username=UsernameForm(row["username"]),
    )
    return row["key"], row["name"], tuple(row.get("domains", "").split()), server


class AuthorizationServer(NamedTuple):
    """The endpoints of a server (RFC 6749, section 3; RFC 8628, section 3.1). `device` is "" if it has none.

    `redirect` is the loopback host of redirect URIs (RFC 8252, section 7.3), `scope` the scope needed for mail.
    """

    key: str
    name: str
    authorization: str
    token: str
    device: str
    redirect: str
    scope: str


@cache
def authorization_servers() -> dict[str, AuthorizationServer]:
    """Load the servers, once, by their keys. Raises ValueError for wrong columns."""
    text = resources.files(__name__).joinpath("authorization.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    if tuple(rows[0]) != AuthorizationServer._fields:
        raise ValueError(f"expected the columns {AuthorizationServer._fields}, got {rows[0]}")
    found = (AuthorizationServer(*("" if cell == "-" else cell for cell in row)) for row in rows[1:])
    return {server.key: server for server in found}


def authorization_server(key: str) -> AuthorizationServer | None:
    """Return the server with that key, or None."""
    return authorization_servers().get(key)
