"""When a target was paused, by its recorded changes."""

from __future__ import annotations

import pytest

from mailwatch.analysis.pauses import paused_windows
from mailwatch.config.recorded_targets import recorded_settings
from mailwatch.model import Kind, Rules, TargetChange, TargetEvent
from mailwatch.settings import Target

HELD = recorded_settings(Target(name="lab", kind=Kind.IMAP, host="h", port=1), Rules(), b"s" * 32)


def changes(*given: tuple[int, str]) -> list[TargetChange]:
    return [
        TargetChange(
            target="lab", at=at, event=TargetEvent.END if reason == "removed" else TargetEvent.CONTINUE,
            settings=HELD, reason=reason,
        )
        for at, reason in given
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([(5, "start")], []),
        ([(20, "paused"), (30, "resumed")], [(20, 30)]),
        # Said again each day, and over the edges of the window.
        ([(5, "paused"), (20, "paused"), (30, "start"), (90, "paused")], [(10, 30), (90, 100)]),
        ([(20, "paused"), (40, "removed"), (60, "start")], [(20, 40)]),
        ([(1, "paused"), (5, "resumed"), (100, "paused")], []),
    ],
)
def test_a_pause_lasts_until_a_change_that_does_not_say_so(
    given: list[tuple[int, str]], expected: list[tuple[int, int]]
) -> None:
    assert paused_windows(changes(*given), 10, 100) == expected
