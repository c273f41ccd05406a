"""Who is told, and how: the sections `notify` and `heartbeat`."""

from __future__ import annotations

import re
import zoneinfo
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from mailwatch.config.durations import DURATION_PATTERN, written_duration
from mailwatch.config.fields import FolderPath, Seconds, Section, Text, Variable, read_duration
from mailwatch.config.mistakes import Fault
from mailwatch.models import Topic

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def minutes(text: str) -> tuple[int, int]:
    """Read "22:00-07:00" as minutes after midnight. Raises Fault."""
    found = _HOURS.fullmatch(text)
    if not found:
        raise Fault('must be from-until of a day; write for example "22:00-07:00"')
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start == end:
        raise Fault("begins when it ends; remove it, or correct it")
    return start, end


def _hours(text: str) -> str:
    minutes(text)
    return text


def _timezone(text: str) -> str:
    if text not in zoneinfo.available_timezones():
        raise Fault("is not a time zone; write for example Europe/Rome")
    return text


def _wait(value: object) -> float:
    return 0.0 if value in ("0s", 0.0) else read_duration(value)


def _waited(seconds: float) -> float:
    if seconds > 600:
        raise Fault("must be at most 10m")
    return seconds


Wait = Annotated[
    float,
    BeforeValidator(_wait),
    AfterValidator(_waited),
    PlainSerializer(lambda seconds: written_duration(seconds) if seconds else "0s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["0s", "10s"]}),
]
Secret = Annotated[str, Field(min_length=1, max_length=2000)]


class UrlSection(Section):
    """An address that is mostly a secret: written here, in a file or in the environment."""

    url: Secret | None = None
    """The address itself."""
    url_file: FolderPath | None = None
    """A file whose first line is the address."""
    url_env: Variable | None = None
    """The environment variable that holds it."""

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        given = [way for way in ("url", "url_file", "url_env") if getattr(self, way) is not None]
        if not given:
            raise Fault("has no address; add url, url_file: PATH or url_env")
        if len(given) > 1:
            raise Fault(f"has {len(given)} addresses; keep one of {', '.join(given)}", given[1])
        return self


class NotifySection(UrlSection):
    """A channel that is told: any address that Apprise understands."""

    on: Annotated[tuple[Topic, ...], Field(min_length=1)] = tuple(Topic)
    """What of: open, close, credentials, offline, certificate, disk, ledger, monitor."""
    lang: Literal["it", "en"] = "en"
    """The language of the texts."""
    quiet_hours: Annotated[Text, AfterValidator(_hours)] | None = None
    """When nothing is sent, such as "22:00-07:00"; it is told afterwards."""
    timezone: Annotated[Text, AfterValidator(_timezone)] = "UTC"
    """Of the quiet hours and of the times in the texts."""
    group: Wait = 10.0
    """How long to wait for more, so that ten targets down are one message; 0s sends each at once."""


class HeartbeatSection(UrlSection):
    """Somebody outside who notices when MailWatch itself is dead, such as Healthchecks."""

    every: Seconds = 60.0
    """How often it is asked for, while probing and writing are well."""

    @model_validator(mode="after")
    def _http(self) -> Self:
        if self.url is not None and not is_http(self.url):
            raise Fault("is not an http or https address; write for example https://hc.example.org/ID", "url")
        return self


def is_http(url: str) -> bool:
    """Whether it is an address that can be asked for."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
