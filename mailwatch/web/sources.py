"""Where the answers of the API come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mailwatch.models import Millis, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """Which observations are wanted. `before` and `after` are indices of the ledger: [after, before)."""

    target: str | None = None
    outcome: Outcome | None = None
    start: Millis | None = None
    end: Millis | None = None
    before: int | None = None
    after: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the answers come from. Each returns what is committed, ready to be written as JSON."""

    targets: Callable[[], list[dict[str, Any]]]
    unknown: Callable[[str], str]
    """Why a name is no target's that is watched or on record; "" if it is one's."""
    outages: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incidents: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incident: Callable[[str], dict[str, Any] | None]
    observations: Callable[[Looks], list[dict[str, Any]]]
    offline: Callable[[Millis | None, Millis | None], list[dict[str, Any]]]
    availability: Callable[[str | None, Millis, Millis], list[dict[str, Any]]]
    unready: Callable[[], list[str]]
    ill: Callable[[], list[str]]
    """Why what is shown may be old: not ready, or no look was put on record for long."""
    metrics: Callable[[], Iterator[bytes]]
