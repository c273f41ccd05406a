"""What people talk about: outages of one provider that overlap, grouped. Pure; nothing is stored.

Two outages belong together when their longest possible times, [last_good, first_good], share a moment: the
uncertainty of their edges, about an interval each, is all the tolerance there is. An open outage reaches on
without end, one that was watched no longer to its last bad look, and one without a last good look begins at its
first bad one. So the incidents of a provider never touch, each outage lies in exactly one, and the order in which
they are given does not matter. When an outage appears that touches two incidents they are one, under the name of
the older. A target without a provider has incidents of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from mailwatch.incidents.incident import Incident, Member, Stage, incident_id
from mailwatch.incidents.public import incident_json
from mailwatch.incidents.turns import turns
from mailwatch.models import Millis

__all__ = ["Incident", "Member", "Stage", "incident_id", "incident_json", "incidents", "turns"]


def incidents(members: Iterable[Member]) -> list[Incident]:
    """Group outages into incidents, oldest first."""
    groups: dict[tuple[str, str], list[Member]] = defaultdict(list)
    for member in members:
        groups[member.provider, "" if member.provider else member.target].append(member)
    found = [
        Incident(provider=provider, members=together)
        for (provider, _), group in groups.items()
        for together in _together(group)
    ]
    return sorted(found, key=lambda incident: (incident.first_bad, incident.id))


def _together(group: list[Member]) -> Iterator[tuple[Member, ...]]:
    joined: list[Member] = []
    until: Millis | None = 0
    for member in sorted(group, key=lambda m: (m.begin, m.first_bad, m.outage)):
        if joined and until is not None and member.begin > until:
            yield tuple(joined)
            joined = []
        if not joined:
            until = member.until
        elif until is not None:
            until = None if member.until is None else max(until, member.until)
        joined.append(member)
    yield tuple(joined)
