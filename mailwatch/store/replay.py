"""Where the outage rules stood when the ledger was last written: found by replaying it, never stored apart."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mailwatch.analysis.detector import Event, State, advance
from mailwatch.analysis.login_outages import Proof, advance_proof
from mailwatch.analysis.maintenance import Notice, Notices, Rule
from mailwatch.analysis.outage import Outage, outage_payload
from mailwatch.analysis.recurrence import WrongRule
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.payloads import FACTS, read_rules, written_rules, written_settings
from mailwatch.model import Fact, Gap, Kind, Observation, Outcome, Rules, WatchChange, WatchEvent, WatchSettings
from mailwatch.store import Entry, Finding, Reader


@dataclass(frozen=True, slots=True)
class RuleBook:
    """Which rules were in force at which entry: each start of MailWatch puts its rules on record."""

    starts: tuple[int, ...]
    rules: tuple[Rules, ...]

    def at(self, index: int) -> Rules:
        """Return the rules by which entry `index` was judged."""
        return self.rules[max(0, bisect_right(self.starts, index) - 1)]


def rule_book(reader: Reader) -> RuleBook:
    """Read the rules of all starts; the default rules for a ledger without any."""
    starts, rules = [], []
    for entry in reader.entries(kinds=["node"]):
        written = entry.payload.get("rules")
        if written:
            starts.append(entry.index)
            rules.append(read_rules(written))
    return RuleBook(tuple(starts), tuple(rules) or (Rules(),))


def written_maintenance(rules: tuple[Rule, ...]) -> dict[str, Any]:
    """Write what a start or reload announces; nothing for no rules."""
    if not rules:
        return {}
    told = [rule.payload() for rule in rules]
    return {"maintenance": {"rules": told, "digest": digest(canonical(told))}}


def notices(reader: Reader) -> Notices:
    """Read what was announced, and when.

    An announcement is no older than the entry before it: a clock that was set back makes none earlier.
    """
    found: list[Notice] = []
    for entry in reader.entries(kinds=["node"]):
        rules = tuple(Rule.read(told) for told in entry.payload.get("maintenance", {}).get("rules", ()))
        if rules != (found[-1].rules if found else ()):
            before = next(reader.entries(from_index=max(0, entry.index - 1), limit=1))
            found.append(Notice(max(entry.time, before.time), rules))
    return Notices(tuple(found))


def audit_maintenance(reader: Reader) -> list[Finding]:
    """Read each announcement again: its rules are in canonical form, and have the digest that it tells."""
    findings = []
    for entry in reader.entries(kinds=["node"]):
        told = entry.payload.get("maintenance")
        if told is None:
            continue
        try:
            rules = tuple(Rule.read(rule) for rule in told["rules"])
        except (WrongRule, KeyError, TypeError) as error:
            findings.append(Finding(entry.index, f"a maintenance rule cannot be read: {error}"))
            continue
        if written_maintenance(rules) != {"maintenance": told}:
            findings.append(Finding(entry.index, "its maintenance rules are not what their digest tells"))
    return findings


@dataclass(frozen=True, slots=True)
class Replayed:
    """The state of one target's rules after its last entry.

    `recorded` are the outage entries' payloads by id, the latest of each; `missing` are the changes that
    were decided by committed observations but whose outage entry was not (a crash came between), and
    `missing_under` what was watched then. `latest` is None where nothing was observed since the watching
    began; `settings` are those in force; `blind` is the latest gap after the latest observation, if there is one.
    """

    state: State
    proof: Proof
    latest: Observation | None
    recorded: dict[str, dict[str, Any]]
    missing: tuple[Outage, ...]
    missing_under: tuple[WatchSettings | None, ...] = ()
    settings: WatchSettings | None = None
    blind: Gap | None = None


def resume(
    reader: Reader,
    target: str,
    book: RuleBook,
    at: Callable[[int], None] = lambda _index: None,
    *,
    size: int | None = None,
) -> Replayed:
    """Replay the target's entries from the last moment at which nothing was open; `at` is told where it is.

    1. An open outage is replayed from the up observation before it, which is its last good.
    2. Else the last up observation is the whole state. It is replayed itself too, from the one before it: what
       it proved of the login (proven.py) may not have come on record.

    Of the ledger only the first `size` entries are read, if given.
    """
    recorded: dict[str, dict[str, Any]] = {}
    for entry in reader.entries(target=target, kinds=["outage"], to_index=size):
        payload = entry.payload
        recorded[payload["id"]] = payload
    still_open = next((told for told in reversed(recorded.values()) if told["state"] == "open"), None)
    before = still_open["ledger"]["first"] + 1 if still_open else size
    start = reader.last_index(target=target, outcome=Outcome.UP, before=before) or 0
    if not still_open:
        start = reader.last_index(target=target, outcome=Outcome.UP, before=start) or 0
    state, proof, missing, under = State(), Proof(), list[Outage](), list[WatchSettings | None]()
    last: Observation | None = None
    blind: Gap | None = None
    for number, (entry, fact) in enumerate(_facts(reader, target, start, size)):
        if number % 1000 == 0:
            at(entry.index)
        state, transition = advance(state, Event(entry.index, fact), book.at(entry.index))
        last = fact if isinstance(fact, Observation) else last
        blind = fact if isinstance(fact, Gap) else None if isinstance(fact, Observation) else blind
        if isinstance(fact, WatchChange) and fact.event in (WatchEvent.BEGIN, WatchEvent.END):
            last = blind = None
        proof, proven = advance_proof(proof, entry.index, fact, state.is_open)
        for outage in (transition.outage if transition else None, proven):
            if outage and recorded.get(outage.id, {}).get("state") not in ("closed", "unwatched", outage.state):
                missing.append(outage)
                under.append(_settings_at(reader, target, entry.index))
    settings = _settings_at(reader, target, None if size is None else size - 1)
    return Replayed(state, proof, last, recorded, tuple(missing), tuple(under), settings, blind)


def _settings_at(reader: Reader, target: str, index: int | None = None) -> WatchSettings | None:
    """Return what was watched at an entry, or is now; None where the record does not say."""
    entry = reader.latest(target, "watch", at_most=index)
    fact = None if entry is None else entry.fact
    return fact.settings if isinstance(fact, WatchChange) else None


def _facts(reader: Reader, target: str, start: int, size: int | None) -> Iterator[tuple[Entry, Fact]]:
    for entry in reader.entries(target=target, kinds=FACTS, from_index=start, to_index=size):
        fact = entry.fact
        if fact is not None:
            yield entry, fact


def audit_outages(reader: Reader, book: RuleBook, target: str, size: int | None = None) -> list[Finding]:
    """Replay a target from its first entry, and compare what it gives with what was recorded live.

    Only the first `size` entries, if given: more may come while it is read. What is missing and would be put on
    record by a start is pending: MailWatch was killed, or a backup made, between an observation and its outage.
    """
    told = list(reader.entries(target=target, kinds=["outage"], to_index=size))
    expected: list[tuple[Outage, WatchSettings | None]] = []
    state, proof, settings = State(), Proof(), None
    for entry in reader.entries(target=target, kinds=FACTS, to_index=size):
        try:
            fact = entry.fact
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            what = (
                f"it is no {entry.kind}, so that nothing of {target} is replayed: {type(error).__name__} {error}"
            )
            return [Finding(entry.index, what[:200])]
        assert fact is not None
        state, transition = advance(state, Event(entry.index, fact), book.at(entry.index))
        proof, proven = advance_proof(proof, entry.index, fact, state.is_open)
        settings = fact.settings if isinstance(fact, WatchChange) else settings
        decided = (transition.outage if transition else None, proven)
        expected += [(outage, settings) for outage in decided if outage]
    findings = []
    for entry, (outage, settings) in zip(told, expected, strict=False):
        payload = entry.payload
        kept = {key: value for key, value in payload.items() if key not in _NOT_REPLAYED}
        given = outage_payload(outage, "", Kind.IMAP, "")
        if kept != {key: value for key, value in given.items() if key not in _NOT_REPLAYED}:
            findings.append(Finding(entry.index, f"outage {payload['id']} is not what a replay gives"))
        rules = written_rules(book.at(entry.index))
        if payload.get("rules", rules) != rules:
            findings.append(Finding(entry.index, f"outage {payload['id']} names other rules than were in force"))
        if payload.get("watch") != (None if settings is None else written_settings(settings)):
            findings.append(Finding(entry.index, f"outage {payload['id']} was watched otherwise than it says"))
    for entry in told[len(expected) :]:
        findings.append(Finding(entry.index, "an outage is on record that a replay does not give"))
    missing = [outage for outage, _ in expected[len(told) :]]
    recovered = {(o.id, o.state) for o in resume(reader, target, book, size=size).missing} if missing else set()
    for outage in missing:
        what = f"outage {outage.id} of {target} is"
        if (outage.id, outage.state) in recovered:
            findings.append(Finding(None, f"{what} not yet on record; the next start puts it there", pending=True))
        else:
            findings.append(Finding(None, f"{what} missing from the record"))
    return findings


_NOT_REPLAYED = ("salt", "provider", "kind", "vantage_point", "rules", "watch", "account")
