"""A vantage point's side of a hub: builds pushes out of its own ledger, and talks to the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from mailwatch.evidence.ledger_range import PUBLIC_KINDS
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.cosignature import (
    Signature,
    VerifierKey,
    signatures,
    split_note,
    verify_cosignature,
)
from mailwatch.ledger.enrolment import JoinRequest, read_hub_keys
from mailwatch.ledger.entry_line import entry_line
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.push import PushedSubtree, compress_push
from mailwatch.ledger.witness_request import AddCheckpoint, RequestError, parse_add_checkpoint, parse_size
from mailwatch.store import Reader
from mailwatch.store.entry_rows import RawEntry
from mailwatch.store.errors import StoreDamagedError
from mailwatch.store.keys import Keys
from mailwatch.store.packs import PrunedSubtree
from mailwatch.store.pruning import checkpoint_outside, pruned_packs, segments
from mailwatch.times import now
from mailwatch.witness.client import (
    Cosigned,
    HistoryConflictError,
    OtherSizeError,
    WitnessError,
    WitnessRefusedError,
    exchange,
    readable,
)

PUSH_ENTRIES = 4096
PUSH_BYTES = 8 * 2**20
"""Most entries and bytes of a push; a ledger of years is pushed in many."""
PUSH_SECONDS = 60.0
"""Seconds to wait for the answer to a push."""
OWN_KINDS = frozenset(PUBLIC_KINDS) - {"address"}
"""Kinds of MailWatch's own entries that are sent with chosen targets: they hold no address."""


class PrunedTooEarlyError(WitnessError):
    """Entries that the hub needs next were pruned, so that it can take no more of this ledger."""


@dataclass(frozen=True, slots=True)
class BuiltPush:
    """A push of the entries from `first` on: its checkpoint's note, the tree after it, and the bytes to send."""

    first: int
    note: str
    tree: CompactRange
    body: bytes


def verified_tree(reader: Reader, keys: Keys, size: int) -> CompactRange:
    """Return the tree over the first `size` entries of one's own ledger, from a checkpoint that the key signed.

    Raises StoreError; CheckpointError if the record of that checkpoint is damaged: nothing may be signed over it;
    PrunedTooEarlyError if the tree cannot end there.
    """
    check_pushable(reader, size)
    before = checkpoint_outside(reader, size)
    tree = CompactRange()
    if before is not None:
        tree = CompactRange.from_bytes(before.size, before.hashes)
        signed = notes.verify(before.note, keys.public)
        if (signed.size, signed.root) != (tree.size, tree.root()):
            raise StoreDamagedError(f"the subtrees kept with checkpoint {before.size} are damaged")
    for part in reader.tree_parts(tree.size, size):
        tree.extend(part)
    return tree


def check_pushable(reader: Reader, size: int) -> None:
    """Raise PrunedTooEarlyError if what follows the first `size` entries was pruned in part. Raises StoreError."""
    for found in pruned_packs(reader, size):
        end = found.first + (1 << found.level)
        if found.first < size < end:
            raise PrunedTooEarlyError(
                f"it has {size} entries of this ledger, and those up to {end} were pruned by `retention.keep` "
                "before it took them: it can take no more of this ledger, and another hub can; pruning waits "
                "for a hub only while the config names it"
            )


def _parts(reader: Reader, first: int, end: int) -> Iterator[RawEntry | PrunedSubtree]:
    """Yield entries, and pruned subtrees, until as many were read as a push may have."""
    left = PUSH_ENTRIES
    for segment in segments(reader, first, end):
        if isinstance(segment, PrunedSubtree):
            yield segment
        else:
            stop = min(segment.stop, segment.start + left)
            yield from reader.raw_entries(segment.start, stop)
            left -= stop - segment.start
        if left <= 0:
            return


def build_push(
    reader: Reader, keys: Keys, tree: CompactRange, end: int, targets: frozenset[str] | None
) -> BuiltPush | None:
    """Return a push of the entries after those in `tree` and before `end`; None if there are none.

    `targets`: whose payloads are sent, None for all of all targets. Its checkpoint is signed over committed
    entries and not kept, unless the ledger has one of that size: the next one covers more. Raises StoreError.
    """
    first, grown, size = tree.size, tree.copy(), 0
    check_pushable(reader, first)
    lines: list[bytes] = []
    for part in _parts(reader, first, end):
        if isinstance(part, PrunedSubtree):
            lines.append(PushedSubtree(part.first, part.level, part.root).line())
            grown.append_subtree(part.root, part.level)
        else:
            _, kind, _, target, header, text = part
            is_sent = targets is None or (kind in OWN_KINDS if target is None else target in targets)
            lines.append(entry_line(header, text if is_sent else None))
            grown.append(leaf_hash(header.encode()))
        size += len(lines[-1])
        if size > PUSH_BYTES or len(lines) == PUSH_ENTRIES:
            break
    if not lines:
        return None
    before, note = (_signed(keys, one) for one in (tree, grown))
    return BuiltPush(first, note, grown, compress_push(before, note, lines))


def _signed(keys: Keys, tree: CompactRange) -> str:
    return notes.sign(Checkpoint(keys.origin, tree.size, tree.root()), keys.private)


class HubClient:
    """A hub at an address. `key`: of its ledger. Each method raises WitnessError where the hub does not answer."""

    def __init__(self, url: str, key: VerifierKey, origin: str) -> None:
        self._url, self._key = url.rstrip("/"), key
        self._log = hashlib.sha256(origin.encode()).hexdigest()

    async def witness_key(self) -> VerifierKey:
        """Return the key with which the hub cosigns, signed by that of its ledger."""
        status, words = await exchange("GET", f"{self._url}/hub/v1/keys")
        _check(status, words)
        try:
            return read_hub_keys(words, self._key)[1]
        except CheckpointError as error:
            raise WitnessError(f"its keys: {error}") from None

    async def newest(self) -> str:
        """Return the newest checkpoint of this ledger that the hub has, not verified; "" before the first push.

        Raises WitnessRefusedError if this ledger is no member.
        """
        status, words = await exchange("GET", f"{self._url}/hub/v1/logs/{self._log}")
        _check(status, words)
        return words

    async def push(self, built: BuiltPush, witness: VerifierKey) -> Cosigned | None:
        """Push; return the hub's cosignature, None if it cosigned a later checkpoint already.

        Raises OtherSizeError, HistoryConflictError, WitnessRefusedError.
        """
        asked = now()
        url = f"{self._url}/hub/v1/logs/{self._log}/entries/{built.first}"
        status, words = await exchange("PUT", url, built.body, seconds=PUSH_SECONDS)
        answered = now()
        _check(status, words)
        if not words:
            return None
        try:
            own = next((one for one in signatures(words) if one.is_by(witness)), None)
            if own is None:
                raise WitnessError(f"the answer has no cosignature by {witness.name}")
            time = verify_cosignature(own, split_note(built.note)[0], witness)
        except CheckpointError as error:
            raise WitnessError(f"the answer is not a cosignature: {error}") from None
        return Cosigned(own, time, asked, answered)

    async def checkpoint(self, known: int) -> AddCheckpoint:
        """Return the newest checkpoint of the hub's own ledger, with the proof from `known` entries on.

        Not verified. Raises OtherSizeError if it has fewer.
        """
        status, words = await exchange("GET", f"{self._url}/hub/v1/checkpoint/{known}")
        _check(status, words)
        try:
            return parse_add_checkpoint(words.encode())
        except RequestError as error:
            raise WitnessError(f"the answer is no checkpoint: {error}") from None

    async def send_cosignature(self, size: int, signature: Signature) -> None:
        """Send our cosignature of the hub's checkpoint of that size."""
        url = f"{self._url}/hub/v1/logs/{self._log}/cosignatures/{size}"
        status, words = await exchange("PUT", url, f"{signature}\n".encode())
        _check(status, words)

    async def state_consent(self, note: str) -> None:
        """Tell the hub what the owner agrees to send, a note of ledger/consent.py."""
        status, words = await exchange("PUT", f"{self._url}/hub/v1/logs/{self._log}/send", note.encode())
        _check(status, words)


async def join_hub(url: str, request: JoinRequest, keys: Keys) -> VerifierKey:
    """Join a hub; return the key of its ledger. Raises WitnessRefusedError, WitnessError."""
    note = request.sign(keys.private)
    status, words = await exchange("POST", f"{url.rstrip('/')}/hub/v1/join", note.encode())
    _check(status, words)
    try:
        return read_hub_keys(words)[0]
    except CheckpointError as error:
        raise WitnessError(f"it is no hub: {error}") from None


def _check(status: int, words: str) -> None:
    if status == 409:
        raise OtherSizeError(_size(words))
    if status == 422:
        raise HistoryConflictError(readable(words))
    if status in (403, 404):
        raise WitnessRefusedError(f"HTTP {status}: {readable(words)}")
    if status != 200:
        raise WitnessError(f"HTTP {status}: {readable(words)}")


def _size(words: str) -> int:
    try:
        return parse_size(words.removesuffix("\n"))
    except RequestError as error:
        raise WitnessError(f"its answer: {error}") from None
