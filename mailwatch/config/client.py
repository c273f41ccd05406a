"""From the oauth2 section of a login to the client that asks for its access tokens."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from mailwatch.catalogue.authorization import authorization_server
from mailwatch.config import secrets
from mailwatch.config.oauth2 import OAuth2Section
from mailwatch.models import OAuth2


def client_of(section: OAuth2Section, username: str, data_dir: Path) -> OAuth2:
    """Give the client that a section describes for the login of `username`. Reads its secret; raises Fault."""
    server = authorization_server(section.provider or "")
    secret = SecretStr("")
    if section.client_secret_file is not None or section.client_secret_env is not None:
        secret = secrets.read_plain(section.client_secret_file, section.client_secret_env)
    return OAuth2(
        authorization_endpoint=section.authorization_endpoint or (server.authorization if server else ""),
        token_endpoint=section.token_endpoint or (server.token if server else ""),
        device_endpoint=section.device_endpoint or (server.device if server else ""),
        redirect_host=server.redirect if server else "127.0.0.1",
        scope=section.scope or (server.scope if server else ""),
        client_id=section.client_id,
        client_secret=secret,
        ca_file=section.ca_file,
        grant_file=grant_file(username, data_dir),
    )


def grant_file(username: str, data_dir: Path) -> Path:
    """Name the file of a grant; no user name leads out of its folder."""
    return data_dir / "oauth" / f"{quote(username, safe='@+')}.json"
