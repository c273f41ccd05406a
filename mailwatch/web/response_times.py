"""Response times of a target over a period, read from the ledger a bucket at a time, and kept.

A bucket is read again only when new entries belong to it. So the first answer reads the period (90 days at an
interval of a minute: 130,000 observations), and later ones only the newest bucket. An answer takes no longer than
READ_SECONDS and one bucket: what is not read by then is left out of it, and read for the next.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from mailwatch.analysis.response_times import Bucket, Period, ResponseHistory, bucket_of
from mailwatch.ledger.payloads import ObservationPayload
from mailwatch.store import Reader
from mailwatch.times import Millis

READ_SECONDS = 0.8
MAX_KEPT = 48
"""Periods of targets that are kept, the last asked for: about 100 KB each."""


@dataclass(slots=True)
class _Kept:
    """The buckets that are read, by their start, with all entries before index `until`."""

    until: int
    buckets: dict[Millis, Bucket] = field(default_factory=dict)


class ResponseTimes:
    """Answers from any thread, one at a time: two readings at once would take twice as long from the probes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._kept: OrderedDict[tuple[str, Period], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def history(
        self, target: str, period: Period, at: Millis, *, seconds: float = READ_SECONDS
    ) -> ResponseHistory:
        """Return the response times of the period up to `at`, the newest first of what `seconds` allow to read;
        always at least one bucket more than before. Raises StoreError.
        """
        with self._lock:
            start = period.start(at)
            kept = self._current(target, period, start)
            began = time.monotonic()
            starts = range(start, start + period.length, period.bucket)
            for begin in reversed(starts):
                if begin not in kept.buckets:
                    kept.buckets[begin] = self._read(target, begin, period.bucket)
                    if time.monotonic() - began >= seconds:
                        break
            return ResponseHistory(
                period=period, start=start, buckets=tuple(kept.buckets.get(begin) for begin in starts)
            )

    def _current(self, target: str, period: Period, start: Millis) -> _Kept:
        """Return what is kept without buckets that are too old, or to which new entries belong."""
        size = self._reader.size()
        kept = self._kept.setdefault((target, period), _Kept(size))
        self._kept.move_to_end((target, period))
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        # By the wall clock of an entry: after the clock was set back, an old bucket grows.
        for at in self._reader.observation_times(target, kept.until):
            kept.buckets.pop(at // period.bucket * period.bucket, None)
        for begin in [begin for begin in kept.buckets if begin < start]:
            del kept.buckets[begin]
        kept.until = size
        return kept

    def _read(self, target: str, begin: Millis, length: Millis) -> Bucket:
        found = self._reader.observation_payloads(target, begin, begin + length)
        return bucket_of(cast(Iterator[ObservationPayload], found))
