"""The register of a witness: which ledgers it cosigns since when, how far, and for which mailboxes.

It is beside the ledger in the same database, and no part of it. Each change of a ledger's newest checkpoint is one
transaction with the check that precedes it, so that two requests at once cannot both be cosigned (C2SP
tlog-witness).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mailwatch.store.errors import StoreHealth
from mailwatch.store.place import Place, place_of
from mailwatch.store.schema import exclude_others, insert, witness_refusals, witnessed, witnessed_mailboxes
from mailwatch.times import Millis

MAX_REFUSALS = 20
"""Refused requests to keep of each ledger: the first ones. One is proof enough."""
MAX_MAILBOXES = 1_000
"""Most mailboxes of each ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessedLedger:
    """A ledger that this witness knows: its first cosigned checkpoint, and the newest with its root and note.

    `note` has the ledger's signature and the cosignature.
    """

    origin: str
    first_size: int
    first_at: Millis
    size: int
    at: Millis
    root: bytes
    note: str


@dataclass(frozen=True, slots=True)
class RegisteredMailbox:
    """A mailbox that a ledger observes, by its commitment, since when, and which other ledgers came for it."""

    commitment: str
    since: Millis
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was signed by its ledger but shows another history than was cosigned before."""

    origin: str
    at: Millis
    reason: str
    request: str


class WitnessRegister:
    """The register of a data_dir whose store is open. For any thread. Each method raises StoreError."""

    def __init__(self, where: Path | Place, health: StoreHealth | None = None, *, read_only: bool = False) -> None:
        self._engine = place_of(where).engine(read_only=read_only, health=health)

    def ledger(self, origin: str) -> WitnessedLedger | None:
        """Return what is known of a ledger; None before its first cosignature."""
        with self._engine.begin() as connection:
            return _ledger(connection, origin)

    def ledgers(self) -> list[WitnessedLedger]:
        """Return all ledgers that were ever cosigned, in the order of their names."""
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(witnessed).order_by(witnessed.c.origin)).mappings()
            return [_from_row(row) for row in found]

    def update(self, origin: str, decide: Callable[[WitnessedLedger | None], WitnessedLedger]) -> WitnessedLedger:
        """Replace what is known of a ledger by what `decide` makes of it, in one transaction; return that.

        What `decide` raises ends the transaction without a change.
        """
        with self._engine.begin() as connection:
            exclude_others(connection, witnessed)
            before = _ledger(connection, origin)
            after = decide(before)
            if before is not None:
                after = replace(after, first_size=before.first_size, first_at=before.first_at)
            values = {
                "origin": origin,
                "first_size": after.first_size,
                "first_ms": after.first_at,
                "size": after.size,
                "time_ms": after.at,
                "root": after.root.hex(),
                "note": after.note,
            }
            changed = (
                insert(connection, witnessed)
                .values(values)
                .on_conflict_do_update(index_elements=["origin"], set_=values)
            )
            connection.execute(changed)
            return after

    def refuse(self, refusal: Refusal) -> None:
        """Keep a refused request, unless there are MAX_REFUSALS of its ledger, or the same one."""
        c = witness_refusals.c
        with self._engine.begin() as connection:
            exclude_others(connection, witnessed)
            kept = connection.execute(sa.select(c.request).where(c.origin == refusal.origin)).scalars().all()
            if len(kept) < MAX_REFUSALS and refusal.request not in kept:
                row = {
                    "origin": refusal.origin,
                    "time_ms": refusal.at,
                    "reason": refusal.reason,
                    "request": refusal.request,
                }
                connection.execute(sa.insert(witness_refusals), [row])

    def refusals(self, origin: str) -> list[Refusal]:
        """Return the refused requests of a ledger, the first one first."""
        c = witness_refusals.c
        query = sa.select(c.origin, c.time_ms, c.reason, c.request).where(c.origin == origin).order_by(c.number)
        with self._engine.begin() as connection:
            return [Refusal(*row) for row in connection.execute(query)]

    def add_mailboxes(self, origin: str, commitments: Iterable[str], at: Millis) -> list[RegisteredMailbox]:
        """Register that a ledger observes these mailboxes, known ones with their first time; return them.

        Raises ValueError if the ledger then has more than MAX_MAILBOXES.
        """
        wanted = sorted(set(commitments))
        c = witnessed_mailboxes.c
        with self._engine.begin() as connection:
            exclude_others(connection, witnessed)
            rows = [{"commitment": one, "origin": origin, "first_ms": at} for one in wanted]
            if rows:
                connection.execute(insert(connection, witnessed_mailboxes).on_conflict_do_nothing(), rows)
            many = sa.select(sa.func.count()).select_from(witnessed_mailboxes).where(c.origin == origin)
            if (connection.execute(many).scalar() or 0) > MAX_MAILBOXES:
                raise ValueError(f"a ledger has at most {MAX_MAILBOXES} mailboxes here")
            found = sa.select(c.commitment, c.origin, c.first_ms).where(c.commitment.in_(wanted))
            known = list(connection.execute(found.order_by(c.first_ms, c.origin)))
        return [
            RegisteredMailbox(
                one,
                next(first for name, other, first in known if (name, other) == (one, origin)),
                tuple(other for name, other, _ in known if name == one and other != origin),
            )
            for one in wanted
        ]

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _ledger(connection: sa.Connection, origin: str) -> WitnessedLedger | None:
    found = connection.execute(sa.select(witnessed).where(witnessed.c.origin == origin)).mappings().one_or_none()
    return None if found is None else _from_row(found)


def _from_row(row: sa.RowMapping | dict[str, Any]) -> WitnessedLedger:
    return WitnessedLedger(
        origin=row["origin"],
        first_size=row["first_size"],
        first_at=row["first_ms"],
        size=row["size"],
        at=row["time_ms"],
        root=bytes.fromhex(row["root"]),
        note=row["note"],
    )
