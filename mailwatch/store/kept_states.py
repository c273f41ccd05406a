"""States that follow from the ledger and are kept beside it, so that no start and no page replays a year.

They are a cache: an owner who deletes them loses nothing but time. Each names the last entry that it includes
and the hash of its leaf, so that a state of another ledger, or of a later one than a restored backup, does
not fit. A state that does not fit is not used, and is replaced by the next one. The audit compares the states with
a replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
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
    row = connection.execute(_rows(connection).where(column.kind == kind, column.subject == subject)).one_or_none()
    return None if row is None else _whole(row)


def read_all_kept(connection: sa.Connection, kind: str) -> dict[str, KeptState]:
    """Return all whole states of a kind, by subject."""
    if not _has_table(connection):
        return {}
    rows = connection.execute(_rows(connection).where(kept_states.c.kind == kind))
    return {state.subject: state for row in rows if (state := _whole(row)) is not None}


def damaged_states(connection: sa.Connection) -> list[str]:
    """Return which states cannot be read or are not as they were written: their kinds and subjects, in order."""
    if not _has_table(connection):
        return []
    found = []
    for row in connection.execute(_rows(connection)):
        if _whole(row) is None:
            kind, subject = (one if isinstance(one, str) else "?" for one in texts_of(row[:2]))
            found.append(f"{kind} {subject}".strip())
    return sorted(found)


def remove_damaged(connection: sa.Connection) -> None:
    """Leave the whole states only. What was of the others is made anew by who needs it."""
    whole = [state for row in connection.execute(_rows(connection)) if (state := _whole(row)) is not None]
    # All at once: a row whose key is damaged cannot be named.
    connection.execute(sa.delete(kept_states))
    write_kept(connection, whole)


def _rows(connection: sa.Connection) -> sa.Select[Any]:
    column = kept_states.c
    asked = (column.kind, column.subject, column.idx, column.leaf, column.state, column.digest)
    return sa.select(*readable(connection, asked))


def _whole(row: Sequence[Any]) -> KeptState | None:
    """Return a state from its row; None if a column has another type, or the digest is not the state's."""
    *columns, kept_digest = texts_of(row)
    if not isinstance(columns[2], int) or not all(isinstance(one, str) for one in columns[:2] + columns[3:]):
        return None
    state = KeptState(*columns)
    return state if state.digest == kept_digest else None


def readable(connection: sa.Connection, columns: Iterable[sa.Column[Any]]) -> list[sa.ColumnElement[Any]]:
    """Return columns of a cache such that any content of them can be read, with `texts_of`.

    SQLite keeps values of any type in a column, and text that is no UTF-8, at which a query would fail.
    """
    if connection.dialect.name != "sqlite":
        return list(columns)
    return [
        sa.case((sa.func.typeof(one) == "text", sa.cast(one, sa.LargeBinary)), else_=sa.null())
        if isinstance(one.type, sa.Text)
        else sa.type_coerce(one, sa.types.NullType())
        for one in columns
    ]


def texts_of(row: Sequence[Any]) -> list[Any]:
    """Return the values of `readable` columns: a text that cannot be read is None, a number that is none is bytes
    or text.
    """
    return [_text(value) if isinstance(value, bytes) else value for value in row]


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeError:
        return None


def kept_subjects(connection: sa.Connection, kind: str) -> list[str]:
    """Return of what states of a kind are kept, in order."""
    if not _has_table(connection):
        return []
    column = kept_states.c
    query = sa.select(*readable(connection, [column.subject])).where(column.kind == kind)
    names = [texts_of(row)[0] for row in connection.execute(query.order_by(column.subject))]
    return [name for name in names if isinstance(name, str)]
