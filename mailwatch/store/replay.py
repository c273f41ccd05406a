"""Restores the detector's state by replaying the ledger, from a kept state on where the replay would be long."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailwatch.analysis.detector import Detector
from mailwatch.analysis.maintenance import MaintenanceRule
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import OutageRecord, follows_from_replay, outage_from_payload
from mailwatch.analysis.recurrence import InvalidRuleError
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.ledger.settings_payloads import rules_from, rules_payload, settings_payload
from mailwatch.model import Fact, Gap, Observation, Outcome, Rules, TargetChange, TargetSettings
from mailwatch.store import Entry, Finding, Reader
from mailwatch.store.announcements import maintenance_payload
from mailwatch.store.detector_states import KEEP_AFTER, TargetHistory, keep_detector, read_detector
from mailwatch.store.kept_states import KeptState
from mailwatch.store.outage_index import audit_heads
from mailwatch.store.outage_lists import OutageHead
from mailwatch.store.recent import RecentReader

RECENT_OUTAGES = 50
"""The number of outages of a target that a start reads: a page shows fewer."""

KEEP_WITHIN = 20_000
"""Facts of a replay after which the state is kept: about a second."""


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

    `history`: its detector, and its latest observation and gap. `recorded`: the RECENT_OUTAGES latest outages on
    record and those that are open, by id, from the latest entry of each. `unrecorded`: changes decided by
    committed observations whose outage entry was not committed (a crash came between); `unrecorded_settings`: the
    target's settings at each. `settings`: those in force.
    """

    history: TargetHistory
    recorded: dict[str, OutageRecord]
    unrecorded: tuple[Outage, ...]
    unrecorded_settings: tuple[TargetSettings | None, ...] = ()
    settings: TargetSettings | None = None

    @property
    def detector(self) -> Detector:
        """The target's detector."""
        return self.history.detector

    @property
    def latest(self) -> Observation | None:
        """The latest observation; None if nothing was observed since monitoring began."""
        return self.history.latest_fact

    @property
    def trailing_gap(self) -> Gap | None:
        """The latest gap after the latest observation, if any."""
        return self.history.gap_fact


def restore_state(
    reader: Reader,
    target: str,
    book: RuleBook,
    progress: Callable[[int], None] = lambda _index: None,
    *,
    size: int | None = None,
    use_kept: bool = True,
    keep: Callable[[KeptState], None] = lambda _state: None,
) -> RestoredState:
    """Replay the target's entries from the last point without an open outage; `progress` gets the index.

    1. An open outage is replayed from the up observation before it, its `last_good`.
    2. Otherwise the last up observation holds the whole state. The replay starts at the one before it, since a
       login outage that the last one proved (login_outages.py) may not be on record.
    3. A kept state (detector_states.py) that is later than that point takes its place, if `use_kept`. Evidence is
       made without it.

    Only the first `size` entries of the ledger are read, if given. `keep` gets a state each KEEP_WITHIN facts, so
    that a replay that is interrupted need not begin again.
    """
    recorded = recorded_outages(reader, target, size)
    still_open = next((record for record in reversed(recorded.values()) if record.state == "open"), None)
    kept = read_detector(reader, target, book.at, size) if use_kept else None
    if kept is not None and not _is_on_record(kept, recorded):
        kept = None
    start = _replay_start(
        reader, target, size if still_open is None else still_open.first_index + 1, kept, still_open
    )
    history = kept if start is None and kept is not None else TargetHistory()
    missing, under = list[Outage](), list[TargetSettings | None]()
    for entry, fact in _facts(reader, target, history.index + 1 if start is None else start, size):
        if history.facts % 1000 == 0:
            progress(entry.index)
        for outage in history.feed(entry.index, fact, book.at(entry.index)):
            known = recorded.get(outage.id)
            if known is None or known.state not in ("closed", "unwatched", outage.state):
                missing.append(outage)
                under.append(_settings_at(reader, target, entry.index))
        if history.facts % KEEP_WITHIN == 0 and not missing:
            keep(keep_detector(target, history, entry.header, book.at(entry.index)))
    settings = _settings_at(reader, target, None if size is None else size - 1)
    return RestoredState(history, recorded, tuple(missing), tuple(under), settings)


def recorded_outages(reader: Reader, target: str, size: int | None = None) -> dict[str, OutageRecord]:
    """Return the latest outages of a target and those that are open, by id, in the order of recording."""
    if size is None:
        return {record.id: record for record, _ in reader.outages.records(_recent_heads(reader, target))}
    entries = reader.entries(target=target, kinds=["outage"], to_index=size)
    return {record.id: record for record in (outage_from_payload(entry.payload) for entry in entries)}


def _recent_heads(reader: Reader, target: str) -> list[OutageHead]:
    heads = reader.outages.of_target(target)
    return [head for head in heads[:-RECENT_OUTAGES] if head.state == "open"] + heads[-RECENT_OUTAGES:]


def recent_reader(reader: Reader, targets: Collection[str]) -> Reader:
    """Return a reader for the states of many targets, with what these need in memory. Raises StoreError."""
    recent = RecentReader.of(reader, targets)
    if isinstance(recent, RecentReader):
        heads = [head for target in targets for head in _recent_heads(recent, target)]
        recent.expect_outages(head.index for head in heads)
    return recent


def _is_on_record(kept: TargetHistory, recorded: Mapping[str, OutageRecord]) -> bool:
    """Return whether the outage that a kept state has open is on record: it is kept only after that."""
    outage = kept.detector.state.outage
    return outage is None or outage.id in recorded


def _replay_start(
    reader: Reader, target: str, size: int | None, kept: TargetHistory | None, still_open: OutageRecord | None
) -> int | None:
    """Return the entry from which to replay, None for the kept state if it is later, or the first entry."""
    after = None if kept is None else kept.index
    before = size if still_open is None else still_open.first_index + 1
    start = reader.last_index(target=target, outcome=Outcome.UP, before=before, after=after)
    if start is not None and still_open is None:
        start = reader.last_index(target=target, outcome=Outcome.UP, before=start, after=after)
    return start


def state_to_keep(reader: Reader, target: str, book: RuleBook, restored: RestoredState) -> KeptState | None:
    """Return the state to keep of a target, None where its replay was short, or an outage is not on record yet."""
    history = restored.history
    if history.facts < KEEP_AFTER or restored.unrecorded:
        return None
    last = next(reader.entries(from_index=history.index, to_index=history.index + 1), None)
    if last is None:
        # What another node kept after this one had read the newest entries.
        return None
    return keep_detector(target, history, last.header, book.at(history.index))


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
    history, settings, kept = TargetHistory(), None, read_detector(reader, target, book.at, size)
    found: list[Finding] = []
    for entry in reader.entries(target=target, kinds=FACT_KINDS, to_index=size):
        try:
            fact = entry.fact
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            what = (
                f"it is no {entry.kind}, so that nothing of {target} is replayed: {type(error).__name__} {error}"
            )
            return [Finding(entry.index, what[:200])]
        assert fact is not None
        changed = history.feed(entry.index, fact, book.at(entry.index))
        settings = fact.settings if isinstance(fact, TargetChange) else settings
        expected += [(outage, settings) for outage in changed]
        if kept is not None and kept.index == entry.index and not history.describes(kept):
            found += _compare_kept(reader, book, target, kept)
    findings = found + [
        finding
        for entry, (outage, settings) in zip(recorded, expected, strict=False)
        for finding in _compare_recorded(entry, outage, settings, book.at(entry.index))
    ]
    for entry in recorded[len(expected) :]:
        findings.append(Finding(entry.index, "an outage is on record that the replay does not produce"))
    return findings + _audit_missing(
        reader, book, target, size, [outage for outage, _ in expected[len(recorded) :]]
    )


def audit_outage_index(reader: Reader) -> list[Finding]:
    """Compare the kept index of outages with the entries of the outages."""
    wrong = audit_heads(reader)
    if not wrong:
        return []
    remedy = "the next start makes it anew"
    if not all(wrong):
        return [Finding(None, f"the index of outages is not as it was written, and is not used; {remedy}")]
    which = f"{len(wrong)} of them: {', '.join(wrong[:3])}"
    return [Finding(None, f"the index of outages differs from their entries in {which}; {remedy}")]


def audit_detector(
    reader: Reader, book: RuleBook, target: str, progress: Callable[[int], None] = lambda _index: None
) -> list[Finding]:
    """Compare a target's kept state with the replay up to it. `progress` gets the index, and may wait."""
    kept = read_detector(reader, target, book.at)
    return [] if kept is None else _compare_kept(reader, book, target, kept, progress)


def _compare_kept(
    reader: Reader,
    book: RuleBook,
    target: str,
    kept: TargetHistory,
    progress: Callable[[int], None] = lambda _index: None,
) -> list[Finding]:
    """Return a finding if a kept state is not what a start replays up to its entry either."""
    replayed = restore_state(reader, target, book, progress, size=kept.index + 1, use_kept=False)
    if replayed.history.describes(kept):
        return []
    return [Finding(None, f"the state of {target} kept with entry {kept.index} differs from the replay")]


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
    replayed = restore_state(reader, target, book, size=size, use_kept=False)
    recovered = {(o.id, o.state) for o in replayed.unrecorded}
    findings = []
    for outage in missing:
        what = f"outage {outage.id} of {target} is"
        if (outage.id, outage.state) in recovered:
            findings.append(Finding(None, f"{what} not yet recorded; the next start records it", pending=True))
        else:
            findings.append(Finding(None, f"{what} missing from the record"))
    return findings
