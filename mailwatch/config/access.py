"""The access rules of the pages, with the secrets read."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr

from mailwatch.config.appearance import PLAIN, Appearance, appearance_of
from mailwatch.config.errors import ConfigProblem, FieldError, Problems
from mailwatch.config.load import environment_source
from mailwatch.config.schema import Config
from mailwatch.config.schema_web import HASH_PREFIX, check_hash
from mailwatch.config.secrets import read_secret, readable_by_others
from mailwatch.config.types import split_endpoint
from mailwatch.net import is_loopback

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
BIND_VARIABLE = "MAILWATCH_BIND"
"""The environment variable in which compose.yaml passes on the address that a container's port is published on."""
MIN_TOKEN_CHARS = 16
"""Characters of the shortest token: programs generate tokens, and short ones can be guessed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebAccess:
    """The access rules of the pages, and their appearance."""

    password: SecretStr | None = None
    password_hash: SecretStr | None = None
    """The argon2id hash of the password; at most one of password and hash is set."""
    token: SecretStr | None = None
    public: bool = False
    loopback: bool = True
    """Whether the port is reachable only from this machine."""
    trust_network: bool = False
    hosts: frozenset[str] = frozenset()
    proxies: Networks = ()
    appearance: Appearance = PLAIN

    @property
    def has_password(self) -> bool:
        """Whether a password is set: only who knows it may change anything."""
        return bool(self.password or self.password_hash)

    @property
    def is_for_this_machine(self) -> bool:
        """Whether no secret is set, and only this machine reaches the port."""
        return self.loopback and not self.requires_login

    @property
    def requires_login(self) -> bool:
        """Whether a password or token is set, so that a login is possible."""
        return bool(self.password or self.password_hash or self.token)


def web_access(config: Config) -> WebAccess:
    """Build the access rules, reading the secrets of `web:`. Raises ConfigError with all that cannot be read."""
    web, problems = config.web, Problems(config.problem)

    def read(what: str) -> SecretStr | None:
        file, variable = getattr(web, f"{what}_file"), getattr(web, f"{what}_env")
        if file is None and variable is None:
            return None
        key = f"{what}_{'env' if file is None else 'file'}"
        with problems.at("web", key):
            secret = read_secret(file, variable)
            if what == "token" and len(secret.get_secret_value()) < MIN_TOKEN_CHARS:
                raise FieldError("the token has less than 16 characters; make one with: openssl rand -hex 32")
            if what == "password" and secret.get_secret_value().startswith(HASH_PREFIX):
                check_hash(secret.get_secret_value())
            return secret
        return None

    password, hashed, token = read("password"), web.password_hash, read("token")
    problems.check()
    if password and password.get_secret_value().startswith(HASH_PREFIX):
        password, hashed = None, password
    return WebAccess(
        password=password,
        password_hash=hashed,
        token=token,
        public=web.public,
        loopback=is_loopback(web.host),
        trust_network=web.trust_network and _published_on_loopback(),
        hosts=frozenset(host.casefold().rstrip(".") for host in web.hosts),
        appearance=appearance_of(config),
        proxies=tuple(ipaddress.ip_network(network) for network in web.trusted_proxies),
    )


def _published_on_loopback() -> bool:
    """Return whether a container's port is published on this machine only. True if nothing is known of that."""
    bind = os.environ.get(BIND_VARIABLE, "").strip("[] ")
    return not bind or is_loopback(bind)


def web_warnings(config: Config) -> Iterator[ConfigProblem]:
    """Yield warnings about access settings that are allowed but risky."""
    web = config.web
    if not (is_loopback(web.host) or web.requires_login or web.public or web.trust_network):
        what = (
            f"web.listen: other machines can reach {web.host} without a password: they see only the public "
            "view, or everything as long as all targets are servers of the catalogue without a login; "
            "set web.password_file, or web.public: true if you want only the public view"
        )
        yield config.problem(("web", "listen"), what)
    metrics = web.metrics_listen and split_endpoint(web.metrics_listen)[0]
    if metrics and not is_loopback(metrics) and not environment_source(("web", "metrics_listen")):
        what = (
            f"web.metrics_listen: everyone who reaches {metrics} can read the names of targets; "
            "use 127.0.0.1, or an address that only Prometheus reaches"
        )
        yield config.problem(("web", "metrics_listen"), what)
    for key in ("password_file", "token_file"):
        file = getattr(web, key)
        if file is not None and readable_by_others(file):
            yield config.problem(("web", key), f"web.{key} can be read by others; run chmod 600 {file}")
