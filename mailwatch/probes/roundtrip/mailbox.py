"""Searches INBOX and the junk folder of one account, reads without a trace, and deletes our own messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mailwatch.probes.imap_client import ImapClient
from mailwatch.probes.roundtrip.headers import parse_date
from mailwatch.probes.roundtrip.message import SEAL_FIELD, TOKEN_FIELD
from mailwatch.times import Millis

MAX_MESSAGE_BYTES = 64 * 1024
MAX_SEARCH_RESULTS = 400
"""The number of messages of a search that are read, the newest."""
MAX_FOLDERS_OF_A_USE = 2
JUNK_NAMES = frozenset(
    {"junk", "junk e-mail", "junk email", "spam", "bulk", "bulk mail", "posta indesiderata", "indesiderata"}
)
SENT_NAMES = frozenset(
    {"sent", "sent items", "sent messages", "sent mail", "outbox", "posta inviata", "inviata", "inviati"}
)
INBOX = b"INBOX"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_LISTED = re.compile(
    rb"LIST \(([^)]*)\) (NIL|\"(?:\\.|[^\"\\])\") (\"(?:\\.|[^\"\\])*\"|[^\s\"{]+)$", re.IGNORECASE
)
_SEARCHED = re.compile(rb"SEARCH\b", re.IGNORECASE)
_FETCHED = re.compile(rb"\d{1,10} FETCH \(", re.IGNORECASE)
_UID = re.compile(rb"\bUID (\d{1,10})\b", re.IGNORECASE)
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d{1,10})\b", re.IGNORECASE)
_DATE = re.compile(rb'\bINTERNALDATE "([^"]{0,40})"', re.IGNORECASE)
_STATUS = re.compile(rb"STATUS .*\bUIDNEXT (\d{1,10})\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in a folder: at most 64 KiB of it, and when the server stored it."""

    folder: bytes
    uid: int
    message: bytes
    whole: bool
    stored_at: Millis | None


class Mailbox:
    """The folders in which a message may arrive, INBOX first; one is open at a time."""

    def __init__(self, client: ImapClient) -> None:
        self._client = client
        self.folders: tuple[bytes, ...] = (INBOX,)
        self.sent: tuple[bytes, ...] = ()
        """The folders for sent messages; a service that stores submitted messages itself leaves ours there."""
        self.opened = b""

    @property
    def can_idle(self) -> bool:
        """Whether the server announces new messages (RFC 2177)."""
        return "IDLE" in self._client.capabilities

    @property
    def count(self) -> int:
        """The number of messages in the open folder, by the server's latest answer."""
        return self._client.exists

    async def find_folders(self) -> None:
        """Find the folders for junk and sent messages: by RFC 6154, else by their names."""
        if "SPECIAL-USE" not in self._client.capabilities:
            # Many servers list all their capabilities only after the login.
            await self._client.capability()
        listed = await self._client.send_command("LIST", b'"" "*"', wanted=_LISTED)
        marked: dict[bytes, list[bytes]] = {b"\\junk": [], b"\\sent": []}
        named: dict[bytes, list[bytes]] = {b"\\junk": [], b"\\sent": []}
        for line in listed:
            found = _LISTED.match(line)
            flags = {flag.lower() for flag in found[1].split()} if found else {b"\\noselect"}
            if found is None or flags & {b"\\noselect", b"\\nonexistent"}:
                continue
            name, separator = _unquoted(found[3]), _unquoted(found[2])
            last = (name.rpartition(separator)[2] if separator else name).decode("utf-8", "replace").lower()
            for use, names in ((b"\\junk", JUNK_NAMES), (b"\\sent", SENT_NAMES)):
                if use in flags:
                    marked[use].append(name)
                elif last in names:
                    named[use].append(name)
        junk, sent = ((marked[use] or named[use])[:MAX_FOLDERS_OF_A_USE] for use in (b"\\junk", b"\\sent"))
        self.folders, self.sent = (INBOX, *junk), tuple(sent)

    async def next_uid(self, folder: bytes) -> int:
        """Return the UID of the next message, 1 if the server does not report it."""
        lines = await self._client.send_command("STATUS", _quoted(folder) + b" (UIDNEXT)", wanted=_STATUS)
        found = [match for line in lines if (match := _STATUS.match(line))]
        return int(found[-1][1]) if found else 1

    async def examine(self, folder: bytes) -> None:
        """Open a folder read-only."""
        if self.opened != folder:
            await self._client.send_command("EXAMINE", _quoted(folder))
            self.opened = folder

    async def refresh(self) -> None:
        """Make the server check for new messages."""
        await self._client.send_command("NOOP")

    async def wait_for_news(self, seconds: float, answer_seconds: float) -> None:
        """Wait for a message, at most for `seconds`. Raises ImapCommandError if the server refuses IDLE."""
        await self._client.idle_for(seconds, answer_seconds)

    async def search(self, *criteria: bytes) -> list[int]:
        """Return the matching UIDs, the newest last."""
        lines = await self._client.send_command("UID SEARCH", b" ".join(criteria), wanted=_SEARCHED)
        uids = {int(word) for line in lines for word in line.split()[1:] if word.isdigit() and len(word) <= 10}
        return sorted(uids)[-MAX_SEARCH_RESULTS:]

    async def token_headers(self, uids: Sequence[int]) -> dict[int, bytes]:
        """Return the header fields that identify our messages, by UID."""
        if not uids:
            return {}
        names = f"MESSAGE-ID {TOKEN_FIELD} {SEAL_FIELD}".upper().encode()
        # Truncated: a huge field must not keep us from reading the others.
        what = _uid_set(uids) + b" (UID BODY.PEEK[HEADER.FIELDS (" + names + b")]<0.1024>)"
        read = await self._client.read_literals("UID FETCH", what, wanted=_FETCHED)
        return {int(uid[1]): literals[-1] for line, literals in read if literals and (uid := _UID.search(line))}

    async def fetch(self, uid: int) -> StoredMessage | None:
        """Return a message of the open folder, without marking it as seen; None if it is gone."""
        what = b"%d (UID RFC822.SIZE INTERNALDATE BODY.PEEK[]<0.%d>)" % (uid, MAX_MESSAGE_BYTES)
        for line, literals in await self._client.read_literals("UID FETCH", what, wanted=_FETCHED):
            match = _UID.search(line)
            if literals and match and int(match[1]) == uid:
                size, date = _SIZE.search(line), _DATE.search(line)
                message = literals[-1][:MAX_MESSAGE_BYTES]
                return StoredMessage(
                    folder=self.opened,
                    uid=uid,
                    message=message,
                    whole=size is not None and int(size[1]) == len(message),
                    stored_at=parse_date(date[1].decode("ascii", "replace")) if date else None,
                )
        return None

    async def remove(self, folder: bytes, uids: Sequence[int]) -> str:
        """Delete these messages of ours and nothing else; return why they were left, "" if deleted.

        Without UID EXPUNGE (RFC 4315), only while no other message is marked as deleted: a plain EXPUNGE would
        delete it too.
        """
        by_uid = "UIDPLUS" in self._client.capabilities
        await self._client.send_command("SELECT", _quoted(folder))
        self.opened = b""
        if not by_uid and await self.search(b"DELETED"):
            return "other messages are marked as deleted, and the server cannot expunge ours alone"
        await self._client.send_command("UID STORE", _uid_set(uids) + rb" +FLAGS.SILENT (\Deleted)")
        if by_uid:
            await self._client.send_command("UID EXPUNGE", _uid_set(uids))
        elif set(await self.search(b"DELETED")) <= set(uids):
            await self._client.send_command("EXPUNGE")
        else:
            await self._client.send_command("UID STORE", _uid_set(uids) + rb" -FLAGS.SILENT (\Deleted)")
            return "another message was marked as deleted meanwhile"
        return ""


def search_since(at: Millis) -> bytes:
    """Return a SEARCH SINCE criterion, one day early: the server's day may differ from ours."""
    day = datetime.fromtimestamp(at / 1000 - 86_400, UTC)
    return f"SINCE {day.day}-{_MONTHS[day.month - 1]}-{day.year}".encode()


def _uid_set(uids: Sequence[int]) -> bytes:
    return b",".join(b"%d" % uid for uid in uids)


def _quoted(name: bytes) -> bytes:
    return b'"' + name.replace(b"\\", rb"\\").replace(b'"', rb"\"") + b'"'


def _unquoted(word: bytes) -> bytes:
    if word[:1] != b'"':
        return b"" if word.upper() == b"NIL" else word
    return re.sub(rb"\\(.)", rb"\1", word[1:-1])
