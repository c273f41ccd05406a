"""Audits the ledgers of a hub's members with the hub's own, as slowly; a restart goes on where it was.

The position within a ledger is kept beside that ledger, and which member's was audited last beside the hub's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable

from mailwatch.hub.ledgers import MemberLedgers
from mailwatch.hub.member_audit import MemberAuditing, audit_members
from mailwatch.ledger.canonical_json import canonical
from mailwatch.store import Reader, StoreError
from mailwatch.store.audit import AuditPosition, Finding
from mailwatch.store.audit_position import KIND, position_to_keep
from mailwatch.store.detector_states import entry_at
from mailwatch.store.hub_register import HubMember, HubRegister
from mailwatch.store.kept_states import KeptState, leaf_of
from mailwatch.store.member_ledger import member_place
from mailwatch.store.place import Place

logger = logging.getLogger(__name__)

KEEP_SECONDS = 60.0
"""Seconds after which the position of an audit under way is kept."""
SUBJECT = "members"


class MemberSelfAudit:
    """Audits the members of a hub. `own`: its ledger. `keep` keeps a state beside that."""

    def __init__(
        self,
        hub: Place,
        own: Reader,
        register: HubRegister,
        ledgers: MemberLedgers,
        keep: Callable[[KeptState], None],
    ) -> None:
        self._hub, self._own, self._register, self._ledgers, self._keep = hub, own, register, ledgers, keep
        self._kept_at = time.monotonic()

    def findings(
        self, progress: Callable[[int], None], stopped: Callable[[], bool], max_findings: int
    ) -> list[Finding]:
        """Audit all members, beginning after the one audited last; return what was found, with their names.

        What `progress` raises ends it. Raises StoreError if the hub's own ledger cannot be read.
        """
        found = list[Finding]()
        how = MemberAuditing(
            max_findings=max_findings, resumes=True, progress=progress, reached=self._reached, stopped=stopped
        )
        for audited in audit_members(self._hub, self._own, self._in_turn(), how):
            found += [Finding(None, member_finding(audited.member, one)) for one in audited.findings]
            if not stopped():
                self._ended(audited.member, is_clean=not audited.findings)
        return found

    def _in_turn(self) -> list[HubMember]:
        """Return the members, those first that come after the one audited last."""
        members, last = sorted(self._register.members(), key=lambda one: one.origin), ""
        if (kept := self._own.kept(KIND, SUBJECT)) is not None:
            last = json.loads(kept.text)["ledger"]
        return sorted(members, key=lambda one: one.origin <= last)

    def _reached(self, member: HubMember, reader: Reader, position: Callable[[], AuditPosition]) -> None:
        if time.monotonic() - self._kept_at >= KEEP_SECONDS:
            self._kept_at = time.monotonic()
            self._keep_position(member, position_to_keep(reader, position()))

    def _keep_position(self, member: HubMember, state: KeptState | None) -> None:
        try:
            with self._ledgers.using(member) as ledger:
                if state is not None:
                    ledger.keep(state)
        except (StoreError, OSError) as error:
            logger.debug("ledger: the audit of %s begins again after a restart: %s", member.name, error)

    def _ended(self, member: HubMember, *, is_clean: bool) -> None:
        if is_clean and member.size:
            self._keep_position(member, self._ended_state(member))
        if (last := entry_at(self._own, self._own.size() - 1)) is not None:
            text = canonical({"ledger": member.origin})
            self._keep(KeptState(KIND, SUBJECT, last.index, leaf_of(last.header), text))

    def _ended_state(self, member: HubMember) -> KeptState | None:
        with contextlib.closing(Reader.open(member_place(self._hub, member.origin))) as reader:
            return position_to_keep(reader, None)


def member_finding(member: HubMember, found: Finding) -> str:
    """Return a finding in words, with the name of the member."""
    where = "" if found.index is None else f"entry {found.index}: "
    return f"the ledger of {member.name}: {where}{found.what}"
