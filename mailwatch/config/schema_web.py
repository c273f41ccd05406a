"""The section of config.yaml for the status page: who may see it, and the form of passwords."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    model_validator,
)

from mailwatch.config.errors import FieldError
from mailwatch.config.types import (
    Endpoint,
    FolderPath,
    Host,
    Section,
    Variable,
    split_endpoint,
)

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


def _flag(value: object) -> object:
    # The environment provides text.
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise FieldError("must be true or false, without quotes")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]


Network = Annotated[str, AfterValidator(_network)]


class WebSection(Section):
    """The status page, the API and /metrics."""

    listen: Endpoint = "127.0.0.1:8080"
    """Host and port. Beyond loopback, without a password, MailWatch shows only the public view."""
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
