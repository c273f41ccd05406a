"""What is kept of a message that arrived: third parties wrote it on its way."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from mailwatch.models import Millis, Target
from mailwatch.probes.redact import redactor
from mailwatch.probes.roundtrip.mailbox import INBOX, Copy
from mailwatch.probes.roundtrip.received import clock_skew_ms, fields_of, head_of, hops

logger = logging.getLogger(__name__)


async def kept(copy: Copy, sent_at: Millis, ends: Iterable[Target]) -> dict[str, Any]:
    """Return the facts of the arrived copy; the passwords of the `ends` are masked in its header."""
    head = head_of(copy.message)
    way = hops(fields_of(head), sent_at)
    text = head.decode("utf-8", "backslashreplace")
    for end in ends:
        text = redactor(end.login).hide_password(text)
    facts: dict[str, Any] = {
        "folder": "inbox" if copy.folder == INBOX else "junk",
        "mailbox": copy.folder.decode("utf-8", "backslashreplace"),
        "headers": text,
        "hops": way,
        "dkim": await _signatures(copy),
    }
    if copy.stored_at is not None:
        facts["stored_at"] = copy.stored_at
    if skew := clock_skew_ms(way):
        facts["clock_skew_ms"] = skew
    return facts


async def _signatures(copy: Copy) -> list[dict[str, str]]:
    if not copy.whole:
        return [{"result": "neutral", "why": "the message is longer than what is read of it"}]
    # Imported when first used: it takes a while, and commands should start at once.
    from mailwatch.probes.roundtrip.signature import signatures

    try:
        return await signatures(copy.message)
    except Exception:
        logger.exception("a signature was not checked by our own fault")
        return [{"result": "neutral", "why": "our own fault"}]
