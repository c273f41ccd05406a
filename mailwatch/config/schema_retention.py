"""The section `retention`: how long observations stay rows, and how long packs are kept."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema, model_validator

from mailwatch.config.errors import FieldError
from mailwatch.config.types import Section, read_duration
from mailwatch.times import DURATION_PATTERN, duration_text

DAY_SECONDS = 86_400.0


def _rows(seconds: float) -> float:
    if not DAY_SECONDS <= seconds <= 366 * DAY_SECONDS:
        raise FieldError("must lie between 1d and 366d")
    return seconds


def _keep(value: object) -> float | None:
    if value is None or value == "off":
        return None
    seconds = read_duration(value)
    # The pages show the availability of 90 days.
    if not 90 * DAY_SECONDS <= seconds <= 36_500 * DAY_SECONDS:
        raise FieldError("must lie between 90d and 36500d")
    return seconds


RowsKept = Annotated[
    float,
    BeforeValidator(read_duration),
    AfterValidator(_rows),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["7d", "30d"]}),
]
PacksKept = Annotated[
    float | None,
    BeforeValidator(_keep),
    PlainSerializer(lambda seconds: "off" if seconds is None else duration_text(seconds), return_type=str),
    WithJsonSchema(
        {"anyOf": [{"const": "off"}, {"type": "string", "pattern": DURATION_PATTERN, "examples": ["400d"]}]}
    ),
]


class RetentionSection(Section):
    """How long the ledger keeps what, and in which form."""

    rows: RowsKept = 7 * DAY_SECONDS
    """The age at which observations are packed without loss, to less than a twentieth."""
    keep: PacksKept = None
    """The age at which packed observations are dropped, but for those around outages; the word off: never."""

    @model_validator(mode="after")
    def _packs_first(self) -> Self:
        if self.keep is not None and self.keep < 2 * self.rows:
            raise FieldError(
                "must be at least twice as long as rows: only packed observations are dropped", "keep"
            )
        return self
