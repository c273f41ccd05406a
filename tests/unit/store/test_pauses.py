"""The pause of a target by the record, and what lists say of the outage that it interrupts."""

from __future__ import annotations

from pathlib import Path

from mailwatch.model import PAUSED, RESUMED
from mailwatch.store import queries
from mailwatch.store.unobserved import paused_since
from mailwatch.times import rfc3339
from tests.helpers.notifications import Record

BAD = 1_790_000_000_000


def test_an_open_outage_says_since_when_its_target_is_paused(tmp_path: Path) -> None:
    record = Record(tmp_path)
    with record.closing:
        record.change("a", "start", BAD - 1000)
        record.outage("a", at=BAD + 60_000)
        assert paused_since(record.reader, "a") is None
        # A paused target's settings are recorded each day, and say so.
        for reason, at in ((PAUSED, BAD + 200_000), (PAUSED, BAD + 86_400_000)):
            record.change("a", reason, at)
        (outage,) = queries.outages(record.reader)
        assert (outage["state"], outage["paused"]) == ("open", rfc3339(BAD + 200_000))
        record.change("a", RESUMED, BAD + 90_000_000)
        assert paused_since(record.reader, "a") is None
        assert "paused" not in queries.outages(record.reader)[0]
        record.outage("a", at=BAD + 90_100_000, closed=True)
        record.change("a", PAUSED, BAD + 90_200_000)
        assert "paused" not in queries.outages(record.reader)[0], "it ended before"
