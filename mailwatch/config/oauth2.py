"""The oauth2 section of a login."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from mailwatch.catalogue.authorization import authorization_server, authorization_servers
from mailwatch.config.fields import FolderPath, Section, Text, Variable
from mailwatch.config.mistakes import Fault
from mailwatch.oauth.endpoints import complaint

_ENDPOINTS = ("authorization_endpoint", "token_endpoint")


def _checked(url: str) -> str:
    if wrong := complaint(url):
        raise Fault(wrong)
    return url


WebAddress = Annotated[str, AfterValidator(_checked)]
Scope = Annotated[str, Field(min_length=1, max_length=2000)]


class OAuth2Section(Section):
    """Access granted by the owner instead of a password. The client is the owner's own (docs/how-to/oauth2.md)."""

    provider: str | None = None
    """google or microsoft: whose endpoints and scope to use; without it they are written below."""
    client_id: Annotated[Text, Field(min_length=1)]
    """The name of the client that the owner registered with the provider."""
    client_secret_file: FolderPath | None = None
    """A file whose first line is the client's secret, for providers that give one (Google does)."""
    client_secret_env: Variable | None = None
    """The environment variable that holds it."""
    scope: Scope | None = None
    """What to ask for, if it is not what the provider's mail needs."""
    authorization_endpoint: WebAddress | None = None
    """Where the owner's browser is sent."""
    token_endpoint: WebAddress | None = None
    """Where access tokens come from."""
    device_endpoint: WebAddress | None = None
    """Where codes for mailwatch login --device come from, if anywhere."""
    ca_file: FolderPath | None = None
    """PEM certificates to trust for the endpoints instead of the system's."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.provider is not None and authorization_server(self.provider) is None:
            known = list(authorization_servers())
            near = get_close_matches(self.provider.casefold(), known, n=1)
            cure = f"did you mean '{near[0]}'?" if near else f"use {' or '.join(known)}, or write the endpoints"
            raise Fault(f"is not known; {cure}", "provider")
        if self.client_secret_file is not None and self.client_secret_env is not None:
            raise Fault(
                "is a second secret; keep one of client_secret_file, client_secret_env", "client_secret_env"
            )
        written = [field for field in _ENDPOINTS if getattr(self, field) is not None]
        if self.provider is not None and written:
            raise Fault("goes not with provider; keep one of the two", written[0])
        if self.provider is None and (len(written) < len(_ENDPOINTS) or self.scope is None):
            raise Fault(
                "needs provider: google or microsoft, or authorization_endpoint, token_endpoint and scope; add it"
            )
        return self
