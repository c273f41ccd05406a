"""What members agreed to send, as it is on a hub's record: the newest note of each, signed by its ledger's key."""

from __future__ import annotations

from mailwatch.ledger.consent import KIND, Consent
from mailwatch.store import Reader


def consent_payload(stated: Consent, note: str) -> dict[str, object]:
    """Return the payload of an entry `consent`, on the record of a member or of its hub."""
    send = stated.send if isinstance(stated.send, str) else list(stated.send)
    return {"ledger": stated.ledger, "hub": stated.hub, "at": stated.at, "send": send, "note": note}


def consents(reader: Reader, hub: str) -> dict[str, tuple[str, Consent]]:
    """Return the newest note about sending to `hub`, and what it says, by the names of the ledgers.

    `reader`: of the hub's ledger, or of a member's. Raises StoreError.
    """
    found: dict[str, tuple[str, Consent]] = {}
    for entry in reader.entries(kinds=[KIND]):
        payload = entry.payload
        if payload.get("hub") == hub:
            send = payload["send"] if isinstance(payload["send"], str) else tuple(payload["send"])
            stated = Consent(payload["ledger"], hub, payload["at"], send)
            found[stated.ledger] = payload["note"], stated
    return found


def agreements(reader: Reader, hub: str) -> dict[str, Consent]:
    """Return what each member agreed to send, as `consents` without the notes. Raises StoreError."""
    return {ledger: stated for ledger, (_, stated) in consents(reader, hub).items()}
