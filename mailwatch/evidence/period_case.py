"""The ledger range that proves a window of time, and its statement period.json.

Everything but `targets` follows from the entries, and `mailwatch verify` recomputes it. `targets` are from today's
config, except the `intervals`: those follow from the entries and determine the availability.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, cast

import orjson

from mailwatch import __version__
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import outage_json
from mailwatch.analysis.replay import MONITOR_KINDS, FactListener, PeriodReplay
from mailwatch.evidence.bundle import File, instructions, pretty_json, standalone_checker, write_bundle
from mailwatch.evidence.carried import thin_carried
from mailwatch.evidence.chain import chain_statement
from mailwatch.evidence.ledger_range import EvidenceError, LedgerRange, TokenFile, select_range
from mailwatch.evidence.stated import PeriodStatement, ServiceJson
from mailwatch.evidence.statement import authorities_statement, clock_error_of, error_statement, outside_times
from mailwatch.evidence.warnings import CaveatFacts
from mailwatch.evidence.witnesses import cosigned_sizes, witness_statement
from mailwatch.ledger.checkpoint import verifier_key
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import TargetEvent
from mailwatch.store import Reader, Tokens, queries
from mailwatch.store.keys import EvidenceKeys, Keys
from mailwatch.store.packs import EntriesPrunedError
from mailwatch.store.pruning import kept_from, pruned_time
from mailwatch.store.replay import rule_book
from mailwatch.store.selection import WITHHELD
from mailwatch.store.stretches import Stretch
from mailwatch.times import DAY_MS, Millis, Window, rfc3339

FORMAT = "mailwatch-evidence-period/1"


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """A target of the period. `service`: its settings in the config."""

    name: str
    provider: str = ""
    kind: str = ""
    service: ServiceJson | None = None


@dataclass(frozen=True, slots=True)
class PeriodEvidence:
    """A window's ledger range, its replay, its outages, and the statement."""

    range: LedgerRange
    replay: PeriodReplay
    outages: list[OutageRecord]
    statement: PeriodStatement
    doubts: CaveatFacts
    """The facts behind the caveats (warnings.py)."""


def find_period_evidence(
    reader: Reader,
    tokens: Tokens,
    keys: EvidenceKeys,
    window: Window,
    wanted: Sequence[ReportTarget],
    vantage_name: str,
    listener: FactListener = lambda *_: None,
) -> PeriodEvidence:
    """Return the evidence for a window. Raises EvidenceError.

    1. The range reaches over the window on both sides (`_select_range`).
    2. A window that the ledger does not reach yet is cut where its signed record ends.
    3. Of what is wanted, targets without an entry in the window are left out.
    """
    with _naming_what_was_pruned(reader, window):
        found = _select_range(reader, tokens, window, wanted)
        if found.start.size < kept_from(reader, found.end.size):
            raise _pruned_error(reader)
    window = _signed_part(reader, found, window)
    rules = rule_book(reader).at(found.start.size)
    guesses = {one.name: _guessed_interval(reader, one.name, found) for one in wanted}
    replay = PeriodReplay(window, guesses, rules, listener)
    doubts = _replay_range(reader, found, replay)
    with _naming_what_was_pruned(reader, window):
        bounds = _recorded_bounds(replay)
    wanted = _recorded_targets(replay, wanted)
    outages = replay.records()
    spans = [bounds, *((record.first_index, record.last_index) for record in outages)]
    found = thin_tokens(found, spans, cosigned_sizes(reader, found.start.size, found.end.size, spans))
    statement = {
        "format": FORMAT,
        "made_by": f"MailWatch {__version__}",
        "ledger": keys.origin,
        "as_of": rfc3339(found.end.time_ms),
        "window": {"from": rfc3339(window[0]), "to": rfc3339(window[1])},
        "vantage_point": vantage_name,
        **_account_json(replay, wanted, guesses),
        "rules": rules_payload(rules),
        "entries": {"first": bounds[0], "last": bounds[1]},
        "range": {"first": found.start.size, "end": found.end.size},
        "outside_times": outside_times(found, *bounds),
        **authorities_statement(token.signer for token in found.tokens),
        **error_statement(clock_error_of(reader, found, [record.anchor for record in outages])),
        **chain_statement(reader, verifier_key(keys.origin, keys.public)),
        # What witnesses state of mailboxes, only their owner's key connects with a target.
        **(witness_statement(reader, keys, found.end.size, replay.accounts) if isinstance(keys, Keys) else {}),
    }
    return PeriodEvidence(found, replay, outages, cast(PeriodStatement, statement), doubts)


@contextlib.contextmanager
def _naming_what_was_pruned(reader: Reader, window: Window) -> Iterator[None]:
    """Say that observations were pruned where that is why there is no evidence. Raises EvidenceError."""
    try:
        yield
    except EntriesPrunedError:
        raise _pruned_error(reader) from None
    except EvidenceError:
        pruned = pruned_time(reader)
        if pruned is None or window[0] >= pruned.before:
            raise
        raise _pruned_error(reader) from None


def _pruned_error(reader: Reader) -> EvidenceError:
    return EvidenceError(f"{pruned_time(reader)}; a report that needs some of them cannot be made")


def _signed_part(reader: Reader, found: LedgerRange, window: Window) -> Window:
    """Return a window cut at the end of the signed record. Raises EvidenceError if nothing of it is left."""
    # Not at the last entry's time: if the clock was set back, earlier entries have later times.
    start, end = window[0], min(window[1], reader.latest_time(found.start.size, found.end.size))
    if end <= start:
        raise EvidenceError(f"the signed record ends at {rfc3339(end)}, before the window")
    return start, end


def _guessed_interval(reader: Reader, name: str, found: LedgerRange) -> float:
    """Return the interval in seconds that the observations at the beginning of a range suggest."""
    # Not from later entries, which the bundle does not contain: in a young ledger these would change it.
    return queries.inferred_interval(reader, name, index=found.start.size, end=found.end.size) / 1000


def _replay_range(reader: Reader, found: LedgerRange, replay: PeriodReplay) -> CaveatFacts:
    """Feed all entries of a range to a replay; return the facts behind the caveats."""
    (last,) = reader.entries(from_index=found.end.size - 1, to_index=found.end.size)
    doubts = CaveatFacts(found.start.size, found.end.size - 1)
    accounts, parse = replay.accounts, orjson.loads
    for part in reader.raw_parts(found.start.size, found.end.size):
        if isinstance(part, Stretch):
            if part.target in accounts:
                replay.feed_stretch(part.target, part)
                doubts.feed_stretch(part.target, part)
            else:
                doubts.feed_hidden(part.target, len(part.indices))
            continue
        index, kind, time, target, header, text = part
        if target in accounts or kind in MONITOR_KINDS:
            payload = parse(text)
            replay.feed(index, kind, time, target, payload)
            doubts.feed(index, kind, time, target or "", payload)
        elif kind == "token":
            doubts.feed(index, kind, time, "", orjson.loads(text))
        elif target is not None:
            doubts.feed_hidden(target)
        elif kind == WITHHELD and (opaque := orjson.loads(header)["target"]):
            doubts.feed_hidden(opaque)
    replay.flush()
    replay.ended = last.time
    return doubts


def _recorded_bounds(replay: PeriodReplay) -> tuple[int, int]:
    """Return the first and the last entry in the window. Raises EvidenceError when there is none."""
    bounds = replay.bounds()
    if bounds is None:
        raise EvidenceError(
            f"nothing of {', '.join(replay.accounts)} is on record in that window and signed; `mailwatch run` "
            "signs every ten minutes"
        )
    return bounds


def _recorded_targets(replay: PeriodReplay, wanted: Sequence[ReportTarget]) -> list[ReportTarget]:
    """Return those with an entry in the window; the replay forgets the others."""
    recorded = [one for one in wanted if replay.accounts[one.name].first_index is not None]
    replay.accounts = {one.name: replay.accounts[one.name] for one in recorded}
    return recorded


def _account_json(
    replay: PeriodReplay, targets: Sequence[ReportTarget], guesses: Mapping[str, float]
) -> dict[str, object]:
    """Return what period.json says of each target, with the interval (seconds) that the record suggests."""
    return {
        "targets": [
            {
                "target": one.name,
                "provider": one.provider,
                "kind": one.kind,
                "interval": guesses[one.name],
                "intervals": replay.intervals_of(one.name),
                "service": one.service,
            }
            for one in targets
        ],
        "availability": [{"target": one.name} | replay.availability_of(one.name).as_json() for one in targets],
        "outages": [outage_json(record, in_period=True) for record in replay.records()],
    }


def write_period_bundle(
    out: IO[bytes],
    reader: Reader,
    keys: EvidenceKeys,
    evidence: PeriodEvidence,
    language: str,
    files: Iterable[File],
) -> None:
    """Write the bundle of a period. `files`: the report and other files made by the caller."""
    inside = [
        File("period.json", pretty_json(evidence.statement)),
        *files,
        instructions(language, keys.origin, "period.json"),
        standalone_checker(),
    ]
    write_bundle(out, reader, evidence.range, keys, list(evidence.replay.accounts), inside)


def _select_range(reader: Reader, tokens: Tokens, window: Window, wanted: Sequence[ReportTarget]) -> LedgerRange:
    """Return the range that proves a window. Raises EvidenceError.

    It begins before the last observation before the window, before the entries with each target's settings then,
    and before the last up observation of an outage that extends into the window, as far as nothing of that was
    pruned. It ends after the window, and after the end of an outage that extends beyond it.
    """
    newest = reader.last_checkpoint()
    if newest is None:
        raise EvidenceError("the ledger has no checkpoint yet; `mailwatch run` signs one every ten minutes")
    # An observation before the window decides its beginning, an observation after it decides its end.
    watched = {one.name: queries.recorded_change_at(reader, one.name, window[0]) for one in wanted}
    lengths = [
        queries.inferred_interval(reader, name, window[0]) if change is None else change.fact.settings.interval
        for name, change in watched.items()
    ]
    margin = 3 * max(lengths) + 60_000
    first, last = _entries_reaching(reader, watched, window[0] - margin, window[1] + margin)
    # Include the settings in force at the window's beginning, unless monitoring had ended by then.
    for name in watched:
        change = queries.recorded_change_at(reader, name, window[0] - margin)
        if change is not None and change.fact.event is not TargetEvent.END:
            first = min(first, change.entry)
    names = {one.name for one in wanted}
    touching = {record.id: record for record in queries.outage_records(reader, start=window[0], end=window[1])}
    for entry in reader.entries(kinds=["outage"]):
        if entry.target in names and (record := touching.get(entry.payload["id"])):
            first = min(first, record.first_index)
            last = max(last, entry.index, record.last_index)
    first = _first_kept(reader, first, last, window[0])
    providers = {one.provider for one in wanted if one.provider}
    return select_range(reader, tokens, first, min(last, newest.size - 1), providers)


def _first_kept(reader: Reader, first: int, last: int, start: Millis) -> int:
    """Return `first`; or the first checkpoint after what was pruned, if no observation since `start` was.

    Raises EvidenceError if one was, so that no part of a window looks like a time that was not watched.
    """
    if first >= (kept := kept_from(reader, last)):
        return first
    begin = reader.checkpoint(at_least=kept)
    if begin is not None:
        for entry in reader.entries(from_index=begin.size, to_index=last, limit=1):
            if entry.time <= start:
                return begin.size
    raise _pruned_error(reader)


def _entries_reaching(reader: Reader, names: Iterable[str], start: Millis, end: Millis) -> tuple[int, int]:
    """Return the indexes between which all entries of that time lie, with one more on both sides.

    Searched by index, not by time: the clock may have been set ahead and back in between.
    """
    held = [found for name in names if (found := reader.between(name, start, end))[1]]
    first, after = min((low for low, _ in held), default=0), max((high for _, high in held), default=0)
    before = reader.entries(to_index=first, end_ms=start + 1, descending=True, limit=1)
    behind = reader.entries(from_index=after, start_ms=end, limit=1)
    size = reader.size()
    return next((one.index for one in before), 0), next((one.index for one in behind), size)


def thin_tokens(
    range_: LedgerRange, spans: Sequence[tuple[int, int]], cosigned: Collection[int] = ()
) -> LedgerRange:
    """Keep each authority's first token of a day, the tokens and carried checkpoints nearest to `spans` on both
    sides, and the checkpoints of the sizes `cosigned`.

    A year of hourly tokens would be nearly nine thousand files; their entries remain in the range.
    """
    kept_tokens = set(_daily_tokens(range_.tokens))
    for first, last in spans:
        before = [token for token in range_.tokens if token.entry <= first]
        after = [token for token in range_.tokens if token.checkpoint > last]
        kept_tokens |= {token.digest for token in before[-1:] + after[:1]}
    tokens = tuple(token for token in range_.tokens if token.digest in kept_tokens)
    carried = thin_carried(range_.carried, spans)
    needed = {range_.start.size, range_.end.size, *cosigned} | {token.checkpoint for token in tokens}
    needed |= {size for _, size in carried}
    checkpoints, day = [], None
    for row in range_.checkpoints:
        if row.size in needed or row.time_ms // DAY_MS != day:
            checkpoints.append(row)
        day = row.time_ms // DAY_MS
    return replace(range_, tokens=tokens, checkpoints=tuple(checkpoints), carried=carried)


def _daily_tokens(tokens: Iterable[TokenFile]) -> Iterator[str]:
    seen = set()
    for token in tokens:
        if (token.authority, token.time // DAY_MS) not in seen:
            seen.add((token.authority, token.time // DAY_MS))
            yield token.digest
