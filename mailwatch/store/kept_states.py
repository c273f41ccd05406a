"""States that follow from the ledger and are kept beside it, so that no start and no page replays a year.

They are a cache: an owner who deletes them loses nothing but time. Each names the last entry that it includes
and the hash of its leaf, so that a state of another ledger, or of a later one than a restored backup, does
not fit. A state that does not fit is not used, and is replaced by the next one. The audit compares the states with
a replay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakSet

import sqlalchemy as sa

from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.merkle import leaf_hash
from mailwatch.store.schema import kept_states


@dataclass(frozen=True, slots=True)
class KeptState:
    """A state up to and including entry `index`, whose leaf has the hash `leaf` (hex). `text`: canonical JSON."""

    kind: str
    subject: str
    index: int
    leaf: str
    text: str

    @property
    def digest(self) -> str:
        """The digest that is kept with it, which shows damage."""
        return digest(canonical([self.kind, self.subject, self.index, self.leaf, self.text]))


def leaf_of(header: str) -> str:
    """Return the hash of an entry's leaf in hex, from its header."""
    return leaf_hash(header.encode()).hex()


def write_kept(connection: sa.Connection, states: Iterable[KeptState]) -> None:
    """Replace the states of these kinds and subjects."""
    for state in states:
        column = kept_states.c
        connection.execute(
            sa.delete(kept_states).where(column.kind == state.kind, column.subject == state.subject)
        )
        row = {"kind": state.kind, "subject": state.subject, "idx": state.index, "leaf": state.leaf}
        connection.execute(sa.insert(kept_states), [row | {"state": state.text, "digest": state.digest}])


_engines_with_states: WeakSet[sa.Engine] = WeakSet()


def _has_table(connection: sa.Connection) -> bool:
    """Return whether there is the table: a start asks for two states of each target."""
    if connection.engine not in _engines_with_states:
        if not sa.inspect(connection).has_table(kept_states.name):
            return False
        _engines_with_states.add(connection.engine)
    return True


def read_kept(connection: sa.Connection, kind: str, subject: str) -> KeptState | None:
    """Return a state as kept; None without one, for a damaged one, and where an older version wrote last."""
    if not _has_table(connection):
        return None
    column = kept_states.c
    query = sa.select(column.kind, column.subject, column.idx, column.leaf, column.state, column.digest)
    row = connection.execute(query.where(column.kind == kind, column.subject == subject)).one_or_none()
    if row is None:
        return None
    state = KeptState(*row[:5])
    return state if state.digest == row.digest else None


def read_all_kept(connection: sa.Connection, kind: str) -> dict[str, KeptState]:
    """Return all whole states of a kind, by subject."""
    if not _has_table(connection):
        return {}
    column = kept_states.c
    query = sa.select(column.kind, column.subject, column.idx, column.leaf, column.state, column.digest)
    found = {}
    for row in connection.execute(query.where(column.kind == kind)):
        state = KeptState(*row[:5])
        if state.digest == row.digest:
            found[state.subject] = state
    return found


def kept_subjects(connection: sa.Connection, kind: str) -> list[str]:
    """Return of what states of a kind are kept, in order."""
    if not _has_table(connection):
        return []
    column = kept_states.c
    return list(
        connection.execute(sa.select(column.subject).where(column.kind == kind).order_by(column.subject))
        .scalars()
        .all()
    )
