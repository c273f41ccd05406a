"""Restores the detector's state by replaying the ledger; the state is never stored separately."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.maintenance import Announcement, Announcements, MaintenanceRule
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import OutageRecord, follows_from_replay, outage_from_payload
from mailwatch.analysis.recurrence import InvalidRuleError
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.ledger.settings_payloads import rules_from, rules_payload, settings_payload
from mailwatch.model import Fact, Gap, Observation, Outcome, Rules, TargetChange, TargetEvent, TargetSettings
from mailwatch.store import Entry, Finding, Reader


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The detection rules in force at each entry: each start of MailWatch records its rules."""

    starts: tuple[int, ...]
    rules: tuple[Rules, ...]

    def at(self, index: int) -> Rules:
        """Return the rules in force at entry `index`."""
        return self.rules[max(0, bisect_right(self.starts, index) - 1)]


def rule_book(reader: Reader) -> RuleBook:
    """Read the rules of all starts; the default rules if the ledger records none."""
    starts, rules = [], []
    for entry in reader.entries(kinds=["node"]):
        written = entry.payload.get("rules")
        if written:
            starts.append(entry.index)
            rules.append(rules_from(written))
    return RuleBook(tuple(starts), tuple(rules) or (Rules(),))


def maintenance_payload(rules: tuple[MaintenanceRule, ...]) -> dict[str, Any]:
    """Return the payload in which a start or reload announces `rules`; {} without rules."""
    if not rules:
        return {}
    rule_payloads = [rule.payload() for rule in rules]
    return {"maintenance": {"rules": rule_payloads, "digest": digest(canonical(rule_payloads))}}


def read_announcements(reader: Reader) -> Announcements:
    """Read the maintenance announcements with their times.

    An announcement is never dated before the entry that precedes it, so that setting the clock back cannot
    backdate it.
    """
    found: list[Announcement] = []
    for entry in reader.entries(kinds=["node"]):
        rules = tuple(
            MaintenanceRule.from_payload(rule) for rule in entry.payload.get("maintenance", {}).get("rules", ())
        )
        if rules != (found[-1].rules if found else ()):
            before = next(reader.entries(from_index=max(0, entry.index - 1), limit=1))
            found.append(Announcement(max(entry.time, before.time), rules))
    return Announcements(tuple(found))


def audit_maintenance(reader: Reader) -> list[Finding]:
    """Check that the rules of each announcement are in canonical form and match the digest that it states."""
    findings = []
    for entry in reader.entries(kinds=["node"]):
        maintenance = entry.payload.get("maintenance")
        if maintenance is None:
            continue
        try:
            rules = tuple(MaintenanceRule.from_payload(rule) for rule in maintenance["rules"])
        except (InvalidRuleError, KeyError, TypeError) as error:
            findings.append(Finding(entry.index, f"a maintenance rule cannot be read: {error}"))
            continue
        if maintenance_payload(rules) != {"maintenance": maintenance}:
            findings.append(Finding(entry.index, "its maintenance rules do not match their digest"))
    return findings


@dataclass(frozen=True, slots=True)
class RestoredState:
    """The state of one target after its last entry.

    `recorded`: outages on record by id, from the latest entry of each. `unrecorded`: changes decided by committed
    observations whose outage entry was not committed (a crash came between); `unrecorded_settings`: the target's
    settings at each. `latest`: None if nothing was observed since monitoring began. `settings`: those in force.
    `trailing_gap`: the latest gap after the latest observation, if any.
    """

    detector: Detector
    latest: Observation | None
    recorded: dict[str, OutageRecord]
    unrecorded: tuple[Outage, ...]
    unrecorded_settings: tuple[TargetSettings | None, ...] = ()
    settings: TargetSettings | None = None
    trailing_gap: Gap | None = None


def restore_state(
    reader: Reader,
    target: str,
    book: RuleBook,
    progress: Callable[[int], None] = lambda _index: None,
    *,
    size: int | None = None,
) -> RestoredState:
    """Replay the target's entries from the last point without an open outage; `progress` gets the index.

    1. An open outage is replayed from the up observation before it, its `last_good`.
    2. Otherwise the last up observation holds the whole state. The replay starts at the one before it, since a
       login outage that the last one proved (login_outages.py) may not be on record.

    Only the first `size` entries of the ledger are read, if given.
    """
    recorded: dict[str, OutageRecord] = {}
    for entry in reader.entries(target=target, kinds=["outage"], to_index=size):
        record = outage_from_payload(entry.payload)
        recorded[record.id] = record
    still_open = next((record for record in reversed(recorded.values()) if record.state == "open"), None)
    before = still_open.first_index + 1 if still_open else size
    start = reader.last_index(target=target, outcome=Outcome.UP, before=before) or 0
    if not still_open:
        start = reader.last_index(target=target, outcome=Outcome.UP, before=start) or 0
    detector, missing, under = Detector(), list[Outage](), list[TargetSettings | None]()
    last: Observation | None = None
    blind: Gap | None = None
    for number, (entry, fact) in enumerate(_facts(reader, target, start, size)):
        if number % 1000 == 0:
            progress(entry.index)
        detector, changed = detector.feed(IndexedFact(entry.index, fact), book.at(entry.index))
        last = fact if isinstance(fact, Observation) else last
        blind = fact if isinstance(fact, Gap) else None if isinstance(fact, Observation) else blind
        if isinstance(fact, TargetChange) and fact.event in (TargetEvent.BEGIN, TargetEvent.END):
            last = blind = None
        for outage in changed:
            known = recorded.get(outage.id)
            if known is None or known.state not in ("closed", "unwatched", outage.state):
                missing.append(outage)
                under.append(_settings_at(reader, target, entry.index))
    settings = _settings_at(reader, target, None if size is None else size - 1)
    return RestoredState(detector, last, recorded, tuple(missing), tuple(under), settings, blind)


def _settings_at(reader: Reader, target: str, index: int | None = None) -> TargetSettings | None:
    """Return the target's settings at an entry, by default the latest; None if not on record."""
    entry = reader.latest(target, "watch", at_most=index)
    fact = None if entry is None else entry.fact
    return fact.settings if isinstance(fact, TargetChange) else None


def _facts(reader: Reader, target: str, start: int, size: int | None) -> Iterator[tuple[Entry, Fact]]:
    for entry in reader.entries(target=target, kinds=FACT_KINDS, from_index=start, to_index=size):
        fact = entry.fact
        if fact is not None:
            yield entry, fact


def audit_outages(reader: Reader, book: RuleBook, target: str, size: int | None = None) -> list[Finding]:
    """Replay a target from its first entry, and compare the outages with those recorded live.

    Only the first `size` entries are read, if given, since more may arrive meanwhile. A missing outage that the
    next start would record is a pending finding: MailWatch was killed, or a backup made, between an observation
    and its outage.
    """
    recorded = list(reader.entries(target=target, kinds=["outage"], to_index=size))
    expected: list[tuple[Outage, TargetSettings | None]] = []
    detector, settings = Detector(), None
    for entry in reader.entries(target=target, kinds=FACT_KINDS, to_index=size):
        try:
            fact = entry.fact
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            what = (
                f"it is no {entry.kind}, so that nothing of {target} is replayed: {type(error).__name__} {error}"
            )
            return [Finding(entry.index, what[:200])]
        assert fact is not None
        detector, changed = detector.feed(IndexedFact(entry.index, fact), book.at(entry.index))
        settings = fact.settings if isinstance(fact, TargetChange) else settings
        expected += [(outage, settings) for outage in changed]
    findings = [
        finding
        for entry, (outage, settings) in zip(recorded, expected, strict=False)
        for finding in _compare_recorded(entry, outage, settings, book.at(entry.index))
    ]
    for entry in recorded[len(expected) :]:
        findings.append(Finding(entry.index, "an outage is on record that the replay does not produce"))
    return findings + _audit_missing(
        reader, book, target, size, [outage for outage, _ in expected[len(recorded) :]]
    )


def _compare_recorded(
    entry: Entry, outage: Outage, settings: TargetSettings | None, rules: Rules
) -> Iterator[Finding]:
    """Compare an outage on record with the one that the replay produces at its place."""
    payload = entry.payload
    if not follows_from_replay(payload, outage):
        yield Finding(entry.index, f"outage {payload['id']} differs from the replay")
    in_force = rules_payload(rules)
    if payload.get("rules", in_force) != in_force:
        yield Finding(entry.index, f"outage {payload['id']} names rules that were not in force")
    if payload.get("watch") != (None if settings is None else settings_payload(settings)):
        yield Finding(entry.index, f"outage {payload['id']} was monitored with other settings than it says")


def _audit_missing(
    reader: Reader, book: RuleBook, target: str, size: int | None, missing: Sequence[Outage]
) -> list[Finding]:
    """Return a finding for each outage without an entry, pending if the next start would record it."""
    if not missing:
        return []
    recovered = {(o.id, o.state) for o in restore_state(reader, target, book, size=size).unrecorded}
    findings = []
    for outage in missing:
        what = f"outage {outage.id} of {target} is"
        if (outage.id, outage.state) in recovered:
            findings.append(Finding(None, f"{what} not yet recorded; the next start records it", pending=True))
        else:
            findings.append(Finding(None, f"{what} missing from the record"))
    return findings
