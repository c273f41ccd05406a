"""What the API and the pages read from, as callables. Each returns what is committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailwatch.model import Outcome
from mailwatch.times import Millis


class EvidenceUnavailableError(Exception):
    """The evidence file cannot be made; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageData:
    """Where the pages come from. What `target_card` and `outages` return is in memory, whatever the ledger's
    size.
    """

    vantage_point: str
    place: str
    target_card: Callable[[str, Millis], dict[str, Any]]
    """Phases (seconds) of the latest observation of a target, its availability of 90 days, and its days, oldest
    first.

    `filling`: the ledger is still being read for it, so that days and availability are not what they will be.
    """
    outages: Callable[[], list[dict[str, Any]]]
    """The newest outages of what is watched now, as the ledger has them, newest first."""
    outage: Callable[[str], dict[str, Any] | None]
    """One outage with its transitions, guard, clock and integrity."""
    ledger: Callable[[], dict[str, Any]]
    change_token: Callable[[], str]
    """Changes when something that the pages show has changed."""
    unguarded: Callable[[], bool] = lambda: False
    """Whether there is no check of our own line, so that its failures are taken for the providers'."""
    evidence: Callable[[str, str], Awaitable[Path]]
    """Makes the evidence file of an outage in a language. The caller deletes it. Raises
    EvidenceUnavailableError.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationQuery:
    """Which observations are wanted. `before` and `after` are indices of the ledger: [after, before)."""

    target: str | None = None
    outcome: Outcome | None = None
    start: Millis | None = None
    end: Millis | None = None
    before: int | None = None
    after: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """Where the answers come from. Each returns what is committed, ready to be written as JSON."""

    targets: Callable[[], list[dict[str, Any]]]
    unknown_reason: Callable[[str], str]
    """Why a name is no target's that is watched or on record; "" if it is one's."""
    outages: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incidents: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incident: Callable[[str], dict[str, Any] | None]
    observations: Callable[[ObservationQuery], list[dict[str, Any]]]
    offline: Callable[[Millis | None, Millis | None], list[dict[str, Any]]]
    availability: Callable[[str | None, Millis, Millis], list[dict[str, Any]]]
    unready_reasons: Callable[[], list[str]]
    stale_reasons: Callable[[], list[str]]
    """Why what is shown may be old: not ready, or no observation was put on record for long."""
    metrics: Callable[[], Iterator[bytes]]
