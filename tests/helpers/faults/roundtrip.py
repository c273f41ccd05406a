"""Faults of round trips: a small mail service that takes a message, and gives it back or does not."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mailwatch.model import Cause, Kind, Outcome, Phase
from mailwatch.settings import RoundtripTask, Target
from tests.helpers.faults.fault import SHORT_TIMEOUT_SECONDS, TIMEOUT_SECONDS, USER, Fault, Place, closed_port
from tests.helpers.scripted_server import CLOSE, SILENCE, Behaviour

CAPABILITIES = b"IMAP4rev1 IDLE UIDPLUS SPECIAL-USE AUTH=PLAIN"
FULL_BOUNCE = """\
From: MAILER-DAEMON@example.org
Content-Type: multipart/report; report-type=delivery-status; boundary=B

--B
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.org

Final-Recipient: rfc822; {user}
Action: failed
Status: 5.2.2
Diagnostic-Code: {diagnostic}

--B
Content-Type: text/rfc822-headers

{head}
--B--
"""
Answer = bytes | Behaviour


@dataclass(slots=True)
class Service:
    """`smtp` and `imap` are answers other than the usual ones, by verb, each given `times` times or always.

    A message is given back from the n-th search of its folder on; `becomes` says as what.
    """

    smtp: dict[str, Answer] = field(default_factory=dict)
    imap: dict[str, Answer] = field(default_factory=dict)
    times: int | None = None
    capabilities: bytes = CAPABILITIES
    folder: str = "INBOX"
    folders: tuple[tuple[str, str], ...] = (("", "INBOX"), ("\\Junk", "Junk"))
    becomes: str = "itself"
    diagnostic: str = "smtp; 552 5.2.2 mailbox full"
    sign: Callable[[bytes], bytes] | None = None
    """Signs what is taken, as a provider does."""
    after_searches: int = 0
    blind: bool = False
    """Whether searches for header fields find nothing."""
    silent: bool = False
    """Whether news comes in the answer to the search before it, and never to one who is idle."""
    bad: str = ""
    """Commands with these words are refused."""
    sent: list[bytes] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Commands that change a mailbox."""

    def answer(self, answers: dict[str, Answer], verb: str) -> Answer | None:
        """Return the answer that the fault wants, if it does."""
        if verb not in answers or self.times == 0:
            return None
        if self.times is not None:
            self.times -= 1
        return answers[verb]

    def arrived(self) -> bytes | None:
        """Return the message as it lies in the mailbox."""
        if not self.sent or self.becomes == "nothing":
            return None
        message = self.sent[-1]
        if self.becomes == "forged":
            return re.sub(rb"(Seal: \d+ )[0-9a-f]{4}", rb"\g<1>0000", message)
        if self.becomes == "bounce":
            head = message.partition(b"\r\n\r\n")[0].decode()
            text = FULL_BOUNCE.format(user=USER, head=head, diagnostic=self.diagnostic)
            return text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
        return message

    async def submission(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak SMTP."""
        usual = {"AUTH": b"235 2.7.0 in\r\n", "DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}
        writer.write(b"220 mail.example.org\r\n")
        while line := (await reader.readline()).decode():
            verb = line.split()[0].upper()
            reply = self.answer(self.smtp, verb) or usual.get(verb, b"250 ok\r\n")
            if verb == "EHLO":
                reply = b"250-mail.example.org\r\n250 AUTH PLAIN\r\n"
            await _give(writer, reply)
            if reply == usual["DATA"]:
                message = await reader.readuntil(b"\r\n.\r\n")
                reply = self.answer(self.smtp, "message") or b"250 2.0.0 Ok: queued as ABC123\r\n"
                if isinstance(reply, Behaviour) or reply[:1] == b"2":
                    message = message.removesuffix(b".\r\n")
                    self.sent.append(self.sign(message) if self.sign else message)
                await _give(writer, reply)

    async def mailbox(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak IMAP."""
        writer.write(b"* OK [CAPABILITY " + self.capabilities + b"] ready\r\n")
        searches, opened = 0, ""
        while line := (await reader.readline()).decode():
            tag, _, command = line.strip().partition(" ")
            verb = command.split(" ")[0].upper()
            if verb == "UID":
                verb = " ".join(command.split(" ")[:2]).upper()
            if verb in ("SELECT", "UID STORE", "UID EXPUNGE", "EXPUNGE"):
                self.changed.append(command)
            if (reply := self.answer(self.imap, verb)) is not None:
                await _give(writer, reply if isinstance(reply, Behaviour) else reply.replace(b"TAG", tag.encode()))
                continue
            if self.bad and self.bad in command:
                writer.write(tag.encode() + b" BAD what\r\n")
                continue
            if verb in ("EXAMINE", "SELECT"):
                opened = command.split(" ", 1)[1].strip('"')
            if verb == "UID SEARCH" and self.sent and opened == self.folder:
                searches += 1
            here = opened == self.folder and searches > self.after_searches
            writer.write(self._untagged(verb, command, self.arrived() if here else None))
            if self.silent and verb == "UID SEARCH" and searches == self.after_searches > 0:
                writer.write(b"* 3 EXISTS\r\n")
            if verb == "IDLE":
                writer.write(b"+ idling\r\n")
                with contextlib.suppress(TimeoutError):
                    # News that are none, now and then: who waits for them comes back to search.
                    await asyncio.wait_for(reader.readline(), None if self.silent else 0.2)
                    writer.write(tag.encode() + b" OK done\r\n")
                    continue
                writer.write(b"* 3 EXISTS\r\n")
                await reader.readline()
            writer.write(tag.encode() + b" OK done\r\n")

    def _untagged(self, verb: str, command: str, message: bytes | None) -> bytes:
        match verb:
            case "CAPABILITY":
                return b"* CAPABILITY " + self.capabilities + b"\r\n"
            case "LIST":
                return "".join(f'* LIST ({flag}) "/" "{name}"\r\n' for flag, name in self.folders).encode()
            case "STATUS":
                uid = 8 if self.sent and self.folder in command else 7
                return b"* STATUS x (UIDNEXT %d)\r\n" % uid
            case "UID SEARCH":
                if command.endswith(" DELETED"):
                    marked = any("STORE" in changed for changed in self.changed)
                    return b"* SEARCH 7\r\n" if marked else b"* SEARCH\r\n"
                wanted = "HEADER" not in command or (
                    not self.blind and ("multipart/report" in command) == (self.becomes == "bounce")
                )
                return b"* SEARCH 7\r\n" if message and wanted else b"* SEARCH\r\n"
            case "UID FETCH" if message:
                part = message if "BODY.PEEK[]" in command else message.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                size = b"RFC822.SIZE %d " % len(message) + b'INTERNALDATE "24-Nov-2026 10:00:00 +0000" '
                return b"* 1 FETCH (UID 7 " + size + b"BODY[] {%d}\r\n" % len(part) + part + b")\r\n"
        return b""


async def _give(writer: asyncio.StreamWriter, said: Answer) -> None:
    if said is SILENCE:
        await asyncio.Event().wait()
    if isinstance(said, Behaviour):
        raise EOFError
    writer.write(said)
    await writer.drain()


@contextlib.asynccontextmanager
async def serving(service: Service) -> AsyncIterator[tuple[int, int]]:
    """Serve, and give the ports of submission and mailbox."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(speak: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await speak(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    async with contextlib.AsyncExitStack() as stack:
        ports = []
        for speak in (service.submission, service.mailbox):
            server = await asyncio.start_server(partial(serve, speak), "127.0.0.1", 0)
            stack.callback(server.close)
            ports.append(server.sockets[0].getsockname()[1])
        try:
            yield ports[0], ports[1]
        finally:
            waiting = list(tasks)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def roundtrip_target(target: Target, via: int, to: int, deadline: float = TIMEOUT_SECONDS) -> Target:
    """The target with its two ends on these ports."""
    submission = replace(target, name="lab-smtp", kind=Kind.SMTP, port=via)
    mailbox = replace(target, name="lab-imap", kind=Kind.IMAP, port=to)
    task = RoundtripTask(via=submission, to=mailbox, sender=USER, recipient=USER, deadline=deadline)
    return replace(target, login=None, port=via, task=task)


def mail_service(
    *, deadline: float = TIMEOUT_SECONDS, impatient: bool = False, untouched: bool = False, **how: Any
) -> Place:
    """A service with a fault; `untouched` says that it must see no command that changes a mailbox."""

    @contextlib.asynccontextmanager
    async def place(target: Target) -> AsyncIterator[Target]:
        service = Service(**how)
        async with serving(service) as (via, to):
            yield roundtrip_target(
                replace(target, timeout=SHORT_TIMEOUT_SECONDS if impatient else TIMEOUT_SECONDS), via, to, deadline
            )
        assert not (untouched and service.changed), service.changed

    return place


@contextlib.asynccontextmanager
async def no_mailbox(target: Target) -> AsyncIterator[Target]:
    """Submission works; nobody listens where the mailbox should be."""
    async with serving(Service()) as (via, _), closed_port(target) as nowhere:
        yield roundtrip_target(target, via, nowhere.port)


_fault = partial(Fault, kind=Kind.ROUNDTRIP)


def _smtp(verb: str, answer: bytes, cause: Cause, phase: Phase) -> Fault:
    what = {"message": "the message", "MAIL": "MAIL FROM", "RCPT": "RCPT TO"}.get(verb, verb)
    words = answer.decode().strip()
    return _fault(
        what=f"says `{words}` to {what}", cause=cause, phase=phase, place=mail_service(smtp={verb: answer})
    )


def _imap(verb: str, answer: bytes, cause: Cause | None, phase: Phase | None) -> Fault:
    words = answer.decode().strip().replace("TAG", "a1")
    return _fault(
        what=f"says `{words}` to {verb}", cause=cause, phase=phase, place=mail_service(imap={verb: answer})
    )


FAULTS: list[Fault] = [
    _fault(what="everything works", cause=None, phase=None, place=mail_service(after_searches=1)),
    _fault(
        what="the message arrives in a junk folder",
        cause=None,
        phase=None,
        place=mail_service(
            folder="Mail/Posta indesiderata", folders=(("", "Mail/Posta indesiderata"),), deadline=1.0
        ),
    ),
    _fault(
        what="the server finds nothing, though the message is there",
        cause=None,
        phase=None,
        place=mail_service(blind=True, deadline=1.0),
        lesson="a search without an index finds nothing, and the message counted as lost",
    ),
    _fault(
        what="the server cannot search for header fields",
        cause=None,
        phase=None,
        place=mail_service(bad="HEADER Message-ID"),
    ),
    _fault(
        what="a search of the whole mailbox is never answered",
        cause=None,
        phase=None,
        place=mail_service(imap={"UID SEARCH": SILENCE}, times=1, impatient=True),
    ),
    _smtp("AUTH", b"535 5.7.8 no\r\n", Cause.CREDENTIALS, Phase.AUTH),
    _smtp("MAIL", b"452 4.3.1 disk full\r\n", Cause.UNAVAILABLE, Phase.SUBMIT),
    _smtp("RCPT", b"550 5.1.1 nobody here\r\n", Cause.REJECTED, Phase.SUBMIT),
    _smtp("DATA", b"550 5.7.1 not today\r\n", Cause.REJECTED, Phase.SUBMIT),
    _smtp("DATA", b"451 4.3.0 queue full\r\n", Cause.UNAVAILABLE, Phase.SUBMIT),
    _smtp("message", b"554 5.6.0 looks like spam\r\n", Cause.REJECTED, Phase.SUBMIT),
    _smtp("message", b"451 4.7.1 greylisted\r\n", Cause.THROTTLED, Phase.SUBMIT),
    _fault(
        what="the connection ends before the message is acknowledged: it is not known whether it was accepted",
        cause=Cause.DISCONNECTED,
        phase=Phase.SUBMIT,
        place=mail_service(smtp={"message": CLOSE}),
    ),
    _fault(
        what="the message is never acknowledged",
        cause=Cause.TIMEOUT,
        phase=Phase.SUBMIT,
        place=mail_service(smtp={"message": SILENCE}, impatient=True),
    ),
    _fault(
        what="accepted, but no program listens at the mailbox",
        cause=Cause.REFUSED,
        phase=Phase.CONNECT,
        place=no_mailbox,
    ),
    _imap("LOGIN", b"TAG NO [AUTHENTICATIONFAILED] no\r\n", Cause.CREDENTIALS, Phase.AUTH),
    _imap("LOGIN", b"TAG NO [UNAVAILABLE] directory down\r\n", Cause.UNAVAILABLE, Phase.AUTH),
    _imap("EXAMINE", b"TAG NO cannot open\r\n", Cause.MAILBOX, Phase.MAILBOX),
    _fault(
        what="accepted, and never delivered",
        cause=Cause.UNDELIVERED,
        phase=Phase.DELIVER,
        place=mail_service(becomes="nothing", deadline=1.0),
        says="accepted, but not there within 1 s",
    ),
    _fault(
        what="accepted, and sent back: mailbox full",
        cause=Cause.REJECTED,
        phase=Phase.DELIVER,
        place=mail_service(becomes="bounce", untouched=True),
        says="5.2.2",
    ),
    _fault(
        what="a copy with a forged seal arrives, and is left alone",
        cause=Cause.UNDELIVERED,
        phase=Phase.DELIVER,
        place=mail_service(becomes="forged", deadline=1.0, untouched=True),
    ),
    _fault(
        what="IDLE is not answered",
        cause=Cause.TIMEOUT,
        phase=Phase.DELIVER,
        place=mail_service(imap={"IDLE": SILENCE}, becomes="nothing", impatient=True, deadline=1.5),
        says="IDLE: no answer",
    ),
    _fault(
        what="BYE while we wait, and it works again after that",
        cause=None,
        phase=None,
        place=mail_service(imap={"IDLE": b"* BYE restarting\r\n"}, times=1, after_searches=2),
    ),
    _fault(
        what="BYE while we wait, until the time is over",
        cause=Cause.UNAVAILABLE,
        phase=Phase.DELIVER,
        place=mail_service(imap={"IDLE": b"* BYE restarting\r\n"}, becomes="nothing", deadline=1.0),
    ),
    _fault(
        what="headers of ten megabytes",
        cause=Cause.PROTOCOL,
        phase=Phase.DELIVER,
        place=mail_service(imap={"UID FETCH": b"* 1 FETCH (UID 7 BODY[] {10485760}\r\n" + b"X" * 100_000}),
    ),
    _fault(
        what="the message cannot be deleted again",
        cause=None,
        phase=None,
        outcome=Outcome.UP,
        place=mail_service(imap={"UID STORE": b"TAG NO read-only\r\n"}),
    ),
]
