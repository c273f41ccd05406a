"""Clients, grants and logins of the tests' authorization server."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from mailwatch.probes.oauth.grant import new_grant, write_grant
from mailwatch.settings import Login, OAuth2
from tests.servers.oauth import CLIENT_ID, CLIENT_SECRET, AuthorizationServer


def client_of(authority: AuthorizationServer, grant_file: Path) -> OAuth2:
    """The client that the server knows."""
    return OAuth2(
        authorization_endpoint=f"{authority.url}/authorize",
        token_endpoint=f"{authority.url}/token",
        device_endpoint=f"{authority.url}/device",
        scope="mail",
        client_id=CLIENT_ID,
        client_secret=SecretStr(CLIENT_SECRET),
        grant_file=grant_file,
    )


def grant(authority: AuthorizationServer, client: OAuth2) -> None:
    """Let the owner grant access, as `mailwatch login` does."""
    write_grant(client.grant_file, new_grant(client, SecretStr(authority.granted())))


def granted_login(authority: AuthorizationServer, folder: Path, user: str) -> Login:
    """A login whose owner has granted access."""
    client = client_of(authority, folder / "oauth" / f"{user}.json")
    grant(authority, client)
    return Login(username=user, password=SecretStr(""), oauth2=client)
