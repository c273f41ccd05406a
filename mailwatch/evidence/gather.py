"""What of the ledger a case needs: one unbroken range between two checkpoints, and the tokens over it.

The range begins at the checkpoint that was stamped last before the case, so that its first observation was
surely made after an outside time; it ends at the first checkpoint after the case that was stamped, so that its
last one was surely made before another. Without tokens the nearest checkpoints serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mailwatch.models import Millis
from mailwatch.store import CheckpointRow, Entry, Reader, Texts, Tokens

LOOK_AHEAD = 2000
"""Token entries that are looked through on either side: a month of hourly ones of three authorities."""
OPEN_KINDS = ("guard", "clock", "node", "token")
"""Entries of MailWatch itself, shown with their payload in every bundle."""


class NoCase(Exception):
    """There is nothing that evidence could be made of; says why and what to do."""


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A raw reply, the entry that names it, and the checkpoint that it is over."""

    entry: int
    checkpoint: int
    time: Millis
    authority: str
    digest: str
    reply: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """The entries [start.size, end.size). `checkpoints` are all in between, both ends among them."""

    start: CheckpointRow
    end: CheckpointRow
    checkpoints: tuple[CheckpointRow, ...]
    tokens: tuple[TokenFile, ...]

    def entries(self, reader: Reader) -> Iterator[Entry]:
        """Read them again, in order."""
        return reader.entries(from_index=self.start.size, to_index=self.end.size)

    def texts(self, reader: Reader) -> Iterator[Texts]:
        """Read them again as they are kept."""
        return reader.texts(self.start.size, self.end.size)


EMPTY = CheckpointRow(0, 0, "")
"""The ledger before its first entry, which needs no signature."""


def gather(reader: Reader, tokens: Tokens, first: int, last: int) -> Range:
    """Find the range around the entries `first` to `last`. Raises NoCase when nothing signed covers them."""
    stamped = list(_token_entries(reader, first, last))
    before = [payload["checkpoint"] for index, payload in stamped if index <= first]
    after = [payload["checkpoint"] for _, payload in stamped if payload["checkpoint"] > last]
    start = reader.checkpoint(at_most=max(before) if before else first) or EMPTY
    end = reader.checkpoint(at_least=min(after) if after else last + 1)
    if end is None:
        raise NoCase(f"entry {last} is not under a checkpoint yet; `mailwatch run` signs one every ten minutes")
    found = []
    for index, payload in stamped:
        reply = tokens.get(payload["reply"])
        if start.size <= payload["checkpoint"] <= end.size and reply is not None:
            found.append(_token(index, payload, reply))
    between = tuple(reader.checkpoints(max(1, start.size), end.size))
    return Range(start, end, between, tuple(sorted(found, key=lambda token: (token.time, token.entry))))


def _token_entries(reader: Reader, first: int, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the token entries within, and those near it on both sides, in no certain order."""
    for entry in reader.entries(kinds=["token"], to_index=first + 1, descending=True, limit=1):
        newest = entry.payload
        yield entry.index, newest
        # Other authorities stamped the same checkpoint, or one a little older: the newest one decides.
    for entry in reader.entries(kinds=["token"], from_index=first + 1, to_index=last + 1):
        yield entry.index, entry.payload
    for entry in reader.entries(kinds=["token"], from_index=last + 1, limit=LOOK_AHEAD):
        yield entry.index, entry.payload
        if entry.payload["checkpoint"] > last:
            return


def _token(index: int, payload: dict[str, Any], reply: bytes) -> TokenFile:
    return TokenFile(index, payload["checkpoint"], payload["time"], payload["authority"], payload["reply"], reply)
