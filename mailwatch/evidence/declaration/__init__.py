"""The declaration of a ledger: which mailboxes it observes with which key from when on, to be sent by mail.

Sent to oneself on the first day, by PEC or through another provider, it shows that the key is as old as the
message, and that the owner named no other ledger. A bundle encloses the message as it arrived, with a proof that
the ledger continues what was declared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from mailwatch.evidence.bundle import File
from mailwatch.evidence.ledger_range import LedgerRange
from mailwatch.evidence.stated import DeclarationJson, DkimKeyJson
from mailwatch.i18n import load_texts
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError, verifier_key
from mailwatch.ledger.declaration import declared_checkpoint, framed
from mailwatch.store import CheckpointRow, Reader
from mailwatch.store.declarations import Declarations
from mailwatch.store.keys import Keys
from mailwatch.store.proofs import consistency_between


def declaration_text(
    language: str,
    keys: Keys,
    mailboxes: Sequence[str],
    signed: CheckpointRow,
    made: Checkpoint,
    at: datetime,
    before: Sequence[str] = (),
) -> str:
    """Return the text to send. `signed`: the newest checkpoint, `made` the same parsed. `at`: the time shown.
    `before`: the names of the ledgers that this one goes on for.
    """
    words = load_texts("mailwatch.evidence.declaration", f"{language}.yaml")
    follows = words["follows"].format(ledgers=", ".join(before)) if before else ""
    facts = {
        "date": at.strftime(words["date"]),
        "mailboxes": "\n".join(f"    {one}" for one in mailboxes),
        "origin": keys.origin,
        "key": verifier_key(keys.origin, keys.public),
        "size": made.size,
        "root": made.root.hex(),
        "follows": follows,
    }
    return f"{words['text'].format_map(facts)}\n{framed(signed.note)}"


def enclosed_declarations(
    reader: Reader, keys: Keys, kept: Declarations, range_: LedgerRange
) -> tuple[list[File], Mapping[str, Any]]:
    """Return the files that a bundle encloses, and what its statement says of them; none that lie behind it."""
    files, stated = list[File](), list[DeclarationJson]()
    for digest, message in kept.all():
        try:
            made = declared_checkpoint(message, keys.public)
        except CheckpointError:
            # Of a ledger before this one.
            continue
        later = [row.size for row in range_.checkpoints if row.size >= made.size]
        if not later:
            continue
        proof = consistency_between(reader, made.size, min(later))
        files.append(File(f"declarations/{digest}.eml", message))
        one: DeclarationJson = {"file": f"declarations/{digest}.eml", "proof": [part.hex() for part in proof]}
        if known := kept.keys(digest):
            one["keys"] = cast(list[DkimKeyJson], known)
        stated.append(one)
    return files, {"declarations": stated} if stated else {}
