"""Write a small ledger of ours for other implementations to check: python -m tests.vectors > .../ours.json."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from mailwatch.ledger.checkpoint import verifier_key
from mailwatch.store import Reader
from mailwatch.store.keys import load_keys as load_keys
from tests.helpers.ledger_factory import MINUTE, write


def ours(folder: Path) -> dict[str, object]:
    """A ledger of 47 observations with one outage, as headers and signed checkpoints."""
    start = 1_772_000_000_000

    def pattern(at: int) -> str:
        return "-" if 10 * MINUTE <= at - start < 20 * MINUTE else "+"

    write(folder, {"lab-imap": pattern}, start, start + 47 * MINUTE, every=7).close()
    keys, reader = load_keys(folder), Reader.open(folder)
    made: dict[str, object] = {
        "made_by": "python -m tests.vectors",
        "key": verifier_key(keys.origin, keys.public),
        "notes": [row.note for row in reader.checkpoints()],
        "entries": [entry.header for entry in reader.entries()],
    }
    reader.close()
    return made


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(ours(Path(folder)), ensure_ascii=False, indent=1) + "\n")
