"""The members of a hub, and the invitations by which vantage points join. Beside the ledger, and no part of it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mailwatch.ledger.enrolment import JoinRequest
from mailwatch.store.errors import StoreHealth
from mailwatch.store.place import Place, place_of
from mailwatch.store.schema import exclude_others, hub_invitations, hub_members
from mailwatch.times import DAY_MS, Millis

INVITATION_MS = DAY_MS
"""Milliseconds for which an invitation may be used."""


class HubRegisterError(Exception):
    """A member or an invitation is not as the change needs it. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubMember:
    """A vantage point that pushes its ledger. `name`: the hub's word for it; `vantage_point`: its own.

    `key`, `witness`: the keys of its ledger and of its witness. `size`, `pushed_at`: of its last push.
    """

    origin: str
    name: str
    key: str
    witness: str
    vantage_point: str
    joined_at: Millis
    revoked_at: Millis | None
    size: int
    pushed_at: Millis | None


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation that was not used yet: its name, and until when."""

    name: str
    until: Millis


class HubRegister:
    """The register of a hub's data_dir. For any thread. Each method raises StoreError."""

    def __init__(self, where: Path | Place, health: StoreHealth | None = None, *, read_only: bool = False) -> None:
        self._engine = place_of(where).engine(read_only=read_only, health=health)

    def invite(self, name: str, at: Millis) -> str:
        """Return the token of a new invitation for `name`, in place of an earlier one. Raises HubRegisterError.

        Only its digest is kept: 128 random bits need no slow hash.
        """
        token = secrets.token_hex(16)
        with self._engine.begin() as connection:
            exclude_others(connection, hub_members)
            known = sa.select(hub_members.c.name).where(hub_members.c.name == name)
            if connection.execute(known).scalar() is not None:
                raise HubRegisterError(f"{name} is a member already; choose another name")
            c = hub_invitations.c
            connection.execute(sa.delete(hub_invitations).where((c.name == name) | (c.until_ms < at)))
            row = {"digest": _digest(token), "name": name, "made_ms": at, "until_ms": at + INVITATION_MS}
            connection.execute(sa.insert(hub_invitations), [row])
        return token

    def invitations(self, at: Millis) -> list[Invitation]:
        """Return the invitations that may still be used, by name."""
        c = hub_invitations.c
        query = sa.select(c.name, c.until_ms).where(c.until_ms >= at).order_by(c.name)
        with self._engine.begin() as connection:
            return [Invitation(*row) for row in connection.execute(query)]

    def join(self, request: JoinRequest, at: Millis) -> HubMember:
        """Make the sender of a request a member, once for each invitation. Raises HubRegisterError.

        A member that was not answered may send its request again.
        """
        digest, c = _digest(request.token), hub_invitations.c
        with self._engine.begin() as connection:
            exclude_others(connection, hub_members)
            before = _member(connection, hub_members.c.origin == request.key.name)
            if before is not None and before.revoked_at is not None:
                raise HubRegisterError("this ledger was a member, and was removed")
            invited = connection.execute(
                sa.select(c.name).where(c.digest == digest, c.made_ms <= at, c.until_ms >= at)
            ).scalar()
            if invited is None:
                raise HubRegisterError("no invitation has that token, or it was used, or a day has passed")
            if before is not None:
                raise HubRegisterError("this ledger is a member already")
            member = HubMember(
                origin=request.key.name, name=invited, key=str(request.key), witness=str(request.witness),
                vantage_point=request.vantage_point, joined_at=at, revoked_at=None, size=0, pushed_at=None,
            )  # fmt: skip
            connection.execute(sa.insert(hub_members), [_row(member)])
            connection.execute(sa.delete(hub_invitations).where(c.digest == digest))
            return member

    def revoke(self, name: str, at: Millis) -> HubMember:
        """Accept nothing more of a member; what it sent stays. Raises HubRegisterError."""
        with self._engine.begin() as connection:
            exclude_others(connection, hub_members)
            member = _member(connection, hub_members.c.name == name)
            if member is None:
                deleted = sa.delete(hub_invitations).where(hub_invitations.c.name == name)
                if connection.execute(deleted).rowcount:
                    raise HubRegisterError(f"{name} had not joined yet; its invitation is void now")
                raise HubRegisterError(f"{name} is no member; `mailwatch hub list` lists them")
            if member.revoked_at is not None:
                raise HubRegisterError(f"{name} was removed already")
            changed = sa.update(hub_members).where(hub_members.c.name == name).values(revoked_ms=at)
            connection.execute(changed)
            return member

    def member(self, origin: str) -> HubMember | None:
        """Return the member whose ledger has that name, None if there is none."""
        with self._engine.begin() as connection:
            return _member(connection, hub_members.c.origin == origin)

    def exists(self) -> bool:
        """Return whether the database has the register: that of an older version has not."""
        return sa.inspect(self._engine).has_table(hub_members.name)

    def members(self) -> list[HubMember]:
        """Return all members, also those that were removed, by name."""
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(hub_members).order_by(hub_members.c.name)).mappings()
            return [_from_row(row) for row in found]

    def note_push(self, origin: str, size: int, at: Millis) -> None:
        """Keep how far and when a member pushed last."""
        with self._engine.begin() as connection:
            changed = sa.update(hub_members).where(hub_members.c.origin == origin)
            connection.execute(changed.values(size=size, pushed_ms=at))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _member(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> HubMember | None:
    found = connection.execute(sa.select(hub_members).where(condition)).mappings().one_or_none()
    return None if found is None else _from_row(found)


def _row(member: HubMember) -> dict[str, Any]:
    return {
        "origin": member.origin,
        "name": member.name,
        "key": member.key,
        "witness": member.witness,
        "vantage_point": member.vantage_point,
        "joined_ms": member.joined_at,
        "revoked_ms": member.revoked_at,
        "size": member.size,
        "pushed_ms": member.pushed_at,
    }


def _from_row(row: sa.RowMapping) -> HubMember:
    return HubMember(
        origin=row["origin"],
        name=row["name"],
        key=row["key"],
        witness=row["witness"],
        vantage_point=row["vantage_point"],
        joined_at=row["joined_ms"],
        revoked_at=row["revoked_ms"],
        size=row["size"],
        pushed_at=row["pushed_ms"],
    )
