"""What is confirmed: at least k are down at the same time; unknown and silent count on neither side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailwatch.analysis.confirmation import GRACE_MS, Channel, MemberRecord, Sight, TargetView, confirm
from mailwatch.cli.hub import clock_fault
from mailwatch.hub.quorum import QuorumBoard, audit_decisions, newest_time
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Outcome, TargetEvent
from mailwatch.store import NewEntry
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE, Pattern, change

MAIL = Channel("lab", "imap")
AT = START + 100 * MINUTE


def always(_at: int) -> str:
    return "+"


def down_between(first: int, last: int) -> Pattern:
    """Down from minute `first` to before minute `last`."""
    return lambda at: "-" if first <= (at - START) // MINUTE < last else "+"


def member(name: str, sight: Sight, *, first_bad: int = 0, last_good: int | None = None) -> MemberRecord:
    """A member that says so at AT."""
    pushed = AT - 3 * MINUTE if sight is Sight.SILENT else AT - 1
    outcome = {Sight.DOWN: Outcome.DOWN, Sight.UP: Outcome.UP}.get(sight)
    view = TargetView(
        MAIL, MINUTE, is_observed=True, outcome=outcome, seen_at=AT - MINUTE, is_open=sight is Sight.DOWN,
        is_certain=True, last_good=last_good, first_bad=first_bad, outage_entry=7,
    )  # fmt: skip
    return MemberRecord(name, 10, pushed, {"mail": view})


SAID = st.tuples(st.sampled_from(Sight), st.integers(50, 90), st.one_of(st.none(), st.integers(0, 49)))


@given(st.lists(SAID, max_size=7), st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_a_channel_is_confirmed_while_at_least_k_are_down(said: Sequence[Any], k: int) -> None:
    records = [
        member(f"{number}", sight, first_bad=bad, last_good=good) for number, (sight, bad, good) in enumerate(said)
    ]
    decided = confirm(MAIL, records, k, AT)
    assert [view.sight for view in decided.views] == [sight for sight, _, _ in said]
    down = [(bad, -1 if good is None else good) for sight, bad, good in said if sight is Sight.DOWN]
    assert decided.confirmed == (len(down) >= k)
    if decided.confirmed:
        # At that moment k of them were surely down, and a moment before fewer; before the other fewer possibly.
        assert sum(bad <= (decided.since or 0) for bad, _ in down) >= k
        assert sum(bad < (decided.since or 0) for bad, _ in down) < k
        earliest = -1 if decided.not_before is None else decided.not_before
        assert sum(good < earliest for _, good in down) < k
        assert len(decided.contradicting) == sum(sight is Sight.UP for sight, _, _ in said)


@pytest.mark.parametrize(
    ("pushed", "seen", "sight"),
    [
        (AT, AT - 2 * MINUTE - GRACE_MS, Sight.DOWN),
        (AT, AT - 2 * MINUTE - GRACE_MS - 1, Sight.UNKNOWN),
        (AT - 2 * MINUTE - GRACE_MS, AT - 2 * MINUTE - GRACE_MS, Sight.DOWN),
        (AT - 2 * MINUTE - GRACE_MS - 1, AT, Sight.SILENT),
    ],
)
def test_what_is_no_longer_recent_counts_on_neither_side(pushed: int, seen: int, sight: Sight) -> None:
    one = member("a", Sight.DOWN, first_bad=5)
    one.pushed_at, one.targets["mail"].seen_at = pushed, seen
    assert confirm(MAIL, [one], 1, AT).views[0].sight is sight


def test_a_paused_or_removed_target_says_nothing() -> None:
    for changed in (
        change(TargetEvent.END, AT, MINUTE),
        change(TargetEvent.CHANGE, AT, MINUTE),
    ):
        one = member("a", Sight.DOWN, first_bad=5)
        payload: dict[str, Any] = {**fact_payload(changed)}
        payload |= {"reason": "paused"} if changed.event is TargetEvent.CHANGE else {}
        one.feed(11, "watch", "mail", payload)
        assert confirm(MAIL, [one], 1, AT).views == ()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.sampled_from(["open", "closed", "begin", "down", "up", "unknown", 10**14 + 1, -(10**14) - 1, AT, AT - 1]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["bound", "first", "boot"]), inner)
    ),
    max_leaves=4,
)
OUTAGE = {
    "state": "open",
    "last_good": AT - 3 * MINUTE,
    "first_bad": AT - 2 * MINUTE,
    "last_bad": AT,
    "first_good": None,
}
SEEN = {"outcome": "down", "start": AT - MINUTE, "end": AT, "clock": {"boot": "0" * 16, "end": 9, "bound": 3}}
KEYS = sorted(OUTAGE | SEEN | {"event": 1, "settings": 1, "at": 1, "ledger": 1, "target": 1})
MALICIOUS = st.tuples(
    st.sampled_from(["outage", "observation", "gap", "watch"]), st.dictionaries(st.sampled_from(KEYS), VALUES)
)


@given(st.lists(MALICIOUS, max_size=6), st.booleans())
@settings(max_examples=400, deadline=None)
def test_no_payload_of_a_member_stops_the_decisions_about_others(given: Any, whole: bool) -> None:
    """A member signs what it likes: the hub decides on, and can write down what it decides."""
    began: dict[str, Any] = {**fact_payload(change(TargetEvent.BEGIN, AT - 9 * MINUTE, MINUTE))}
    liar, honest = (MemberRecord(name, 9, AT, newest=AT) for name in "ab")
    for one in (liar, honest):
        for kind, payload in (("watch", began), ("observation", SEEN), ("outage", OUTAGE)):
            one.feed(1, kind, "mail", payload)
    assert confirm(MAIL, [liar, honest], 2, AT).confirmed
    for kind, payload in given:
        known = {"outage": OUTAGE, "observation": SEEN, "gap": SEEN, "watch": began}[kind]
        liar.feed(2, kind, "mail", (known | payload) if whole else payload)
    assert confirm(MAIL, [honest], 1, AT).confirmed
    decided = confirm(MAIL, [liar, honest], 2, AT)
    assert len(decided.views) in (1, 2)
    if decided.confirmed:
        # As an entry has them: whole numbers that any reader of JSON can hold.
        assert all(abs(view.first_bad) < 2**53 and abs(view.last_good or 0) < 2**53 for view in decided.views)


def test_of_an_entry_that_cannot_be_read_nothing_is_known() -> None:
    for kind, payload, sight in (
        ("outage", {}, Sight.UNKNOWN),
        ("outage", OUTAGE | {"first_bad": -(10**300)}, Sight.UNKNOWN),
        ("observation", {"outcome": "x"}, Sight.UNKNOWN),
        ("gap", {}, Sight.UNKNOWN),
    ):
        one = member("a", Sight.DOWN, first_bad=5)
        one.feed(11, kind, "mail", payload)
        assert confirm(MAIL, [one], 1, AT).views[0].sight is sight
    one = member("a", Sight.DOWN, first_bad=5)
    one.feed(11, "watch", "mail", {"event": 1})
    assert confirm(MAIL, [one], 1, AT).views == ()


def test_a_first_good_check_after_unknown_ones_confirms_nothing() -> None:
    """Its outage is still open, and what was in between is not known: with one liar it would be confirmed."""
    one = member("a", Sight.DOWN, first_bad=5)
    for outcome, sight in (
        ("up", Sight.DOWN),
        ("unknown", Sight.UNKNOWN),
        ("up", Sight.UNKNOWN),
        ("down", Sight.DOWN),
        ("up", Sight.DOWN),
    ):
        one.feed(11, "observation", "mail", SEEN | {"outcome": outcome})
        assert confirm(MAIL, [one], 1, AT).views[0].sight is sight


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LivingHub]:
    made = LivingHub(tmp_path / "hub", 2)
    yield made
    made.close()


def live(
    hub: LivingHub,
    members: dict[str, WrittenMember],
    minutes: int,
    cut: dict[str, int] | None = None,
    clocks: dict[str, int] | None = None,
) -> dict[int, Any]:
    """Push each minute what there is, `cut` none from that minute on; return the changes by the minute.

    `clocks`: by how many milliseconds those of members are ahead.
    """
    changes = {}
    for minute in range(minutes):
        hub.at = START + minute * MINUTE + 30_000
        for name, one in members.items():
            if minute < (cut or {}).get(name, minutes):
                hub.take(one, one.size_at(hub.at + (clocks or {}).get(name, 0)))
        if changed := hub.decide():
            changes[minute] = changed
    return changes


def joined(hub: LivingHub, folder: Path, minutes: int, **patterns: Pattern) -> dict[str, WrittenMember]:
    made = {name: WrittenMember(folder / name, pattern, minutes) for name, pattern in patterns.items()}
    for name, one in made.items():
        hub.join(one, name)
    return made


def test_two_of_three_confirm_and_the_third_contradicts(hub: LivingHub, tmp_path: Path) -> None:
    members = joined(hub, tmp_path, 40, a=down_between(10, 25), b=down_between(12, 30), c=always)
    changes = live(hub, members, 40)
    # Three failures open an outage, two good checks close it.
    assert changes == {14: [(True, 2)], 26: [(False, 1)]}
    opened, ended = [entry.payload for entry in hub.reader.entries(kinds=["quorum"])]
    assert (opened["provider"], opened["kind"], opened["k"]) == ("lab", "imap", 2)
    assert START + 12 * MINUTE <= opened["since"] < START + 13 * MINUTE
    # As far as the clocks of the members, right to a tenth of a second, can say it.
    assert START + 11 * MINUTE - 100 <= opened["not_before"] < START + 12 * MINUTE
    assert [one["sight"] for one in opened["members"]].count("up") == 1
    assert not ended["confirmed"]
    assert list(audit_decisions(hub.reader, hub.store.keys.origin, hub.data_dir)) == []
    for one in members.values():
        one.store.close()


def test_one_that_lies_confirms_nothing(hub: LivingHub, tmp_path: Path) -> None:
    members = joined(hub, tmp_path, 20, liar=down_between(0, 20), b=always, c=always)
    assert live(hub, members, 20) == {}
    for one in members.values():
        one.store.close()


def test_one_that_falls_silent_ends_the_confirmation_without_a_word_that_it_works(
    hub: LivingHub, tmp_path: Path
) -> None:
    members = joined(hub, tmp_path, 40, a=down_between(10, 40), b=down_between(10, 40), c=always)
    changes = live(hub, members, 40, cut={"b": 20})
    assert changes == {12: [(True, 2)], 22: [(False, 1)]}
    ended = [entry.payload for entry in hub.reader.entries(kinds=["quorum"])][-1]
    assert sorted(one["sight"] for one in ended["members"]) == ["down", "silent", "up"]
    for one in members.values():
        one.store.close()


@pytest.mark.parametrize("ahead", [5 * MINUTE, -115_000])
def test_a_member_with_a_wrong_clock_confirms_nothing_and_is_named(
    hub: LivingHub, tmp_path: Path, ahead: int
) -> None:
    """Two of four would be down: one by a clock that is 5 minutes ahead, or 2 minutes behind."""
    members = joined(hub, tmp_path, 22, a=down_between(3, 22), b=down_between(10, 22), c=down_between(14, 22))
    changes = live(hub, members, 16, clocks={"b": ahead})
    assert changes == {}
    decided = confirm(MAIL, hub.board.members.values(), 2, hub.at)
    said = {view.ledger: (view.sight, view.reason) for view in decided.views}
    assert said[members["b"].origin] == (Sight.UNKNOWN, "clock")
    # As `mailwatch hub list` shows it.
    faults = {
        one.name: clock_fault(newest_time(hub.data_dir, one.origin, one.size), one.pushed_at)
        for one in hub.register.members()
    }
    assert faults == {"a": "", "b": "ahead" if ahead > 0 else "late", "c": ""}
    # The third confirms it, and the record says why the other does not count.
    assert [(True, 2)] in [live_on(hub, members, minute, without="b") for minute in (16, 17)]
    (entry,) = hub.reader.entries(kinds=["quorum"])
    assert [one.get("reason") for one in entry.payload["members"]].count("clock") == 1
    assert list(audit_decisions(hub.reader, hub.store.keys.origin, hub.data_dir)) == []
    for one in members.values():
        one.store.close()


def test_a_member_that_does_not_know_its_clock_is_down_from_its_last_push_on() -> None:
    """Its outage is one; but how it dates that bounds nothing."""
    known, other = (MemberRecord(name, 9, AT, newest=AT) for name in "ab")
    for record, bound in ((known, {"bound": 200}), (other, {})):
        record.feed(0, "watch", "mail", {**fact_payload(change(TargetEvent.BEGIN, AT - 9 * MINUTE, MINUTE))})
        for number, outcome in enumerate(("up", "down", "down"), 1):
            at = AT - (4 - number) * MINUTE
            clock = {"boot": "0" * 16, "end": at} | bound
            record.feed(
                number, "observation", "mail", {"outcome": outcome, "start": at, "end": at, "clock": clock}
            )
        facts = {"state": "open", "first_good": None, "last_bad": AT - MINUTE}
        record.feed(4, "outage", "mail", facts | {"last_good": AT - 3 * MINUTE, "first_bad": AT - 2 * MINUTE})
    both = confirm(MAIL, [known, other], 2, AT)
    assert (both.since, both.not_before) == (AT, AT - 3 * MINUTE - 200)
    assert confirm(MAIL, [known], 1, AT).since == AT - 2 * MINUTE + 200
    alone = confirm(MAIL, [other], 1, AT)
    assert (alone.since, alone.not_before) == (AT, None)


def test_a_hub_that_starts_again_decides_as_if_it_had_gone_on(hub: LivingHub, tmp_path: Path) -> None:
    members = joined(hub, tmp_path, 40, a=down_between(10, 25), b=down_between(12, 30), c=always)
    live(hub, members, 20)
    again = QuorumBoard(hub.data_dir, hub.reader, hub.store.keys.origin, 2)
    again.restore(hub.counted())
    again.follow_own(hub.at)
    assert again.confirmed.keys() == hub.board.confirmed.keys() == {MAIL}
    assert again.members == hub.board.members
    hub.board = again
    assert [change for minute in range(20, 40) for change in live_on(hub, members, minute)] == [(False, 1)]
    for one in members.values():
        one.store.close()


def live_on(
    hub: LivingHub, members: dict[str, WrittenMember], minute: int, without: str = ""
) -> list[tuple[bool, int]]:
    hub.at = START + minute * MINUTE + 30_000
    for name, one in members.items():
        if name != without:
            hub.take(one, one.size_at(hub.at))
    return hub.decide()


@pytest.mark.parametrize("forged", [{"confirmed": False}, {"since": 1}, {"k": 1}, {"at": AT * 2}])
def test_the_audit_finds_a_decision_that_does_not_follow(
    hub: LivingHub, tmp_path: Path, forged: dict[str, Any]
) -> None:
    members = joined(hub, tmp_path, 10, a=down_between(3, 10), b=down_between(5, 10))
    live(hub, members, 10)
    (entry,) = hub.reader.entries(kinds=["quorum"])
    lie = NewEntry(kind="quorum", time=hub.at, target=None, payload=entry.payload | forged)
    hub.store.append_batch([lie])
    found = audit_decisions(hub.reader, hub.store.keys.origin, hub.data_dir)
    assert [one.index for one in found] == [hub.store.size - 1]
    for one in members.values():
        one.store.close()


def test_entries_that_are_not_at_hand_are_read_from_the_ledger(hub: LivingHub, tmp_path: Path) -> None:
    """As of a member that pushes a year at once, faster than it is decided about."""
    members = joined(hub, tmp_path, 30, a=down_between(10, 30), b=down_between(10, 30))
    live(hub, members, 5)
    hub.at = START + 20 * MINUTE
    for one in members.values():
        hub.take(one, one.size_at(hub.at))
    hub.arrived[:] = [replace(pushed, entries=()) for pushed in hub.arrived]
    assert hub.decide() == [(True, 2)]
    assert {one.size for name, one in hub.board.members.items() if name != hub.board.origin} == {
        one.size_at(hub.at) for one in members.values()
    }
    for one in members.values():
        one.store.close()
