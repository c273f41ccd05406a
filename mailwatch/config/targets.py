"""From sections to targets: accounts expanded, the catalogue's servers filled in, passwords read.

From the oauth2 section of a login to the client that asks for its access tokens.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from mailwatch.config import catalogue, mounts, secrets
from mailwatch.config.catalogue.oauth_servers import authorization_server
from mailwatch.config.errors import ConfigError, Fault, Mistake, Place, written
from mailwatch.config.schema import Config
from mailwatch.config.schema_targets import WAYS, AccountSection, LoginSection, OAuth2Section, TargetSection
from mailwatch.model import Kind, TlsMode
from mailwatch.settings import Delivery, Exchange, Login, OAuth2, Page, Target


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


_PORTS = {
    (Kind.IMAP, TlsMode.IMPLICIT): 993,
    (Kind.IMAP, TlsMode.STARTTLS): 143,
    (Kind.IMAP, TlsMode.NONE): 143,
    (Kind.POP3, TlsMode.IMPLICIT): 995,
    (Kind.POP3, TlsMode.STARTTLS): 110,
    (Kind.POP3, TlsMode.NONE): 110,
    (Kind.SMTP, TlsMode.IMPLICIT): 465,
    (Kind.SMTP, TlsMode.STARTTLS): 587,
    (Kind.SMTP, TlsMode.NONE): 587,
    (Kind.MX, TlsMode.STARTTLS): 25,
    (Kind.MX, TlsMode.NONE): 25,
}
ROUNDTRIP_INTERVAL = 900.0
"""Seconds; each look sends a message, so that the interval of the other looks would be too often."""
DEADLINE = 300.0


def build_targets(config: Config, *, granted_by: str | None = None) -> tuple[Target, ...]:
    """Give all targets, ready to be looked at. Reads the secrets; raises ConfigError with all that fail.

    With `granted_by` only the mailbox targets that log in by OAuth 2 as that user, and no other secret is read.
    """
    made: dict[str, Target] = {}
    later: list[tuple[TargetSection, Place]] = []
    mistakes: list[Mistake] = []
    # An account's channels share one secret: its command may ask a person, so it is run once.
    read: dict[Place, SecretStr | Mistake] = {}
    for section, place in resolved(config):
        if granted_by is not None and (
            section.login is None or section.login.oauth2 is None or section.login.username != granted_by
        ):
            continue
        login = _login(config, section.login, place, read) if section.login else None
        if isinstance(login, Mistake):
            mistakes.append(login)
            continue
        if section.kind is Kind.ROUNDTRIP:
            later.append((section, place))
        else:
            made[section.name] = _target(section, login, config.defaults.helo_name)
    for section, place in later if not mistakes else ():
        try:
            made[section.name] = _round_trip(section, made)
        except Fault as fault:
            mistakes.append(mistake_at(config, (*place, fault.field), f"{written(place)}.{fault.field}: {fault}"))
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(made.values())


def warnings(config: Config) -> tuple[Mistake, ...]:
    """Give what is allowed but deserves a second look."""
    found = []
    if remote := mounts.warning(config.data_dir):
        found.append(mistake_at(config, ("data_dir",), f"data_dir: {remote}"))
    for section, place in resolved(config):
        at = written(place)
        if section.interval is not None and section.timeout is not None and section.timeout > section.interval:
            what = f"{at}: timeout is longer than interval; checks may be missed, so shorten timeout"
            found.append(mistake_at(config, (*place, "timeout"), what))
        if section.deadline is not None and section.interval is not None and section.deadline > section.interval:
            what = f"{at}: deadline is longer than interval; checks may be missed, so shorten deadline"
            found.append(mistake_at(config, (*place, "deadline"), what))
        if section.login:
            here = _secret_place(section.login, place)
            found += [mistake_at(config, here, f"{at}: {what}") for what in _doubts(config, section.login)]
    found += _claims_of_nothing(config)
    if config.guard is None:
        what = (
            "guard: off: MailWatch does not check our own line, so each failure of it counts against the "
            "provider's; remove it, or name controls that answer here"
        )
        found.append(mistake_at(config, ("guard",), what))
    return tuple(sorted(set(found)))


def _claims_of_nothing(config: Config) -> Iterator[Mistake]:
    """Find names in claims that nothing has; not a mistake, since what is no longer watched has its outages."""
    known = {
        "targets": {section.name for section, _ in resolved(config)},
        "accounts": {account.address for account in config.accounts},
    }
    for number, claim in enumerate(config.claims):
        for field, names in known.items():
            for name in sorted(set(getattr(claim, field) or ()) - names):
                what = f"the config has nothing named '{name}'; correct it if it is misspelt"
                yield mistake_at(config, ("claims", number, field), f"claims[{number}].{field}: {what}")


def resolved(config: Config) -> Iterator[tuple[TargetSection, Place]]:
    """Give each target in the long form with nothing left open, and the place it comes from."""
    for number, account in enumerate(config.accounts):
        for kind in account.kinds():
            yield _fill(_channel(account, kind), config), ("accounts", number)
    for number, target in enumerate(config.targets):
        yield _fill(target, config), ("targets", number)


def mistake_at(config: Config, place: Place, what: str) -> Mistake:
    """Say something about a place of the file that `config` came from."""
    document = config._document
    return document.mistake(place, what) if document else Mistake(Path("config"), 1, what)


def _channel(account: AccountSection, kind: Kind) -> TargetSection:
    provider = account.found_provider()
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
            **more,
        )
    server = catalogue.server(provider.key, kind) if provider else None
    if provider is None or server is None:  # AccountSection refuses it before.
        raise Fault(f"no {kind} server for {account.address}")
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
    )


def _fill(target: TargetSection, config: Config) -> TargetSection:
    host, port, tls = target.host, target.port, target.wanted_tls()
    server = catalogue.server(target.provider, target.kind, tls) if target.provider and host is None else None
    if server:
        host, port, tls = server.host, port or server.port, server.tls
    tls = tls or (TlsMode.STARTTLS if target.kind is Kind.MX else TlsMode.IMPLICIT)
    update: dict[str, object] = {
        "provider": target.provider or "",
        "interval": target.interval or config.defaults.interval,
        "timeout": target.timeout or config.defaults.timeout,
    }
    if target.kind is Kind.ROUNDTRIP:
        update["interval"] = target.interval or max(ROUNDTRIP_INTERVAL, config.defaults.interval)
        update["deadline"] = target.deadline or DEADLINE
    elif target.kind is not Kind.WEBMAIL:
        update |= {"host": host, "port": port or _PORTS[target.kind, tls], "tls": tls}
    return target.model_copy(update=update)


def _target(section: TargetSection, login: Login | None, helo_name: str) -> Target:
    host, port, task = section.host, section.port, _task(section)
    if isinstance(task, Page):
        parts = urlsplit(task.url)
        host, port = parts.hostname, parts.port or 443
    if host is None or port is None:
        raise Fault(f"{section.name} is not resolved")
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
        helo_name=helo_name if section.kind in (Kind.SMTP, Kind.MX) else "",
    )


def _task(section: TargetSection) -> Exchange | Page | None:
    if section.kind is Kind.MX:
        return Exchange(section.recipient or _postmaster(section.host or ""), section.sender or "")
    if section.kind is Kind.WEBMAIL:
        return Page(url=section.url or "", contains=section.contains or "", absent=section.absent or "")
    return None


def _postmaster(domain: str) -> str:
    """Give who must exist at every domain (RFC 5321, section 4.5.1); an address stands in brackets there."""
    with suppress(ValueError):
        version = ipaddress.ip_address(domain).version
        domain = f"[IPv6:{domain}]" if version == 6 else f"[{domain}]"
    return f"postmaster@{domain}"


def _round_trip(section: TargetSection, made: Mapping[str, Target]) -> Target:
    """Put a round trip together from the two targets that it names. Raises Fault."""
    ends = []
    for field, name, kind in (("via", section.via, Kind.SMTP), ("to", section.to, Kind.IMAP)):
        end = made.get(name or "")
        if end is None or end.kind is not kind:
            raise Fault(f"there is no {kind} target named '{name}'; name one of targets or ADDRESS/{kind}", field)
        if end.login is None or not re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", end.login.username):
            raise Fault(f"'{name}' has no login whose user name is a mail address; add it", field)
        ends.append((end, end.login.username))
    (via, sender), (to, recipient) = ends
    return Target(
        name=section.name,
        kind=section.kind,
        host=via.host,
        port=via.port,
        provider=section.provider or to.provider,
        tls=via.tls,
        interval=section.interval or ROUNDTRIP_INTERVAL,
        timeout=section.timeout or 30.0,
        task=Delivery(via=via, to=to, sender=sender, recipient=recipient, deadline=section.deadline or DEADLINE),
    )


def _doubts(config: Config, login: LoginSection) -> Iterator[str]:
    files = {"password_file": login.password_file}
    if login.oauth2 is not None:
        grant = grant_file(login.username, config.data_dir)
        files = {"client_secret_file": login.oauth2.client_secret_file, "the granted access": grant}
        if not grant.exists():
            yield f"access is not granted yet; run mailwatch login {login.username}"
    for name, file in files.items():
        if file is not None and secrets.readable_by_others(file):
            yield f"{name} can be read by others; run chmod 600 {file}"


def _login(
    config: Config, section: LoginSection, place: Place, read: dict[Place, SecretStr | Mistake]
) -> Login | Mistake:
    if section.oauth2 is not None:
        try:
            client = client_of(section.oauth2, section.username, config.data_dir)
        except Fault as fault:
            way = "client_secret_file" if section.oauth2.client_secret_file else "client_secret_env"
            here = (*_secret_place(section, place), way)
            return mistake_at(config, here, f"{written(here)}: {fault}")
        return Login(username=section.username, password=SecretStr(""), oauth2=client)
    if place not in read:
        read[place] = secret(config, section, place)
    word = read[place]
    return word if isinstance(word, Mistake) else Login(username=section.username, password=word)


def secret(config: Config, login: LoginSection, place: Place) -> SecretStr | Mistake:
    """Read the password of a login that stands at a place of the config, or say what is wrong with it."""
    folder = config._document.path.absolute().parent if config._document else Path.cwd()
    try:
        return secrets.read(login, folder)
    except Fault as fault:
        here = _secret_place(login, place)
        return mistake_at(config, here, f"{written(here)}: {fault}")


def _secret_place(login: LoginSection, place: Place) -> Place:
    way = next(way for way in WAYS if getattr(login, way) is not None)
    return (*place, way) if place[0] == "accounts" else (*place, "login", way)
