"""The sections of targets: accounts (the short form), targets (the long form), and their logins.

A login has a password from one of several sources, or an oauth2 section instead.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Self

from pydantic import Field, model_validator

from mailwatch.config import catalogue
from mailwatch.config.errors import FieldError
from mailwatch.config.types import (
    Address,
    Flag,
    FolderPath,
    Host,
    Label,
    PageUrl,
    Port,
    Seconds,
    Section,
    Text,
    Variable,
    checked_by,
)
from mailwatch.config.typos import meant_domain
from mailwatch.kinds import KINDS, MAILBOX_KINDS
from mailwatch.model import Kind, TlsMode
from mailwatch.net import endpoint_problem, is_loopback

_ENDPOINTS = ("authorization_endpoint", "token_endpoint")


WebAddress = Annotated[str, checked_by(endpoint_problem)]
Scope = Annotated[str, Field(min_length=1, max_length=2000)]


class OAuth2Section(Section):
    """Access that the owner grants, instead of a password, to a client ID of their own (docs/how-to/oauth2.md)."""

    provider: str | None = None
    """google or microsoft: selects endpoints and scope; without it, write them below."""
    client_id: Annotated[Text, Field(min_length=1)]
    """The ID of the client that the owner registered with the provider."""
    client_secret_file: FolderPath | None = None
    """A file whose first line is the client secret, for providers that issue one (Google does)."""
    client_secret_env: Variable | None = None
    """The environment variable that holds it."""
    scope: Scope | None = None
    """The scope to request, if not the usual one for mail."""
    authorization_endpoint: WebAddress | None = None
    """Where the owner's browser goes to grant access."""
    token_endpoint: WebAddress | None = None
    """Where access tokens come from."""
    device_endpoint: WebAddress | None = None
    """Where codes for mailwatch login --device come from, if the provider offers them."""
    ca_file: FolderPath | None = None
    """PEM certificates to trust for the endpoints, instead of those of the system."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.provider is not None and catalogue.authorization_server(self.provider) is None:
            known = list(catalogue.authorization_servers())
            near = get_close_matches(self.provider.casefold(), known, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"use {' or '.join(known)}, or write the endpoints"
            raise FieldError(f"is not known; {advice}", "provider")
        if self.client_secret_file is not None and self.client_secret_env is not None:
            raise FieldError(
                "is a second secret; keep one of client_secret_file, client_secret_env", "client_secret_env"
            )
        written = [field for field in _ENDPOINTS if getattr(self, field) is not None]
        if self.provider is not None and written:
            raise FieldError("does not go with provider; keep one of the two", written[0])
        if self.provider is None and (len(written) < len(_ENDPOINTS) or self.scope is None):
            raise FieldError(
                "needs provider: google or microsoft, or authorization_endpoint, token_endpoint and scope; add it"
            )
        return self


TLS_BY_PORT = {
    25: TlsMode.STARTTLS,
    110: TlsMode.STARTTLS,
    143: TlsMode.STARTTLS,
    587: TlsMode.STARTTLS,
    465: TlsMode.IMPLICIT,
    993: TlsMode.IMPLICIT,
    995: TlsMode.IMPLICIT,
}

_ONLY_FOR = {
    key: tuple(kind for kind, facts in KINDS.items() if key in facts.own_keys)
    for key in dict.fromkeys(key for facts in reversed(KINDS.values()) for key in facts.own_keys)
}
"""The kinds that a key is for, if it is not for all."""


PASSWORD_SOURCES = ("password_file", "password_env", "password_command", "oauth2")


class SecretSection(Section):
    """Where a password comes from: exactly one of four ways, never the config itself."""

    password_file: FolderPath | None = None
    """A file whose first line is the password."""
    password_env: Variable | None = None
    """The environment variable that holds it."""
    password_command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A program and its arguments; the first line of its output is the password."""
    oauth2: OAuth2Section | None = None
    """Instead of a password: access that the owner grants with mailwatch login ADDRESS."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [way for way in PASSWORD_SOURCES if getattr(self, way) is not None]
        if not given:
            raise FieldError("has no password; add password_file: PATH, password_env, password_command or oauth2")
        if len(given) > 1:
            raise FieldError(f"has {len(given)} ways to log in; keep one of {', '.join(given)}", given[1])
        return self


class LoginSection(SecretSection):
    """A user name and where its password comes from."""

    username: Annotated[Text, Field(min_length=1)]
    """The user name at the server, usually the whole address."""


class AccountSection(SecretSection):
    """The short form: one address with all its channels, servers from the catalogue."""

    address: Address
    """The mail address, which is also the login."""
    provider: str | None = None
    """A catalogue key, for an address under your own domain."""
    channels: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = None
    """The kinds to check; default: imap, smtp and pop3, as far as the catalogue has them."""
    interval: Seconds | None = None
    """The time between checks, instead of the default."""
    timeout: Seconds | None = None
    """The time limit of one attempt, instead of the default."""
    paused: Flag = False
    """Whether its checks are paused: known and shown, but not probed."""

    def catalogue_provider(self) -> catalogue.Provider | None:
        """Return the provider by its key, else by the domain of the address."""
        return catalogue.by_key(self.provider) if self.provider else catalogue.by_domain(self.address)

    def kinds(self) -> tuple[Kind, ...]:
        """Return the kinds of targets that the account expands to."""
        provider = self.catalogue_provider()
        has = {server.kind for server in provider.servers} if provider else set()
        return self.channels or tuple(kind for kind in MAILBOX_KINDS if kind in has)

    @model_validator(mode="after")
    def _served(self) -> Self:
        provider = self.catalogue_provider()
        if provider is None:
            if self.provider:
                raise FieldError(unknown_provider(self.provider), "provider")
            domain = self.address.rpartition("@")[2]
            advice = "add provider: KEY or use targets with a host"
            if meant := meant_domain(domain):
                advice = f"did you mean {meant}? Otherwise {advice}"
            raise FieldError(f"no provider is known for {domain}; {advice}", "address")
        kinds = self.kinds()
        if Kind.WEBMAIL in kinds:
            raise FieldError("webmail needs the address of a page; write it as a target with url", "channels")
        if Kind.ROUNDTRIP in kinds and not {Kind.SMTP, Kind.IMAP} <= set(kinds):
            raise FieldError("roundtrip sends by smtp and reads by imap; add both", "channels")
        for kind in [kind for kind in kinds if kind in MAILBOX_KINDS]:
            server = catalogue.server(provider.key, kind)
            if server is None:
                raise FieldError(f"{provider.key} has no {kind} server in the catalogue; remove it", "channels")
            if self.oauth2 is None and not server.takes_password:
                raise FieldError(
                    f"{provider.key} accepts no passwords; add oauth2: (docs/how-to/oauth2.md)", "address"
                )
            if self.oauth2 is not None and "oauth2" not in server.auth:
                raise FieldError(f"{provider.key} is not known to accept OAuth 2; add password_file", "oauth2")
        if len(set(self.kinds())) < len(self.kinds()):
            raise FieldError("lists the same channel twice; keep one", "channels")
        return self


class TargetSection(Section):
    """The long form: any server. With `provider` of the catalogue, host, port and tls may be left out."""

    name: Label
    """The name in reports and metrics."""
    kind: Kind
    """imap, pop3, smtp, mx, webmail or roundtrip."""
    provider: Label | None = None
    """The company behind it: a catalogue key, or your own word if you write a host."""
    host: Host | None = None
    """The server's name or address; for mx the mail domain."""
    port: Port | None = None
    """The port, if it is not the usual one of kind and tls."""
    tls: TlsMode | None = None
    """implicit, starttls or none; default: the usual one of the port, else implicit."""
    ca_file: FolderPath | None = None
    """PEM certificates to trust, instead of those of the system."""
    login: LoginSection | None = None
    """The login; without it, checks end after the greeting and capabilities."""
    interval: Seconds | None = None
    """The time between checks, instead of the default."""
    timeout: Seconds | None = None
    """The time limit of one attempt, instead of the default."""
    paused: Flag = False
    """Whether its checks are paused: known and shown, but not probed."""
    url: PageUrl | None = None
    """webmail: the page, https only."""
    contains: Annotated[Text, Field(min_length=1)] | None = None
    """webmail: a text that must appear in the page."""
    absent: Annotated[Text, Field(min_length=1)] | None = None
    """webmail: a text that must not appear, such as the word for maintenance."""
    recipient: Address | None = None
    """mx: the recipient in RCPT TO, instead of the domain's postmaster; nothing is sent."""
    sender: Address | None = None
    """mx: the sender in MAIL FROM, instead of the null sender."""
    via: Label | None = None
    """roundtrip: the name of the smtp target that sends; it needs a login."""
    to: Label | None = None
    """roundtrip: the name of the imap target that receives the message; it needs a login."""
    deadline: Seconds | None = None
    """roundtrip: how long a message may take (default: 5m); a later one is recorded as late."""

    def requested_tls(self) -> TlsMode | None:
        """Return the configured TLS mode, else the usual one of the port, else None for any."""
        return self.tls or (TLS_BY_PORT.get(self.port) if self.port else None)

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for field, kinds in _ONLY_FOR.items():
            if getattr(self, field) is not None and self.kind not in kinds:
                raise FieldError(f"is for {' and '.join(kinds)} only; remove it", field)
        for field in KINDS[self.kind].required_keys:
            if getattr(self, field) is None:
                raise FieldError(f"a {self.kind} target needs {field}; add it")
        for field in KINDS[self.kind].unused_keys:
            if getattr(self, field) is not None:
                raise FieldError(f"is not for {self.kind} targets; remove it", field)
        if self.kind is Kind.MX and self.requested_tls() is TlsMode.IMPLICIT:
            raise FieldError("mail between servers starts unencrypted; write starttls or none", "tls")
        return self

    @model_validator(mode="after")
    def _speaks_as_the_port(self) -> Self:
        usual = TLS_BY_PORT.get(self.port) if self.port else None
        # The wrong mode would hang until the timeout, and be recorded as the provider's outage.
        if usual and self.tls and TlsMode.NONE != self.tls != usual:
            raise FieldError(f"port {self.port} is for tls: {usual}; write that, or change the port", "tls")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.host is None and "host" not in KINDS[self.kind].unused_keys:
            if self.kind is Kind.MX:
                raise FieldError("has no host; add host: DOMAIN, the part after the @ of its addresses")
            if self.provider is None:
                raise FieldError("has no host; add host: NAME, or provider: KEY of the catalogue")
            if catalogue.by_key(self.provider) is None:
                raise FieldError(f"{unknown_provider(self.provider)}, or add host", "provider")
            tls = self.requested_tls()
            if catalogue.server(self.provider, self.kind, tls) is None:
                how = f" with tls: {tls}" if tls else ""
                raise FieldError(
                    f"{self.provider} has no {self.kind} server{how} in the catalogue; add host", "provider"
                )
        elif self.login and self.tls is TlsMode.NONE and not is_loopback(self.host or ""):
            raise FieldError(
                "would send the password unencrypted; use implicit or starttls, or remove login", "tls"
            )
        return self


def unknown_provider(key: str) -> str:
    """Return that the catalogue has no such provider, with the most similar key."""
    near = get_close_matches(key.casefold(), [provider.key for provider in catalogue.providers()], n=1)
    hint = f"did you mean '{near[0]}'" if near else "see mailwatch providers"
    return f"'{key}' is not in the catalogue; {hint}"
