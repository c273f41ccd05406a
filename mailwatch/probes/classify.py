"""The one judge of what servers say, for all protocols. Its knowledge is data: replies.toml beside it.

A reply that is in no row is judged by its class: by where it came, and by NO, BAD, BYE, -ERR or its code.
IMAP response codes: RFC 5530 and RFC 9051, section 7.1. SMTP reply codes: RFC 5321, section 4.2; enhanced status
codes: RFC 3463 and RFC 5248. POP3: RFC 1939, RFC 2449, RFC 3206.
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
"""Servers repeat addresses, whose names must not be taken for words."""
_BEHIND = re.compile(r"\(?#([245]\.\d{1,3}\.\d{1,3})\)?\s*$")
"""Where qmail writes the enhanced status."""
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
"""What no command says stands for is the greeting's: EHLO, CAPA, NOOP, and what comes unasked."""
_LIKE_IMAP = frozenset({"NO", "BAD", "BYE", "OK", "PREAUTH"})


@dataclass(frozen=True)
class Reply:
    """A server's reply. Not slotted: its parts are found when they are first asked for.

    1. `protocol` is imap, pop3, smtp (submission) or mx; `command` what it answers, or "greeting" or "unasked".
    2. `status` is NO, BAD, BYE, OK, -ERR, the reply code, or "" for what is no reply of the protocol.
    3. `text` is what follows it, with its codes; lines of SMTP are parted by line feeds.
    4. `before` are the untagged lines that came before it (IMAP), oldest first.
    """

    protocol: str
    command: str
    status: str
    text: str
    clear: bool = False
    """Whether the connection is without TLS."""
    before: Sequence[str] = ()

    @classmethod
    def parse(cls, written: str, *, clear: bool = False, before: Sequence[str] = ()) -> Reply:
        """Read "PROTOCOL COMMAND: STATUS text", as replies.toml writes its examples."""
        head, _, answer = written.partition(": ")
        protocol, _, command = head.partition(" ")
        status, _, text = answer.partition(" ")
        return cls(protocol, command, status, text, clear, before)

    @property
    def stage(self) -> str:
        """Where in the dialogue it came."""
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
        """All codes as rows name them."""
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
    """A row of replies.toml, whose head says what each field means."""

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
        """Whether the reply is one of these."""
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
    """What a reply means. Without a `row` its words are not known, and its class decided."""

    cause: Cause
    row: ReplyRow | None = field(default=None, repr=False)

    @property
    def known(self) -> bool:
        """Whether the reply is in the table."""
        return self.row is not None

    @property
    def owner(self) -> str:
        """The row that names the owner's account or setting, and not the password; "" for any other."""
        return self.row.id if self.row and self.row.owner else ""

    @property
    def remedy(self) -> str:
        """What a mail program does about it: "id", "newest", or ""."""
        return self.row.remedy if self.row else ""

    @property
    def hint(self) -> str:
        """What its owner can do about it."""
        return self.row.hint if self.row else ""


@cache
def rows() -> tuple[ReplyRow, ...]:
    """Read the table, once. Raises ValueError for a row that is none, which the tests would find."""
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
    """Compile the words of a row: of a list any one, without line breaks and the spaces after them."""
    alternatives = [words] if isinstance(words, str) else words
    joined = "|".join(_LINE_BREAK.sub("", words) for words in alternatives)
    return re.compile(joined, re.IGNORECASE) if joined else None


def classify(reply: Reply) -> ReplyMeaning:
    """Judge a reply, with all lines that came before it.

    The reply itself counts first, unless it says little; then what came before it; then its class. An untagged OK,
    such as an announcement, may excuse the server but not accuse it.
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
    """Judge what is no reply of the protocol, such as plain text where it should begin."""
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
    """Judge what is in no row by where it came."""
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
    """2xx and 3xx out of place are no answer to the command."""
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
    # Between servers, who refuses our HELO refuses us as a sender.
    return Cause.REJECTED if reply.protocol == "mx" and not syntax else Cause.PROTOCOL
