"""The bars of the overview have ninety days, whatever happened to their target."""

from __future__ import annotations

from itertools import chain, repeat

from hypothesis import example, given
from hypothesis import strategies as st

from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.config.recorded_targets import recorded_settings
from mailwatch.model import (
    PAUSED,
    Cause,
    Fact,
    Gap,
    GapReason,
    Kind,
    Observation,
    Outcome,
    Rules,
    TargetChange,
    TargetEvent,
)
from mailwatch.settings import Target
from mailwatch.times import DAY_MS, HOUR_MS, Millis, intersect_windows, merge_windows
from mailwatch.web.charts import _LETTERS, bar_paths, day_bars, day_state

HELD = recorded_settings(Target(name="t", kind=Kind.IMAP, host="h", port=1), Rules(), b"s" * 32)
OUTCOMES = {"+": Outcome.UP, "-": Outcome.DOWN, "?": Outcome.UNKNOWN}


def _fact(mark: str, at: Millis, length: Millis) -> Fact:
    if mark == "|":
        return TargetChange(target="t", at=at, event=TargetEvent.CONTINUE, settings=HELD, reason=PAUSED)
    if mark == " ":
        return Gap(target="t", start=at, end=at + length, reason=GapReason.NOT_RUNNING)
    return Observation(
        target="t", scheduled_at=at, started_at=at, ended_at=at + 1000, outcome=OUTCOMES[mark],
        cause=Cause.TIMEOUT if mark == "-" else None,
    )  # fmt: skip


@given(
    marks=st.text("+++--? |", max_size=60),
    step=st.sampled_from([300_000, HOUR_MS, 7 * HOUR_MS, DAY_MS, 3 * DAY_MS]),
    since_midnight=st.integers(0, DAY_MS - 1),
    maintenance=st.lists(st.tuples(st.integers(0, 100), st.integers(1, 3)), max_size=3),
)
@example(marks="", step=DAY_MS, since_midnight=0, maintenance=[])
@example(marks="+", step=HOUR_MS, since_midnight=1, maintenance=[])
@example(marks="+-" * 30, step=DAY_MS, since_midnight=HOUR_MS, maintenance=[(30, 2)])
@example(marks="++|||++ ++--++", step=3 * DAY_MS, since_midnight=HOUR_MS, maintenance=[])
def test_the_days_as_text_are_ninety(
    marks: str, step: Millis, since_midnight: Millis, maintenance: list[tuple[int, int]]
) -> None:
    """A new target, one with gaps, pauses and maintenance, at any time of the day."""
    end = 20_500 * DAY_MS + since_midnight
    windows = merge_windows((end - back * DAY_MS, end - (back - days) * DAY_MS) for back, days in maintenance)
    kept = RollingAvailability(
        interval=300, excluded=lambda start, stop: intersect_windows(windows, ((start, stop),))
    )
    for number, mark in enumerate(marks):
        kept.feed(_fact(mark, end - (len(marks) - number) * step, step))
    days = kept.days(end)
    runs = [(run[0], int(run[1:].partition(".")[0])) for run in bar_paths(days)[1].split()]
    assert sum(count for _, count in runs) == len(day_bars(days)) == 90
    letters = chain.from_iterable(repeat(letter, count) for letter, count in runs)
    assert list(letters) == [_LETTERS[day_state(day)] for day in days]
