"""What pages say about the time zone of their times."""

from __future__ import annotations

from pathlib import Path
from typing import cast
from zoneinfo import ZoneInfo

import pytest

import mailwatch
from mailwatch.time_zone import known_zones
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.overview_page import OverviewPage
from mailwatch.web.read_model import ReadModel
from tests.helpers.few_targets import FewTargets, a_request, a_target


@pytest.mark.parametrize(
    ("zone", "language", "words"),
    [
        ("Europe/Rome", "en", "Times are in the time zone of this MailWatch: Europe/Rome (UTC+"),
        ("Etc/UTC", "en", "Times are in UTC, the world&#39;s reference time"),
        ("UTC", "it", "Gli orari sono in UTC, l&#39;ora di riferimento mondiale: in Italia"),
    ],
)
async def test_a_page_says_whose_time_zone_it_uses(zone: str, language: str, words: str) -> None:
    model = FewTargets([a_target("a")])
    model.zone = ZoneInfo(zone)
    page = OverviewPage(Frame(cast(ReadModel, model), Audience()))
    answer = await page.overview(a_request("/", f"lang={language}"))
    assert words in bytes(answer.body).decode()


def test_the_names_of_the_zones_are_read_from_disk_once() -> None:
    package = Path(mailwatch.__file__).parent
    readers = [path.name for path in package.rglob("*.py") if "available_timezones()" in path.read_text()]
    assert readers == ["time_zone.py"]
    assert known_zones() is known_zones()
