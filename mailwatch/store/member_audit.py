"""Audits the ledger of a member of a hub: whether the hub still has what its owner signed.

Each entry must match its header, and each header is under the checkpoints that the owner signed with a push. What
the owner may have said wrongly, such as a clock that was set, is no damage. Of a withheld entry there is only the
header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.store.audit import AuditPosition, EntryAudit, Finding, audit_entries
from mailwatch.store.entry_rows import Entry
from mailwatch.store.errors import StoreDamagedError
from mailwatch.store.member_ledger import NEWEST
from mailwatch.store.pack_audit import PackRoots
from mailwatch.store.packs import PrunedSubtree
from mailwatch.store.reader import Reader
from mailwatch.store.selection import WITHHELD


def audit_member(
    reader: Reader,
    public: Ed25519PublicKey,
    roots: Mapping[int, bytes],
    progress: Callable[[int], None] = lambda _done: None,
    *,
    max_findings: int | None = None,
    begin: AuditPosition | None = None,
    reached: Callable[[Callable[[], AuditPosition]], None] = lambda _position: None,
) -> list[Finding]:
    """Check every entry and checkpoint of a member's ledger, as `audit` does one's own.

    `public`: the key of its owner. `roots`: by number of entries, what the hub has on its own record. Raises
    StoreUnavailableError.
    """
    expected = {size: (root, "the hub recorded") for size, root in roots.items()}
    found = list[Finding]()
    try:
        if (newest := reader.kept(NEWEST, "")) is not None:
            signed = notes.verify(newest.text, public)
            expected[signed.size] = (signed.root, "its owner signed")
    except (StoreDamagedError, CheckpointError) as error:
        found.append(Finding(None, f"the checkpoint of the newest push: {error}"))
    make = partial(_MemberEntryAudit, expected)
    return found + audit_entries(
        reader, public, make, progress, max_findings=max_findings, begin=begin, reached=reached
    )


class _MemberEntryAudit(EntryAudit):
    """Checks the entries of a member. `roots`: those to compare, by number of entries, with who says so."""

    def __init__(
        self,
        roots: Mapping[int, tuple[bytes, str]],
        packs: PackRoots,
        begin: AuditPosition | None,
        *,
        after_pruned: bool,
    ) -> None:
        super().__init__(b"", packs, begin, after_pruned=after_pruned)
        self._roots = {size: root for size, root in roots.items() if size > self.tree.size}

    def check(self, entry: Entry) -> None:
        """Check the next entry."""
        super().check(entry)
        if (expected := self._roots.pop(self.tree.size, None)) is not None and self.complete:
            self._compare_root(*expected)

    def append_pruned(self, pruned: PrunedSubtree) -> None:
        """Go on over the root of a pruned pack."""
        super().append_pruned(pruned)
        for size in [size for size in self._roots if size <= self.tree.size]:
            expected = self._roots.pop(size)
            if size == self.tree.size and self.complete:
                self._compare_root(*expected)

    def ended(self) -> None:
        """Add which entries are gone from the end."""
        for size, (_, says) in sorted(self._roots.items()):
            self.findings.append(Finding(None, f"{says} {size} entries, and there are {self.tree.size}"))

    def faults(self, entry: Entry, expected: int) -> list[Finding]:
        """Return what is wrong with an entry, which should have the index `expected`."""
        return _faults(entry, expected)

    def _compare_root(self, root: bytes, says: str) -> None:
        if self.tree.root() != root:
            size = self.tree.size
            self.findings.append(Finding(None, f"{says} another root for the first {size} entries than they give"))


def _faults(entry: Entry, expected: int) -> list[Finding]:
    """Return where an entry differs from its header. Raises ValueError, KeyError, TypeError, AttributeError."""
    header = json.loads(entry.header)
    if not isinstance(header, dict):
        raise TypeError("its header is no object")
    is_withheld = entry.kind == WITHHELD
    fitting = header | {"index": expected, "time": entry.time}
    if not is_withheld:
        fitting |= {"kind": entry.kind, "number": entry.number, "payload": digest(entry.text)}
    if entry.header != canonical(fitting):
        wrong = [key for key in fitting if header.get(key) != fitting[key]] or ["its form"]
        return [Finding(entry.index, f"its header differs in: {', '.join(wrong)}")]
    if is_withheld:
        shown = (entry.target, entry.number, entry.text)
        return [] if shown == (None, None, "") else [Finding(entry.index, "it is withheld, and shows something")]
    named = entry.payload.get("target") if header["target"] is not None else None
    if named != entry.target:
        return [Finding(entry.index, f"filed under {entry.target}, but its payload is of {named}")]
    return []
