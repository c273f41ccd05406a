"""The chart of response times: what is drawn is what was observed, and no line crosses a gap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.analysis.response_times import NOTHING, Bucket, Period, ResponseHistory, Spread
from mailwatch.times import DAY_MS, HOUR_MS, Millis
from mailwatch.web.public_shapes import PublicOutageJson
from mailwatch.web.response_chart import PLOT_HEIGHT, PLOT_WIDTH, bucket_state, draw

ROME = ZoneInfo("Europe/Rome")
START = 20_000 * DAY_MS


def _bucket(up: int, down: int, unknown: int, connect: int, auth: int) -> Bucket:
    if not up:
        return Bucket(down=down, unknown=unknown)
    whole = connect + auth
    phases = {"connect": Spread(connect, connect), "auth": Spread(auth, 2 * auth)}
    return Bucket(up=up, down=down, unknown=unknown, total=Spread(whole, whole + auth), phases=phases)


BUCKETS = st.one_of(
    st.none(),
    st.just(NOTHING),
    st.builds(
        _bucket,
        st.integers(0, 3),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(1, 10**7),
        st.integers(1, 10**7),
    ),
)


def _history(
    buckets: Sequence[Bucket | None], period: Period = Period.DAY, start: Millis = START
) -> ResponseHistory:
    count = period.length // period.bucket
    return ResponseHistory(period=period, start=start, buckets=[*buckets, *[NOTHING] * (count - len(buckets))])


def _spans(path: str) -> list[tuple[float, float]]:
    """The least and the greatest x of each part of a path."""
    parts = [re.findall(r"([\d.]+) [\d.]+", part) for part in path.split("M") if part]
    return [(min(map(float, xs)), max(map(float, xs))) for xs in parts]


@given(st.lists(BUCKETS, min_size=1, max_size=60))
def test_no_layer_and_no_line_covers_a_bucket_without_a_response_time(buckets: list[Bucket | None]) -> None:
    history = _history(buckets)
    chart = draw(history, [], ROME)
    unit = PLOT_WIDTH / len(history.buckets)
    timed = {number for number, bucket in enumerate(history.buckets) if bucket and bucket.total}
    for path in [chart.p95, *(layer.path for layer in chart.layers)]:
        covered = {
            number
            for low, high in _spans(path)
            for number in range(len(history.buckets))
            if low - 0.1 < (number + 0.5) * unit < high + 0.1
        }
        assert covered == timed
    heights = [y for path in [chart.p95, *(one.path for one in chart.layers)] for y in _heights(path)]
    assert all(0 <= y <= PLOT_HEIGHT for y in heights)


def _heights(path: str) -> list[float]:
    return [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", path)]


@given(st.lists(BUCKETS, min_size=1, max_size=60))
def test_the_lane_has_each_bucket_once_and_any_failure_in_it(buckets: list[Bucket | None]) -> None:
    history = _history(buckets)
    chart = draw(history, [], ROME)
    assert sum(stretch.width for stretch in chart.lane) == pytest.approx(100, abs=0.1)
    assert chart.unread == (None in buckets)
    states = [bucket_state(bucket) for bucket in history.buckets]
    for stretch in chart.lane:
        first = round(stretch.x / 100 * len(states))
        assert set(states[first : first + round(stretch.width / 100 * len(states))]) == {stretch.state}
    assert all(bucket_state(b) == "down" for b in buckets if b and b.down)


def test_one_slow_bucket_does_not_flatten_the_others_and_is_marked() -> None:
    usual = Bucket(up=5, total=Spread(100_000, 150_000), phases={"connect": Spread(100_000, 150_000)})
    slow = Bucket(up=5, total=Spread(100_000, 30_000_000), phases={"connect": Spread(100_000, 30_000_000)})
    chart = draw(_history([usual] * 60 + [slow] + [usual] * 60), [], ROME)
    assert chart.grid[-1].seconds < 1
    assert list(chart.clipped) == [pytest.approx(60.5 / 144 * 100, abs=0.01)]


def test_observations_without_phases_are_a_layer_of_their_own() -> None:
    chart = draw(_history([Bucket(up=1, total=Spread(5000, 5000))]), [], ROME)
    assert [layer.phase for layer in chart.layers] == ["whole"]


def test_an_outage_is_certain_between_its_failures_and_possible_around_them() -> None:
    outage: PublicOutageJson = {  # type: ignore[typeddict-item]
        "id": "0" * 12, "last_good": _rfc(START - HOUR_MS), "first_bad": _rfc(START + 6 * HOUR_MS),
        "last_bad": _rfc(START + 12 * HOUR_MS), "first_good": _rfc(START + 18 * HOUR_MS),
    }  # fmt: skip
    chart = draw(_history([]), [outage], ROME)
    assert [(one.state, one.x, one.width) for one in chart.outages] == [
        ("undecided", 0, 25), ("down", 25, 25), ("undecided", 50, 25),
    ]  # fmt: skip


def test_an_outage_of_another_time_is_not_drawn() -> None:
    outage: PublicOutageJson = {  # type: ignore[typeddict-item]
        "id": "0" * 12, "last_good": None, "first_bad": _rfc(START - 2 * DAY_MS),
        "last_bad": _rfc(START - DAY_MS), "first_good": None,
    }  # fmt: skip
    assert draw(_history([]), [outage], ROME).outages == []


def _rfc(at: Millis) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).isoformat()


@pytest.mark.parametrize("period", Period)
@pytest.mark.parametrize("zone", ["Europe/Rome", "UTC", "America/New_York", "Asia/Kathmandu"])
def test_ticks_are_round_local_times_also_where_the_clocks_change(period: Period, zone: str) -> None:
    # Within each period the clocks of Rome and of New York are set back.
    end = round(datetime(2026, 11, 2, 3, tzinfo=UTC).timestamp() * 1000)
    history = _history([], period, period.start(end))
    chart = draw(history, [], ZoneInfo(zone))
    assert 4 <= len(chart.ticks) <= 9
    for tick in chart.ticks:
        local = datetime.fromtimestamp(tick.at / 1000, ZoneInfo(zone))
        assert (local.minute, local.second) == (0, 0)
        assert local.hour % 3 == 0
        assert period is Period.DAY or local.hour == 0
        assert tick.x == pytest.approx((tick.at - history.start) / period.length * 100, abs=0.01)
    assert [tick.at for tick in chart.ticks] == sorted(tick.at for tick in chart.ticks)
