"""What the audit finds in a ledger, wherever it is."""

from __future__ import annotations

from mailwatch.store import Reader, audit
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.place import Place


def audited(place: Place) -> list[str]:
    keys, reader = load_keys(place.data_dir), Reader.open(place)
    found = [finding.what for finding in audit(reader, keys.public, keys.secret)]
    reader.close()
    return found
