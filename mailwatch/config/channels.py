"""The notification channels of the config. No message repeats an address: most addresses are secrets."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from mailwatch.config import catalogue, secrets
from mailwatch.config.errors import ConfigError, ConfigProblem, FieldError, Problems
from mailwatch.config.schema import Config
from mailwatch.config.schema_notify import NotifySection, UrlSection, parse_quiet_hours
from mailwatch.config.targets import resolved_targets
from mailwatch.net import is_web_address
from mailwatch.settings import Channel
from mailwatch.time_zone import TimeZoneError

_SCHEME = re.compile(r"([a-z][a-z0-9]{1,19})://.+")
_MAIL = ("mailto", "mailtos")
INVALID_ADDRESS = "is not an address of Apprise; write for example ntfys://ntfy.example.org/topic"


def build_channels(config: Config) -> tuple[Channel, ...]:
    """Return all channels, reading secret addresses. Raises ConfigError with all failures."""
    made: list[Channel] = []
    problems = Problems(config.problem)
    for number, section in enumerate(config.notify):
        with problems.at("notify", number, url_source(section)):
            url, scheme = _checked_url(section)
            with problems.at("notify", number):
                place = f"{scheme}-{number + 1}"
                name = section.name or place
                # A name of one's own may also be that of a channel without one.
                if name in {channel.name for channel in made}:
                    raise FieldError(f"the name '{name}' belongs to a channel above; names must differ", "name")
                made.append(replace(_channel(section, name, url, config), place=place))
    problems.check()
    return tuple(made)


def build_heartbeat(config: Config) -> SecretStr | None:
    """Return the address of the heartbeat, None without one. Raises ConfigError."""
    section = config.heartbeat
    if section is None:
        return None
    url, problems = SecretStr(""), Problems(config.problem)
    with problems.at("heartbeat", url_source(section)):
        url = _url(section)
        if not is_web_address(url.get_secret_value()):
            raise FieldError("is not an http or https address; correct it")
    problems.check()
    return url


def channel_warnings(config: Config) -> Iterator[ConfigProblem]:
    """Warn if all channels are mailboxes that are monitored, or if others can read an address."""
    try:
        channels = build_channels(config)
    except ConfigError:
        return
    watched = {section.provider for section, _ in resolved_targets(config)} - {None, ""}
    hosts = [_hosts(channel.url.get_secret_value()) for channel in channels]
    if channels and all(_is_watched(names, watched, config) for names in hosts):
        what = (
            "every channel is a mailbox at a provider that MailWatch itself monitors; "
            "add a channel of another kind, such as ntfy"
        )
        yield config.problem(("notify",), f"notify: {what}")
    for number, section in enumerate(config.notify):
        if section.url_file and secrets.readable_by_others(section.url_file):
            what = f"notify[{number}]: others can read {section.url_file}; run chmod 600 on it"
            yield config.problem(("notify", number, "url_file"), what)


def channel_name(section: NotifySection, place: int) -> str:
    """Return the name of a channel: its own, else its scheme and its place, from 1. Raises FieldError."""
    return section.name or f"{_checked_url(section)[1]}-{place}"


def _checked_url(section: NotifySection) -> tuple[SecretStr, str]:
    """Return the address of a channel, and its scheme. Raises FieldError."""
    url = _url(section)
    found = _SCHEME.fullmatch(url.get_secret_value())
    if not found or not _is_supported(url.get_secret_value()):
        raise FieldError(INVALID_ADDRESS)
    if parse_qs(urlsplit(url.get_secret_value()).query).get("verify", ["yes"])[-1].lower() not in (
        "yes",
        "true",
        "1",
    ):
        raise FieldError("switches off certificate verification; remove verify")
    return url, found[1]


def _channel(section: NotifySection, name: str, url: SecretStr, config: Config) -> Channel:
    return Channel(
        name=name,
        url=url,
        on=frozenset(section.on),
        lang=section.lang,
        quiet=parse_quiet_hours(section.quiet_hours) if section.quiet_hours else None,
        timezone=_zone_key(section, config),
        group=section.group,
        remind=section.remind,
        web_url=config.web.url or "",
    )


def _zone_key(section: NotifySection, config: Config) -> str:
    if section.timezone:
        return section.timezone
    try:
        return config.zone().key
    except TimeZoneError as error:
        raise FieldError(f"{error.reason}, or write timezone: here", "timezone") from None


def _is_supported(url: str) -> bool:
    # Imported late: it takes half a second, which only users with a channel should wait.
    import apprise

    # Apprise would log the address, and comments on it.
    logging.getLogger("apprise").disabled = True
    try:
        return apprise.Apprise.instantiate(url, suppress_exceptions=True) is not None
    except Exception:
        return False


def url_source(section: UrlSection) -> str:
    """Return the key under which a section has its address."""
    return next(way for way in ("url", "url_file", "url_env") if getattr(section, way) is not None)


def _url(section: UrlSection) -> SecretStr:
    if section.url is not None:
        return SecretStr(section.url)
    return secrets.read_secret(section.url_file, section.url_env)


def _hosts(url: str) -> set[str] | None:
    """Return the mail domains that receive messages to this address; None if it is no mailbox."""
    parts = urlsplit(url)
    if parts.scheme not in _MAIL:
        return None
    to = [
        address.rpartition("@")[2] for value in parse_qs(parts.query).get("to", []) for address in value.split(",")
    ]
    paths = [word.rpartition("@")[2] for word in parts.path.split("/") if "@" in word]
    return {host.lower() for host in (*to, *paths) if host} or {(parts.hostname or "").lower()}


def _is_watched(names: set[str] | None, providers: set[str | None], config: Config) -> bool:
    if names is None:
        return False
    own = {(section.host or "").lower() for section, _ in resolved_targets(config)}
    for name in names:
        provider = catalogue.by_domain(f"x@{name}")
        if (provider and provider.key in providers) or any(h == name or h.endswith(f".{name}") for h in own):
            return True
    return False
