"""What the pages show besides the answers of the API. Each callable returns what is committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailwatch.models import Millis
from mailwatch.service_level import Day


class NotMade(Exception):
    """The evidence file cannot be made; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Where the pages come from. What `glance` and `outages` tell is in memory, whatever the ledger's size."""

    vantage_point: str
    place: str
    glance: Callable[[str, Millis], dict[str, Any]]
    """Phases (seconds) of the last look at a target, its availability of 90 days, and its `Day`s, oldest first.

    `filling`: the ledger is still being read for it, so that days and availability are not what they will be.
    """
    outages: Callable[[], list[dict[str, Any]]]
    """The newest outages of what is watched now, as the ledger tells them, newest first."""
    outage: Callable[[str], dict[str, Any] | None]
    """One outage with its transitions, guard, clock and integrity."""
    ledger: Callable[[], dict[str, Any]]
    pulse: Callable[[], str]
    """Changes when something that the pages show has changed."""
    unguarded: Callable[[], bool] = lambda: False
    """Whether nobody is asked if our own line works, so that its failures are taken for the providers'."""
    evidence: Callable[[str, str], Awaitable[Path]]
    """Makes the evidence file of an outage in a language. The caller deletes it. Raises NotMade."""


__all__ = ["Day", "NotMade", "Views"]
