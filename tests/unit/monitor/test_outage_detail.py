"""The page of an outage reads a bounded part of the ledger, however long the outage lasts."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mailwatch.monitor.outage_detail import MAX_TOKENS, outage_detail
from mailwatch.store import NewEntry, Reader, Store, Tokens
from mailwatch.store.place import place_of
from tests.helpers.counting_reader import CountingReader
from tests.helpers.records import made_record


def test_of_a_long_outage_some_timestamps_are_read(tmp_path: Path) -> None:
    with contextlib.closing(Store.open(tmp_path)) as store:
        for number in range(4 * MAX_TOKENS):
            payload = {"authority": "a", "checkpoint": number, "reply": "0" * 64, "time": number}
            store.append_batch([NewEntry(kind="token", time=1, target=None, payload=payload)])
        store.checkpoint()
        last = store.size - 2
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        reader.__class__ = CountingReader
        assert isinstance(reader, CountingReader)
        record = made_record(1, 2, 3, first_index=1, last_index=last)
        found = outage_detail(reader, Tokens(place_of(tmp_path)), record)
        assert found.range is not None
        assert (found.range.start, found.range.end) == (0, last + 2)
        # Those before and after it, and the clock.
        assert MAX_TOKENS <= reader.returned < MAX_TOKENS + 10
