"""The ledgers of years that benchmarks build as packs are ledgers like any other; a start reads little of them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from mailwatch.store import Reader, Store, audit
from mailwatch.store.keys import load_keys
from mailwatch.store.replay import audit_outages, restore_state, rule_book, state_to_keep
from mailwatch.store.sizes import SizeMeter
from mailwatch.times import DAY_MS
from tests.helpers.counting_reader import CountingReader
from tests.helpers.long_ledger import down_since, flapping, steady, write_long_ledger

END = 1_767_225_600_000
DAYS = 3.0
STEPS = round(DAYS * 1440)


@pytest.mark.sqlite
@pytest.mark.slow
def test_a_ledger_that_is_written_as_packs_is_valid_and_a_start_reads_little_of_it(tmp_path: Path) -> None:
    patterns = {"down": down_since(STEPS // 4), "flapping": flapping(STEPS - 300), "up": steady}
    size = write_long_ledger(tmp_path, patterns, END, DAYS, rows_days=1, level=8)
    keys = load_keys(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader, contextlib.closing(SizeMeter(tmp_path)) as meter:
        assert (reader.size(), audit(reader, keys.public, keys.secret)) == (size, [])
        assert len(reader.subtrees()) > 20
        assert 0.3 * size < meter.measure(END + DAY_MS).packed < 0.67 * size
        reader.__class__ = CountingReader
        assert isinstance(reader, CountingReader)
        book = rule_book(reader)
        assert [finding for name in patterns for finding in audit_outages(reader, book, name)] == []
        read = []
        for _ in range(2):
            before = reader.returned
            restored = {name: restore_state(reader, name, book) for name in patterns}
            read.append(reader.returned - before)
            assert {name: one.detector.state.is_open for name, one in restored.items()} == {
                "down": True, "flapping": False, "up": False,
            }  # fmt: skip
            kept = [state_to_keep(reader, name, book, one) for name, one in restored.items()]
            with contextlib.closing(Store.open(tmp_path)) as store:
                store.keep([state for state in kept if state is not None])
        # The first start replays the outage of two days, the next one what came after its kept state.
        assert read[0] > STEPS * 3 // 4
        assert read[1] < 100
