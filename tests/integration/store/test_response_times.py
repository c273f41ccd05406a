"""Response times from a real ledger: each bucket is read once, and again only when entries belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailwatch.analysis.response_times import Period, bucket_of
from mailwatch.model import Observation, Phase
from mailwatch.store import NewEntry, Reader, Store, StoreError, observation_payloads
from mailwatch.times import DAY_MS, HOUR_MS, Millis
from mailwatch.web.response_times import ResponseTimes
from tests.helpers.ledger_factory import MINUTE, Pattern, observation_of, write
from tests.helpers.sqlite_access import sqlite_connection

END = 20_000 * DAY_MS + 7 * HOUR_MS
MARKS = {"mail": lambda at: " " if 5 <= at // HOUR_MS % 24 < 7 else "-" if at // HOUR_MS % 24 == 12 else "+"}


def _observe(name: str, mark: str, at: Millis) -> Observation:
    made = observation_of(name, mark, at)
    phases = {Phase.CONNECT: at // MINUTE % 17 * 1000 + 1, Phase.AUTH: at // MINUTE % 5 * 9000}
    return replace(made, attempts=(replace(made.attempts[0], phases=phases),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    patterns: dict[str, Pattern] = {**MARKS, "other": lambda _: "+"}
    made = write(tmp_path, patterns, END - 30 * HOUR_MS, END, observe=_observe, durable=False, every=240)
    yield made
    made.close()


class _Counting(Reader):
    """A reader that notes which bucket is read."""

    read: list[Millis]

    def observation_payloads(self, target: str, start_ms: Millis, end_ms: Millis) -> Iterator[dict[str, object]]:
        self.read.append(start_ms)
        return super().observation_payloads(target, start_ms, end_ms)


@pytest.fixture
def reader(store: Store, tmp_path: Path) -> Iterator[_Counting]:
    made = _Counting.open(tmp_path)
    assert isinstance(made, _Counting)
    made.read = []
    yield made
    made.close()


@pytest.mark.parametrize("period", Period)
@pytest.mark.parametrize("step", [1000, 7, 1])
def test_each_bucket_has_the_observations_of_its_time(
    reader: _Counting, period: Period, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation_payloads, "PAYLOADS_PER_STEP", step)
    history = ResponseTimes(reader).history("mail", period, END, seconds=3600)
    assert history.is_complete
    facts = [(entry.time, entry.payload) for entry in reader.entries(target="mail", kinds=["observation"])]
    for number, bucket in enumerate(history.buckets):
        begin = history.start + number * period.bucket
        assert bucket == bucket_of(payload for at, payload in facts if begin <= at < begin + period.bucket)  # type: ignore[misc]


def test_only_the_buckets_of_new_entries_are_read_again(reader: _Counting, store: Store) -> None:
    times = ResponseTimes(reader)
    before = times.history("mail", Period.DAY, END, seconds=3600)
    assert len(reader.read) == len(before.buckets)
    reader.read.clear()
    assert times.history("mail", Period.DAY, END, seconds=3600) == before
    assert reader.read == []
    # The second one as after the clock was set back by two hours.
    late = [_observe("mail", "-", at) for at in (END + 1000, END - 2 * HOUR_MS)]
    store.append_batch(
        [NewEntry(kind="observation", time=one.ended_at, target="mail", payload=one) for one in late]
    )
    after = times.history("mail", Period.DAY, END, seconds=3600)
    bucket = Period.DAY.bucket
    assert reader.read == [one.ended_at // bucket * bucket for one in late]
    assert sum(b.down for b in after.buckets if b) == sum(b.down for b in before.buckets if b) + 2
    reader.read.clear()
    moved = times.history("mail", Period.DAY, END + bucket, seconds=3600)
    assert moved.start == after.start + bucket
    assert reader.read == [END + bucket]


def test_what_is_not_read_in_time_is_left_out_and_read_for_the_next_answer(reader: _Counting) -> None:
    times, count = ResponseTimes(reader), Period.DAY.length // Period.DAY.bucket
    for number in range(1, count + 1):
        history = times.history("mail", Period.DAY, END, seconds=0)
        read = [bucket is not None for bucket in history.buckets]
        assert read == [place >= count - number for place in range(count)]
        assert history.is_complete == (number == count)


def test_a_target_without_a_record_has_no_response_time(reader: _Counting) -> None:
    history = ResponseTimes(reader).history("nobody", Period.WEEK, END, seconds=3600)
    assert history.is_complete
    assert all(bucket is not None and bucket.observed == 0 for bucket in history.buckets)


def test_an_observation_that_is_not_what_was_written_is_never_drawn(
    reader: _Counting, store: Store, tmp_path: Path
) -> None:
    connection = sqlite_connection(store)
    connection.cursor().execute("DROP TRIGGER entries_no_update")
    connection.cursor().execute(
        "UPDATE entries SET payload = replace(payload, '\"connect\":', '\"connect\":9') WHERE idx = "
        "(SELECT max(idx) FROM entries WHERE target = 'mail' AND kind = 'observation')"
    )
    connection.commit()
    with pytest.raises(StoreError, match="entry"):
        ResponseTimes(reader).history("mail", Period.DAY, END, seconds=3600)
    assert reader.is_damaged
