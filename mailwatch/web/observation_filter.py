"""Pages of past observations, by the filter form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from mailwatch.analysis.public_json import ObservationJson
from mailwatch.model import Outcome
from mailwatch.times import Millis, check_bounds, rfc3339
from mailwatch.web.read_model import ObservationQuery

OBSERVATIONS_PER_PAGE = 100
_UTC = ZoneInfo("UTC")
MAX_SCANNED_ENTRIES = 500_000
"""Entries read to find a page of one outcome: no index covers outcomes, and ten million entries take too long."""


@dataclass(frozen=True, slots=True)
class ObservationFilter:
    """The fields of the filter form, as submitted."""

    target: str
    outcome: str
    from_: str
    to: str
    zone: ZoneInfo = _UTC
    """The zone of times without an offset."""

    def times(self) -> tuple[Millis | None, Millis | None]:
        """Return start and end; None for an empty or unreadable time."""
        return self._moment(self.from_), self._moment(self.to)

    def field(self, text: str) -> str:
        """Return a time as the form's field for local times wants it; "" for an unreadable one."""
        at = self._moment(text)
        return "" if at is None else f"{datetime.fromtimestamp(at // 1000, self.zone):%Y-%m-%dT%H:%M}"

    @property
    def bad(self) -> bool:
        """Whether a time is unreadable."""
        return any(text and self._moment(text) is None for text in (self.from_, self.to))

    @property
    def backwards(self) -> bool:
        """Whether the end is not after the start."""
        start, end = self.times()
        return start is not None and end is not None and end <= start

    def export(self) -> str:
        """Return the API query of this filter, with a higher limit."""
        times = dict(zip(("from", "to"), self.times(), strict=True))
        fields = {"target": self.target, "outcome": self.outcome, "limit": "10000"}
        fields |= {key: rfc3339(at) for key, at in times.items() if at is not None}
        return urlencode({key: text for key, text in fields.items() if text})

    def query(self, before: int | None = None) -> str:
        """Return the page query of the newest observations, or of those before an index."""
        fields = {"target": self.target, "outcome": self.outcome, "from": self.from_, "to": self.to}
        fields["before"] = "" if before is None else str(before)
        return urlencode({key: text for key, text in fields.items() if text})

    def _moment(self, text: str) -> Millis | None:
        if not text:
            return None
        try:
            moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=self.zone)
            return check_bounds(round(moment.timestamp() * 1000), text)
        except (ValueError, OverflowError):
            return None


def page_of(
    observations: Callable[[ObservationQuery], Sequence[ObservationJson]],
    filter_: ObservationFilter,
    before: int | None,
) -> tuple[Sequence[ObservationJson], int | None]:
    """Return a page of observations, and the index before which older ones may exist; None if there are none."""
    start, end = filter_.times()
    outcome = Outcome(filter_.outcome) if filter_.outcome else None
    after = None
    if outcome:
        newest = observations(
            ObservationQuery(target=filter_.target or None, start=start, end=end, before=before, limit=1)
        )
        after = max(0, newest[0]["index"] - MAX_SCANNED_ENTRIES) if newest else None
    found = observations(
        ObservationQuery(
            target=filter_.target or None,
            outcome=outcome,
            start=start,
            end=end,
            before=before,
            after=after,
            limit=OBSERVATIONS_PER_PAGE + 1,
        )
    )
    if len(found) > OBSERVATIONS_PER_PAGE:
        return found[:OBSERVATIONS_PER_PAGE], found[OBSERVATIONS_PER_PAGE - 1]["index"]
    return found, after or None
