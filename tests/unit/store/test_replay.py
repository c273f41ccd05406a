"""A restart at any moment goes on as if there had been none, and the audit replays what was reported live."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from mailwatch.analysis.detector import IndexedFact
from mailwatch.analysis.maintenance import Announcement, Announcements, MaintenanceRule, RecurrenceRule
from mailwatch.model import Cause, Kind, Observation, Outcome, Rules
from mailwatch.store import NewEntry, Store
from mailwatch.store.announcements import maintenance_payload, read_announcements
from mailwatch.store.replay import (
    audit_maintenance,
    audit_outages,
    restore_state,
    rule_book,
)
from tests.helpers.live_ledger import MARKS, Live, fact, ledger
from tests.helpers.records import payload_of


@settings(max_examples=40)
@given(MARKS, MARKS)
@pytest.mark.slow
def test_a_restart_between_any_two_observations_changes_nothing(before: str, after: str) -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules())
        for at, mark in enumerate(before):
            live.take(fact(mark, at))
        resumed = restore_state(reader, "t", rule_book(reader))
        assert resumed.unrecorded == ()
        assert resumed.detector.state.outage == live.detector.state.outage
        # The new process goes on from what it read; so does one that never stopped.
        fresh, same = resumed.detector, live.detector
        for at, mark in enumerate(after, start=len(before)):
            event = IndexedFact(10_000 + at, fact(mark, at))
            fresh, changed = fresh.feed(event, live.rules)
            same, expected = same.feed(event, live.rules)
            assert (changed, fresh.state.name) == (expected, same.state.name)


def test_a_crash_between_an_observation_and_its_outage_is_repaired() -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules())
        for at, mark in enumerate("+--"):
            live.take(fact(mark, at))
        live.take(fact("-", 3), crash=True)
        (missing,) = restore_state(reader, "t", rule_book(reader)).unrecorded
        assert missing == live.detector.state.outage
        assert [finding.what for finding in audit_outages(reader, rule_book(reader), "t")] == [
            f"outage {missing.id} of t is not yet recorded; the next start records it"
        ]
        payload = payload_of(missing, "lab", Kind.IMAP, "here")
        store.append_batch([NewEntry(kind="outage", time=1, target="t", payload=payload)])
        assert restore_state(reader, "t", rule_book(reader)).unrecorded == ()
        assert audit_outages(reader, rule_book(reader), "t") == []


def test_a_crash_before_a_login_outage_is_recorded_is_repaired() -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules())
        for at, cause in enumerate((None, Cause.CREDENTIALS, None)):
            probed = fact("+", at)
            assert isinstance(probed, Observation)
            probed = replace(probed, outcome=cause.outcome if cause else Outcome.UP, cause=cause)
            live.take(replace(probed, with_login=True, secret="same"), crash=at == 2)
        (missing,) = restore_state(reader, "t", rule_book(reader)).unrecorded
        assert missing.proven_afterwards
        payload = payload_of(missing, "lab", Kind.IMAP, "here")
        store.append_batch([NewEntry(kind="outage", time=1, target="t", payload=payload)])
        assert restore_state(reader, "t", rule_book(reader)).unrecorded == ()
        assert audit_outages(reader, rule_book(reader), "t") == []


def test_an_outage_reported_as_closed_is_not_reported_again_as_open() -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules(close_after=1))
        for at, mark in enumerate("+---+"):
            live.take(fact(mark, at))
        assert restore_state(reader, "t", rule_book(reader)).unrecorded == ()


@pytest.mark.slow
@settings(max_examples=20)
@given(MARKS)
def test_the_audit_agrees_with_the_live_decisions(marks: str) -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules(open_after=2))
        for at, mark in enumerate(marks):
            live.take(fact(mark, at))
        assert audit_outages(reader, rule_book(reader), "t") == []


def test_an_outage_opened_under_old_rules_stays_open_under_new_ones() -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules(open_after=1))
        for at, mark in enumerate("+-"):
            live.take(fact(mark, at))
        assert live.detector.state.outage is not None
        live.rules = Rules(open_after=5)
        live.start()
        resumed = restore_state(reader, "t", rule_book(reader))
        assert resumed.detector.state.outage == live.detector.state.outage
        assert resumed.unrecorded == ()


def test_an_outage_without_observations_is_found_by_the_audit() -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules())
        for at, mark in enumerate("+---"):
            live.take(fact(mark, at))
        assert live.detector.state.outage is not None
        invented = payload_of(live.detector.state.outage, "lab", Kind.IMAP, "here")
        store.append_batch([NewEntry(kind="outage", time=1, target="t", payload=invented)])
        (finding,) = audit_outages(reader, rule_book(reader), "t")
        assert finding.what == "an outage is on record that the replay does not produce"


NIGHTLY = MaintenanceRule(
    name="nightly",
    recurrence=RecurrenceRule.canonical(timezone="UTC", cron="0 3 * * *", duration=3_600_000),
    targets=frozenset({"aa"}),
)
HOURLY = MaintenanceRule(
    name="often", recurrence=RecurrenceRule.canonical(timezone="UTC", cron="0 * * * *", duration=60_000)
)


def announce(store: Store, at: int, *rules: MaintenanceRule) -> None:
    payload = {"event": "reload", **maintenance_payload(rules)}
    store.append_batch([NewEntry(kind="node", time=at, target=None, payload=payload)])


def test_announcements_are_read_from_the_ledger_with_their_time() -> None:
    with ledger() as (store, reader):
        announce(store, 1000)
        announce(store, 2000, NIGHTLY)
        announce(store, 3000, NIGHTLY)
        announce(store, 4000, NIGHTLY, HOURLY)
        announce(store, 5000)
        expected = (Announcement(2000, (NIGHTLY,)), Announcement(4000, (NIGHTLY, HOURLY)), Announcement(5000, ()))
        assert read_announcements(reader) == Announcements(expected)
        assert audit_maintenance(reader) == []


def test_a_clock_that_was_set_back_announces_nothing_for_the_past() -> None:
    with ledger() as (store, reader):
        store.append_batch([NewEntry(kind="observation", time=9000, target="t", payload=fact("-", 0))])
        announce(store, 2000, NIGHTLY)
        assert read_announcements(reader) == Announcements((Announcement(9000, (NIGHTLY,)),))


def test_an_announcement_that_is_not_canonical_or_not_what_its_digest_states_is_found() -> None:
    reported = maintenance_payload((NIGHTLY,))["maintenance"]
    longer = {**reported["rules"][0], "duration_ms": 7_200_000}
    other_form = {**reported["rules"][0], "cron": "0 3 * * * "}
    with ledger() as (store, reader):
        wrong = (
            {**reported, "rules": [longer]},
            {**reported, "rules": [other_form]},
            {**reported, "rules": [{"name": "x"}]},
        )
        for written in (reported, *wrong):
            payload = {"event": "reload", "maintenance": written}
            store.append_batch([NewEntry(kind="node", time=1, target=None, payload=payload)])
        assert [(finding.index, finding.what[:40]) for finding in audit_maintenance(reader)] == [
            (1, "its maintenance rules do not match their"),
            (2, "its maintenance rules do not match their"),
            (3, "a maintenance rule cannot be read: Recur"),
        ]


def test_an_altered_outage_is_found_by_the_audit() -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules())
        for at, mark in enumerate("+--"):
            live.take(fact(mark, at))
        live.take(fact("-", 3), crash=True)
        assert live.detector.state.outage is not None
        payload = payload_of(live.detector.state.outage, "lab", Kind.IMAP, "here")
        payload["first_bad"] -= 3_600_000
        store.append_batch([NewEntry(kind="outage", time=1, target="t", payload=payload)])
        (finding,) = audit_outages(reader, rule_book(reader), "t")
        assert finding.what == f"outage {payload['id']} differs from the replay"
