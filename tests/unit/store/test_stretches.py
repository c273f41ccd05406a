"""Stretches out of packs: a replay by them ends where one entry by entry does, whatever the ledger holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from mailwatch import monotonic
from mailwatch.analysis.replay import MONITOR_KINDS, PeriodReplay
from mailwatch.evidence.ledger_range import LedgerRange
from mailwatch.evidence.period_case import _replay_range
from mailwatch.evidence.warnings import CaveatFacts
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import ClockSpan, Fact, Gap, GapReason, Observation, Rules
from mailwatch.store import CheckpointRow, NewEntry, Reader, Store
from mailwatch.store.packing import Packer
from mailwatch.store.stretches import Stretch
from mailwatch.times import Millis
from tests.helpers.ledger_factory import MINUTE, observation_of
from tests.helpers.sqlite_access import wait_for_no_disk

START = 1_790_000_000_000
BOOTS = ("a0" * 8, "b1" * 8)
TARGETS = ("mail", "other", "third")
EVER = START + 10**12
LEVEL = 5

Step = tuple[str, int, int]
"""What happens, by which target, and how it differs."""


def steps() -> st.SearchStrategy[list[Step]]:
    """Mostly good observations at even intervals, and now and then something else."""
    usual = st.tuples(st.just("+"), st.integers(0, 1), st.integers(0, 3))
    other = st.tuples(
        st.sampled_from(
            ["-", "?", "gap", "late", "boot", "set", "within", "interval", "unset", "secret", "peer", "peers",
             "rules", "step", "no clock", "bare"]
        ),
        st.integers(0, 2),
        st.integers(0, 9),
    )  # fmt: skip
    return st.lists(st.one_of(usual, usual, usual, usual, other), min_size=60, max_size=140)


class Writer:
    """Makes the entries of the steps."""

    def __init__(self) -> None:
        self.wall = self.clock = START
        self.boot, self.interval, self.secret = BOOTS[0], MINUTE, ""
        self.peers = ["192.0.2.1:993"]
        self.drafts: list[NewEntry] = []

    def take(self, what: str, number: int, much: int) -> None:
        """Process a step."""
        target = TARGETS[number]
        match what:
            case "+" | "-" | "?":
                self.observe(target, what, much)
            case "gap":
                span = ClockSpan(self.boot, self.clock, self.clock + much, 5)
                fact = Gap(
                    target=target, start=self.wall, end=self.wall + much, reason=GapReason.SUSPENDED, clock=span
                )
                self.drafts.append(NewEntry(kind="gap", time=self.wall + much, target=target, payload=fact))
            case "late":
                self.pass_time(much * MINUTE)
            case "boot":
                self.boot = BOOTS[1 - BOOTS.index(self.boot)]
            case "set":
                self.wall += (much - 4) * 300
            case "within":
                self.observe(target, "+", much, moved=(much - 4) * 300)
            case "interval":
                self.interval = (much + 1) * MINUTE // 2
            case "unset":
                self.interval = 0
            case "secret":
                self.secret = ("", "5e" * 8, "6f" * 8)[much % 3]
            case "peer":
                self.peers = [f"192.0.2.{much}:993"]
            case "peers":
                self.peers = [f"192.0.2.{much}:993", f"198.51.100.{much}:993"]
            case "rules":
                payload = {"event": "reload", "rules": rules_payload(Rules(2 + much % 2, 2)), "version": "1"}
                self.drafts.append(NewEntry(kind="node", time=self.wall, target=None, payload=payload))
            case "step":
                moved = {"event": "step", "milliseconds": much * 1000}
                self.drafts.append(NewEntry(kind="clock", time=self.wall, target=None, payload=moved))
            case "no clock":
                self.observe(target, "+", much, with_clock=False)
            case "bare":
                self.observe(target, "+", much, bare=True)

    def observe(
        self, target: str, mark: str, much: int, *, moved: Millis = 0, with_clock: bool = True, bare: bool = False
    ) -> None:
        made = observation_of(target, mark, self.wall)
        took = 150 + 10 * much
        begun = ClockSpan(self.boot, self.clock, self.clock + took, 5)
        end = self.wall + took + moved
        attempts = tuple(replace(made.attempts[0], peer=peer, ended_at=end) for peer in self.peers)
        fact: Observation = replace(
            made, ended_at=end, clock=begun if with_clock else None, interval=self.interval or None,
            attempts=() if bare else attempts, with_login=bool(self.secret), secret=self.secret,
        )  # fmt: skip
        self.drafts.append(NewEntry(kind="observation", time=end, target=target, payload=fact))
        self.wall += moved
        self.pass_time(MINUTE // 2)

    def pass_time(self, length: Millis) -> None:
        self.wall += length
        self.clock += length


def written(folder: Path, made: list[Step]) -> tuple[int, int]:
    """Write and pack a ledger; return its size, and how many of its entries are packed."""
    writer = Writer()
    for step in made:
        writer.take(*step)
    with closing(Store.open(folder)) as store, closing(Reader.open(folder)) as reader:
        wait_for_no_disk(store)
        store.append_batch(writer.drafts)
        store.checkpoint()
        packer, packed = Packer(reader), 0
        while wanted := packer.next_range(EVER, LEVEL):
            store.save_pack(packer.prepare(wanted))
            packed += 1 << LEVEL
            if packed % 3:
                # The rows of the others are there twice.
                while store.sweep_packs():
                    pass
        return reader.size(), packed


def replayed(reader: Reader, size: int, names: list[str], *, by_stretches: bool) -> list[Any]:
    """All that a replay of the whole ledger finds."""
    reported: list[tuple[str, Fact, Any]] = []
    window = START + 3 * MINUTE, START + 40 * MINUTE
    replay = PeriodReplay(window, dict.fromkeys(names, 60.0), Rules(), lambda *one: reported.append(one))
    if by_stretches:
        span = LedgerRange(CheckpointRow(0, 0, ""), CheckpointRow(size, 0, ""), (), ())
        doubts = _replay_range(reader, span, replay)
    else:
        doubts = CaveatFacts(0, size - 1)
        for index, kind, time, target, _, text in reader.raw_entries(0, size):
            payload = orjson.loads(text)
            if target in replay.accounts or kind in MONITOR_KINDS:
                replay.feed(index, kind, time, target, payload)
                doubts.feed(index, kind, time, target or "", payload)
            elif target is not None:
                doubts.feed_hidden(target)
        replay.flush()
        (last,) = reader.entries(from_index=size - 1, to_index=size)
        replay.ended = last.time
    return [
        # The order of different targets between two other entries is free.
        sorted(reported, key=lambda one: names.index(one[0])),
        asdict(doubts),
        replay.rules,
        replay.later_rules,
        replay.steps,
        replay.bounds(),
        *(
            (
                name, account.replay.observation_count, account.replay.all_outages, account.replay.state,
                account.first_seen_at, account.first_index, account.last_index, account.intervals,
                account.due_times, replay.availability_of(name), replay.availability_of(name, formerly=True),
                account.meter.far_pairs_share,
            )
            for name, account in replay.accounts.items()
        ),
    ]  # fmt: skip


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate, Phase.shrink])
@given(steps())
@example([("+", 0, 0)] * 140)
@example([("+", number % 2, 0) for number in range(140)])
@example([*[("+", 0, 0)] * 70, ("within", 0, 9), *[("+", 0, 0)] * 70])
@example([*[("+", 0, 0)] * 70, ("set", 0, 6), *[("+", 0, 0)] * 70])
@example([*[("+", 0, 0)] * 70, ("late", 0, 9), *[("+", 0, 0)] * 70])
@example([*[("+", 0, 0)] * 64, ("boot", 0, 0), *[("+", 0, 0)] * 64])
@example(
    [("interval", 0, 9), *[("+", 0, 0)] * 64, ("interval", 0, 0), *[("+", 0, 0)] * 3, ("late", 0, 1),
     *[("+", 0, 0)] * 70]
)  # fmt: skip
@example([*[("+", 0, 0)] * 70, ("unset", 0, 9), *[("+", 0, 0)] * 70])
def test_a_replay_by_stretches_ends_where_one_by_entries_does(
    tmp_path_factory: pytest.TempPathFactory, made: list[Step]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    with patch.object(monotonic, "begin_term", lambda *_: None):
        size, _ = written(folder, made)
    with closing(Reader.open(folder)) as reader:
        for names in (list(TARGETS), ["mail"]):
            entries = replayed(reader, size, names, by_stretches=False)
            stretches = replayed(reader, size, names, by_stretches=True)
            assert stretches == entries


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[Reader]:
    """A ledger of one target that was up, in packs but for its end."""
    size, packed = written(tmp_path, [("+", 0, number % 4) for number in range(140)])
    assert (size, packed) == (140, 128)
    with closing(Reader.open(tmp_path)) as reader:
        yield reader


def test_stretches_hold_each_packed_entry_once_with_its_payload(packed: Reader) -> None:
    rows = list(packed.raw_entries(0, 140))
    found: list[tuple[int, Any]] = []
    stretches = 0
    for part in packed.raw_parts(0, 140):
        if isinstance(part, Stretch):
            stretches += 1
            found += [(index, part.payload(at)) for at, index in enumerate(part.indices)]
            assert part.peers == {"192.0.2.1:993"}
        else:
            found.append((part[0], orjson.loads(part[5])))
    assert found == [(row[0], orjson.loads(row[5])) for row in rows]
    assert stretches >= 1


def test_a_number_that_could_be_taken_for_a_column_makes_no_stretch(tmp_path: Path) -> None:
    writer = Writer()
    for _ in range(64):
        writer.observe("mail", "+", 0)
        fact = writer.drafts[-1].payload
        assert isinstance(fact, Observation)
        writer.drafts[-1] = replace(writer.drafts[-1], payload=replace(fact, interval=900_000_000_000_001))
    with closing(Store.open(tmp_path)) as store, closing(Reader.open(tmp_path)) as reader:
        store.append_batch(writer.drafts)
        store.checkpoint()
        wanted = Packer(reader).next_range(EVER, LEVEL)
        assert wanted is not None
        store.save_pack(Packer(reader).prepare(wanted))
        while store.sweep_packs():
            pass
        parts = list(reader.raw_parts(0, 64))
        assert not any(isinstance(part, Stretch) for part in parts)
        assert [part[0] for part in parts if not isinstance(part, Stretch)] == list(range(64))
