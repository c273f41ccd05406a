"""The public JSON of one target: its settings, availability and certificate, and its response times.

As in public_json.py: times are RFC 3339, durations seconds, None is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired

from typing_extensions import TypedDict

from mailwatch.analysis.public_json import SharesJson, TargetJson, documented
from mailwatch.analysis.response_times import Bucket, ResponseHistory, Spread
from mailwatch.times import rfc3339

_WindowJson = TypedDict("_WindowJson", {"from": str, "to": str})


@documented
class WindowSharesJson(TypedDict):
    """How available a target was in a window that ends now."""

    availability: SharesJson
    coverage: float | None
    """The observed share of the window; null when all of it was announced maintenance."""


@documented
class CertificateJson(TypedDict):
    """The certificate that the server had in the latest observation with TLS."""

    seen: str
    """When that observation began."""
    not_after: str | None
    """When it expires."""
    issuer: str
    """"" until the certificate is seen again after a start."""
    names: list[str]
    """The names that it is for, likewise."""
    fingerprint: str
    """SHA-256 of the certificate."""
    version: str
    cipher: str


@documented
class SettingsJson(TypedDict):
    """What is configured for a target; never a secret."""

    host: str
    port: int
    tls: str
    interval: float
    timeout: float
    login: bool
    """Whether it logs in."""


@documented
class MaintenanceWindowJson(_WindowJson):
    """A window of announced maintenance."""


@documented
class TargetDetailJson(TargetJson):
    """A target with its settings, its availability and its certificate."""

    since: str | None
    """When its present state began, as far as it is on record; null where it is not."""
    watched: bool
    """false for a target that is on record only."""
    phases: Mapping[str, float]
    """Seconds in each phase of the latest observation."""
    availability: Mapping[str, WindowSharesJson]
    """By window: 24h, 7d, 30d, 90d; empty while the record is being read, or if it is not watched."""
    settings: SettingsJson | None
    certificate: CertificateJson | None
    maintenance: list[MaintenanceWindowJson]
    """Announced windows, from now to seven days ahead."""


@documented
class SpreadJson(TypedDict):
    """Response times in seconds."""

    median: float
    p95: float
    """19 of 20 were no slower."""


@documented
class BucketJson(_WindowJson):
    """The observations in a part of the period."""

    up: int
    down: int
    unknown: int
    total: SpreadJson | None
    """Of the whole response time; null without an up observation."""
    phases: Mapping[str, SpreadJson]
    """Of each phase."""
    read: NotRequired[bool]
    """false where this part is still being read: its counts are not known yet; else missing."""


@documented
class ResponseTimesJson(_WindowJson):
    """The response times of a target over a period, oldest first."""

    target: str
    period: str
    """24h, 7d, 30d or 90d."""
    complete: bool
    """false while a part is still being read; ask again."""
    buckets: list[BucketJson]


def response_times_json(target: str, history: ResponseHistory) -> ResponseTimesJson:
    """Return response times in the JSON of the API."""
    length = history.period.bucket
    starts = range(history.start, history.end, length)
    return {
        "target": target,
        "period": history.period.value,
        "from": rfc3339(history.start),
        "to": rfc3339(history.end),
        "complete": history.is_complete,
        "buckets": [
            _bucket_json(bucket, rfc3339(begin), rfc3339(begin + length))
            for begin, bucket in zip(starts, history.buckets, strict=True)
        ],
    }


def _bucket_json(bucket: Bucket | None, start: str, end: str) -> BucketJson:
    if bucket is None:
        return {
            "from": start, "to": end, "up": 0, "down": 0, "unknown": 0, "total": None, "phases": {}, "read": False,
        }  # fmt: skip
    return {
        "from": start,
        "to": end,
        "up": bucket.up,
        "down": bucket.down,
        "unknown": bucket.unknown,
        "total": None if bucket.total is None else _spread_json(bucket.total),
        "phases": {phase: _spread_json(spread) for phase, spread in bucket.phases.items()},
    }


def _spread_json(spread: Spread) -> SpreadJson:
    return {"median": spread.median / 1e6, "p95": spread.p95 / 1e6}
