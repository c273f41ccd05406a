"""Classifies the replies of servers, for all protocols, by the table replies.toml beside this module.

A reply that matches no row is classified by its stage, and by NO, BAD, BYE, -ERR or its code. IMAP response codes:
RFC 5530 and RFC 9051, section 7.1. SMTP reply codes: RFC 5321, section 4.2; enhanced status codes: RFC 3463 and
RFC 5248. POP3: RFC 1939, RFC 2449, RFC 3206.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from mailwatch.model import Cause, Outcome

MAX_CLASSIFIED_CHARS = 4000
"""Characters of a line, or of all lines of an SMTP reply, that are searched for known words."""
NOT_FROM_HERE = "not possible from here"

_CODES = re.compile(r"\s*\[([^\]\s]{1,40})[^\]]{0,2000}\]")
_ADDRESS = re.compile(r"[^\s<>@]{1,255}@[^\s<>@]{1,255}")
"""Servers repeat addresses, whose parts must not match as words."""
_BEHIND = re.compile(r"\(?#([245]\.\d{1,3}\.\d{1,3})\)?\s*$")
"""The enhanced status at the end of a line, as qmail writes it."""
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})(?![\d.])[ :-]?")
_STAGES = {
    "STARTTLS": "tls",
    "STLS": "tls",
    "LOGIN": "auth",
    "AUTHENTICATE": "auth",
    "AUTH": "auth",
    "USER": "auth",
    "PASS": "auth",
    "EXAMINE": "mailbox",
    "SELECT": "mailbox",
    "LIST": "mailbox",
    "STATUS": "mailbox",
    "STAT": "mailbox",
    "FETCH": "fetch",
    "UID FETCH": "fetch",
    "UID SEARCH": "fetch",
    "UID STORE": "fetch",
    "TOP": "fetch",
    "MAIL": "submit",
    "RCPT": "submit",
    "DATA": "submit",
    "message": "submit",
    "RSET": "submit",
}
"""Commands not listed belong to the stage `greeting`: EHLO, CAPA, NOOP, and unsolicited replies."""
_LIKE_IMAP = frozenset({"NO", "BAD", "BYE", "OK", "PREAUTH"})


@dataclass(frozen=True)
class Reply:
    """A server's reply. Not slotted: its parts are computed on first use.

    1. `protocol` is imap, pop3, smtp (submission) or mx; `command` what it answers, or "greeting" or "unasked".
    2. `status` is NO, BAD, BYE, OK, -ERR, the reply code, or "" for text that is no reply of the protocol.
    3. `text` follows the status, with its codes; lines of SMTP are separated by line feeds.
    4. `before` are the untagged lines before the reply (IMAP), oldest first.
    """

    protocol: str
    command: str
    status: str
    text: str
    clear: bool = False
    """Whether the connection is unencrypted."""
    before: Sequence[str] = ()

    @classmethod
    def parse(cls, written: str, *, clear: bool = False, before: Sequence[str] = ()) -> Reply:
        """Parse "PROTOCOL COMMAND: STATUS text", the format of the examples in replies.toml."""
        head, _, answer = written.partition(": ")
        protocol, _, command = head.partition(" ")
        status, _, text = answer.partition(" ")
        return cls(protocol, command, status, text, clear, before)

    @property
    def stage(self) -> str:
        """The stage of the dialogue to which the reply belongs."""
        return _STAGES.get(self.command, "greeting")

    @property
    def number(self) -> int:
        """The reply code of SMTP, 0 for anything else."""
        return int(self.status) if self.status.isascii() and self.status.isdecimal() else 0

    @property
    def code(self) -> str:
        """The enhanced status of SMTP, or the first response code in capitals, "" without one."""
        return self._parts[1]

    @cached_property
    def codes(self) -> frozenset[str]:
        """All codes, in the notation of the table's rows."""
        return self._parts[0]

    @cached_property
    def plain_text(self) -> str:
        """The text without its codes."""
        return self._parts[2]

    @cached_property
    def _parts(self) -> tuple[frozenset[str], str, str]:
        if self.protocol in ("smtp", "mx"):
            return self._of_smtp()
        text, found = self.text[:MAX_CLASSIFIED_CHARS], []
        while code := _CODES.match(text):
            found.append(code[1].upper())
            text = text[code.end() :]
        text = _ADDRESS.sub("", text).strip()
        return frozenset({self.status, *(f"[{code}]" for code in found)}), found[0] if found else "", text

    def _of_smtp(self) -> tuple[frozenset[str], str, str]:
        codes, first, lines = {self.status, self.status[:1]}, "", []
        for line in self.text[:MAX_CLASSIFIED_CHARS].split("\n"):
            if status := _ENHANCED.match(line):
                first = first or status[1]
                line = line[status.end() :]
            elif not first and (status := _BEHIND.search(line)):
                first = status[1]
            lines.append(line.strip())
        if first:
            kind, subject, detail = first.split(".")
            codes |= {first, f"{kind}.{subject}", f"x.{subject}", f"x.{subject}.{detail}"}
            if len(detail) == 3:
                codes.add(f"{kind}.{subject}.{detail[0]}xx")
        return frozenset(codes), first, _ADDRESS.sub("", " ".join(lines))


_LINE_BREAK = re.compile(r"(?:^|\n) {4,}")


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """A row of replies.toml; the head of that file explains each field."""

    id: str
    cause: Cause
    source: str
    says: tuple[str, ...]
    words: re.Pattern[str] | None = None
    not_words: re.Pattern[str] | None = None
    code: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()
    at: frozenset[str] = frozenset()
    clear: bool = False
    weak: bool = False
    owner: bool = False
    remedy: str = ""
    hint: str = ""
    why: str = ""

    def fits(self, reply: Reply) -> bool:
        """Return whether the reply matches this row."""
        if self.protocols and reply.protocol not in self.protocols:
            return False
        if self.at and reply.stage not in self.at and reply.command not in self.at:
            return False
        if self.clear and not reply.clear:
            return False
        if (self.code and not self.code & reply.codes) or self.unless & reply.codes:
            return False
        text = reply.plain_text
        if self.words is not None and self.words.search(text) is None:
            return False
        return self.not_words is None or self.not_words.search(text) is None


@dataclass(frozen=True, slots=True)
class ReplyMeaning:
    """The meaning of a reply. Without a `row` its words are unknown, and its class decided."""

    cause: Cause
    row: ReplyRow | None = field(default=None, repr=False)

    @property
    def known(self) -> bool:
        """Whether the reply matches a row of the table."""
        return self.row is not None

    @property
    def owner(self) -> str:
        """The id of a row about the owner's account or setting, not the password; "" for any other row."""
        return self.row.id if self.row and self.row.owner else ""

    @property
    def remedy(self) -> str:
        """How a mail program reacts to the reply: "id", "newest", or ""."""
        return self.row.remedy if self.row else ""

    @property
    def hint(self) -> str:
        """The advice for the owner about the reply."""
        return self.row.hint if self.row else ""


@cache
def rows() -> tuple[ReplyRow, ...]:
    """Load the table, once. Raises ValueError for an invalid row, which the tests would find."""
    text = files("mailwatch.probes").joinpath("replies.toml").read_text(encoding="utf-8")
    return tuple(_row(plain) for plain in tomllib.loads(text)["reply"])


def _row(plain: dict[str, Any]) -> ReplyRow:
    return ReplyRow(
        id=plain["id"],
        cause=Cause(plain["cause"]),
        source=plain["source"],
        says=tuple(plain["says"]),
        words=_pattern(plain.get("words", [])),
        not_words=_pattern(plain.get("not_words", [])),
        code=frozenset(plain.get("code", ())),
        unless=frozenset(plain.get("unless", ())),
        protocols=frozenset(plain.get("in", ())),
        at=frozenset(plain.get("at", ())),
        clear=plain.get("clear", False),
        weak=plain.get("weak", False),
        owner=plain.get("owner", False),
        remedy=plain.get("remedy", ""),
        hint=plain.get("hint", ""),
        why=plain.get("why", ""),
    )


def _pattern(words: str | list[str]) -> re.Pattern[str] | None:
    """Compile the words of a row: any one of a list matches; line breaks and the spaces after them are removed."""
    alternatives = [words] if isinstance(words, str) else words
    joined = "|".join(_LINE_BREAK.sub("", words) for words in alternatives)
    return re.compile(joined, re.IGNORECASE) if joined else None


def classify(reply: Reply) -> ReplyMeaning:
    """Classify a reply, with all lines that preceded it.

    The reply itself counts first, unless its row is weak; then the lines before it; then its class. An untagged
    OK, such as an announcement, may excuse the server but not accuse it.
    """
    found = _row_of(reply)
    if found is not None and not found.weak:
        return ReplyMeaning(found.cause, found)
    for line in reply.before:
        untagged = _untagged(reply, line)
        other = _row_of(untagged)
        if other is None or other.weak:
            continue
        if untagged.status == "OK" and other.cause.outcome is not Outcome.UNKNOWN:
            continue
        return ReplyMeaning(other.cause, other)
    return ReplyMeaning(found.cause, found) if found else ReplyMeaning(_by_class(reply))


def classify_free_text(
    protocol: str, text: str, *, command: str = "greeting", clear: bool = False
) -> ReplyMeaning:
    """Classify text that is no reply of the protocol, for example plain text in place of a greeting."""
    found = classify(Reply(protocol, command, "", text, clear))
    return found if found.row and not found.row.weak else ReplyMeaning(Cause.PROTOCOL, None)


def _row_of(reply: Reply) -> ReplyRow | None:
    return next((row for row in rows() if row.fits(reply)), None)


def _untagged(reply: Reply, line: str) -> Reply:
    status, _, rest = line.removeprefix("* ").partition(" ")
    if status.upper() not in _LIKE_IMAP:
        status, rest = "", line.removeprefix("* ")
    return Reply(reply.protocol, reply.command, status.upper(), rest, reply.clear)


def _by_class(reply: Reply) -> Cause:
    """Classify a reply that matches no row, by its stage."""
    if not reply.status:
        return Cause.PROTOCOL
    if reply.protocol in ("smtp", "mx"):
        return _smtp_class(reply)
    if reply.status == "BYE":
        return Cause.UNAVAILABLE
    match reply.stage:
        case "tls":
            return Cause.TLS
        case _ if reply.status == "BAD":
            return Cause.PROTOCOL
        case "auth":
            return Cause.CREDENTIALS
        case "mailbox" | "fetch":
            return Cause.MAILBOX
    return Cause.UNAVAILABLE if reply.command in ("greeting", "unasked") else Cause.PROTOCOL


def _smtp_class(reply: Reply) -> Cause:
    """Classify an SMTP reply by its code; an unexpected 2xx or 3xx is no answer to the command."""
    if not 400 <= reply.number <= 599:
        return Cause.PROTOCOL
    if reply.number < 500 or reply.command == "greeting":
        return Cause.UNAVAILABLE
    match reply.stage:
        case "auth":
            return Cause.CREDENTIALS
        case "tls":
            return Cause.TLS
        case "submit" if reply.command != "RSET":
            return Cause.REJECTED
    syntax = reply.number in (500, 501, 502, 503, 504)
    # Between servers, one that refuses our HELO refuses us as a sender.
    return Cause.REJECTED if reply.protocol == "mx" and not syntax else Cause.PROTOCOL
