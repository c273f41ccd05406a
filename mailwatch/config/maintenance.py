"""Maintenance as the owner announces it: one section of config.yaml for each rule."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from mailwatch.config.durations import DURATION_PATTERN, written_duration
from mailwatch.config.fields import Label, Section, Text, read_duration
from mailwatch.config.mistakes import Fault
from mailwatch.maintenance import When, WrongRule, check

RULES = 100
"""How many rules a config may have."""


def _bounded(seconds: float) -> float:
    if not 60 <= seconds <= 31 * 86_400:
        raise Fault("must lie between 1m and 31d")
    return seconds


Span = Annotated[
    float,
    BeforeValidator(read_duration),
    AfterValidator(_bounded),
    PlainSerializer(written_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["30m", "2h"]}),
]
Names = Annotated[tuple[Label, ...], Field(min_length=1)]


class MaintenanceSection(Section):
    """A time that is announced as maintenance: recorded as ever, and left out of the availability."""

    name: Label
    """What it is for; it stands on record."""
    targets: Names | None = None
    """The names of the targets it is for; without targets and providers it is for all."""
    providers: Names | None = None
    """The providers it is for: all their targets."""
    rrule: Annotated[Text, Field(min_length=1)] | None = None
    """A recurrence by RFC 5545, such as FREQ=WEEKLY;BYDAY=SU;BYHOUR=3, from `start` on."""
    cron: Annotated[Text, Field(min_length=1)] | None = None
    """A recurrence as crontab writes it, such as 0 3 * * 0."""
    start: Text | None = None
    """When a single window, or the first of an RRULE, begins: local time, such as 2026-01-04T03:00."""
    end: Text | None = None
    """When a single window ends."""
    duration: Span | None = None
    """How long each window of an RRULE or of a cron line is."""
    timezone: Text
    """Whose local time is meant, such as Europe/Rome."""

    def when(self) -> When:
        """The rule in canonical form. Raises WrongRule."""
        return When.of(
            timezone=self.timezone,
            rrule=self.rrule or "",
            cron=self.cron or "",
            start=self.start or "",
            end=self.end or "",
            duration=round((self.duration or 0) * 1000),
        )

    @model_validator(mode="after")
    def _can_be_meant(self) -> Self:
        if self.targets and self.providers:
            raise Fault("is not for a rule with targets; keep one of the two", "providers")
        try:
            check(self.when())
        except WrongRule as wrong:
            raise Fault(str(wrong), wrong.field) from None
        return self
