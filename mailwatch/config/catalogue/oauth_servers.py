"""The authorization servers for mail (OAuth 2); `authorization.tsv` names its sources and their date.

>>> authorization_server("google").token
'https://oauth2.googleapis.com/token'
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple


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
    text = resources.files(__package__ or "").joinpath("authorization.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    if tuple(rows[0]) != AuthorizationServer._fields:
        raise ValueError(f"expected the columns {AuthorizationServer._fields}, got {rows[0]}")
    found = (AuthorizationServer(*("" if cell == "-" else cell for cell in row)) for row in rows[1:])
    return {server.key: server for server in found}


def authorization_server(key: str) -> AuthorizationServer | None:
    """Return the server with that key, or None."""
    return authorization_servers().get(key)
