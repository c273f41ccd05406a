"""Acknowledged outages and incidents: the owner has taken note of them, so reminders stop. Not evidence.

They are beside the ledger in the same database, and no part of it. An incident is acknowledged under its id, with
the outages that are open then; it stays so when further targets join while those are down.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from mailwatch.analysis.incidents import Incident, incident_id
from mailwatch.store.errors import StoreHealth
from mailwatch.store.place import Place, place_of
from mailwatch.store.schema import acknowledgements, insert
from mailwatch.times import Millis

MAX_NOTE = 500
"""The number of characters of a note."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """When an outage or incident was acknowledged, and a note, "" without one."""

    at: Millis
    note: str


Acknowledged = Mapping[str, Acknowledgement]
"""The acknowledgements by the ids of outages and incidents."""


class UnknownSubjectError(LookupError):
    """No outage or incident has that id, or several have ids that begin so."""


def acknowledged_incident(incident: Incident, known: Acknowledged) -> Acknowledgement | None:
    """Return the acknowledgement of an incident: of all that is open of it, or, where it is over, its own.

    An outage is acknowledged by itself, or because it joined an acknowledged incident while an acknowledged outage
    of it was still down. One that became part of it later, when incidents merged, is not.
    """
    own = [known[each] for each in _incident_ids(incident) if each in known]
    found, covered, until = list(own), set[str](), _NEVER
    for outage in sorted(incident.outages, key=lambda one: (one.first_bad, one.id)):
        if outage.id in known or (own and outage.first_bad <= until):
            found += [known[outage.id]] if outage.id in known else []
            covered.add(outage.id)
            until = max(until, _FOREVER if outage.until is None else outage.until)
    still_open = {member.outage.id for member in incident.members if member.is_open}
    if not found or not still_open <= covered or not (still_open or own):
        return None
    return max(found, key=lambda one: one.at)


_NEVER, _FOREVER = -math.inf, math.inf


def _incident_ids(incident: Incident) -> list[str]:
    """Return the id of an incident, and all that it ever had."""
    own = incident.id
    ever = [incident_id(incident.provider, outage.id) for outage in incident.outages]
    return [own, *(each for each in ever if each != own)]


def subjects_of(identity: str, incidents: Collection[Incident], *, withdraw: bool = False) -> list[str]:
    """Return the ids to acknowledge for an outage's or incident's id, or a beginning of it, its whole id first.

    To withdraw, they are all under which it may be acknowledged. Raises UnknownSubjectError.
    """
    for exact in (True, False):
        found: dict[str, list[str]] = {}
        for incident in incidents:
            ids = dict.fromkeys(_incident_ids(incident), _subjects_of_incident(incident, withdraw))
            # An outage may be acknowledged because its incident is.
            ids |= {o.id: [o.id, *(_incident_ids(incident) if withdraw else ())] for o in incident.outages}
            for key, subjects in ids.items():
                if key == identity if exact else key.startswith(identity):
                    found[subjects[0]] = subjects
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise UnknownSubjectError(f"{len(found)} outages and incidents begin with {identity}")
    raise UnknownSubjectError(f"no outage and no incident has the id {identity}")


def _subjects_of_incident(incident: Incident, withdraw: bool) -> list[str]:
    if withdraw:
        return [*_incident_ids(incident), *(outage.id for outage in incident.outages)]
    return [incident.id, *(outage.id for outage in incident.outages if outage.state == "open")]


def read_acknowledgements(connection: sa.Connection) -> dict[str, Acknowledgement]:
    """Read all; none from a database that an older version wrote last."""
    if not sa.inspect(connection).has_table(acknowledgements.name):
        return {}
    rows = connection.execute(sa.select(acknowledgements))
    return {row.subject: Acknowledgement(row.time_ms, row.note) for row in rows}


class AcknowledgementTable:
    """Writes acknowledgements, also while another process has the store. Each method raises StoreError."""

    def __init__(self, where: Path | Place, health: StoreHealth | None = None) -> None:
        self._engine = place_of(where).engine(health=health)

    def put(self, subjects: Iterable[str], at: Millis, note: str = "") -> None:
        """Acknowledge these ids; a later note replaces the earlier one."""
        with self._engine.begin() as connection:
            for subject in subjects:
                values = {"time_ms": at, "note": note[:MAX_NOTE]}
                connection.execute(
                    insert(connection, acknowledgements)
                    .values(subject=subject, **values)
                    .on_conflict_do_update(index_elements=["subject"], set_=values)
                )

    def remove(self, subjects: Iterable[str]) -> None:
        """Withdraw the acknowledgement of these ids."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(acknowledgements).where(acknowledgements.c.subject.in_(list(subjects))))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
