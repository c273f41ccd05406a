"""Whether each token on record is still at hand, and is over the checkpoint that its entry names."""

from __future__ import annotations

from mailwatch.ledger.timestamp import TimestampError, check
from mailwatch.store.audit import Finding
from mailwatch.store.reader import Reader
from mailwatch.store.tokens import Tokens


def audit_tokens(reader: Reader, tokens: Tokens) -> tuple[int, list[Finding]]:
    """Return how many tokens are on record, and what does not fit."""
    findings: list[Finding] = []
    notes = {row.size: row.note for row in reader.checkpoints()}
    count = 0
    for entry in reader.entries(kinds=["token"]):
        count += 1
        payload = entry.payload
        reply = tokens.get(payload["reply"])
        note = notes.get(payload["checkpoint"])
        if reply is None:
            findings.append(Finding(entry.index, f"the token file {payload['reply']}.tsr is gone or altered"))
        elif note is None:
            findings.append(
                Finding(entry.index, f"its token is over a checkpoint {payload['checkpoint']} that is gone")
            )
        else:
            try:
                told = check(reply, note).time
            except TimestampError as error:
                findings.append(Finding(entry.index, f"its token does not fit: {error}"))
                continue
            if told != payload["time"]:
                findings.append(Finding(entry.index, "its token tells another time"))
    return count, findings
