"""Mail providers as data: who serves an address, and where.

`providers.tsv` names its source and the date at which it was seen. Nothing here touches the network.

    >>> by_domain("mario.rossi@libero.it").key
    'libero'
    >>> server("libero", Kind.IMAP).host
    'imapmail.libero.it'
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from itertools import groupby

from mailwatch.model import Kind, TlsMode

SOURCE = "Thunderbird autoconfig ISPDB"
SOURCE_DATE = "2026-03-12"

_COLUMNS = ("key", "name", "kind", "host", "port", "tls", "auth", "username", "domains")


class UsernameForm(StrEnum):
    """What the provider wants as the user name."""

    ADDRESS = "address"
    LOCAL_PART = "local-part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server of a provider. `auth` holds "password", "password-encrypted", "oauth2", preferred first."""

    kind: Kind
    host: str
    port: int
    tls: TlsMode
    auth: tuple[str, ...]
    username: UsernameForm

    def username_for(self, address: str) -> str:
        """Write the user name that this server expects of the owner of `address`."""
        return address.rpartition("@")[0] if self.username is UsernameForm.LOCAL_PART else address

    @property
    def takes_password(self) -> bool:
        """Whether a password is enough, without OAuth 2."""
        return any(way.startswith("password") for way in self.auth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """The company behind mailboxes. Of several servers of a kind the first is the first choice."""

    key: str
    name: str
    domains: tuple[str, ...]
    servers: tuple[Server, ...]


@cache
def providers() -> tuple[Provider, ...]:
    """Read the catalogue, once. Libero and Virgilio come first."""
    return parse(resources.files(__name__).joinpath("providers.tsv").read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Provider, ...]:
    """Read a catalogue from tab-separated text. Raises ValueError naming the line."""
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
    """Give the providers whose key, name, domains or hosts contain `search`, in catalogue order."""
    wanted = search.strip().casefold()
    return tuple(
        provider
        for provider in providers()
        if any(wanted in text.casefold() for text in (provider.key, provider.name, *provider.domains))
        or any(wanted in server.host for server in provider.servers)
    )


def by_key(key: str) -> Provider | None:
    """Give the provider of that key, or None."""
    return _keys().get(key)


def by_domain(address: str) -> Provider | None:
    """Give the provider that serves an address (or a bare domain), or None."""
    return _domains().get(address.rpartition("@")[2].strip().casefold())


def server(provider_key: str, kind: Kind, tls: TlsMode | None = None) -> Server | None:
    """Give a provider's first choice for `kind`, with that TLS mode if one is wanted, or None."""
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
    # Trailing tabs are cut in the file, since editors remove them anyway.
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
