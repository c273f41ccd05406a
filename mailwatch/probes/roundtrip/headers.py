"""Parses the header of an arrived message: its fields and its route (RFC 5321, section 4.4). Pure."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

from mailwatch.facts import ReceivedHop
from mailwatch.times import Millis

MAX_HOPS = 25
MAX_FIELD_CHARS = 2000
"""Characters of a field that are kept."""
MAX_WORD_CHARS = 200
_CLAUSE = re.compile(r"(?<!\S)(from|by|with|id)\s+(\S+)", re.IGNORECASE)
_COMMENT = re.compile(r"\([^()]*\)")
_ADDRESS = re.compile(r"\[(?:IPv6:)?([0-9a-fA-F.:]{3,45})\]")


def header_section(message: bytes) -> bytes:
    """Return the header section, with the line end of its last field."""
    for end in (b"\r\n\r\n", b"\n\n"):
        if end in message:
            return message.partition(end)[0] + end[: len(end) // 2]
    return message


def header_fields(head: bytes) -> list[tuple[str, str]]:
    """Return the fields in order as (lower-case name, unfolded value), without invalid ones."""
    fields: list[tuple[str, str]] = []
    for line in head.decode("utf-8", "backslashreplace").splitlines():
        if line[:1] in (" ", "\t") and fields:
            name, value = fields[-1]
            fields[-1] = (name, f"{value} {line.strip()}"[:MAX_FIELD_CHARS])
        elif (name := line.partition(":")[0].rstrip()) and ":" in line and name.isascii():
            fields.append((name.lower(), line.partition(":")[2].strip()[:MAX_FIELD_CHARS]))
    return fields


def hops(fields: list[tuple[str, str]], sent_at: Millis) -> list[ReceivedHop]:
    """Return the hops from the first to the last, with the data of their Received fields.

    {"by", "from", "address", "with", "id", "at": ms, "delay_ms"}. The delay is since the previous hop, for the
    first one since we sent the message. Each host has its own clock of whole seconds: a negative delay is kept.
    """
    found = []
    before = sent_at
    received = [value for name, value in fields if name == "received"]
    for value in reversed(received[:MAX_HOPS]):
        hop = _hop(value)
        if "at" in hop:
            hop["delay_ms"] = hop["at"] - before
            before = hop["at"]
        found.append(hop)
    return found


def clock_skew_ms(way: list[ReceivedHop]) -> int:
    """Return by how much clocks on the route surely differ: the largest negative delay, less a date's second."""
    return max(0, *(-hop.get("delay_ms", 0) - 1000 for hop in way)) if way else 0


def _hop(value: str) -> ReceivedHop:
    clauses, _, date = value.rpartition(";")
    hop: ReceivedHop = {}
    bare = clauses
    while (without := _COMMENT.sub(" ", bare)) != bare:
        bare = without
    for clause, word in _CLAUSE.findall(bare):
        hop.setdefault(clause.lower(), word[:MAX_WORD_CHARS])  # type: ignore[misc]  # by _CLAUSE
    if address := _ADDRESS.search(clauses.partition(" by ")[0]):
        hop["address"] = address[1]
    if (at := parse_date(date)) is not None:
        hop["at"] = at
    return hop


def parse_date(date: str) -> Millis | None:
    """Parse the date of a header field (RFC 5322, section 3.3); None if invalid."""
    try:
        moment = parsedate_to_datetime(date.strip())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # "-0000" means that the time is UTC.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
