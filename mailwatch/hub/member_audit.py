"""Audits what a hub has of its members: each ledger by the owner's signatures and the hub's own record.

A ledger that is damaged or gone is a finding under its member's name, and the others are audited all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mailwatch.ledger.cosignature import parse_verifier_key
from mailwatch.store import Finding, Reader, StoreError, audit_database
from mailwatch.store.audit import AuditPosition
from mailwatch.store.audit_position import read_position
from mailwatch.store.errors import DatabaseAwayError
from mailwatch.store.hub_register import HubMember
from mailwatch.store.member_audit import audit_member
from mailwatch.store.member_ledger import member_place
from mailwatch.store.place import Place

MAX_RECORDS = 20_000
"""Most entries of the hub, from the newest on, among which the newest push of each member is searched."""

RECORDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class AuditedMember:
    """A member whose ledger was audited: how many entries it has here, and the findings."""

    member: HubMember
    entries: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class MemberAuditing:
    """How a member's ledger is audited.

    `begin`: where the last audit of it stopped. `progress` gets the number of entries, and may wait. `reached`
    gets the reader, and how to make a position.
    """

    max_findings: int | None = None
    resumes: bool = False
    progress: Callable[[int], None] = lambda _done: None
    reached: Callable[[HubMember, Reader, Callable[[], AuditPosition]], None] = lambda *_: None
    stopped: Callable[[], bool] = lambda: False


def recorded_roots(own: Reader, members: Iterable[HubMember]) -> dict[str, dict[int, bytes]]:
    """Return the newest push of each member that the hub has on its own record: its root by its size.

    Raises StoreError.
    """
    wanted, found = {one.origin for one in members if one.size}, dict[str, dict[int, bytes]]()
    before: int | None = None
    for _ in range(0, MAX_RECORDS, RECORDS_AT_ONCE):
        part = list(own.entries(kinds=["witnessed"], to_index=before, descending=True, limit=RECORDS_AT_ONCE))
        for one in (one for entry in part for one in entry.payload["ledgers"] if one["ledger"] in wanted):
            wanted.discard(one["ledger"])
            found.setdefault(one["ledger"], {one["size"]: bytes.fromhex(one["root"])})
        if not wanted or len(part) < RECORDS_AT_ONCE:
            break
        before = part[-1].index
    return found


def audit_members(
    hub: Path | Place, own: Reader, members: Iterable[HubMember], how: MemberAuditing | None = None
) -> Iterator[AuditedMember]:
    """Audit the ledgers of members, one after the other. `own`: the hub's ledger. Raises DatabaseAwayError."""
    members = list(members)
    recorded = recorded_roots(own, members)
    for member in members:
        yield _audited(hub, member, recorded.get(member.origin, {}), how or MemberAuditing())


def _audited(
    hub: Path | Place, member: HubMember, roots: Mapping[int, bytes], how: MemberAuditing
) -> AuditedMember:
    entries, findings = 0, list[Finding]()
    try:
        public = parse_verifier_key(member.key).public
        with contextlib.closing(Reader.open(member_place(hub, member.origin))) as reader:
            findings += audit_member(
                reader,
                public,
                roots,
                how.progress,
                max_findings=how.max_findings,
                begin=read_position(reader) if how.resumes else None,
                reached=lambda position: how.reached(member, reader, position),
            )
            findings += audit_database(reader, how.stopped)
            entries = reader.size()
    except FileNotFoundError:
        if member.size:
            findings.append(Finding(None, f"its ledger is gone, of which {member.size} entries were pushed"))
    except DatabaseAwayError:
        raise
    except StoreError as error:
        findings.append(Finding(None, error.public_reason))
    else:
        if entries < member.size and not findings:
            findings.append(Finding(None, f"{member.size} entries were pushed, and there are {entries}"))
    return AuditedMember(member, entries, tuple(findings[: how.max_findings]))
