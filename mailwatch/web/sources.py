"""Where the answers of the API come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mailwatch.models import Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the answers come from. Each returns what is committed, ready to be written as JSON."""

    targets: Callable[[], list[dict[str, Any]]]
    outages: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incidents: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incident: Callable[[str], dict[str, Any] | None]
    observations: Callable[[str | None, Millis | None, Millis | None, int], list[dict[str, Any]]]
    offline: Callable[[Millis | None, Millis | None], list[dict[str, Any]]]
    availability: Callable[[str | None, Millis, Millis], list[dict[str, Any]]]
    unready: Callable[[], list[str]]
    ill: Callable[[], list[str]]
    """Why what is shown may be old: not ready, or no look was put on record for long."""
    metrics: Callable[[], Iterator[bytes]]
