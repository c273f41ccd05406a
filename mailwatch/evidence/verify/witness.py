"""The claim `witness`: who cosigned the checkpoints of a bundle, when, and since when they know the ledger.

A cosignature says that its witness saw no other history of the ledger. Whoever holds the witness's key could sign
anything, so a reader names the keys that they trust.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.evidence.verify.enclosed import Note
from mailwatch.evidence.verify.entries import LedgerScan, WitnessEntry
from mailwatch.evidence.verify.tokens import MAX_UNSTATED_MS, VerifiedToken, check_entry_times
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.cosignature import (
    VerifierKey,
    VerifierKeyError,
    parse_verifier_key,
    signatures,
    split_note,
    verify_cosignature,
)
from mailwatch.ledger.timestamp import TOKEN_TOLERANCE_MS
from mailwatch.ledger.witness_register import RegisterStatement, mailbox_commitment, read_statement
from mailwatch.times import Millis, rfc3339

MAX_STATEMENTS = 1000
WHOLE_SECOND_MS: Millis = 1000
"""A cosignature has whole seconds: its time is up to a second too early."""


@dataclass(frozen=True, slots=True)
class VerifiedCosignature:
    """A verified cosignature: the index of its entry, the checkpoint's size, its time, the witness's key."""

    entry: int
    checkpoint: int
    time: Millis
    witness: str


@dataclass(frozen=True, slots=True)
class WitnessFindings:
    """The verified cosignatures in order, the conflicts, and what witnesses state of which targets."""

    cosignatures: Sequence[VerifiedCosignature]
    conflicts: Sequence[WitnessEntry]
    statements: Sequence[tuple[RegisterStatement, tuple[str, ...]]]


def verify_witnesses(
    scan: LedgerScan, notes: Mapping[int, str], origin: str, stated: Mapping[str, Any]
) -> WitnessFindings:
    """Verify all cosignatures and statements of a bundle. `notes`: its checkpoints by size. Raises
    VerificationError at the first one that is not valid.
    """
    for entry in scan.witnesses:
        if entry.checkpoint > entry.index:
            raise VerificationError(f"entry {entry.index} is about a checkpoint that is signed only after it")
    keys: dict[str, VerifierKey] = {}
    cosigned = [
        _cosignature(entry, notes[entry.checkpoint], keys)
        for entry in scan.witnesses
        if entry.cosignature is not None and entry.checkpoint in notes
    ]
    conflicts = [entry for entry in scan.witnesses if entry.cosignature is None]
    return WitnessFindings(cosigned, conflicts, _statements(stated, origin))


def _cosignature(entry: WitnessEntry, note: str, keys: dict[str, VerifierKey]) -> VerifiedCosignature:
    where = f"entry {entry.index}"
    key = keys.get(entry.witness) or keys.setdefault(entry.witness, _key(entry.witness, where))
    try:
        (signature,) = signatures(f"{entry.cosignature}\n")
        time = verify_cosignature(signature, split_note(note)[0], key)
    except (CheckpointError, ValueError) as error:
        raise VerificationError(f"{where}: {error}") from None
    if time != entry.time:
        raise VerificationError(f"{where} states another time than its cosignature")
    return VerifiedCosignature(entry.index, entry.checkpoint, time, entry.witness)


def _key(text: str, where: str) -> VerifierKey:
    try:
        return parse_verifier_key(text)
    except VerifierKeyError as error:
        raise VerificationError(f"{where}: the key of the witness {error}") from None


def _statements(stated: Mapping[str, Any], origin: str) -> list[tuple[RegisterStatement, tuple[str, ...]]]:
    listed = stated.get("witnesses", [])
    if not isinstance(listed, list) or len(listed) > MAX_STATEMENTS:
        raise VerificationError("the key `witnesses` is not a list of statements")
    found = []
    for one in listed:
        try:
            key, note, targets = one["key"], one["statement"], tuple(one["targets"])
            statement = read_statement(note, _key(key, "witnesses"))
        except CheckpointError as error:
            raise VerificationError(f"witnesses: {error}") from None
        except (KeyError, TypeError, AttributeError):
            raise VerificationError("the key `witnesses` is not a list of statements") from None
        if statement.ledger != origin:
            raise VerificationError("witnesses: a statement is about another ledger")
        _compare_mailbox(statement, stated)
        found.append((statement, targets))
    return found


def _compare_mailbox(statement: RegisterStatement, stated: Mapping[str, Any]) -> None:
    """Compare a statement with the login name that the bundle discloses, if that is an address. Raises
    VerificationError.
    """
    disclosed = stated.get("user_name")
    name = disclosed.get("name") if isinstance(disclosed, dict) else None
    if isinstance(name, str) and "@" in name and mailbox_commitment(name) != statement.commitment:
        raise VerificationError("witnesses: a statement is about another mailbox than the one disclosed")


def witness_text(
    found: WitnessFindings,
    scan: LedgerScan,
    trusted: Collection[str],
    stated: Mapping[str, Any],
    tokens: Sequence[VerifiedToken],
) -> str:
    """Return the findings in words, as a Note where the reader must compare keys, where a witness saw another
    history, or where its clock and ours differ. `trusted`: the witnesses that the reader names. Raises
    VerificationError if none of those cosigned, or if the entries' times do not fit their cosignatures.

    Who asks a witness does not choose its clock: where tokens that the reader trusts contradict it, its times are
    not used.
    """
    known = [one for one in found.cosignatures if one.witness in trusted]
    if trusted and not known:
        raise VerificationError("no checkpoint was cosigned by a witness of --witness")
    offsets = _clock_offsets(found.cosignatures, scan)
    by_tokens = any(token.trusted for token in tokens)
    _check_times([one for one in known if not (by_tokens and one.witness in offsets)], scan, stated)
    own = str(stated.get("own_witness", ""))
    words = [_cosigned_text(found.cosignatures, own)]
    words += [_clock_text(key, off, by_tokens) for key, off in sorted(offsets.items())]
    words += [_statement_text(statement) for statement, _ in found.statements]
    words += [_conflict_text(entry) for entry in found.conflicts]
    others = sorted({_name(one.witness) for one in found.cosignatures if one.witness not in trusted})
    if others:
        names = ", ".join(others)
        words.append(f"compare the keys of {names} with the witnesses' own, and name them by --witness")
    sentence = "; ".join(words)
    is_own = any(one.witness == own for one in found.cosignatures)
    return Note(sentence) if others or offsets or found.conflicts or is_own else sentence


def _clock_offsets(cosignatures: Sequence[VerifiedCosignature], scan: LedgerScan) -> dict[str, Millis]:
    """Return by how much the clock of each witness differed from ours, where that is more than ten minutes."""
    entries = {entry.index: entry for entry in scan.witnesses}
    found: dict[str, Millis] = {}
    for one in cosignatures:
        off = _as_token(one, entries[one.entry]).clock_error
        if off > MAX_UNSTATED_MS:
            found[one.witness] = max(off, found.get(one.witness, 0))
    return found


def _clock_text(key: str, off: Millis, by_tokens: bool) -> str:
    words = f"the clock of {_name(key)} and ours DIFFERED by at least {off // 1000} s"
    return words + (": the tokens contradict it, and its times are not used" if by_tokens else "")


def _check_times(cosignatures: Sequence[VerifiedCosignature], scan: LedgerScan, stated: Mapping[str, Any]) -> None:
    """Compare the entries' own times with cosignatures, as with tokens. Raises VerificationError."""
    if not cosignatures:
        return
    entries = {entry.index: entry for entry in scan.witnesses}
    times = [_as_token(one, entries[one.entry]) for one in cosignatures]
    off, seconds = max(time.clock_error for time in times), stated.get("clock_error", 0)
    known = round(seconds * 1000) if isinstance(seconds, int | float) and 0 <= seconds < 1e12 else 0
    if off > MAX_UNSTATED_MS and off > known + TOKEN_TOLERANCE_MS:
        raise VerificationError(
            f"by its cosignatures the clock was off by {off} ms, of which {known} ms are stated"
        )
    try:
        check_entry_times(times, scan)
    except VerificationError as error:
        raise VerificationError(str(error).replace("the token", "the cosignature")) from None


def _cosigned_text(cosignatures: Sequence[VerifiedCosignature], own_key: str) -> str:
    if not cosignatures:
        return "no witness cosigned: nothing here excludes another history or another ledger"
    words = []
    for key in sorted({one.witness for one in cosignatures}):
        own = [one for one in cosignatures if one.witness == key]
        times, sizes = sorted(one.time for one in own), sorted(one.checkpoint for one in own)
        name, count, (first, last) = _name(key), len(own), (sizes[0], sizes[-1])
        name += " (THE OBSERVER'S OWN witness, which shows nothing of itself)" if key == own_key else ""
        begin, end = rfc3339(times[0]), rfc3339(times[-1])
        words.append(f"{name} cosigned {count} checkpoints, of {first} to {last} entries, from {begin} to {end}")
    return "; ".join(words)


def _statement_text(one: RegisterStatement) -> str:
    name, size, count = one.witness, one.first_size, one.refused
    time, begin = rfc3339(one.time * 1000), rfc3339(one.first_at * 1000)
    words = f"{name} stated at {time} that it has known the ledger since {begin} at {size} entries, "
    words += f"and refused {count} other histories of it" if count else "consistent since"
    if not one.others_count:
        return f"{words}; no other ledger of this mailbox there"
    names, more = ", ".join(one.others), one.others_count - len(one.others)
    return f"{words}; OTHER LEDGERS of this mailbox there: {names}" + (f" and {more} more" if more > 0 else "")


def _conflict_text(entry: WitnessEntry) -> str:
    name, size = _name(entry.witness), entry.checkpoint
    return f"{name} SAW ANOTHER HISTORY of this ledger: it refused {size} entries"


def _name(key: str) -> str:
    return key.partition("+")[0][:100]


def _as_token(one: VerifiedCosignature, entry: WitnessEntry) -> VerifiedToken:
    """Return a cosignature as an outside time, for the comparison with the entries' own times."""
    off = 0
    if isinstance(entry.asked, int) and isinstance(entry.answered, int):
        # The cosignature has whole seconds.
        off = max(0, entry.asked - one.time - WHOLE_SECOND_MS, one.time - entry.answered)
    return VerifiedToken(
        one.entry, one.checkpoint, one.time, _name(one.witness), True, off, entry.boot, entry.clock
    )
