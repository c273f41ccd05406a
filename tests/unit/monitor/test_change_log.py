"""A provider's fall is a few lines of the log, not three for each mailbox."""

from __future__ import annotations

import asyncio
import logging

import pytest

from mailwatch.monitor.change_log import LINES_AT_ONCE, MOST_NAMES, ChangeLog

LOGGER = logging.getLogger("changes")


async def test_the_first_lines_come_at_once_and_the_rest_in_one(caplog: pytest.LogCaptureFixture) -> None:
    changes = ChangeLog()
    for number in range(30):
        line = f"m{number}: outage {number} is open"
        changes.log(LOGGER, logging.WARNING, "libero", "outage is open", f"m{number}", line)
        changes.log(LOGGER, logging.WARNING, "gmail", "outage is open", "g", "g: outage x is open")
    changes.log(LOGGER, logging.INFO, "libero", "down", "m0", "m0: down")
    libero = [message for message in caplog.messages if "g: " not in message]
    assert libero == [*(f"m{number}: outage {number} is open" for number in range(LINES_AT_ONCE)), "m0: down"]
    caplog.clear()
    changes.flush()
    names = ", ".join(f"m{number}" for number in range(LINES_AT_ONCE, LINES_AT_ONCE + MOST_NAMES))
    assert caplog.messages[0] == f"libero: 27 more targets: outage is open: {names} and 17 others"
    assert len(caplog.messages) == 2
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    changes.flush()
    assert len(caplog.messages) == 2


async def test_a_window_closes_by_itself_and_one_follower_keeps_its_line(caplog: pytest.LogCaptureFixture) -> None:
    changes = ChangeLog(seconds=0)
    for number in range(LINES_AT_ONCE + 1):
        changes.log(LOGGER, logging.INFO, "libero", "down", f"m{number}", f"m{number}: down (refused)")
    assert len(caplog.messages) == LINES_AT_ONCE
    while len(caplog.messages) == LINES_AT_ONCE:
        await asyncio.sleep(0)
    assert caplog.messages[-1] == f"m{LINES_AT_ONCE}: down (refused)"
    changes.log(LOGGER, logging.INFO, "libero", "down", "m0", "m0: down again")
    assert caplog.messages[-1] == "m0: down again"


async def test_targets_without_a_provider_are_not_grouped(caplog: pytest.LogCaptureFixture) -> None:
    changes = ChangeLog()
    for number in range(9):
        changes.log(LOGGER, logging.INFO, "", "up", f"t{number}", f"t{number}: up")
    assert len(caplog.messages) == 9


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
