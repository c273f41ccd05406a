"""The sections of config.yaml for notification channels and the heartbeat. Their addresses are mostly secrets."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from mailwatch.config.errors import FieldError
from mailwatch.config.types import (
    FolderPath,
    Label,
    Seconds,
    Section,
    Text,
    Variable,
    ZoneName,
    read_duration,
)
from mailwatch.i18n import Language
from mailwatch.model import EventType
from mailwatch.net import is_web_address
from mailwatch.times import DURATION_PATTERN, duration_text

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_quiet_hours(text: str) -> tuple[int, int]:
    """Parse "22:00-07:00" to minutes after midnight. Raises FieldError."""
    found = _HOURS.fullmatch(text)
    if not found:
        raise FieldError('must be from-until of a day; write for example "22:00-07:00"')
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start == end:
        raise FieldError("begins when it ends; remove it, or correct it")
    return start, end


def _hours(text: str) -> str:
    parse_quiet_hours(text)
    return text


def _wait(value: object) -> float:
    return 0.0 if value in ("0s", 0.0) else read_duration(value)


def _bounded_wait(seconds: float) -> float:
    if seconds > 600:
        raise FieldError("must be at most 10m")
    return seconds


Wait = Annotated[
    float,
    BeforeValidator(_wait),
    AfterValidator(_bounded_wait),
    PlainSerializer(lambda seconds: duration_text(seconds) if seconds else "0s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["0s", "10s"]}),
]


def _bounded_reminder(seconds: float) -> float:
    if seconds and not 600 <= seconds <= 31 * 86_400:
        raise FieldError("must be 0s, or lie between 10m and 31d")
    return seconds


Reminder = Annotated[
    float,
    BeforeValidator(_wait),
    AfterValidator(_bounded_reminder),
    PlainSerializer(lambda seconds: duration_text(seconds) if seconds else "0s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["0s", "1d"]}),
]


Secret = Annotated[str, Field(min_length=1, max_length=2000)]


class UrlSection(Section):
    """An address, usually secret: written here, in a file or in the environment."""

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
            raise FieldError("has no address; add url, url_file: PATH or url_env")
        if len(given) > 1:
            raise FieldError(f"has {len(given)} addresses; keep one of {', '.join(given)}", given[1])
        return self


class NotifySection(UrlSection):
    """A notification channel: any address that Apprise supports."""

    name: Label | None = None
    """The channel's name in commands, metrics and pages; default: its scheme and place, such as ntfys-1."""
    on: Annotated[tuple[EventType, ...], Field(min_length=1)] = tuple(EventType)
    """Events to report; incident makes the outages of a provider one message, in the place of open and close."""
    lang: Language = "en"
    """The language of the messages."""
    quiet_hours: Annotated[Text, AfterValidator(_hours)] | None = None
    """No messages in these hours, such as "22:00-07:00"; they follow afterwards."""
    timezone: ZoneName | None = None
    """The time zone of the quiet hours and of the times in messages; default: `timezone` of the whole config."""
    group: Wait = 10.0
    """How long to wait for more, so that ten targets down are one message; 0s sends each at once."""
    remind: Reminder = 0.0
    """How often to repeat that an outage is still open; 0s never."""


class HeartbeatSection(UrlSection):
    """An external service that notices when MailWatch itself is dead, such as Healthchecks."""

    every: Seconds = 60.0
    """How often to send a heartbeat, as long as probing and recording work."""

    @model_validator(mode="after")
    def _http(self) -> Self:
        if self.url is not None and not is_web_address(self.url):
            raise FieldError("is not an http or https address; write for example https://hc.example.org/ID", "url")
        return self
