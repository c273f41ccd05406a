"""What aioimaplib gets wrong and the fixed client must not: bytes in, bytes out, no network."""

from __future__ import annotations

import asyncio
import logging
import re
import tracemalloc
from base64 import b64decode
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from aioimaplib.aioimaplib import Command
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.probes.imap_client import ConnectionLostError, ImapClient, ImapCommandError, ServerByeError
from mailwatch.probes.imap_lines import ImapLineBuffer, ImapProtocolError

T = TypeVar("T")
HELLO = b"* OK [CAPABILITY IMAP4rev1 SASL-IR STARTTLS] ready\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.aborted = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Session:
    """A client and the wire it is on."""

    def __init__(self, greeting: bytes = HELLO) -> None:
        self.wire = Wire()
        self.client = ImapClient(asyncio.get_running_loop())
        self.client.connection_made(self.wire)
        self.say(greeting)

    def say(self, data: bytes) -> None:
        """Let the client hear `data`, in one packet."""
        self.client.data_received(data)

    async def while_asked(self, command: Coroutine[Any, Any, T], *answers: bytes) -> T:
        """Run the command up to where it waits, let it hear the answers, and return what comes of it."""
        task = asyncio.ensure_future(command)
        first = len(self.wire.sent)
        for answer in answers:
            await asyncio.sleep(0)
            self.say(answer.replace(b"TAG", self.wire.sent[first].split(b" ")[0]))
        return await task


@pytest.mark.parametrize(
    ("greeting", "error", "words"),
    [
        (b"* BYE too many connections\r\n", ServerByeError, "too many connections"),
        (b"* BYE\r\n", ServerByeError, ""),
        (b"HTTP/1.1 400 Bad Request\r\n", ImapProtocolError, "HTTP/1.1 400 Bad Request"),
        (b"220 mail.example.org ESMTP\r\n", ImapProtocolError, "220 mail.example.org ESMTP"),
        (b"* NOK\r\n", ImapProtocolError, "* NOK"),
        (b"* OK\xff\r\n", ImapProtocolError, "* OK\\xff"),
        (b"\r\n", ImapProtocolError, ""),
    ],
)
async def test_an_invalid_greeting_is_raised_with_its_text(
    greeting: bytes, error: type[Exception], words: str
) -> None:
    session = Session(greeting)
    with pytest.raises((ServerByeError, ImapProtocolError)) as caught:
        await session.client.read_greeting()
    assert (type(caught.value), getattr(caught.value, "server_text", None)) == (error, words)
    assert session.wire.aborted


async def test_a_connection_lost_before_the_greeting_is_raised_at_once() -> None:
    session = Session(b"* OK half a gree")
    waiting = asyncio.ensure_future(session.client.read_greeting())
    await asyncio.sleep(0)
    session.client.connection_lost(ConnectionResetError("reset"))
    with pytest.raises(ConnectionLostError) as caught:
        await waiting
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_a_connection_lost_in_a_command_is_raised_at_once() -> None:
    session = Session()
    waiting = asyncio.ensure_future(session.client.examine())
    await asyncio.sleep(0)
    session.client.connection_lost(None)
    with pytest.raises(ConnectionLostError):
        await waiting
    with pytest.raises(ConnectionLostError):
        await session.client.capability()


@pytest.mark.parametrize("reply", [HELLO + b"* BYE shutting down\r\n", b"* BYE shutting down\r\n"])
async def test_a_bye_explains_the_loss_that_follows_it(reply: bytes) -> None:
    session = Session(reply)
    session.client.connection_lost(None)
    with pytest.raises(ServerByeError, match="shutting down"):
        await session.client.read_greeting()


async def test_a_bye_in_answer_to_a_login_is_raised() -> None:
    session = Session()
    with pytest.raises(ServerByeError, match="go away"):
        await session.while_asked(session.client.login("a", "b"), b"* BYE go away\r\n")


async def test_the_bye_of_a_logout_is_no_failure() -> None:
    session = Session()
    await session.while_asked(session.client.logout(), b"* BYE see you\r\nTAG OK done\r\n")


@pytest.mark.parametrize(
    ("chunk", "what"),
    [
        (b"x" * 4096, "line longer than 64 KiB"),
        (b"* 1 FETCH (BODY[] {300000}\r\n", "literal longer than 256 KiB"),
        (b"* 1 FETCH (BODY[] {" + b"9" * 5000 + b"}\r\n", "literal longer than 256 KiB"),
        (b"* 1 FETCH (BODY[] {4000}\r\n" + b"y" * 4000 + b")\r\n", "response longer than 1 MiB"),
        (b"* 1 RECENT\r\n" * 400, "response longer than 1 MiB"),
        (b"* X {10}\r\n0123456789 {10}\r\n0123456789 {10}\r\n0123456789\r\n" * 100, "response longer than 1 MiB"),
        (b"{0}\r\n" * 1000, "response longer than 1 MiB|line longer than 64 KiB"),
    ],
)
@pytest.mark.slow
async def test_an_answer_without_end_fails_and_costs_little_memory(chunk: bytes, what: str) -> None:
    session = Session()
    waiting = asyncio.ensure_future(session.client.read_date(1))
    await asyncio.sleep(0)
    tracemalloc.start()
    try:
        for _ in range(3_000_000 // len(chunk) + 100):
            session.say(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with pytest.raises(ImapProtocolError, match=what):
        await waiting
    assert peak < 1024 * 1024
    assert session.wire.aborted


async def test_ten_thousand_lines_in_one_packet_are_read() -> None:
    session = Session()
    lines = b"".join(b"* %d EXISTS\r\n" % n for n in range(10_000))
    assert await session.while_asked(session.client.examine(), lines + b"TAG OK\r\n") == 9_999


async def test_an_answer_may_come_byte_by_byte() -> None:
    session = Session()
    answer = b"* 7 FETCH (BODY[HEADER.FIELDS (DATE)] {12}\r\nTAG OK a\r\n\r\n)\r\nTAG OK done\r\n"
    waiting = asyncio.ensure_future(session.client.read_date(7))
    await asyncio.sleep(0)
    tag = session.wire.sent[-1].split(b" ")[0]
    for byte in answer.replace(b"TAG OK a", b"A00 OK a").replace(b"TAG", tag):
        session.say(bytes([byte]))
    assert await waiting is True


async def test_an_answer_inside_a_literal_is_mail_and_no_answer() -> None:
    session = Session()
    mail = b"Date: now\r\nTAG NO you are fooled\r\n* BYE\r\n"
    waiting = asyncio.ensure_future(session.client.read_date(1))
    await asyncio.sleep(0)
    tag = session.wire.sent[-1].split(b" ")[0]
    mail = mail.replace(b"TAG", tag)
    session.say(b"* 1 FETCH (BODY[HEADER.FIELDS (DATE)] {%d}\r\n%b)\r\n" % (len(mail), mail))
    assert not waiting.done()
    session.say(tag + b" OK\r\n")
    assert await waiting is True


@pytest.mark.parametrize(
    ("user", "password", "wire"),
    [
        ("a@example.org", "secret", b'LOGIN "a@example.org" "secret"\r\n'),
        ("two words", "", b'LOGIN "two words" ""\r\n'),
        ('q"u\\o', 'p"w\\d', b'LOGIN "q\\"u\\\\o" "p\\"w\\\\d"\r\n'),
        ("brace{3}", "x", b'LOGIN "brace{3}" "x"\r\n'),
    ],
)
async def test_user_and_password_are_quoted(user: str, password: str, wire: bytes) -> None:
    session = Session()
    await session.while_asked(session.client.login(user, password), b"TAG OK\r\n")
    assert session.wire.sent[0].split(b" ", 1)[1] == wire


async def test_non_ascii_text_is_sent_as_literals_when_allowed() -> None:
    session = Session()
    login = session.client.login("ù", "pässword")
    await session.while_asked(login, b"+ go on\r\n", b"+\r\n", b"TAG OK\r\n")
    assert session.wire.sent[0].endswith(b" LOGIN {2}\r\n")
    assert session.wire.sent[1:] == ["ù {9}\r\n".encode(), "pässword\r\n".encode()]


@pytest.mark.parametrize("initial", [True, False])
async def test_authenticate_plain_takes_one_step_where_the_server_can(initial: bool) -> None:
    session = Session(HELLO if initial else b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN]\r\n")
    answers = (b"TAG OK\r\n",) if initial else (b"+ \r\n", b"TAG OK\r\n")
    await session.while_asked(session.client.authenticate_plain("ù", "pässword"), *answers)
    assert len(session.wire.sent) == len(answers)
    assert b64decode(session.wire.sent[-1].split()[-1]) == "\0ù\0pässword".encode()


async def test_an_answer_beyond_the_last_part_is_not_imap() -> None:
    session = Session()
    with pytest.raises(ImapProtocolError):
        await session.while_asked(session.client.authenticate_plain("a", "b"), b"+ more?\r\n")


@pytest.mark.parametrize(
    ("answer", "status", "code", "text"),
    [
        (b"NO [AUTHENTICATIONFAILED] wrong", "NO", "AUTHENTICATIONFAILED", "wrong"),
        (b"no [authenticationfailed] wrong", "NO", "AUTHENTICATIONFAILED", "wrong"),
        (b"NO [BADCHARSET (UTF-8)] set", "NO", "BADCHARSET", "set"),
        (b"NO wrong [really]", "NO", "", "wrong [really]"),
        (b"BAD \xe8 cos\xec", "BAD", "", "\\xe8 cos\\xec"),
        (b"NO", "NO", "", ""),
    ],
)
async def test_a_refusal_is_raised_with_its_code(answer: bytes, status: str, code: str, text: str) -> None:
    session = Session()
    with pytest.raises(ImapCommandError) as caught:
        await session.while_asked(session.client.login("a", "b"), b"TAG " + answer + b"\r\n")
    refused = caught.value
    assert (refused.command, refused.status, refused.code, refused.text) == ("LOGIN", status, code, text)


@pytest.mark.parametrize(
    "answer", [b"ZZZ9 OK done\r\n", b"TAG YES\r\n", b"TAG\r\n", b"*\r\n", b"* !\r\n", b"\0\0\n"]
)
async def test_an_invalid_answer_is_raised(answer: bytes) -> None:
    session = Session()
    with pytest.raises(ImapProtocolError):
        await session.while_asked(session.client.examine(), answer)


async def test_bytes_beyond_ascii_are_accepted_anywhere() -> None:
    session = Session(b"* OK [CAPABILITY IMAP4rev1] caff\xe8 \xf0\x9f\x93\xac\r\n")
    assert "caff" in await session.client.read_greeting()
    answer = b"* FLAGS (\xe8\xff)\r\n* 3 EXISTS\r\nTAG OK \xe8\r\n"
    assert await session.while_asked(session.client.examine(), answer) == 3


async def test_capabilities_are_learned_wherever_they_are_sent() -> None:
    session = Session()
    assert session.client.capabilities == {"IMAP4REV1", "SASL-IR", "STARTTLS"}
    assert session.wire.sent == []
    await session.while_asked(session.client.capability(), b"* CAPABILITY IMAP4rev2 IDLE\r\nTAG OK\r\n")
    assert session.client.capabilities == {"IMAP4REV2", "IDLE"}
    await session.while_asked(session.client.login("a", "b"), b"TAG OK [CAPABILITY IMAP4rev1 MOVE] in\r\n")
    assert session.client.capabilities == {"IMAP4REV1", "MOVE"}


async def test_a_server_without_imap_among_its_capabilities_is_none() -> None:
    session = Session()
    with pytest.raises(ImapProtocolError):
        await session.while_asked(session.client.capability(), b"* CAPABILITY POP3\r\nTAG OK\r\n")


async def test_an_opened_mailbox_without_a_count_is_not_imap() -> None:
    session = Session()
    with pytest.raises(ImapProtocolError, match="EXISTS"):
        await session.while_asked(session.client.examine(), b"* FLAGS ()\r\nTAG OK\r\n")


async def test_another_message_than_the_one_asked_for_is_none() -> None:
    session = Session()
    answer = b"* 6 FETCH (FLAGS ())\r\nTAG OK\r\n"
    assert await session.while_asked(session.client.read_date(7), answer) is False


@pytest.mark.parametrize(
    "packets",
    [
        (b"TAG OK begin\r\n* OK injected\r\n",),
        (b"TAG OK begin\r\n* OK inj",),
        (b"TAG OK begin\r\nTAG2 OK [CAPABILITY IMAP4rev1 AUTH=PLAIN]\r\n",),
    ],
)
async def test_plain_text_slipped_in_after_starttls_is_refused(packets: tuple[bytes, ...]) -> None:
    """CVE-2011-0411 and its like."""
    session = Session()

    async def upgrade(_: asyncio.BaseProtocol) -> asyncio.Transport:
        raise AssertionError("the handshake must not begin")

    with pytest.raises(ImapProtocolError, match="STARTTLS"):
        await session.while_asked(session.client.starttls(upgrade), *packets)


async def test_after_starttls_the_capabilities_are_asked_for_again() -> None:
    session = Session()
    secured = Wire()

    async def upgrade(_: asyncio.BaseProtocol) -> asyncio.Transport:
        return secured

    task = asyncio.ensure_future(session.client.starttls(upgrade))
    await asyncio.sleep(0)
    session.say(session.wire.sent[-1].split(b" ")[0] + b" OK begin\r\n")
    while not secured.sent:
        await asyncio.sleep(0)
    assert session.client.capabilities == set()
    tag = secured.sent[0].split(b" ")[0]
    session.say(b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\n" + tag + b" OK\r\n")
    await task
    assert session.client.capabilities == {"IMAP4REV1", "AUTH=PLAIN"}
    assert session.client.transport is secured


async def test_no_password_is_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    canary = 'cana"ry\\7'
    session = Session()
    waiting = asyncio.ensure_future(session.client.login("user-canary", canary))
    await asyncio.sleep(0)
    displayed = repr(session.client.pending_sync_command) + str(session.client.pending_sync_command)
    assert session.wire.sent[0].endswith(b'"cana\\"ry\\\\7"\r\n')
    session.say(session.wire.sent[0].split(b" ")[0] + b' NO bad "cana\\"ry\\\\7"\r\n')
    with pytest.raises(ImapCommandError):
        await waiting
    session.client.send("X LOGIN a " + canary)
    assert session.wire.sent[1].endswith(b'cana"ry\\7\r\n')
    for secret in ("cana", "user-canary"):
        assert secret not in caplog.text + displayed


async def test_a_command_of_the_library_is_refused_because_nothing_bounds_it() -> None:
    session = Session()
    with pytest.raises(NotImplementedError):
        await session.client.execute(Command("NOOP", "A1"))
    assert session.wire.sent == []


@given(
    data=st.lists(
        st.sampled_from(
            [b"* 1 EXISTS", b"\r\n", b"\n", b"{3}\r\n", b"{0}\r\n", b"abc", b"", b"{99", b"}", b"\xff\0"]
        )
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 200)),
)
def test_lines_do_not_depend_on_how_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    whole, pieces = ImapLineBuffer(), ImapLineBuffer()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reported = [line for start, end in pairwise(edges) for line in pieces.feed(data[start:end])]
    assert reported == list(whole.feed(data))
    assert whole.pending == pieces.pending


async def test_text_of_an_answer_is_not_read_as_capabilities() -> None:
    session = Session()
    asked = session.client.capability()
    await session.while_asked(asked, b"* CAPABILITY IMAP4rev1 IDLE\r\nTAG OK Capability completed.\r\n")
    assert session.client.capabilities == {"IMAP4REV1", "IDLE"}


async def test_literals_are_given_where_they_are_read() -> None:
    session = Session()
    asked = session.client.read_literals("UID FETCH", b"1:2 BODY[]", wanted=re.compile(rb"\d+ FETCH"))
    answer = [
        b"* 1 FETCH (UID 1 BODY[] {5}\r\na\r",
        b"\nbc)\r\n* 9 EXISTS\r\n* 2 FETCH (UID 2 BODY[] {0}\r\n)\r\n",
        b"* 3 FETCH (FLAGS ())\r\nTAG OK\r\n",
    ]
    read = await session.while_asked(asked, *answer)
    assert [literals for _, literals in read] == [[b"a\r\nbc"], [b""], []]


@pytest.mark.parametrize(
    ("seconds", "answers"),
    [
        (60, [b"+ idling\r\n", b"* 1 EXISTS\r\n"]),
        (60, [b"* 1 EXISTS\r\n+ idling\r\n"]),
        (60, [b"+ idling\r\n* 2 FETCH (FLAGS ())\r\n* 3 EX", b"ISTS\r\n"]),
        (0, [b"+ idling\r\n"]),
    ],
)
async def test_idle_ends_on_new_data_and_on_timeout(seconds: float, answers: list[bytes]) -> None:
    session = Session()
    idling = asyncio.ensure_future(session.client.idle_for(seconds, 60))
    await asyncio.sleep(0)
    tag = session.wire.sent[-1].split(b" ")[0]
    for answer in answers:
        assert session.wire.sent[-1] == tag + b" IDLE\r\n"
        session.say(answer)
    while session.wire.sent[-1] != b"DONE\r\n":
        await asyncio.sleep(0)
    session.say(tag + b" OK done\r\n")
    await idling


async def test_idle_that_is_refused_is_reported() -> None:
    session = Session()
    with pytest.raises(ImapCommandError, match="BAD what"):
        await session.while_asked(session.client.idle_for(60, 60), b"TAG BAD what\r\n")
    assert all(sent != b"DONE\r\n" for sent in session.wire.sent)


async def test_idle_ends_with_the_connection() -> None:
    session = Session()
    with pytest.raises(ServerByeError):
        await session.while_asked(session.client.idle_for(60, 60), b"+ idling\r\n", b"* BYE autologout\r\n")
