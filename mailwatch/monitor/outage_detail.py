"""Makes the data of the page of one outage: its transitions, our own line, the clock, its proof."""

from __future__ import annotations

from collections.abc import Sequence

from mailwatch.analysis.elapsed import Moment, by_reference_clock, fact_end, fact_start, reference_moment
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.ledger_range import EvidenceError, select_range
from mailwatch.evidence.warnings import answering_controls
from mailwatch.model import ConnectivityResult, Observation, Outcome
from mailwatch.store import Reader, Tokens
from mailwatch.web.read_model import GuardAnswer, OutageDetail, OutageTransition, SealedRange, TokenSummary

MAX_OBSERVATIONS = 5000
"""The number of observations of an outage that are read for its transitions."""
MAX_TRANSITIONS = 100
MAX_TOKENS = 200
"""Timestamps within an outage that its page names, the first: those of a week by the hour."""


def outage_detail(reader: Reader, tokens: Tokens, record: OutageRecord) -> OutageDetail:
    """Return what the page of an outage shows. Raises StoreError."""
    first, last = record.first_index, record.last_index
    observations, is_cut = _changed(reader, record.target, first, last)
    earliest = observations[0] if observations else None
    transitions = _transitions(observations, reference_moment(record.last_good, record.first_bad, earliest))
    guard = next((seen.guard for seen in observations if seen.outcome is Outcome.DOWN), None)
    return OutageDetail(
        outage=record,
        transitions=transitions[:MAX_TRANSITIONS],
        is_cut=len(transitions) > MAX_TRANSITIONS or is_cut,
        guard=None if guard is None else _guard_answer(guard),
        clock_bound=_clock_bound(reader, first),
        range=_range(reader, tokens, record.target, first, last),
    )


def _guard_answer(guard: ConnectivityResult) -> GuardAnswer:
    others, _ = answering_controls(guard.controls)
    return GuardAnswer(guard.online, guard.controls, only_ours=bool(guard.online) and not others)


def _changed(reader: Reader, target: str, first: int, last: int) -> tuple[list[Observation], bool]:
    """Return the observations that differ from the one before, and whether some were not read.

    Of the others no more is parsed than what could differ.
    """
    found: list[Observation] = []
    count, before = 0, None
    within = reader.entries(target=target, kinds=["observation"], from_index=first, limit=MAX_OBSERVATIONS)
    for entry in within:
        payload, count = entry.payload, count + 1
        here = payload["outcome"], payload.get("cause"), payload.get("failed_phase")
        if here != before and isinstance(fact := entry.fact, Observation):
            found.append(fact)
        before = here
        if entry.index > last:
            break
    return found, count == MAX_OBSERVATIONS


def _transitions(observations: Sequence[Observation], reference: Moment | None) -> list[OutageTransition]:
    """Return the transitions, of which there may be one more than are given: then the others are left out."""
    transitions: list[OutageTransition] = []
    before = None
    for observation in observations:
        here = (observation.outcome, observation.cause, observation.failed_phase)
        if here != before and len(transitions) <= MAX_TRANSITIONS:
            # As for an outage's bounds: the last up observation counts from its start, others from their end.
            from_start = not transitions and observation.outcome is Outcome.UP
            moment = fact_start(observation) if from_start else fact_end(observation)
            at = by_reference_clock(moment, reference)
            transitions.append(OutageTransition(at, *here, observation.detail))
        before = here
    return transitions


def _clock_bound(reader: Reader, index: int) -> float | None:
    """Return the clock's error bound in seconds by the last survey before an entry, None without a survey."""
    for entry in reader.entries(kinds=["clock"], to_index=index, descending=True, limit=20):
        if entry.payload["event"] == "survey":
            bound = entry.payload.get("error_bound_us")
            return None if bound is None else bound / 1e6
    return None


def _range(reader: Reader, tokens: Tokens, target: str, first: int, last: int) -> SealedRange | None:
    closing = reader.entries(target=target, kinds=["outage"], from_index=last, limit=1)
    try:
        until = max([last, *(entry.index for entry in closing)])
        found = select_range(reader, tokens, first, until, most_within=MAX_TOKENS)
    except EvidenceError:
        return None
    stamped = [TokenSummary(t.time, t.authority, t.checkpoint) for t in found.tokens]
    return SealedRange(found.start.size, found.end.size, found.end.note, stamped)
