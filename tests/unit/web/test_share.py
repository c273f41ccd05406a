"""Links to one outage, and the lanes of an incident."""

from __future__ import annotations

import itertools
from datetime import date
from typing import Any, cast

import pytest

from mailwatch.times import DAY_MS, parse_rfc3339
from mailwatch.web.incident_page import LANE_WIDTH, lanes
from mailwatch.web.share import VALID_DAYS, last_day, share_token, shared_outage

KEY = bytes(range(32))
AT = parse_rfc3339("2026-11-30T12:00:00Z")
OUTAGE = "0123456789ab"


def test_a_link_shows_its_outage_up_to_the_end_of_its_last_day() -> None:
    token = share_token(KEY, OUTAGE, last_day(AT))
    assert last_day(AT) == date(2026, 12, 29)
    assert shared_outage(KEY, token, AT) == OUTAGE
    assert shared_outage(KEY, token, AT + (VALID_DAYS - 1) * DAY_MS) == OUTAGE
    assert shared_outage(KEY, token, AT + VALID_DAYS * DAY_MS) == ""


def test_a_changed_link_shows_nothing() -> None:
    token = share_token(KEY, OUTAGE, last_day(AT))
    for place, sign in itertools.product(range(len(token)), "0aZ-"):
        changed = token[:place] + sign + token[place + 1 :]
        assert (shared_outage(KEY, changed, AT) == "") == (changed != token), changed
    for other in ("", token + "A", token[:-1], "x" * 200, token.replace("2026", "2099")):
        assert shared_outage(KEY, other, AT) == ""
    assert shared_outage(bytes(32), token, AT) == ""
    assert shared_outage(b"", share_token(b"", OUTAGE, last_day(AT)), AT) == "", "no key opens nothing"


def member(target: str, state: str, *times: str | None) -> dict[str, Any]:
    names = ("last_good", "first_bad", "last_bad", "first_good")
    day = "2026-11-30T{}:00Z"
    given = (None if at is None else day.format(at) for at in times)
    return {"id": f"{target}{times[1]}", "target": target, "state": state, **dict(zip(names, given, strict=True))}


def test_each_target_of_an_incident_has_one_lane() -> None:
    incident = {
        "outages": [
            member("b", "closed", "10:00", "10:10", "10:20", "10:30"),
            member("a", "open", "10:05", "10:15", "10:50", None),
            member("b", "closed", "10:40", "10:45", "10:45", "10:50"),
        ]
    }
    drawn = lanes(cast(Any, incident), parse_rfc3339("2026-11-30T11:00:00Z"))
    assert (drawn.end - drawn.start) == 3_600_000
    assert [(row.target, row.is_open, row.least) for row in drawn.rows] == [
        ("b", False, 600_000),
        ("a", True, 2_100_000),
    ]
    assert drawn.rows[0].outages == ["b10:10", "b10:45"]
    # What is possible encloses what is sure, and both are in the picture.
    for row in drawn.rows:
        for possible, sure in zip(row.parts[::2], row.parts[1::2], strict=True):
            assert (possible.sure, sure.sure) == (False, True)
            assert possible.x <= sure.x
            assert sure.x + sure.width <= possible.x + possible.width <= LANE_WIDTH + 0.01


@pytest.mark.parametrize("state", ["closed", "unwatched"])
def test_an_incident_of_a_moment_has_lanes_that_can_be_seen(state: str) -> None:
    incident = {"outages": [member("a", state, None, "10:00", "10:00", None)]}
    (row,) = lanes(cast(Any, incident), AT).rows
    assert all(part.width >= 4 for part in row.parts)
