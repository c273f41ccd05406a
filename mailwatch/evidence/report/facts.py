"""The facts that a report takes from a range of entries, read once, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailwatch.analysis.elapsed import Moment, by_reference_clock, fact_end, fact_start, gap_length
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.report.public_address import PublicAddressFacts
from mailwatch.evidence.warnings import CaveatFacts, answering_controls
from mailwatch.ledger.cosignature import witness_clock_offset
from mailwatch.ledger.earlier_entry import EarlierEntry
from mailwatch.ledger.payloads import change_from, gap_from, observation_from
from mailwatch.ledger.timestamp import parse_reply
from mailwatch.model import PAUSED, Gap, Observation, Outcome, Phase
from mailwatch.store import Entry
from mailwatch.times import Millis

MAX_RUNS = 5000


@dataclass(slots=True)
class ObservationRun:
    """Consecutive observations with the same result. `state`: up, down, unknown or gap."""

    state: str
    start: Millis
    end: Millis
    count: int
    detail: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node entry's facts about the program, "" if missing. `event`: start, reload or stop.

    `former`: at a start, the node that had written before, if another machine took over from it.
    """

    event: str = ""
    config: str = ""
    version: str = ""
    python: str = ""
    system: str = ""
    former: str = ""

    @classmethod
    def of(cls, entry: Entry) -> NodeFacts:
        """Return the facts of a node entry."""
        given = entry.payload
        event, config, version, python, system = (
            str(given.get(key) or "") for key in ("event", "config", "version", "python", "system")
        )
        node = given.get("node")
        former = str(node.get("former") or "") if isinstance(node, dict) else ""
        if isinstance(node, dict) and former == node.get("id"):
            former = ""
        return cls(event, config, version, python, system, former)


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """An entry's facts about a timestamp token. `distrust`: why its signature was not accepted, "" if it was."""

    signer: str = ""
    policy: str = ""
    serial: str = "–"
    accuracy_ms: int | None = None
    distrust: str = ""

    @classmethod
    def of(cls, entry: Entry) -> TokenFacts:
        """Return the facts of a token entry."""
        given = entry.payload
        signer, policy, distrust = (str(given.get(key) or "") for key in ("signer", "policy", "distrust"))
        return cls(signer, policy, str(given.get("serial", "–")), given.get("accuracy_ms"), distrust)

    @classmethod
    def of_reply(cls, reply: bytes, doubted: bool) -> TokenFacts:
        """Return the facts of a token without its entry. Raises TimestampError."""
        token = parse_reply(reply)
        return cls(token.authority, token.policy, token.serial, token.accuracy_ms, "stated" if doubted else "")


@dataclass(slots=True)
class WitnessFacts:
    """The cosignatures of one witness in the range: their number, and the first and the last time by its clock.

    `refused`: the size of a checkpoint that it refused, since it had seen another history; None if it did not.
    `offset`: by how much its clock was ahead of ours, where most; negative: behind.
    """

    count: int = 0
    first: Millis = 0
    last: Millis = 0
    refused: int | None = None
    offset: Millis = 0


@dataclass(slots=True)
class ObserverFacts:
    """What a range says of witnesses, by their keys, and of our public addresses."""

    KINDS = ("witness", "address")

    witnesses: dict[str, WitnessFacts] = field(default_factory=dict)
    addresses: PublicAddressFacts = field(default_factory=PublicAddressFacts)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> ObserverFacts:
        """Return the facts in entries of these KINDS."""
        found = cls()
        for entry in entries:
            if entry.kind == "address":
                found.addresses.add(entry, None)
            else:
                witness = found.witnesses.setdefault(entry.payload["witness"], WitnessFacts())
                _add_witness(witness, entry.payload)
        return found


@dataclass(slots=True)
class ReportFacts:
    """The facts of a range. `runs`: in order; `omitted_runs`: number of runs beyond MAX_RUNS.

    Of `down` observations: in `guarded`, other operators answered; in `answered`, the server accepted the
    connection; in `unknown_words`, its reply is not in the table of replies. Of `surveys` of the clock, `degraded`
    left it in doubt, and `unbounded` have no bound of its error.
    """

    runs: list[ObservationRun] = field(default_factory=list)
    omitted_runs: int = 0
    observations: int = 0
    first: Millis | None = None
    last: Millis | None = None
    gaps: list[Gap] = field(default_factory=list)
    pauses: list[Gap] = field(default_factory=list)
    """Those of the gaps in which the owner had paused the target."""
    down: int = 0
    guarded: int = 0
    answered: int = 0
    unknown_words: int = 0
    controls: set[str] = field(default_factory=set)
    offline: int = 0
    is_offline: bool = False
    surveys: int = 0
    degraded: int = 0
    unbounded: int = 0
    bound_us: int = 0
    steps: int = 0
    reference: Moment | None = None
    offsets: list[int] = field(default_factory=list)
    accepted_before: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    accepted_after: set[str] = field(default_factory=set)
    with_login: bool = False
    servers: set[str] = field(default_factory=set)
    nodes: list[NodeFacts] = field(default_factory=list)
    node_before: NodeFacts | None = None
    tokens: dict[int, TokenFacts] = field(default_factory=dict)
    witnesses: dict[str, WitnessFacts] = field(default_factory=dict)
    """The witnesses in the range, by their keys."""
    carried: dict[str, list[Millis]] = field(default_factory=dict)
    """When keys of messages that carried a checkpoint were looked up, by the domain that signed."""
    addresses: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    ciphers: set[str] = field(default_factory=set)
    doubts: CaveatFacts = field(default_factory=CaveatFacts)
    """The facts behind the caveats (warnings.py)."""
    longest_ups: int = 0
    """Most up observations in a row within the outage; inconclusive ones do not end a row."""
    ups: int = 0
    public_addresses: PublicAddressFacts = field(default_factory=PublicAddressFacts)
    not_shown: dict[str, int] = field(default_factory=dict)
    """Numbers of entries about other targets, by their opaque ids."""


def collect_facts(
    entries: Iterable[Entry],
    outage: OutageRecord,
    reference: Moment | None = None,
    carried: Collection[int] = (),
    announcement: EarlierEntry | None = None,
) -> ReportFacts:
    """Return the facts of the range around an outage; times by the wall clock of `reference`.

    `carried`: indexes of the entries about carried checkpoints that the bundle shows. `announcement`: the entry
    before the range that announced maintenance.
    """
    found, target, paused = ReportFacts(reference=reference), outage.target, False
    found.doubts = CaveatFacts(outage.first_index, outage.last_index)
    if announcement is not None:
        found.doubts.feed_announcement(announcement)
    for entry in entries:
        _add_doubt(found.doubts, entry, target)
        if entry.target != target and entry.target_id:
            found.not_shown[entry.target_id] = found.not_shown.get(entry.target_id, 0) + 1
        if entry.target == target and entry.kind == "observation":
            _add_observation(found, entry.index, observation_from(entry.payload), outage)
        elif entry.target == target and entry.kind == "gap":
            gap = gap_from(entry.payload)
            found.gaps.append(gap)
            if paused:
                found.pauses.append(gap)
            until = by_reference_clock(fact_end(gap), reference)
            _add_run(found, "gap", until - gap_length(gap), until, PAUSED if paused else gap.reason)
        elif entry.target == target and entry.kind == "watch":
            paused = change_from(entry.payload).paused
        elif entry.index in carried:
            found.carried.setdefault(entry.payload["domain"], []).append(entry.payload["at"])
        elif entry.target is None:
            _add_monitor_entry(found, entry)
    return found


def _add_doubt(doubts: CaveatFacts, entry: Entry, target: str) -> None:
    if entry.target is not None and entry.target != target:
        doubts.feed_hidden(entry.target)
        return
    doubts.feed(entry.index, entry.kind, entry.time, entry.target or "", entry.payload)
    if entry.kind == "outage":
        doubts.opaque[target] = entry.target_id


def _add_observation(facts: ReportFacts, index: int, observation: Observation, outage: OutageRecord) -> None:
    facts.observations += 1
    start, end = (
        by_reference_clock(fact_start(observation), facts.reference),
        by_reference_clock(fact_end(observation), facts.reference),
    )
    facts.first = start if facts.first is None else facts.first
    facts.last = end
    first, last = outage.first_index, outage.last_index
    inside = first < index <= last
    if observation.secret and observation.outcome is Outcome.UP:
        if index <= first:
            facts.accepted_before.add(observation.secret)
        elif index >= last:
            # The last entry of an ended outage is the up observation that ended it.
            facts.accepted_after.add(observation.secret)
    elif observation.secret and inside:
        facts.used.add(observation.secret)
    if inside and observation.outcome is Outcome.DOWN:
        facts.ups = 0
        _add_failure(facts, observation)
    elif inside and observation.outcome is Outcome.UP and (index < last or outage.first_good is None):
        facts.ups += 1
        facts.longest_ups = max(facts.longest_ups, facts.ups)
    for attempt in observation.attempts:
        if attempt.peer:
            facts.addresses[attempt.peer] = facts.addresses.get(attempt.peer, 0) + 1
        if attempt.tls is not None:
            facts.fingerprints[attempt.peer] = attempt.tls.fingerprint
            facts.ciphers.add(f"{attempt.tls.version}, {attempt.tls.cipher}")
    _add_run(facts, observation.outcome.value, start, end, observation.cause.value if observation.cause else "")


def _add_failure(facts: ReportFacts, observation: Observation) -> None:
    facts.down += 1
    facts.with_login |= observation.with_login
    deciding = observation.deciding_attempt
    facts.unknown_words += (deciding.facts or {}).get("words") == "unknown" if deciding else 0
    facts.answered += observation.failed_phase not in (Phase.RESOLVE, Phase.CONNECT)
    if observation.guard is not None and observation.guard.online:
        others, _ = answering_controls(observation.guard.controls)
        facts.guarded += bool(others)
        facts.controls |= set(others)


def _add_run(facts: ReportFacts, what: str, start: Millis, end: Millis, detail: str) -> None:
    last = facts.runs[-1] if facts.runs else None
    if last is not None and (last.state, last.detail) == (what, detail) and what != "gap":
        last.end, last.count = end, last.count + 1
    elif len(facts.runs) < MAX_RUNS:
        facts.runs.append(ObservationRun(what, start, end, 1, detail))
    else:
        facts.omitted_runs += 1


def _add_monitor_entry(facts: ReportFacts, entry: Entry) -> None:
    payload = entry.payload
    if entry.kind == "guard":
        # An offline period has several entries: repeated states, and changes of its parts.
        offline = payload.get("online") is False
        facts.offline += offline and not facts.is_offline
        facts.is_offline = offline
    elif entry.kind == "clock" and "degraded" in payload:
        facts.surveys += 1
        facts.degraded += bool(payload["degraded"])
        facts.unbounded += payload.get("error_bound_us") is None
        facts.bound_us = max(facts.bound_us, int(payload.get("error_bound_us") or 0))
        facts.servers |= {str(one["server"]) for one in payload.get("servers", ())}
    elif entry.kind == "clock":
        facts.steps += 1
    elif entry.kind == "token":
        facts.offsets.append(int(payload["offset_ms"]))
        facts.tokens[entry.index] = TokenFacts.of(entry)
    elif entry.kind == "node":
        facts.nodes.append(NodeFacts.of(entry))
    elif entry.kind == "address":
        facts.public_addresses.add(entry, facts.reference)
    elif entry.kind == "witness":
        _add_witness(facts.witnesses.setdefault(payload["witness"], WitnessFacts()), payload)


def _add_witness(witness: WitnessFacts, payload: Mapping[str, Any]) -> None:
    if "cosignature" not in payload:
        witness.refused = payload["checkpoint"]
        return
    witness.first = witness.first if witness.count else payload["time"]
    witness.count, witness.last = witness.count + 1, payload["time"]
    witness.offset = max(witness.offset, witness_clock_offset(payload), key=abs)
