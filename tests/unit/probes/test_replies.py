"""What servers say: each row of the table by its examples, whole answers, and each kind over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch.evidence.report.facts import collect_facts
from mailwatch.evidence.report.formatting import texts
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.classify import Reply, ReplyMeaning, ReplyRow, classify, classify_free_text, rows
from mailwatch.probes.failures import SmtpReplyError, classify_error
from mailwatch.probes.imap_lines import MAX_RESPONSE_BYTES, ImapLineBuffer, ImapProtocolError
from mailwatch.settings import Login, MxTask, Target
from mailwatch.store import Entry
from mailwatch.times import now
from tests.helpers.records import made_record
from tests.helpers.scripted_server import CLOSE, SILENCE, Endless, Step, scripted_server

LOGIN = Login(username="mario.rossi@example.org", password=SecretStr("canary-of-replies"))
EXAMPLES = [(row, said) for row in rows() for said in row.says]


def judge(written: str, *, clear: bool = False, before: Sequence[str] = ()) -> ReplyMeaning:
    """Judge a reply that is written as the table's examples are."""
    return classify(Reply.parse(written, clear=clear, before=before))


# The table


def test_each_example_matches_its_own_row(subtests: pytest.Subtests) -> None:
    for row, reply in EXAMPLES:
        with subtests.test(row=row.id, said=reply):
            found = judge(reply, clear=row.clear)
            assert (found.row and found.row.id, found.cause) == (row.id, row.cause)


def test_each_row_is_whole_and_has_a_name_of_its_own() -> None:
    names = [row.id for row in rows()]
    assert len(names) == len(set(names))
    for row in rows():
        assert row.says, row.id
        assert row.source, row.id
        assert row.words or row.code, row.id
        assert row.protocols <= {"imap", "pop3", "smtp", "mx"}, row.id


@pytest.mark.parametrize("row", [row for row in rows() if row.words], ids=lambda row: row.id)
@pytest.mark.slow
def test_each_pattern_is_linear(row: ReplyRow) -> None:
    """Eight times the length costs about eight times the processor's time, and not 64 times."""
    patterns = [pattern for pattern in (row.words, row.not_words) if pattern is not None]
    words = sorted({word for reply in row.says for word in reply.lower().split()})
    for seed in (*words[:4], "a", "too many ", "unable to x ", "account x ", "exceeded x "):
        costs = []
        for length in (2_000, 16_000):
            text = (f"{seed} " * length)[:length]
            runs = []
            for _ in range(2):
                began = time.process_time()
                for pattern in patterns:
                    pattern.search(text)
                runs.append(time.process_time() - began)
            costs.append(min(runs))
        assert costs[1] < 30 * max(costs[0], 1e-4), (seed, costs)


# The same words, the same verdict


SAME = {
    "Too many simultaneous connections": Cause.THROTTLED,
    "Maximum number of connections from user+IP exceeded": Cause.THROTTLED,
    "Account exceeded bandwidth limits": Cause.THROTTLED,
    "Request is throttled. Suggested Backoff Time: 299961 milliseconds": Cause.THROTTLED,
    "Daily user sending limit exceeded": Cause.THROTTLED,
    "Your account has been disabled": Cause.CREDENTIALS,
    "Your IP address is blocked": Cause.OFFLINE,
    "System error": Cause.UNAVAILABLE,
    "Too many open files": Cause.UNAVAILABLE,
    "generic failure": Cause.UNAVAILABLE,
}
PLACES = [
    *(f"imap {command}: {status}" for command in ("LOGIN", "EXAMINE", "FETCH") for status in ("NO", "BAD", "BYE")),
    *(f"imap LOGIN: NO [{code}]" for code in ("UNAVAILABLE", "ALERT", "SERVERBUG")),
    *(f"pop3 {command}: -ERR" for command in ("greeting", "USER", "PASS", "STAT", "TOP")),
    "pop3 PASS: -ERR [SYS/PERM]",
    *(
        f"smtp {command}: {code}"
        for command in ("greeting", "EHLO", "AUTH", "MAIL", "RCPT")
        for code in (421, 550)
    ),
    *(f"mx {command}: {code}" for command in ("greeting", "EHLO", "MAIL", "RCPT") for code in (421, 550)),
]


def test_the_same_reply_gets_the_same_cause_everywhere(subtests: pytest.Subtests) -> None:
    for place, (words, cause) in itertools.product(PLACES, SAME.items()):
        with subtests.test(place=place, words=words):
            assert judge(f"{place} {words}").cause is cause


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        ("imap LOGIN: NO foo", Cause.CREDENTIALS),
        ("imap LOGIN: BAD foo", Cause.PROTOCOL),
        ("imap LOGIN: BYE foo", Cause.UNAVAILABLE),
        ("imap EXAMINE: NO too many words", Cause.MAILBOX),
        ("pop3 greeting: -ERR foo", Cause.UNAVAILABLE),
        ("pop3 STLS: -ERR foo", Cause.TLS),
        ("smtp AUTH: 550 foo", Cause.CREDENTIALS),
        ("smtp MAIL: 250 foo", Cause.PROTOCOL),
        ("smtp RCPT: 550 too many bad words", Cause.REJECTED),
        ("smtp RCPT: 450 foo", Cause.UNAVAILABLE),
        ("mx EHLO: 550 foo", Cause.REJECTED),
        ("mx EHLO: 502 foo", Cause.PROTOCOL),
    ],
)
def test_an_unlisted_reply_is_classified_by_its_code_and_marked_unknown(reply: str, cause: Cause) -> None:
    found = judge(reply)
    assert (found.cause, found.known) == (cause, False)


@pytest.mark.parametrize(
    ("reply", "before", "cause"),
    [
        ("imap LOGIN: BAD Goodbye", ["Too many invalid logon attempts."], Cause.THROTTLED),
        ("imap LOGIN: NO Login failed", ["* BYE Too many connections"], Cause.THROTTLED),
        ("imap LOGIN: NO Login failed", ["NO [ALERT] System error"], Cause.UNAVAILABLE),
        # An announcement accuses nobody, and what the reply itself says counts first.
        ("imap LOGIN: NO foo", ["OK [ALERT] System maintenance tonight"], Cause.CREDENTIALS),
        ("imap LOGIN: NO [AUTHENTICATIONFAILED] foo", ["* BYE Server shutting down"], Cause.CREDENTIALS),
        ("imap EXAMINE: NO foo", ["OK [ALERT] Too many simultaneous connections"], Cause.THROTTLED),
    ],
)
def test_all_lines_of_an_answer_are_read(reply: str, before: list[str], cause: Cause) -> None:
    assert judge(reply, before=before).cause is cause


def test_an_address_that_is_repeated_says_nothing() -> None:
    assert judge("smtp RCPT: 550 5.1.1 <throttled@banned.example>: no").cause is Cause.REJECTED
    assert judge("imap LOGIN: NO user abuse@dynamic.example: no").known is False


def test_plain_text_instead_of_the_protocol_is_read() -> None:
    assert classify_free_text("imap", "Too many connections from your address").cause is Cause.THROTTLED
    assert classify_free_text("imap", "HTTP/1.1 400 Bad Request").cause is Cause.PROTOCOL


def test_lines_of_a_reply_are_read_as_one_and_kept_apart() -> None:
    text = "5.7.1 Service unavailable; Client host [203.0.113.7]\n5.7.1 blocked using zen.spamhaus.org"
    refused = SmtpReplyError("RCPT", 554, text)
    target = Target(name="t", kind=Kind.SMTP, host="mail.example.org", port=465)
    classification = classify_error(refused, target)
    assert classification.cause is Cause.OFFLINE
    assert classification.lines == tuple(
        f"554{mark}{line}" for mark, line in zip("- ", text.split("\n"), strict=True)
    )
    assert refused.status == "5.7.1"


def test_a_server_that_demands_tls_over_tls_is_at_fault() -> None:
    reply = "imap LOGIN: NO [PRIVACYREQUIRED] x"
    assert judge(reply, clear=True).cause is Cause.CREDENTIALS
    assert judge(reply).cause is Cause.PROTOCOL


# Whose limit, whose lock


def reports(said: str) -> tuple[Outcome, Cause]:
    cause = judge(said).cause
    return cause.outcome, cause


SERVERS_OWN = [
    *(
        f"{protocol} {command}: {words}"
        for protocol in ("smtp", "mx")
        for command in ("MAIL", "RCPT")
        for words in (
            "451 4.3.0 Temporary lookup failure: Too many connections",
            "451 4.3.0 <a@example.org>: Temporary lookup failure: Too many connections",
            "451 4.3.0 Too many connections to database",
            "451 connection pool limit reached",
            "451 greylisting database unavailable",
            "451 rate limit database unavailable",
            "452 4.3.1 Disk quota exceeded",
            "452 4.3.1 queue quota exceeded",
            "451 4.7.1 virus scanner not available",
            "451 4.3.0 DNSBL lookup failure",
            "451 4.3.0 reputation service timed out",
            "421 4.4.2 Operation blocked by internal error",
        )
    ),
    "imap LOGIN: NO Too many connections to MySQL server",
    "imap LOGIN: NO [UNAVAILABLE] LDAP: size limit exceeded",
    "imap LOGIN: NO [UNAVAILABLE] auth service: time limit exceeded",
    "imap LOGIN: NO [UNAVAILABLE] disk I/O throttled",
    "imap LOGIN: NO [UNAVAILABLE] userdb lookup: connection limit of LDAP reached",
    "imap LOGIN: NO Access denied for user 'vmail'@'localhost' (using password: YES)",
    "imap LOGIN: NO Connection refused to backend 10.0.0.3:143",
    "imap LOGIN: NO Could not select a backend",
    "imap LOGIN: NO Fatal error",
    "imap LOGIN: NO Connection refused",
    "smtp RCPT: 451 RBL check timed out",
    "smtp RCPT: 451 4.7.1 spamd: too many connections",
    "pop3 PASS: -ERR system temporarily locked",
    "imap EXAMINE: NO [SERVERBUG] storage backend throttled",
    "imap greeting: BYE IMAP service disabled",
    "pop3 PASS: -ERR [SYS/TEMP] mail server temporarily locked",
    "pop3 PASS: -ERR Unable to process request",
    "smtp AUTH: 535 5.7.8 Error: authentication failed: Connection timed out",
    "smtp AUTH: 535 5.7.8 Error: authentication failed: Connection lost",
]


def test_an_internal_failure_of_a_server_is_the_servers(subtests: pytest.Subtests) -> None:
    for reply in SERVERS_OWN:
        with subtests.test(said=reply):
            assert reports(reply) == (Outcome.DOWN, Cause.UNAVAILABLE)


def test_a_missing_mailbox_has_the_cause_mailbox() -> None:
    assert judge("pop3 PASS: -ERR [SYS/PERM] Fatal: Mailbox does not exist").cause is Cause.MAILBOX
    assert judge("pop3 PASS: -ERR [AUTH] Mailbox does not exist").cause is Cause.CREDENTIALS


GMX = "421 gmx.net (mrgmx) Nemesis ESMTP Service not available\nService unavailable\nFor explanation visit "


ABOUT_US = [
    # Differs from the above by one word: it is about us.
    ("smtp RCPT: 451 4.3.0 Too many connections from your IP to the database", Cause.THROTTLED),
    ("smtp RCPT: 451 4.7.1 Message queue limit for this sender exceeded", Cause.THROTTLED),
    ("smtp RCPT: 450 4.7.1 policy service: rate limit exceeded", Cause.THROTTLED),
    ("smtp MAIL: 452 4.3.1 sending quota exceeded", Cause.THROTTLED),
    ("imap LOGIN: NO [LIMIT] LDAP: size limit exceeded", Cause.THROTTLED),
    ("imap LOGIN: NO Too many connections to server", Cause.THROTTLED),
    ("imap LOGIN: NO Login rejected by LDAP", Cause.CREDENTIALS),
    ("imap LOGIN: NO LDAP: account locked", Cause.CREDENTIALS),
    ("pop3 PASS: -ERR mailbox temporarily locked", Cause.THROTTLED),
    ("imap LOGIN: NO Access temporarily locked", Cause.THROTTLED),
    ("smtp RCPT: 550 5.7.1 Relaying denied from this IP", Cause.OFFLINE),
    ("smtp RCPT: 550 5.7.1 Mittente non autorizzato", Cause.CREDENTIALS),
    ("imap LOGIN: NO no such user in database", Cause.CREDENTIALS),
    ("imap LOGIN: NO could not find user in database", Cause.CREDENTIALS),
    ("mx RCPT: 550 5.7.1 SPF permanent error: DNS lookup limit exceeded", Cause.OFFLINE),
    ("imap LOGIN: NO Invalid password, fatal error", Cause.CREDENTIALS),
    ("imap greeting: BYE IMAP access is disabled for your network", Cause.CREDENTIALS),
    ("mx RCPT: 450 4.7.1 Client host rejected: reverse DNS lookup failed", Cause.OFFLINE),
    ("smtp RCPT: 550 5.7.1 Utente non autorizzato all'invio da questo IP", Cause.OFFLINE),
    ("smtp RCPT: 550 5.7.1 Utente non autorizzato all'invio", Cause.CREDENTIALS),
    ("smtp RCPT: 550 5.7.1 <a@example.org> has exceeded relay quota", Cause.THROTTLED),
    ("smtp greeting: 554 mail.example.org ESMTP No Relay Access Allowed From 1.2.3.4", Cause.OFFLINE),
    ("mx greeting: 554 mail.example.org ESMTP No Relay Access Allowed From 1.2.3.4", Cause.OFFLINE),
    ("smtp message: 554 Message rejected: Email address is not verified.", Cause.CREDENTIALS),
    ("smtp RCPT: 554 Message rejected: Email address is not verified.", Cause.CREDENTIALS),
    ("imap greeting: BYE Connection refused by policy", Cause.OFFLINE),
    (f"smtp greeting: {GMX}https://postmaster.gmx.net/en/error-messages?ip=1.2.3.4&c=bip", Cause.OFFLINE),
    (f"smtp greeting: {GMX}https://postmaster.gmx.net/en/senderguidelines?c=hi&i=1.2.3.4", Cause.OFFLINE),
    (f"mx greeting: {GMX}https://postmaster.gmx.net/en/senderguidelines?c=hi&i=2001:db8::7", Cause.OFFLINE),
    (f"smtp greeting: {GMX}https://postmaster.gmx.net/en/", Cause.UNAVAILABLE),
]


def test_replies_about_our_own_behaviour_are_caused_by_us(subtests: pytest.Subtests) -> None:
    for reply, cause in ABOUT_US:
        with subtests.test(said=reply):
            assert judge(reply).cause is cause


# Over real sockets


def target(port: int, kind: Kind = Kind.IMAP, **changes: object) -> Target:
    login = None if kind is Kind.MX else LOGIN
    task = MxTask("mario.rossi@example.org") if kind is Kind.MX else None
    plain = Target(
        name="t", kind=kind, host="127.0.0.1", port=port, tls=TlsMode.NONE, login=login, timeout=20.0, task=task
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


async def meet(script: Sequence[Step], kind: Kind = Kind.IMAP, **changes: object) -> Observation:
    async with scripted_server(script) as port:
        return await observe(
            ProbeRequest(target(port, kind, **changes), scheduled_at=now(), contexts=TlsContexts())
        )


def classification(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None]:
    return observation.outcome, observation.cause, observation.failed_phase


HI = b"* OK [CAPABILITY IMAP4rev1 ID] ready\r\n"
IN: list[Step] = [HI, "LOGIN", b"TAG OK in\r\n"]
OPEN: list[Step] = [*IN, "EXAMINE", b"* 3 EXISTS\r\nTAG OK open\r\n", "FETCH 3"]
MAIL = b"* 3 FETCH (BODY[HEADER.FIELDS (DATE)] {4}\r\n\r\n\r\n)\r\nTAG OK\r\n"
BYE: list[Step] = ["LOGOUT", b"* BYE\r\nTAG OK\r\n"]
UP_RESULT = (Outcome.UP, None, None)


async def test_untagged_lines_are_recorded_in_order_and_unknown_ones_marked() -> None:
    observation = await meet(
        [HI, "LOGIN", b"* NO one\r\n* BAD two\r\n* Three.\r\n* OK [ALERT] four\r\nTAG NO five\r\n", CLOSE]
    )
    assert classification(observation) == (Outcome.UNKNOWN, Cause.CREDENTIALS, Phase.AUTH)
    replies = [*observation.attempts[-1].replies]
    assert replies == [HI.decode().strip(), "NO one", "BAD two", "Three.", "OK [ALERT] four", "NO five"]
    assert observation.attempts[-1].facts == {"words": "unknown"}
    observation = await meet([HI, "LOGIN", b"TAG NO Account suspended\r\n", CLOSE])
    assert observation.attempts[-1].facts == {"owner": "account-state"}
    observation = await meet([HI, "LOGIN", b"TAG NO System error\r\n", CLOSE])
    assert observation.attempts[-1].facts is None


async def test_a_report_counts_observations_with_unknown_replies() -> None:
    entries = []
    for index, words in enumerate((b"BYE foo", b"BYE System error"), 1):
        observation = await meet([HI, "LOGIN", b"* " + words + b"\r\n", CLOSE])
        assert observation.outcome is Outcome.DOWN
        text = orjson.dumps(fact_payload(observation)).decode()
        entries.append(Entry(index, "observation", observation.ended_at, "t", index, "{}", text))
    found = collect_facts(entries, made_record(0, 0, target="t", first_index=0, last_index=9))
    assert (found.down, found.unknown_words) == (2, 1)
    for language in ("en", "it"):
        assert "1" in texts(language)["unknown_words"].format(n=1, all=2)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"* BYE Too many connections\r\nTAG NO Login failed\r\n", Cause.THROTTLED),
        (b"* BYE bye\r\nTAG NO [AUTHENTICATIONFAILED] no\r\n", Cause.CREDENTIALS),
        (b"* BYE bye\r\n", Cause.UNAVAILABLE),
        (b"* BYE bye\r\nTAG OK in\r\n", Cause.UNAVAILABLE),
        (b"* NO [ALERT] Too many logins\r\n", Cause.THROTTLED),
        (b"* NO [ALERT] hello\r\n", Cause.DISCONNECTED),
    ],
)
async def test_lines_before_a_disconnect_are_read(answer: bytes, cause: Cause) -> None:
    observation = await meet([HI, "LOGIN", answer, CLOSE])
    assert classification(observation) == (cause.outcome, cause, Phase.AUTH)


async def test_a_bye_counts_even_if_the_server_stays_connected() -> None:
    observation = await meet([HI, "LOGIN", b"* BYE System error\r\n", SILENCE])
    assert classification(observation) == (Outcome.DOWN, Cause.UNAVAILABLE, Phase.AUTH)


async def test_replies_before_a_silence_may_excuse_the_server_but_not_accuse_it() -> None:
    script: list[Step] = [HI, "LOGIN", b"* NO [ALERT] Too many logins\r\n", SILENCE]
    assert classification(await meet(script, timeout=0.7)) == (Outcome.UNKNOWN, Cause.THROTTLED, Phase.AUTH)
    script[2] = b"* NO [ALERT] System error\r\n"
    assert classification(await meet(script, timeout=0.7)) == (Outcome.DOWN, Cause.TIMEOUT, Phase.AUTH)


@pytest.mark.parametrize(
    "script",
    [
        # A server that wants to know the program gets its name, once and only then.
        [
            *IN,
            "EXAMINE",
            b"TAG NO EXAMINE Unsafe Login\r\n",
            '^\\S+ ID \\("name" ',
            b"* ID NIL\r\nTAG OK\r\n",
            *OPEN[3:],
            MAIL,
        ],
        [*IN, "EXAMINE", b"TAG BAD unknown command\r\n", "SELECT INBOX", OPEN[4], "FETCH 3", MAIL],
        # Deleted meanwhile.
        [*OPEN, b"* 3 EXPUNGE\r\nTAG OK\r\n", "FETCH 2", MAIL.replace(b"* 3", b"* 2")],
        [
            *OPEN,
            b"TAG NO [EXPUNGEISSUED] gone\r\n",
            "NOOP",
            b"* 3 EXPUNGE\r\nTAG OK\r\n",
            "FETCH 2",
            MAIL.replace(b"* 3", b"* 2"),
        ],
        [
            *OPEN,
            b"TAG OK [EXPUNGEISSUED] gone\r\n",
            "NOOP",
            b"* 4 EXISTS\r\nTAG OK\r\n",
            "FETCH 4",
            MAIL.replace(b"* 3", b"* 4"),
        ],
        [*OPEN[:4], b"* 1 EXISTS\r\nTAG OK open\r\n", "FETCH 1", b"* 1 EXPUNGE\r\nTAG OK\r\n"],
        # Ways to give a header.
        [*OPEN, b"* 3 FETCH (BODY[HEADER.FIELDS (DATE)] NIL)\r\nTAG OK\r\n"],
        [*OPEN, b"* 1 FETCH (FLAGS ())\r\n* 4 EXISTS\r\n" + MAIL],
        [b"* OK ready {123}\r\n", "CAPABILITY", b"* CAPABILITY IMAP4rev1\r\nTAG OK {99}\r\n", *OPEN[1:], MAIL],
    ],
)
async def test_imap_continues_after_replies_that_mail_programs_tolerate(script: list[Step]) -> None:
    observation = await meet([*script, *BYE])
    assert classification(observation) == UP_RESULT, observation.detail


@pytest.mark.parametrize(
    ("script", "cause", "phase"),
    [
        ([*OPEN, b"* 3 FETCH (FLAGS (\\Seen))\r\nTAG OK\r\n"], Cause.MAILBOX, Phase.FETCH),
        ([*OPEN, b"* 2 FETCH (BODY[] NIL)\r\nTAG OK\r\n"], Cause.MAILBOX, Phase.FETCH),
        ([*OPEN, b"* 3 EXPUNGE\r\nTAG OK\r\n", "FETCH 2", b"TAG OK\r\n"], Cause.MAILBOX, Phase.FETCH),
        ([*OPEN, b"* 3 EXPUNGE\r\nTAG OK\r\n", "FETCH 2", b"TAG NO broken\r\n"], Cause.MAILBOX, Phase.FETCH),
        (
            [
                *IN,
                "EXAMINE",
                b"TAG NO x Unsafe Login\r\n",
                "ID",
                b"TAG BAD\r\n",
                "EXAMINE",
                b"TAG NO x Unsafe Login\r\n",
            ],
            Cause.CREDENTIALS,
            Phase.MAILBOX,
        ),
        (
            [*IN, "EXAMINE", b"TAG BAD unknown command\r\n", "SELECT", b"TAG NO x\r\n"],
            Cause.MAILBOX,
            Phase.MAILBOX,
        ),
    ],
)
async def test_imap_that_does_not_serve_is_not_up(script: list[Step], cause: Cause, phase: Phase) -> None:
    assert classification(await meet([*script, CLOSE])) == (cause.outcome, cause, phase)


EHLO: list[Step] = [b"220 x ESMTP\r\n", "^EHLO "]
AUTHED: list[Step] = [*EHLO, b"250-x\r\n250 AUTH PLAIN\r\n", "^AUTH", b"235 in\r\n"]
SENT: list[Step] = [
    "^MAIL",
    b"250 ok\r\n",
    "^RCPT",
    b"250 ok\r\n",
    "^RSET",
    b"250 ok\r\n",
    "^QUIT",
    b"221 bye\r\n",
]


async def test_a_submission_server_without_ehlo_is_greeted_with_helo() -> None:
    script: list[Step] = [
        *EHLO,
        b"502 command not implemented\r\n",
        "^HELO ",
        b"250 x\r\n",
        "^QUIT",
        b"221 bye\r\n",
    ]
    assert classification(await meet(script, Kind.SMTP, login=None)) == UP_RESULT


async def test_a_refused_name_is_not_possible_from_here_and_names_the_key() -> None:
    no = b"550 5.7.1 <[127.0.0.1]>: Helo command rejected: HELO cannot be [127.0.0.1]\r\n"
    observation = await meet(
        [*EHLO[:1], "^EHLO \\[127.0.0.1\\]", no, "^HELO \\[127.0.0.1\\]", no, CLOSE], Kind.SMTP
    )
    assert classification(observation) == (Outcome.UNKNOWN, Cause.OFFLINE, Phase.GREETING)
    assert observation.detail.startswith("not possible from here: HELO: 550 5.7.1")
    assert "defaults.helo_name" in observation.detail
    assert [*observation.attempts[-1].replies][1:] == [no.decode().strip()] * 2
    script: list[Step] = [EHLO[0], "^EHLO mail.example.org\r", *AUTHED[2:], *SENT]
    assert classification(await meet(script, Kind.SMTP, helo_name="mail.example.org")) == UP_RESULT


async def test_the_reason_of_ehlo_counts_where_helo_is_refused_without_one() -> None:
    script: list[Step] = [
        *EHLO,
        b"550 Helo command rejected: need fully-qualified hostname\r\n",
        "^HELO",
        b"503 no\r\n",
    ]
    assert classification(await meet([*script, CLOSE], Kind.SMTP)) == (
        Outcome.UNKNOWN,
        Cause.OFFLINE,
        Phase.GREETING,
    )
    assert classification(await meet([*script[:3], "^HELO", CLOSE], Kind.SMTP))[1] is Cause.OFFLINE


async def test_auth_plain_is_sent_in_two_lines_where_the_server_needs_it() -> None:
    two: list[Step] = [*AUTHED[:-1], b"334 \r\n", "^[A-Za-z0-9+/=]+\r$", b"235 in\r\n"]
    assert classification(await meet([*two, *SENT], Kind.SMTP)) == UP_RESULT


POP3_GREETING, POP3_CAPABILITIES = b"+OK ready\r\n", b"+OK\r\nTOP\r\nUSER\r\n.\r\n"
HELLO: list[Step] = [POP3_GREETING, "^CAPA", POP3_CAPABILITIES]
POPPED: list[Step] = [*HELLO, "^USER", b"+OK\r\n", "^PASS", b"+OK\r\n", "^STAT", b"+OK 1 9\r\n", "^TOP 1 0"]


@pytest.mark.parametrize(
    "answer",
    [
        [b"+OK\r\nSubject: x\r\n\r\n" + (b"z" * 70 + b"\r\n") * 30_000 + b".\r\n", "^QUIT"],
        [b"+OK\r\nSubject: x\r\n\r\n", Endless(b"z" * 65536)],
        [b"+OK\r\nX-Long: " + b"y" * 70_000 + b"\r\n\r\n.\r\n", "^QUIT", b"+OK\r\n"],
        [b"+OK\r\n.\r\n", "^QUIT", b"+OK\r\n"],
    ],
    ids=["whole message", "message without end", "long header", "no header"],
)
async def test_pop3_reads_what_it_needs_and_hangs_up(answer: list[Step]) -> None:
    observation = await meet([*POPPED, *answer], Kind.POP3)
    assert classification(observation) == UP_RESULT, observation.detail


async def test_a_limit_in_answer_to_capa_is_read_before_the_server_hangs_up() -> None:
    observation = await meet([*HELLO[:2], b"-ERR too many connections\r\n", CLOSE], Kind.POP3)
    assert classification(observation) == (Outcome.UNKNOWN, Cause.THROTTLED, Phase.GREETING)


# However the bytes are cut

DIALOGUES: list[tuple[Kind, list[tuple[str, bytes]]]] = [
    (
        Kind.IMAP,
        [
            ("", HI),
            ("LOGIN", b"TAG OK in\r\n"),
            ("EXAMINE", b"* 3 EXISTS\r\nTAG OK\r\n"),
            ("FETCH", MAIL),
            ("LOGOUT", b"TAG OK\r\n"),
        ],
    ),
    (Kind.IMAP, [("", HI), ("LOGIN", b"* BYE Too many logins\r\nTAG NO Login failed\r\n")]),
    (
        Kind.IMAP,
        [
            ("", b"* OK hi {5}\r\n"),
            ("CAPABILITY", b"* CAPABILITY IMAP4rev1\r\nTAG OK\r\n"),
            ("LOGIN", b"* NO x\r\nTAG NO [UNAVAILABLE] y\r\n"),
        ],
    ),
    (
        Kind.POP3,
        [
            ("", POP3_GREETING),
            ("CAPA", POP3_CAPABILITIES),
            ("USER", b"+OK\r\n"),
            ("PASS", b"+OK\r\n"),
            ("STAT", b"+OK 1 9\r\n"),
            ("TOP", b"+OK\r\nA: b\r\n\r\nbody\r\n.\r\n"),
            ("QUIT", b"+OK\r\n"),
        ],
    ),
    (
        Kind.POP3,
        [
            ("", POP3_GREETING),
            ("CAPA", POP3_CAPABILITIES),
            ("USER", b"+OK\r\n"),
            ("PASS", b"-ERR Unable to lock maildrop\r\n"),
        ],
    ),
    (
        Kind.SMTP,
        [
            ("", b"220-x\r\n220 ESMTP\r\n"),
            ("EHLO", b"250-x\r\n250-SIZE\r\n250 AUTH PLAIN\r\n"),
            ("AUTH", b"235 in\r\n"),
            ("MAIL", b"250 ok\r\n"),
            ("RCPT", b"250 ok\r\n"),
            ("RSET", b"250 ok\r\n"),
            ("QUIT", b"221 x\r\n"),
        ],
    ),
    (
        Kind.SMTP,
        [
            ("", b"220 x\r\n"),
            ("EHLO", b"250-x\r\n250 AUTH PLAIN\r\n"),
            ("AUTH", b"535-5.7.8 no\r\n535 5.7.8 no\r\n"),
        ],
    ),
    (
        Kind.SMTP,
        [
            ("", b"220 x\r\n"),
            ("EHLO", b"250-x\r\n250 AUTH PLAIN\r\n"),
            ("AUTH", b"235 in\r\n"),
            ("MAIL", b"550-5.4.5 Daily sending limit\r\n550 5.4.5 exceeded\r\n"),
        ],
    ),
]


async def _in_pieces(kind: Kind, answers: list[tuple[str, bytes]], sizes: list[int]) -> Observation:
    """Play the answers, each cut into packets of these sizes in turn."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for name, answer in answers:
            line = await reader.readline() if name else b""
            reply = answer.replace(b"TAG", line.split(b" ")[0])
            cuts, turn = [0], 0
            while cuts[-1] < len(reply):
                cuts.append(cuts[-1] + sizes[turn % len(sizes)])
                turn += 1
            for start, end in itertools.pairwise(cuts):
                writer.write(reply[start:end])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await observe(ProbeRequest(target(port, kind), scheduled_at=now(), contexts=TlsContexts()))


@given(st.sampled_from(DIALOGUES), st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_same_bytes_get_the_same_cause_in_any_packets(
    dialogue: tuple[Kind, list[tuple[str, bytes]]], sizes: list[int]
) -> None:
    kind, answers = dialogue
    whole = asyncio.run(_in_pieces(kind, answers, [1 << 20]))
    pieces = asyncio.run(_in_pieces(kind, answers, sizes))
    assert (classification(pieces), pieces.detail) == (classification(whole), whole.detail)
    assert pieces.attempts[-1].replies == whole.attempts[-1].replies


@pytest.mark.parametrize("size", [1 << 22, 1 << 16, 1000])
def test_lines_before_a_size_limit_are_kept_in_any_packets(size: int) -> None:
    data, lines = b"* x y z\r\n" * 150_000, ImapLineBuffer()
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    given: list[bytes] = []
    with pytest.raises(ImapProtocolError, match="longer than 1 MiB"):
        given.extend(line for piece in pieces for line in lines.feed(piece))
    assert len(given) == MAX_RESPONSE_BYTES // 9


def test_a_table_that_is_shuffled_is_another_one() -> None:
    """The order of the rows counts: a guard against a test of examples that would hold for any order."""
    shuffled = list(rows())
    random.Random(7).shuffle(shuffled)

    def first(said: str) -> str:
        head, _, text = said.partition(": ")
        protocol, _, command = head.partition(" ")
        status, _, rest = text.partition(" ")
        return next(row.id for row in shuffled if row.fits(Reply(protocol, command, status, rest, True)))

    assert any(first(said) != row.id for row, said in EXAMPLES)


def test_the_table_is_shipped_beside_the_classifier() -> None:
    from mailwatch.probes import classify as module

    assert (Path(module.__file__).parent / "replies.toml").is_file()
