"""Builds targets from config sections: accounts expanded, catalogue servers filled in, passwords read.

An oauth2 section becomes the client that requests the access tokens of its login.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from mailwatch.config import catalogue, mounts, secrets
from mailwatch.config.errors import ConfigProblem, FieldError, KeyPath, Problems, format_key_path
from mailwatch.config.schema import Config
from mailwatch.config.schema_targets import (
    PASSWORD_SOURCES,
    AccountSection,
    LoginSection,
    OAuth2Section,
    TargetSection,
)
from mailwatch.kinds import KINDS
from mailwatch.model import Kind, TlsMode
from mailwatch.net import family_of
from mailwatch.settings import Login, MxTask, OAuth2, RoundtripTask, Target, WebmailTask


def oauth_client(section: OAuth2Section, username: str, data_dir: Path) -> OAuth2:
    """Return the OAuth client of a section for the login of `username`, reading its secret. Raises FieldError."""
    server = catalogue.authorization_server(section.provider or "")
    secret = SecretStr("")
    if section.client_secret_file is not None or section.client_secret_env is not None:
        secret = secrets.read_secret(section.client_secret_file, section.client_secret_env)
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
    """Return the path of a grant file; no user name leads out of its folder."""
    return data_dir / "oauth" / f"{quote(username, safe='@+')}.json"


ROUNDTRIP_INTERVAL_SECONDS = 900.0
"""Seconds; each probe sends a message, so the interval of other probes would be too short."""
ROUNDTRIP_DEADLINE_SECONDS = 300.0


def build_targets(config: Config, *, oauth_user: str | None = None) -> tuple[Target, ...]:
    """Return all targets, ready to be probed, reading the secrets. Raises ConfigError with all failures.

    With `oauth_user`, only the mailbox targets that log in by OAuth 2 as that user; no other secret is read.
    """
    made: dict[str, Target] = {}
    problems = Problems(config.problem)
    logins = _Logins(config, problems)
    sections = [(section, place) for section, place in resolved_targets(config) if _is_wanted(section, oauth_user)]
    for section, place in sections:
        login = logins.read(section.login, place) if section.login else None
        if (login is None) == (section.login is None) and section.kind is not Kind.ROUNDTRIP:
            made[section.name] = _target(section, login, config.defaults.helo_name)
    problems.check()
    # Round trips last, since they refer to other targets.
    for section, place in sections:
        if section.kind is Kind.ROUNDTRIP:
            with problems.at(*place):
                made[section.name] = _roundtrip_target(section, made)
    problems.check()
    return tuple(made.values())


def _is_wanted(section: TargetSection, oauth_user: str | None) -> bool:
    login = section.login
    return oauth_user is None or (login is not None and login.oauth2 is not None and login.username == oauth_user)


def warnings(config: Config) -> tuple[ConfigProblem, ...]:
    """Return warnings about settings that are allowed but risky."""
    found = []
    if remote := mounts.network_mount_warning(config.data_dir):
        found.append(config.problem(("data_dir",), f"data_dir: {remote}"))
    for section, place in resolved_targets(config):
        at = format_key_path(place)
        if section.interval is not None and section.timeout is not None and section.timeout > section.interval:
            what = f"{at}: timeout is longer than interval; checks may be missed, so shorten timeout"
            found.append(config.problem((*place, "timeout"), what))
        if section.deadline is not None and section.interval is not None and section.deadline > section.interval:
            what = f"{at}: deadline is longer than interval; checks may be missed, so shorten deadline"
            found.append(config.problem((*place, "deadline"), what))
        if place[0] == "targets" and (what := _name_warning(section.name)):
            found.append(config.problem((*place, "name"), f"{at}: {what}"))
        if section.login:
            here = secret_place(section.login, place)
            found += [config.problem(here, f"{at}: {what}") for what in _login_warnings(config, section.login)]
    found += _unmatched_claims(config)
    if config.guard is None:
        what = (
            "guard: off: MailWatch does not check our own line, so each failure of it counts against the "
            "provider's; remove it, or name controls that answer here"
        )
        found.append(config.problem(("guard",), what))
    return tuple(sorted(set(found)))


def _name_warning(name: str) -> str:
    """Return why the address of a target's page or of its JSON leads elsewhere, "" if it does not."""
    parts = name.split("/")
    if {".", ".."} & set(parts):
        return f"name {name!r}: browsers take the parts . and .. out of addresses, so give it a name without them"
    if len(parts) > 1 and parts[-1] == "response-times":
        return f"name {name!r}: the API ends the address of response times so, so end the name with another word"
    return ""


def _unmatched_claims(config: Config) -> Iterator[ConfigProblem]:
    """Yield a warning for each unknown name in a claim; not a mistake, since past targets keep their outages."""
    known = {
        "targets": {section.name for section, _ in resolved_targets(config)},
        "accounts": {account.address for account in config.accounts},
    }
    for number, claim in enumerate(config.claims):
        for field, names in known.items():
            for name in sorted(set(getattr(claim, field) or ()) - names):
                what = f"the config has nothing named '{name}'; correct it if it is misspelt"
                yield config.problem(("claims", number, field), f"claims[{number}].{field}: {what}")


def resolved_targets(config: Config) -> Iterator[tuple[TargetSection, KeyPath]]:
    """Yield each target in the long form, with all defaults filled in, and its place in the config."""
    for number, account in enumerate(config.accounts):
        for kind in account.kinds():
            yield _with_defaults(_account_target(account, kind), config), ("accounts", number)
    for number, target in enumerate(config.targets):
        yield _with_defaults(target, config), ("targets", number)


def _account_target(account: AccountSection, kind: Kind) -> TargetSection:
    provider = account.catalogue_provider()
    if kind in (Kind.ROUNDTRIP, Kind.MX):
        more: dict[str, Any] = {"host": account.address.rpartition("@")[2], "recipient": account.address}
        if kind is Kind.ROUNDTRIP:
            more = {"via": f"{account.address}/{Kind.SMTP}", "to": f"{account.address}/{Kind.IMAP}"}
        return TargetSection.model_construct(
            name=f"{account.address}/{kind}",
            kind=kind,
            provider=provider.key if provider else None,
            interval=account.interval if kind is Kind.MX else None,
            timeout=account.timeout,
            paused=account.paused,
            **more,
        )
    server = catalogue.server(provider.key, kind) if provider else None
    if provider is None or server is None:  # AccountSection already refuses this
        raise FieldError(f"no {kind} server for {account.address}")
    return TargetSection.model_construct(
        name=f"{account.address}/{kind}",
        kind=kind,
        provider=provider.key,
        host=server.host,
        port=server.port,
        tls=server.tls,
        login=LoginSection.model_construct(
            username=server.username_for(account.address),
            password_file=account.password_file,
            password_env=account.password_env,
            password_command=account.password_command,
            oauth2=account.oauth2,
        ),
        interval=account.interval,
        timeout=account.timeout,
        paused=account.paused,
    )


def _with_defaults(target: TargetSection, config: Config) -> TargetSection:
    host, port, tls = target.host, target.port, target.requested_tls()
    server = catalogue.server(target.provider, target.kind, tls) if target.provider and host is None else None
    if server:
        host, port, tls = server.host, port or server.port, server.tls
    facts = KINDS[target.kind]
    tls = tls or facts.default_tls
    update: dict[str, object] = {
        "provider": target.provider or "",
        "interval": target.interval or config.defaults.interval,
        "timeout": target.timeout or config.defaults.timeout,
    }
    if target.kind is Kind.ROUNDTRIP:
        update["interval"] = target.interval or max(ROUNDTRIP_INTERVAL_SECONDS, config.defaults.interval)
        update["deadline"] = target.deadline or ROUNDTRIP_DEADLINE_SECONDS
    elif facts.ports:
        update |= {"host": host, "port": port or facts.ports[tls], "tls": tls}
    return target.model_copy(update=update)


def _target(section: TargetSection, login: Login | None, helo_name: str) -> Target:
    host, port, task = section.host, section.port, _task(section)
    if isinstance(task, WebmailTask):
        parts = urlsplit(task.url)
        host, port = parts.hostname, parts.port or 443
    if host is None or port is None:
        raise FieldError(f"{section.name} is not resolved")
    return Target(
        name=section.name,
        kind=section.kind,
        host=host,
        port=port,
        provider=section.provider or "",
        tls=section.tls or TlsMode.IMPLICIT,
        ca_file=section.ca_file,
        login=login,
        interval=section.interval or 60.0,
        timeout=section.timeout or 30.0,
        task=task,
        helo_name=helo_name if KINDS[section.kind].sends_helo else "",
        paused=section.paused,
    )


def _task(section: TargetSection) -> MxTask | WebmailTask | None:
    if section.kind is Kind.MX:
        return MxTask(section.recipient or _postmaster(section.host or ""), section.sender or "")
    if section.kind is Kind.WEBMAIL:
        return WebmailTask(url=section.url or "", contains=section.contains or "", absent=section.absent or "")
    return None


def _postmaster(domain: str) -> str:
    """Return the address that exists at every domain (RFC 5321, section 4.5.1), with brackets around an IP."""
    literal = {4: f"[{domain}]", 6: f"[IPv6:{domain}]"}
    return f"postmaster@{literal.get(family_of(domain) or 0, domain)}"


def _roundtrip_target(section: TargetSection, made: Mapping[str, Target]) -> Target:
    """Build a round trip from the two targets that it names. Raises FieldError."""
    ends = []
    for field, name, kind in (("via", section.via, Kind.SMTP), ("to", section.to, Kind.IMAP)):
        end = made.get(name or "")
        if end is None or end.kind is not kind:
            raise FieldError(
                f"there is no {kind} target named '{name}'; name one of targets or ADDRESS/{kind}", field
            )
        if end.login is None or not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", end.login.username):
            raise FieldError(f"'{name}' has no login whose user name is a mail address; add it", field)
        ends.append((end, end.login.username))
    (via, sender), (to, recipient) = ends
    return Target(
        name=section.name,
        kind=section.kind,
        host=via.host,
        port=via.port,
        provider=section.provider or to.provider,
        tls=via.tls,
        interval=section.interval or ROUNDTRIP_INTERVAL_SECONDS,
        timeout=section.timeout or 30.0,
        paused=section.paused,
        task=RoundtripTask(
            via=via,
            to=to,
            sender=sender,
            recipient=recipient,
            deadline=section.deadline or ROUNDTRIP_DEADLINE_SECONDS,
        ),
    )


def _login_warnings(config: Config, login: LoginSection) -> Iterator[str]:
    files = {"password_file": login.password_file}
    if login.oauth2 is not None:
        grant = grant_file(login.username, config.data_dir)
        files = {"client_secret_file": login.oauth2.client_secret_file, "the granted access": grant}
        if not grant.exists():
            yield f"access is not granted yet; run mailwatch login {login.username}"
    for name, file in files.items():
        if file is not None and secrets.readable_by_others(file):
            yield f"{name} can be read by others; run chmod 600 {file}"


class _Logins:
    """Reads the secrets of targets. The channels of an account share one secret, which is read once: its command
    may prompt a person.
    """

    def __init__(self, config: Config, problems: Problems) -> None:
        self._config, self._problems = config, problems
        self._passwords: dict[KeyPath, SecretStr | None] = {}

    def read(self, section: LoginSection, place: KeyPath) -> Login | None:
        """Return the login of the target at that place, None after a problem."""
        if section.oauth2 is not None:
            way = "client_secret_file" if section.oauth2.client_secret_file else "client_secret_env"
            with self._problems.at(*secret_place(section, place), way):
                client = oauth_client(section.oauth2, section.username, self._config.data_dir)
                return Login(username=section.username, password=SecretStr(""), oauth2=client)
            return None
        if place not in self._passwords:
            self._passwords[place] = read_login_password(self._config, section, place, self._problems)
        password = self._passwords[place]
        return None if password is None else Login(username=section.username, password=password)


def read_login_password(
    config: Config, login: LoginSection, place: KeyPath, problems: Problems
) -> SecretStr | None:
    """Read the password of a login at a place of the config; return None after a problem."""
    with problems.at(*secret_place(login, place)):
        return secrets.read_password(login, config.folder)
    return None


def secret_place(login: LoginSection, place: KeyPath) -> KeyPath:
    """Return the place in the config of a login's secret."""
    way = next(way for way in PASSWORD_SOURCES if getattr(login, way) is not None)
    return (*place, way) if place[0] == "accounts" else (*place, "login", way)
