"""The ledger range of a case: one unbroken range between two checkpoints, and the timestamp tokens over it.

The range begins at the last stamped checkpoint before the case, so that the first observation was surely made
after an outside time. It ends at the first stamped checkpoint after the case, so that the last observation was
surely made before another outside time. Tokens of other authorities within a day of the nearest are included: a
court may accept only a qualified authority. Without tokens the nearest checkpoints serve.

A range does not reach back over entries that were pruned. If all outside times before the case are from before
them, it begins at the last checkpoint before the case, and no outside time says how early the case began at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.carried import carried_entries, carried_range, thin_carried
from mailwatch.evidence.witnesses import cosigned_range
from mailwatch.ledger.earlier_entry import EarlierEntry
from mailwatch.ledger.timestamp import TOKEN_TOLERANCE_MS, signer_of
from mailwatch.store import CheckpointRow, Entry, RawEntry, Reader, Tokens
from mailwatch.store.pruning import kept_from
from mailwatch.times import DAY_MS, Millis

MAX_TOKEN_ENTRIES = 2000
"""Most token entries to search on either side: a month of hourly tokens of three authorities."""
PUBLIC_KINDS = ("guard", "clock", "node", "token", "witness", "successor", "address")
"""Kinds of MailWatch's own entries, included with their payload in every bundle."""


class EvidenceError(Exception):
    """Evidence cannot be made. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A raw reply, the index of the entry that names it, and the size of its checkpoint."""

    entry: int
    checkpoint: int
    time: Millis
    authority: str
    digest: str
    reply: bytes
    clock_error: Millis = 0
    """The least possible error of our clock then, by the times of request and answer."""

    @property
    def signer(self) -> tuple[str, str]:
        """Names of the signer and its issuer, from its certificate. `authority` is the config's word, which may be
        any.
        """
        return signer_of(self.reply)


@dataclass(frozen=True, slots=True)
class LedgerRange:
    """The entries [start.size, end.size). `checkpoints`: all in between, including both ends.

    `carried`: index of each entry about a checkpoint that a message carried, and the checkpoint's size.
    """

    start: CheckpointRow
    end: CheckpointRow
    checkpoints: tuple[CheckpointRow, ...]
    tokens: tuple[TokenFile, ...]
    carried: tuple[tuple[int, int], ...] = ()
    announcement: EarlierEntry | None = None
    """The start or reload before the range, where that announced maintenance."""

    def entries(self, reader: Reader) -> Iterator[Entry]:
        """Read the range's entries in order."""
        return reader.entries(from_index=self.start.size, to_index=self.end.size)

    def raw_entries(self, reader: Reader, *, headers: bool = True) -> Iterator[RawEntry]:
        """Read the range's entries as stored, as `Reader.raw_entries`."""
        return reader.raw_entries(self.start.size, self.end.size, headers=headers)


EMPTY_LEDGER = CheckpointRow(0, 0, "")
"""The empty ledger before its first entry, which needs no signature."""


def select_range(
    reader: Reader,
    tokens: Tokens,
    first: int,
    last: int,
    providers: Collection[str] = (),
    *,
    most_within: int | None = None,
) -> LedgerRange:
    """Return the range around the entries `first` to `last`. Raises EvidenceError if no checkpoint covers them.

    `providers`: whose round trips may appear in the bundle, with the messages that carried checkpoints.
    `most_within`: for who shows the range, and proves nothing by it: at most so many of the tokens between `first`
    and `last`, and no checkpoints. A year has ten thousands of them.
    """
    near = list(_nearby_tokens(reader, tokens, first, last, most_within))
    # Tokens of untrusted authorities would cast doubt on the others; use them only if there are no others.
    usable = [token for token, trusted in near if trusted] or [token for token, _ in near]
    kept = kept_from(reader, first)
    before = [token for token in reversed(usable) if token.entry <= first and token.checkpoint >= kept]
    before = _first_per_authority(before)
    after = _first_per_authority([token for token in usable if token.checkpoint > last])
    cosigned_before, cosigned_after = cosigned_range(reader, first, last, kept)
    carried_before, carried_after = carried_range(reader, first, last, providers)
    if carried_before < kept:
        carried_before = first
    stamped_before = min((t.checkpoint for t in before), default=first)
    stamped_after = max((t.checkpoint for t in after), default=last + 1)
    start = reader.checkpoint(at_most=min(stamped_before, cosigned_before, carried_before)) or EMPTY_LEDGER
    end = reader.checkpoint(at_least=max(stamped_after, cosigned_after, carried_after))
    # The entry of the newest cosignature, or of the newest message, may not be signed yet.
    end = end or reader.checkpoint(at_least=stamped_after)
    if end is None:
        raise unsigned_error(last)
    found = [token for token in usable if start.size <= token.checkpoint <= end.size]
    between = () if most_within is not None else tuple(reader.checkpoints(max(1, start.size), end.size))
    stamps = tuple(sorted(found, key=lambda token: (token.time, token.entry)))
    carried = carried_entries(reader, start.size, end.size, providers)
    return LedgerRange(start, end, between, stamps, thin_carried(carried, [(first, last)]))


def unsigned_error(last: int) -> EvidenceError:
    """Return the error that no checkpoint covers the entry `last`."""
    return EvidenceError(f"entry {last} is not signed yet; `mailwatch run` signs a checkpoint every ten minutes")


def check_within_tokens(range_: LedgerRange, record: OutageRecord) -> None:
    """Compare the minimum duration of an outage with the tokens around it. Raises EvidenceError if it is longer.

    In that case even the steady clock was wrong, as on a machine that was tampered with, and `mailwatch verify`
    would reject the bundle.
    """
    before = [token.time for token in range_.tokens if token.entry <= record.first_index]
    after = [token.time for token in range_.tokens if token.checkpoint > record.last_index]
    if not before or not after:
        return
    least, apart = record.durations.least, max(0, min(after) - max(before))
    if least > apart + TOKEN_TOLERANCE_MS:
        raise EvidenceError(
            f"outage {record.id[:12]} took at least {least / 1000:g} s by the clocks here, but the "
            f"outside times around it are {apart / 1000:g} s apart: the clocks were wrong, so this proves nothing"
        )


def _first_per_authority(tokens: list[TokenFile]) -> list[TokenFile]:
    """Return the first token of each authority within a day of the very first token."""
    found: dict[str, TokenFile] = {}
    for token in tokens:
        if abs(token.time - tokens[0].time) <= DAY_MS:
            found.setdefault(token.authority, token)
    return list(found.values())


def _nearby_tokens(
    reader: Reader, tokens: Tokens, first: int, last: int, most_within: int | None
) -> Iterator[tuple[TokenFile, bool]]:
    """Yield the tokens within the range and up to a day or more on both sides, in order, and whether each was
    trusted. Tokens whose file is missing or altered are skipped.
    """
    before = list(
        _until(reader.entries(kinds=["token"], to_index=first + 1, descending=True, limit=MAX_TOKEN_ENTRIES), -1)
    )
    within = reader.entries(kinds=["token"], from_index=first + 1, to_index=last + 1, limit=most_within)
    after = _until(reader.entries(kinds=["token"], from_index=last + 1, limit=MAX_TOKEN_ENTRIES), last)
    for entry in chain(reversed(before), within, after):
        reply = tokens.get(entry.payload["reply"])
        if reply is not None:
            yield _token(entry, reply), "distrust" not in entry.payload


def _until(entries: Iterable[Entry], last: int) -> Iterator[Entry]:
    """Yield token entries up to a day past the first that is trusted and covers more than `last` entries."""
    nearest: Millis | None = None
    for entry in entries:
        payload = entry.payload
        if nearest is not None and abs(payload["time"] - nearest) > DAY_MS:
            return
        yield entry
        if nearest is None and payload["checkpoint"] > last and "distrust" not in payload:
            nearest = payload["time"]


def _token(entry: Entry, reply: bytes) -> TokenFile:
    payload = entry.payload
    time, asked, answered = payload["time"], payload.get("asked"), payload.get("answered")
    known = isinstance(asked, int) and isinstance(answered, int)
    off = max(0, asked - time, time - answered) if known else 0
    return TokenFile(entry.index, payload["checkpoint"], time, payload["authority"], payload["reply"], reply, off)
