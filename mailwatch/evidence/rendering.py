"""The key `report` of a statement: how report.pdf was made, so that it can be made again from the bundle alone.

It also holds what a report says but the entries of the bundle do not show. The operator states it; no entry proves
it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import NotRequired, TypedDict
from zoneinfo import ZoneInfo

from mailwatch.evidence.code_version import code_version
from mailwatch.evidence.ledger_range import LedgerRange
from mailwatch.evidence.stated import ReportJson, WindowJson
from mailwatch.i18n import LANGUAGES
from mailwatch.store import Reader
from mailwatch.times import Window, parse_rfc3339, rfc3339

PROGRAM_KEYS = ("event", "config", "version", "python", "system")


def typst_version() -> str:
    """Return the version of the installed package of Typst."""
    return metadata.version("typst")


class OutsideFacts(TypedDict):
    """What a report says of entries that are not in its range. `doubted`: SHA-256 of replies."""

    program: NotRequired[dict[str, str]]
    doubted: NotRequired[list[str]]


def outside_facts(reader: Reader, range_: LedgerRange) -> OutsideFacts:
    """Return the facts that a report needs from entries outside the range."""
    found: OutsideFacts = {}
    start, end = range_.start.size, range_.end.size
    if next(reader.entries(kinds=["node"], from_index=start, to_index=end, limit=1), None) is None:
        for entry in reader.entries(kinds=["node"], to_index=start, descending=True, limit=1):
            known = entry.payload
            found["program"] = {key: str(known[key]) for key in PROGRAM_KEYS if known.get(key)}
    outside = [token for token in range_.tokens if not start <= token.entry < end]
    doubted = [
        token.digest
        for token in outside
        for entry in reader.entries(from_index=token.entry, to_index=token.entry + 1)
        if entry.payload.get("distrust")
    ]
    if doubted:
        found["doubted"] = sorted(doubted)
    return found


def outside_of(stated: ReportJson) -> OutsideFacts:
    """Return the facts from outside the range that a statement holds."""
    found: OutsideFacts = {}
    if "program" in stated:
        found["program"] = stated["program"]
    if "doubted" in stated:
        found["doubted"] = stated["doubted"]
    return found


@dataclass(frozen=True, slots=True)
class Rendering:
    """The language, the time zone and the place of a report. `window`: as asked for, of a period."""

    language: str
    zone: ZoneInfo
    place: str
    window: Window | None = None

    def as_json(self, outside: OutsideFacts | None = None) -> ReportJson:
        """Return the key `report`, with the versions of what makes the report here."""
        made: ReportJson = {
            "language": self.language,
            "timezone": str(self.zone),
            "place": self.place,
            "typst": typst_version(),
            "mailwatch": code_version(),
            "machine": platform.machine(),
        }
        if self.window is not None:
            start, end = self.window
            made["window"] = WindowJson({"from": rfc3339(start), "to": rfc3339(end)})
        if outside is not None:
            made.update(outside)  # type: ignore[typeddict-item]  # Both keys are of ReportJson.
        return made

    @classmethod
    def of(cls, stated: ReportJson) -> Rendering:
        """Read the key `report` of any bundle. Raises ValueError, KeyError, TypeError, LookupError, OSError."""
        language, zone, place = stated["language"], stated["timezone"], stated["place"]
        if language not in LANGUAGES or not isinstance(zone, str) or not isinstance(place, str):
            raise ValueError("it names no language, time zone and place")
        window = stated.get("window")
        bounds = None if window is None else (parse_rfc3339(window["from"]), parse_rfc3339(window["to"]))
        return cls(language, ZoneInfo(zone), place, bounds)
