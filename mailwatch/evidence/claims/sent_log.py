"""The log of messages sent to the provider about outages: claims/sent.jsonl in data_dir, one JSON object per line.

The owner states it, as in the config; it is not in the ledger. Lines are only appended, and are on disk when
`add_message` returns. Each has the time of writing, for the owner only: the report omits it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.config.schema_claims import ClaimSection, NotifiedSection
from mailwatch.files import sync_folder
from mailwatch.times import now, rfc3339


class SentLogError(Exception):
    """A line of the log is unreadable. The message says where, and what to do."""


def add_message(data_dir: Path, outage: str, sent: NotifiedSection) -> Path:
    """Append a message sent about an outage to the log (mode 0600); return the log's path. Raises OSError."""
    path = _path(data_dir)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    record = {"outage": outage, "written": rfc3339(now())} | sent.model_dump(mode="json", exclude_none=True)
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(file).st_size
        # A line left incomplete by a power cut must not spoil this one.
        whole = not size or os.pread(file, 1, size - 1) == b"\n"
        os.write(file, line if whole else b"\n" + line)
        os.fsync(file)
    finally:
        os.close(file)
    sync_folder(path.parent)
    return path


def sent_messages(data_dir: Path, outage: str) -> list[NotifiedSection]:
    """Return the messages sent about an outage, oldest first. Raises SentLogError, OSError."""
    found = [message for about, message in _lines(_path(data_dir)) if about == outage]
    return sorted(found, key=lambda message: message.date)


def with_log(section: ClaimSection | None, outage: OutageRecord, data_dir: Path) -> ClaimSection | None:
    """Return the claim of an outage with its logged messages, even if the config has no claim. Raises
    SentLogError.
    """
    messages = sent_messages(data_dir, outage.id)
    if not messages:
        return section
    if section is None:
        return ClaimSection(targets=(outage.target,), notified=tuple(messages))
    notified = sorted([*section.notified, *messages], key=lambda message: message.date)
    return section.model_copy(update={"notified": tuple(notified)})


def _path(data_dir: Path) -> Path:
    return data_dir / "claims" / "sent.jsonl"


def _lines(path: Path) -> Iterator[tuple[str, NotifiedSection]]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            about, _ = record.pop("outage"), record.pop("written")
            yield about, NotifiedSection.model_validate(record)
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
            raise SentLogError(
                f"{path}:{number}: is not a message that was sent; correct the line, or remove it"
            ) from None
