"""When the trouble of one outage changed: a provider comes back by degrees, and an outage goes on through them."""

from __future__ import annotations

from collections.abc import Iterable

from mailwatch.models import Millis, Phase

CONFIRM = 3
"""Looks in a row that make a turn; one alone may be chance."""
UNREACHABLE = "unreachable"
_TROUBLE = {
    Phase.AUTH: "login down",
    Phase.MAILBOX: "mail missing",
    Phase.FETCH: "mail missing",
    Phase.SUBMIT: "sending refused",
    Phase.DELIVER: "delivery late",
}

Turn = tuple[Millis, str]
"""From when on, and what the trouble is."""


def trouble_of(phase: str | None) -> str:
    """Say what it means for the user that looks fail in a phase."""
    return _TROUBLE.get(Phase(phase), UNREACHABLE) if phase else UNREACHABLE


def turns(looks: Iterable[tuple[Millis, str | None]]) -> tuple[Turn, ...]:
    """Return each trouble of an outage with the end of the first look that showed it.

    `looks` are the bad ones: when each ended, and the phase in which it failed. The first trouble counts at once,
    another from the first of three looks in a row that show it.
    """
    found: list[Turn] = []
    candidate: Turn | None = None
    seen = 0
    for at, phase in looks:
        trouble = trouble_of(phase)
        if not found:
            found.append((at, trouble))
        elif trouble == found[-1][1]:
            candidate = None
        elif candidate is None or candidate[1] != trouble:
            candidate, seen = (at, trouble), 1
        else:
            seen += 1
            if seen == CONFIRM:
                found.append(candidate)
                candidate = None
    return tuple(found)
