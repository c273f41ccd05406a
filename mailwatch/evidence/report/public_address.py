"""Our public addresses on record in a range of entries, by which a provider finds the logins in its logs."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailwatch.analysis.elapsed import Moment, by_reference_clock
from mailwatch.evidence.report.formatting import Rows, texts
from mailwatch.i18n import Formatter
from mailwatch.net import is_address
from mailwatch.store import Entry
from mailwatch.times import Millis

MAX_KEPT = 1000
MAX_SHOWN = 12


@dataclass(slots=True)
class AddressSpan:
    """The first and the last entry with an address, and how many there are."""

    first: Millis
    last: Millis
    count: int = 1


@dataclass(slots=True)
class PublicAddressFacts:
    """The entries of the kind address. `spans` by address, in order; `servers` saw them.

    `hidden`: entries that name no address, as a bundle shows only their header.
    """

    spans: dict[str, AddressSpan] = field(default_factory=dict)
    servers: set[str] = field(default_factory=set)
    hidden: int = 0

    def add(self, entry: Entry, reference: Moment | None) -> None:
        """Add an entry; times by the wall clock of `reference`."""
        payload = entry.payload
        address = str(payload.get("address"))
        if not is_address(address) or (address not in self.spans and len(self.spans) == MAX_KEPT):
            self.hidden += 1
            return
        clock = payload["clock"]
        at = by_reference_clock(Moment(payload["at"], clock["at"], clock["boot"]), reference)
        span = self.spans.setdefault(address, AddressSpan(at, at, 0))
        span.last, span.count = at, span.count + 1
        self.servers.add(str(payload.get("server")))


def public_address_rows(facts: PublicAddressFacts, writing: Formatter) -> Rows:
    """Return the row on our public addresses, and the one on what is not recorded."""
    w = texts(writing.language)
    if not facts.spans and not facts.hidden:
        return [[w["not_recorded"], w["not_recorded_text"]]]
    shown = [*facts.spans.items()][:MAX_SHOWN]
    parts = [
        w["public_address_once" if span.count == 1 else "public_address_span"].format(
            address=address,
            n=span.count,
            first=writing.local_and_utc(span.first),
            last=writing.local_and_utc(span.last),
        )
        for address, span in shown
    ]
    if facts.servers:
        parts.append(w["public_address_by"].format(servers=", ".join(sorted(facts.servers)[:8])))
    if left := len(facts.spans) - len(shown):
        parts.append(w["public_address_more"].format(n=left))
    if facts.hidden:
        parts.append(w["public_address_hidden"].format(n=facts.hidden))
    return [[w["public_address"], " ".join(parts)], [w["not_recorded"], w["not_recorded_rest"]]]
