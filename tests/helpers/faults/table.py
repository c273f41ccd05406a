"""All faults, and the page docs/reference/failures.md, which `make docs-generate` writes."""

from __future__ import annotations

from collections.abc import Iterator

from mailwatch.probes.classify import ReplyRow, rows
from tests.helpers.faults import cleartext, imap, mx, oauth, pop3, roundtrip, smtp, webmail
from tests.helpers.faults.fault import Fault

FAULTS: list[Fault] = [
    *imap.FAULTS,
    *smtp.FAULTS,
    *pop3.FAULTS,
    *mx.FAULTS,
    *webmail.FAULTS,
    *roundtrip.FAULTS,
    *oauth.FAULTS,
    *cleartext.FAULTS,
]

HEAD = """\
# Failures

This page lists each way in which a mailbox fails, and what MailWatch reports. It is printed from the data of
the tests (`make docs-generate`); a server plays each line over
real sockets in the tests. *Down* counts towards an outage of the provider. *Unknown* does not: our line,
MailWatch itself or the owner is the reason, or the server asks for fewer logins. A number in brackets marks a
mistake that another monitor made.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *_sections(), *_lessons(), *_replies()]) + "\n"


def _sections() -> Iterator[str]:
    for kind in dict.fromkeys(fault.kind for fault in FAULTS):
        yield f"## {kind}\n"
        yield "| what happens | outcome | cause | phase |"
        yield "|---|---|---|---|"
        for fault in FAULTS:
            if fault.kind is kind:
                mark = f" [{LESSONS.index(fault.lesson) + 1}]" if fault.lesson else ""
                cells = (
                    fault.what.replace("|", "\\|") + mark,
                    fault.expected,
                    fault.cause or "",
                    fault.phase or "",
                )
                yield "| " + " | ".join(cells) + " |"
        yield ""


LESSONS = list(dict.fromkeys(fault.lesson for fault in FAULTS if fault.lesson))


def _lessons() -> Iterator[str]:
    yield "## What other monitors got wrong here\n"
    yield from (f"{number}. {lesson}" for number, lesson in enumerate(LESSONS, 1))


REPLIES = """
## What servers answer

Printed from `mailwatch/probes/replies.toml`, the one table by which MailWatch judges the replies of all
protocols. A new reply is a row with an example, and each example is a test. MailWatch tries the rows in this
order; the first that fits decides. It reads all lines of an answer. The reply itself counts first, unless it is
marked *weak*; then what came untagged before it; then its class, as below. An untagged OK may excuse a server,
never accuse it. A reply that fits no row is judged by its class, and its record says `"words": "unknown"`.

| class of a reply that fits no row | cause |
|---|---|
| IMAP BYE; POP3 -ERR at the greeting; SMTP 4xx, and 5xx at the greeting | unavailable |
| NO, -ERR or 5xx to a login | credentials |
| NO or -ERR to EXAMINE, FETCH, STAT, TOP | mailbox |
| 5xx to MAIL, RCPT, DATA or the message; to EHLO and HELO between servers, but for 500 to 504 | rejected |
| NO, BAD, -ERR or 5xx to STARTTLS | tls |
| all else | protocol |
"""


def _replies() -> Iterator[str]:
    yield REPLIES
    yield "| reply | where | for example | outcome | cause | source |"
    yield "|---|---|---|---|---|---|"
    reasons = []
    for row in rows():
        mark = ""
        if row.why:
            reasons.append(row)
            mark = f" ({len(reasons)})"
        example = row.says[0].partition(": ")[2].replace("|", "\\|")
        cells = (f"{row.id}{mark}", _where(row), f"`{example}`", row.cause.outcome, row.cause, row.source)
        yield "| " + " | ".join(cells) + " |"
    yield "\nReasons, where one may disagree:\n"
    yield from (f"{number}. *{row.id}*: {row.why}" for number, row in enumerate(reasons, 1))
    yield OPEN


def _where(row: ReplyRow) -> str:
    """Say in which protocols and where in the dialogue a row counts."""
    protocols = " ".join(sorted(row.protocols)) or "all"
    protocols += f", at {' '.join(sorted(row.at))}" if row.at else ""
    return protocols + (", without TLS" if row.clear else "") + (", weak" if row.weak else "")


OPEN = """
What no row can decide:

- **BYE before NO.** After a BYE MailWatch waits half a second for the answer to the command, and reads both. A
  limit in the BYE counts, though the NO says only that the login failed.
- **A banner that ends like a literal** (`* OK ready {123}`) is text for people, which holds no literals.
  MailWatch takes it as it is.
- **LOGINDISABLED without a mechanism.** Without TLS it is the owner's `tls: none` (*credentials*). So it is
  where the server offers other mechanisms, which use something else than a password. Over TLS with no mechanism
  at all no login is possible: *protocol*, down.
- **Words before a silence** count where they excuse the server. **Words before a lost connection** count where
  they are known. Otherwise the silence or the loss counts.
- **Plain text instead of the protocol** is judged by its words where they are known, else it is *protocol*.
- **Accounts that fail together, retries within a probe, and *proven afterwards*** follow the rules of rejected
  passwords. What refuses the account or a setting of the owner's (disabled, locked, switched off: `facts.owner`
  names the row) holds back further logins as a wrong password does. But two accounts that are disabled together
  are no broken login, and one that is enabled again proves no outage afterwards. Fewer replies are *down*: a
  limit and a lock no longer begin one.

Where mail programs have a way around a refusal, MailWatch uses it too, once:

- Where a server refuses EXAMINE to an unknown program, MailWatch sends ID (RFC 2971) if the server offers it.
- Where a server does not know EXAMINE, MailWatch opens INBOX by SELECT (`\\Recent` goes, nothing else changes).
- Where the newest message was deleted meanwhile, it reads the one that is then the newest.
- Where a server refuses EHLO, it sends HELO. A name that is refused in both is *not possible from here*: set
  `defaults.helo_name`.
- Of POP3 it reads the header of the newest message and no more, though some servers send all.
"""
