"""Mail servers and mails: dialogues of all protocols, replies, headers, delivery reports, signatures."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Kind
from mailwatch.probes import cleartext, imap, mx, pop3, smtp
from mailwatch.probes.classify import Reply, classify, classify_free_text
from mailwatch.probes.connect import CloseCallback, ProbeContext
from mailwatch.probes.imap_lines import ImapLineBuffer, ImapProtocolError
from mailwatch.probes.redact import MAX_CHARS, Redactor
from mailwatch.probes.roundtrip.arrival import clean_up
from mailwatch.probes.roundtrip.delivery_report import read_delivery_report
from mailwatch.probes.roundtrip.dkim import check_signatures
from mailwatch.probes.roundtrip.headers import clock_skew_ms, header_fields, header_section, hops, parse_date
from mailwatch.probes.roundtrip.mailbox import Mailbox
from mailwatch.probes.roundtrip.message import MessageSigner, MessageToken, Outstanding, compose
from mailwatch.probes.roundtrip.submission import Submission
from mailwatch.settings import Login, MxTask, OAuth2
from mailwatch.settings import Target as Watched
from tests.dialogues import DIALOGUES
from tests.fuzz import wire
from tests.fuzz.target import Target, Wrong
from tests.helpers.faults.roundtrip import FULL_BOUNCE as BOUNCE_FORM

USER = "anna@example.org"
LOGIN = Login(username=USER, password=SecretStr(wire.PASSWORD))
SEALER = MessageSigner(b"s" * 32, "trip")
MARK = MessageToken("0123456789abcdef" * 2, 1_769_119_200_123)
REPLIES = [
    wire.PASSWORD.encode(),
    USER.encode(),
    b"{tag} OK ",
    b"{tag} NO ",
    b"{tag} BAD ",
    b"* BYE ",
    wire.ANSWER,
    wire.PACKET,
]


def _watched(kind: Kind, **more: Any) -> Watched:
    return Watched(
        name="t", kind=kind, host="mail.example", port=1, tls=wire.CLEAR, timeout=30.0, login=LOGIN, **more
    )


def _replies(kind: Kind) -> list[bytes]:
    """What the servers of tests/dialogues said, in their order."""
    found = []
    for dialogue in DIALOGUES:
        if dialogue.kind is kind:
            answers = [
                step.says if isinstance(step.says, bytes) else step.says.replace("\n", "\r\n").encode() + b"\r\n"
                for step in dialogue.steps
            ]
            found.append(wire.ANSWER.join(answers))
    return found


def _joined(*answers: bytes) -> bytes:
    return wire.ANSWER.join(answers)


DATE = b"Date: Mon, 2 Jan 2023 10:00:00 +0100\r\n\r\n"
BODY = compose(MARK, SEALER.sign(MARK), USER, USER)
RETURNED = (
    b'Content-Type: multipart/report; report-type=delivery-status; boundary="x"\r\n\r\n--x\r\nContent-Type: '
    b"message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--x\r\n"
    b"Content-Type: message/rfc822\r\n\r\n" + BODY + b"\r\n--x--\r\n"
)
IMAP = [
    _joined(
        b"* OK [CAPABILITY IMAP4rev1 LITERAL+ ID IDLE UIDPLUS SPECIAL-USE STARTTLS AUTH=PLAIN AUTH=XOAUTH2] ready\r\n",
        b"{tag} OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS] in\r\n",
        b"* FLAGS (\\Seen)\r\n* 3 EXISTS\r\n* OK [UIDVALIDITY 1] ok\r\n{tag} OK [READ-ONLY] done\r\n",
        b"* 3 FETCH (BODY[HEADER.FIELDS (DATE)] {%d}\r\n%b)\r\n{tag} OK done\r\n" % (len(DATE), DATE),
        b"* BYE bye\r\n{tag} OK bye\r\n",
    ),
    *_replies(Kind.IMAP),
]
FULL_BOUNCE = (
    BOUNCE_FORM.replace("{user}", USER)
    .replace("{head}", f"X-MailWatch-Token: {MARK.search_text}\nX-MailWatch-Seal: {SEALER.sign(MARK)}")
    .replace("{diagnostic}", "smtp; 550 5.1.1 no")
    .replace("\n", "\r\n")
    .encode()
)
MAILBOX = [
    _joined(
        b"* OK [CAPABILITY IMAP4rev1 IDLE UIDPLUS SPECIAL-USE] ready\r\n",
        b"{tag} OK in\r\n",
        b'* LIST (\\Junk) "/" "Junk \\"x"\r\n* LIST (\\Sent) NIL Sent\r\n* LIST () "." {4}\r\nabcd\r\n{tag} OK\r\n',
        b"* STATUS INBOX (UIDNEXT 12)\r\n{tag} OK\r\n",
        b"* 1 EXISTS\r\n{tag} OK\r\n",
        b"* SEARCH 11\r\n{tag} OK\r\n",
        b"* 1 FETCH (UID 11 BODY[HEADER.FIELDS (X)] {%d}\r\n%b)\r\n{tag} OK\r\n" % (len(BODY), BODY),
        b'* 1 FETCH (UID 11 RFC822.SIZE %d INTERNALDATE "02-Jan-2023 10:00:00 +0100" BODY[]<0> {%d}\r\n%b)\r\n{tag} OK\r\n'
        % (len(BODY), len(BODY), BODY),
        b"* SEARCH 11\r\n{tag} OK\r\n",
        b"* 1 FETCH (UID 11 RFC822.SIZE %d BODY[]<0> {%d}\r\n%b)\r\n{tag} OK\r\n"
        % (len(FULL_BOUNCE), len(FULL_BOUNCE), FULL_BOUNCE),
    )
]
POP3 = [
    _joined(
        b"+OK ready\r\n",
        b"+OK\r\nTOP\r\nUSER\r\nUIDL\r\nSASL PLAIN XOAUTH2\r\nSTLS\r\n.\r\n",
        b"+OK\r\n",
        b"+OK in\r\n",
        b"+OK 1 500\r\n",
        b"+OK\r\nDate: x\r\n\r\n.\r\n",
        b"+OK bye\r\n",
    ),
    *_replies(Kind.POP3),
]
EHLO = b"250-x\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2\r\n"
SMTP = [
    _joined(
        b"220 x ESMTP\r\n", EHLO, b"235 2.7.0 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"221 bye\r\n"
    ),
    _joined(b"220 x\r\n", b"250-x\r\n250 AUTH CRAM-MD5\r\n", b"334 PDE4OTYuNjk3MTcwOTUyQHg+\r\n", b"235 ok\r\n"),
    _joined(b"220 x\r\n", b"502 no\r\n", b"250 x\r\n", b"250 ok\r\n"),
    *_replies(Kind.SMTP),
]
SUBMIT = [
    _joined(
        b"220 x ESMTP\r\n",
        EHLO,
        b"235 ok\r\n",
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"354 go\r\n",
        b"250 2.0.0 queued as 4F\r\n",
    )
]
MX = [
    _joined(b"220 x ESMTP\r\n", EHLO, b"250 ok\r\n", b"250 2.1.5 ok\r\n", b"250 ok\r\n", b"221 bye\r\n"),
    *_replies(Kind.MX),
]
OAUTH = OAuth2(
    client_id="x",
    token_endpoint="https://t.example/",
    scope="s",
    authorization_endpoint="https://a.example/",
    grant_file=Path("grant"),
)
HEAD = (
    b"Received: from a.example (a.example [192.0.2.1]) by b.example (Postfix) with ESMTPS id 4F for <x@y>; "
    b"Mon, 2 Jan 2023 10:00:00 +0100\r\nReceived: from [IPv6:2001:db8::1] by a.example with LMTP id (((x))); "
    b"Mon, 2 Jan 2023 09:59:58 -0000 (UTC)\r\nReceived:\tby c\r\n (comment (nested)) ; 31 Dec 1969 23:59:59 +9999\r\n"
)
DKIM = (
    b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=example.org; s=k1; t=1; x=9; h=from:to; l=3;\r\n"
    b" bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\nFrom: a@example.org\r\n\r\nx\r\n"
)
KEYS = [
    b"v=DKIM1; k=rsa; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJB",
    b"v=DKIM1; p=",
    b"k=ed25519; p=AAAA",
    b"p=\xff;;;=",
    b"",
]


def _bearer(kind: Kind) -> Watched:
    return replace(_watched(kind), login=replace(LOGIN, oauth2=OAUTH))


async def _read_mailbox(call: ProbeContext) -> CloseCallback:
    """What a round trip reads of a mailbox, in its order."""
    client = await imap.connect_and_login(call)
    mailbox = Mailbox(client)
    await mailbox.find_folders()
    for folder in mailbox.folders:
        await mailbox.next_uid(folder)
    await mailbox.examine(b"INBOX")
    await mailbox.search(b"ALL")
    for uid in list(await mailbox.token_headers([11]))[:1]:
        if copy := await mailbox.fetch(uid):
            canonical(hops(header_fields(header_section(copy.message)), 0))
            read_delivery_report(copy.message, SEALER)
    found = await clean_up(mailbox, SEALER, Outstanding({MARK.token: MARK}), sent=True)
    canonical(found.facts())
    return client.logout


def _lines(data: bytes) -> None:
    """However the bytes are cut, the lines are the same."""

    def given(packets: list[bytes]) -> list[bytes]:
        lines, found = ImapLineBuffer(), list[bytes]()
        try:
            for packet in packets:
                found += lines.feed(packet)
        except ImapProtocolError as error:
            found.append(str(error).encode()[:20])
        return found

    whole = given([data])
    if len(data) < 300 and given([data[at : at + 1] for at in range(len(data))]) != whole:
        raise Wrong("lines depend on packets")


def _reply(data: bytes) -> None:
    status, _, text = data.decode("utf-8", "backslashreplace").partition(" ")
    for protocol, command, code in (
        ("imap", "LOGIN", "NO"),
        ("imap", "greeting", "BYE"),
        ("pop3", "PASS", "-ERR"),
        ("smtp", "RCPT", status[:3]),
        ("mx", "RCPT", status[:3]),
        ("imap", "EXAMINE", status[:10]),
    ):
        classify(Reply(protocol, command, code, text, before=text.split("\n")[:5]))
    classify_free_text("imap", text)


_REDACT = Redactor(LOGIN)


def _redact(data: bytes) -> None:
    redacted = _REDACT(data.decode("utf-8", "backslashreplace"))
    if wire.PASSWORD.lower() in redacted.lower() or not redacted.isprintable():
        raise Wrong(f"disclosed: {redacted}")
    if len(redacted) > 10 * MAX_CHARS:
        raise Wrong("a reply on record is not bounded")


def _clear(data: bytes) -> None:
    error = OSError()
    error.cleartext = cleartext.append_cleartext(b"", data)  # type: ignore[attr-defined]
    answer = cleartext.cleartext_of(error)
    for kind in (Kind.SMTP, Kind.IMAP, Kind.POP3):
        cleartext.is_refusal(kind, answer)


def _header(data: bytes) -> None:
    fields = header_fields(header_section(data))
    SEALER.recognise(dict(fields))
    way = hops(fields, MARK.sent_at)
    clock_skew_ms(way)
    canonical(way)
    parse_date(data.decode("latin-1"))


def _bounce(data: bytes) -> None:
    report = read_delivery_report(data, SEALER)
    if report is not None:
        canonical([report.token, report.action, report.status, report.diagnostic])


def _signed(data: bytes) -> None:
    key, _, message = data.partition(wire.ANSWER)

    async def lookup(_name: str) -> bytes | None:
        return key

    canonical(wire.run(check_signatures(message or data, lookup)))


def _playing(kind: Kind, probe: Any, **more: Any) -> Any:
    watched = _watched(kind, **more)
    return lambda data: wire.play(data, watched, probe)


def targets() -> list[Target]:
    """All readers of mail servers and mails."""
    exchange = MxTask(sender=USER, recipient="b@example.org")
    play = functools.partial(Target, words=REPLIES)

    def submit(data: bytes) -> None:
        wire.play(data, _watched(Kind.SMTP), Submission(SEALER, USER, USER).probe)

    return [
        play("imap", _playing(Kind.IMAP, imap.probe), IMAP, 60),
        play("imap-oauth", lambda data: wire.play(data, _bearer(Kind.IMAP), imap.probe), IMAP, 10),
        play("imap-mailbox", _playing(Kind.IMAP, _read_mailbox), MAILBOX, 40),
        play("pop3", _playing(Kind.POP3, pop3.probe), POP3, 60),
        play("smtp", _playing(Kind.SMTP, smtp.probe), SMTP, 60),
        play("smtp-oauth", lambda data: wire.play(data, _bearer(Kind.SMTP), smtp.probe), SMTP, 10),
        play("smtp-submit", submit, SUBMIT, 20),
        play("mx", _playing(Kind.MX, functools.partial(mx.probe, within=10.0), task=exchange), MX, 30),
        Target("imap-lines", _lines, IMAP + MAILBOX, 150, words=[b"{5}\r\n", b"{5+}\r\n", b"{999999}\r\n"]),
        Target(
            "replies", _reply, [line for reply in IMAP + POP3 + SMTP + MX for line in reply.split(b"\r\n")], 40
        ),
        Target("redact", _redact, IMAP + SMTP, 80, words=REPLIES),
        Target("cleartext", _clear, SMTP + IMAP + POP3 + [b"421 x\r\n", b"\x15\x03\x01"], 80),
        Target("headers", _header, [HEAD + BODY, HEAD, DATE], 100),
        Target("bounces", _bounce, [FULL_BOUNCE, RETURNED, BODY, HEAD + FULL_BOUNCE], 30, words=_boundaries()),
        Target("dkim", _signed, [wire.ANSWER.join((key, DKIM + BODY)) for key in KEYS], 10),
    ]


def _boundaries() -> list[bytes]:
    return [
        b"Content-Type: multipart/report; boundary=x\r\n",
        b"--x\r\n",
        b"--x--\r\n",
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: message/delivery-status\r\n\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Action: failed\r\n",
        b"Content-Type: text/plain; charset=\"x\xff\"; name*0*=''%",
        b"=?x?q?=ff?=",
        b"Content-Disposition: \xff\r\n",
        b"mailwatch." + MARK.token.encode(),
        b"Content-Type: text/rfc822-headers\r\n\r\n",
    ]
