"""The section of config.yaml for the status page: who may see it, and the form of passwords."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    SecretStr,
    model_validator,
)

from mailwatch.config.errors import FieldError
from mailwatch.config.types import (
    Endpoint,
    Flag,
    FolderPath,
    Host,
    Label,
    Lines,
    Section,
    Variable,
    split_endpoint,
)
from mailwatch.net import page_problem

HASH_PREFIX = "$argon2"


def check_hash(text: str) -> str:
    """Return an argon2id hash unchanged. Raises FieldError, whose text does not repeat the hash."""
    # Imported late: only users with a hash should wait for argon2.
    from argon2 import Type, extract_parameters
    from argon2.exceptions import InvalidHashError

    advice = "is not an argon2id hash; make one with: mailwatch config hash-password"
    try:
        parameters = extract_parameters(text)
    except (InvalidHashError, ValueError):
        raise FieldError(advice) from None
    if parameters.type is not Type.ID or not re.fullmatch(r"\$[\w$=,]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+", text):
        raise FieldError(advice)
    return text


def _hash(secret: SecretStr) -> SecretStr:
    check_hash(secret.get_secret_value())
    return secret


def _redacted_hash(secret: SecretStr | None) -> str | None:
    """Return the parameters of a hash only; salt and hash would allow offline guessing."""
    return None if secret is None else "$".join([*secret.get_secret_value().split("$")[:4], "..."])


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise FieldError("is not an address or a network; write for example 192.0.2.7 or 10.0.0.0/8") from None
    return text


Network = Annotated[str, AfterValidator(_network)]


def _base_url(text: str) -> str:
    example = "https://mailwatch.example.org"
    if wrong := page_problem(text, "is not the web address of these pages", example, schemes=("http", "https")):
        raise FieldError(wrong)
    if "?" in text:
        raise FieldError(f"has a query; write only the base, for example {example}")
    return text.rstrip("/")


def _origin(text: str) -> str:
    example = "https://home.example.org"
    if wrong := page_problem(text, "is not the origin of a site", example, schemes=("http", "https")):
        raise FieldError(wrong)
    if not re.fullmatch(r"https?://[^/?;,\s]+/?", text):
        raise FieldError(f"is longer than an origin; write for example {example}, without a path")
    return text.rstrip("/")


LOGO_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
"""The media type of a logo by what its name ends in."""


def _logo(path: Path) -> Path:
    if path.suffix.lower() not in LOGO_TYPES:
        raise FieldError(f"must end in {', '.join(LOGO_TYPES)}; name a picture")
    return path


BaseUrl = Annotated[str, Field(max_length=2000), AfterValidator(_base_url)]
Origin = Annotated[str, Field(max_length=300), AfterValidator(_origin)]


class WebSection(Section):
    """The status page, the API and /metrics."""

    listen: Endpoint = "127.0.0.1:8080"
    """Host and port. Beyond loopback, without a password, MailWatch shows only the public view."""
    metrics_listen: Endpoint | None = None
    """Host and port of a second listener, for Prometheus: /metrics only, for everyone who reaches it."""
    public: Flag = False
    """Whether everyone may see states and outages, without names; the rest needs the password or the token."""
    password_file: FolderPath | None = None
    """A file whose first line is the password, or its argon2id hash; the user is `mailwatch`."""
    password_env: Variable | None = None
    """The environment variable that holds either."""
    password_hash: Annotated[
        SecretStr | None, Field(max_length=500), AfterValidator(lambda given: given and _hash(given)),
        PlainSerializer(_redacted_hash),
    ] = None  # fmt: skip
    """The argon2id hash itself, as `mailwatch config hash-password` makes it."""
    token_file: FolderPath | None = None
    """A file whose first line is a token for programs such as Prometheus (Authorization: Bearer)."""
    token_env: Variable | None = None
    """The environment variable that holds it."""
    hosts: Annotated[tuple[Host, ...], Field(max_length=100)] = ()
    """Names under which browsers reach the pages, such as those of a proxy."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(max_length=100)] = ()
    """Proxies whose X-Forwarded-For MailWatch trusts."""
    trust_network: Flag = False
    """Whether all who reach the port may see everything: no password, as something else protects the port."""

    url: BaseUrl | None = None
    """Where readers reach the pages, such as https://mail-status.example.org: the base of links in messages."""
    title: Label | None = None
    """The title of the status page, instead of MailWatch."""
    text: Lines | None = None
    """A text of your own on the status page: plain, with an empty line between paragraphs."""
    logo: Annotated[FolderPath | None, AfterValidator(lambda path: path and _logo(path))] = None
    """A picture on the status page: PNG, SVG or JPEG of at most 256 KiB."""
    announcement: Lines | None = None
    """A plain text on top of the status page, such as about maintenance."""
    embed: Annotated[tuple[Origin, ...], Field(max_length=100)] = ()
    """Sites that may show the pages in a frame, such as https://home.example.org."""
    noindex: Flag = True
    """Whether the pages ask search engines to leave them out."""
    badges: Flag = False
    """Whether everyone may get badges of states and availability, if the pages are public."""

    @property
    def host(self) -> str:
        """The address to listen on."""
        return split_endpoint(self.listen)[0]

    @property
    def port(self) -> int:
        """The port to listen on; 0 lets the system choose."""
        return split_endpoint(self.listen)[1]

    @property
    def requires_login(self) -> bool:
        """Whether a password or token is set, so that a login is possible."""
        ways = (self.password_file, self.password_env, self.password_hash, self.token_file, self.token_env)
        return any(way is not None for way in ways)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        passwords = [
            way for way in ("password_file", "password_env", "password_hash") if getattr(self, way) is not None
        ]
        if len(passwords) > 1:
            raise FieldError(f"has {len(passwords)} passwords; keep one of {', '.join(passwords)}", passwords[-1])
        if self.token_file and self.token_env:
            raise FieldError("has two tokens; keep one of token_file, token_env", "token_env")
        return self
