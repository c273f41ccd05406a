"""The section `web:`: where the pages are, and who may see what of them."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr, model_validator

from mailwatch.config.fields import Endpoint, FolderPath, Host, Section, Variable, split_endpoint
from mailwatch.config.mistakes import Fault

HASHED = "$argon2"


def check_hash(text: str) -> str:
    """Return an argon2id hash as it is. Raises Fault, which does not repeat it."""
    # Only who has such a hash pays for loading argon2.
    from argon2 import Type, extract_parameters
    from argon2.exceptions import InvalidHashError

    cure = "is not an argon2id hash; make one with: mailwatch config hash-password"
    try:
        parameters = extract_parameters(text)
    except (InvalidHashError, ValueError):
        raise Fault(cure) from None
    if parameters.type is not Type.ID or not re.fullmatch(r"\$[\w$=,]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+", text):
        raise Fault(cure)
    return text


def _hash(secret: SecretStr) -> SecretStr:
    check_hash(secret.get_secret_value())
    return secret


def _shown(secret: SecretStr | None) -> str | None:
    """How it was made may be known; salt and hash could be tried out at leisure."""
    return None if secret is None else "$".join([*secret.get_secret_value().split("$")[:4], "..."])


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise Fault("is not an address or a network; write for example 192.0.2.7 or 10.0.0.0/8") from None
    return text


def _flag(value: Any) -> Any:
    # As the environment gives it.
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise Fault("must be true or false, without quotes")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
Network = Annotated[str, AfterValidator(_network)]


class WebSection(Section):
    """The status page, the API and /metrics."""

    listen: Endpoint = "127.0.0.1:8080"
    """Host and port. Beyond loopback and without a password only the public view is shown."""
    public: Flag = False
    """Whether anybody may see states and outages, without names; the rest needs the password or the token."""
    password_file: FolderPath | None = None
    """A file whose first line is the password, or its argon2id hash; the user is `mailwatch`."""
    password_env: Variable | None = None
    """The environment variable that holds either."""
    password_hash: Annotated[
        SecretStr | None, Field(max_length=500), AfterValidator(lambda given: given and _hash(given)),
        PlainSerializer(_shown),
    ] = None  # fmt: skip
    """The argon2id hash itself, as `mailwatch config hash-password` makes it."""
    token_file: FolderPath | None = None
    """A file whose first line is a token for programs such as Prometheus (Authorization: Bearer)."""
    token_env: Variable | None = None
    """The environment variable that holds it."""
    hosts: Annotated[tuple[Host, ...], Field(max_length=100)] = ()
    """Names under which browsers reach the pages, such as those of a proxy."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(max_length=100)] = ()
    """Proxies whose X-Forwarded-For says who asks."""
    trust_network: Flag = False
    """Without a password: whether all who reach the port may see everything; something else keeps others out."""

    @property
    def host(self) -> str:
        """The address to listen on."""
        return split_endpoint(self.listen)[0]

    @property
    def port(self) -> int:
        """The port to listen on; 0 lets the system choose."""
        return split_endpoint(self.listen)[1]

    @property
    def asks(self) -> bool:
        """Whether there is anything by which one could be let in."""
        ways = (self.password_file, self.password_env, self.password_hash, self.token_file, self.token_env)
        return any(way is not None for way in ways)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        passwords = [
            way for way in ("password_file", "password_env", "password_hash") if getattr(self, way) is not None
        ]
        if len(passwords) > 1:
            raise Fault(f"has {len(passwords)} passwords; keep one of {', '.join(passwords)}", passwords[-1])
        if self.token_file and self.token_env:
            raise Fault("has two tokens; keep one of token_file, token_env", "token_env")
        return self
