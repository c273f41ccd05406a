"""A round trip: opens the mailbox, submits a message, and awaits it.

The stage is how far the mail service got, in the words of docs/explanation/round-trips.md: unsubmitted, rejected,
unsure, login, queued, missing, served. Little of an arrived message is kept, since third parties wrote to it on
its way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mailwatch import monotonic
from mailwatch.facts import ObservationFacts
from mailwatch.model import Attempt, Cause, Observation, Outcome, Phase
from mailwatch.probes.attempts import try_addresses
from mailwatch.probes.connect import Address, CloseCallback, ProbeContext
from mailwatch.probes.failures import ProbeError
from mailwatch.probes.imap import connect_and_login
from mailwatch.probes.imap_client import ImapCommandError
from mailwatch.probes.redact import redactor
from mailwatch.probes.request import ProbeRequest
from mailwatch.probes.roundtrip.arrival import ArrivalWait, bounded, clean_up, delete_messages
from mailwatch.probes.roundtrip.delivery_report import DeliveryReport
from mailwatch.probes.roundtrip.headers import clock_skew_ms, header_fields, header_section, hops
from mailwatch.probes.roundtrip.mailbox import INBOX, Mailbox, StoredMessage
from mailwatch.probes.roundtrip.message import MessageSigner, Outstanding
from mailwatch.probes.roundtrip.submission import Submission
from mailwatch.settings import RoundtripTask, Target
from mailwatch.times import Millis, now

if TYPE_CHECKING:
    from mailwatch.probes.roundtrip.dkim import KeyLookup

logger = logging.getLogger(__name__)


def arrival_facts(copy: StoredMessage, sent_at: Millis, ends: Iterable[Target]) -> ObservationFacts:
    """Return the facts of an arrived copy; the passwords of the `ends` are masked in its header."""
    head = header_section(copy.message)
    way = hops(header_fields(head), sent_at)
    text = head.decode("utf-8", "backslashreplace")
    for end in ends:
        text = redactor(end.login).hide_password(text)
    facts: ObservationFacts = {
        "folder": "inbox" if copy.folder == INBOX else "junk",
        "mailbox": copy.folder.decode("utf-8", "backslashreplace"),
        "headers": text,
        "hops": way,
    }
    if copy.stored_at is not None:
        facts["stored_at"] = copy.stored_at
    if skew := clock_skew_ms(way):
        facts["clock_skew_ms"] = skew
    return facts


async def _signatures(copy: StoredMessage, keys: KeyLookup | None) -> list[tuple[dict[str, str], bytes]]:
    """Return the result for each signature, and the TXT record of its key."""
    if not copy.whole:
        return [({"result": "neutral", "why": "the message is longer than what is read of it"}, b"")]
    # Imported on first use: it takes a while, and commands should start at once.
    from mailwatch.probes.roundtrip.dkim import check_with_keys

    try:
        return await check_with_keys(copy.message, keys)
    except Exception:
        logger.exception("a signature was not checked: internal error")
        return [({"result": "neutral", "why": "internal error"}, b"")]


RECONNECT_SECONDS = (2.0, 5.0, 10.0)
"""Seconds before each reconnection after a connection was lost during the wait, as in a mail program."""
_RECONNECT_CAUSES = frozenset(
    {Cause.DISCONNECTED, Cause.UNAVAILABLE, Cause.REFUSED, Cause.TIMEOUT, Cause.UNREACHABLE}
)


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class RoundtripContext:
    """The further inputs of a probe. `logged_in` is awaited when no further login is under way.

    `checkpoint`: the note that the message carries, "" for none. `arrived` is called with each signature of the
    arrived copy that was valid. `keys` looks up the keys of signatures, instead of the system's name server.
    """

    secret: bytes
    outstanding: Outstanding = field(default_factory=Outstanding)
    logged_in: Callable[[], Awaitable[None]] = _nothing
    checkpoint: str = ""
    arrived: Callable[[SignedArrival], None] | None = None
    keys: KeyLookup | None = None


@dataclass(frozen=True, slots=True)
class SignedArrival:
    """A valid DKIM signature of the whole message as it arrived. `key`: the text of its TXT record, as looked up
    `at`. `stored_at`: the server's own date of arrival.
    """

    message: bytes
    domain: str
    selector: str
    key: bytes
    at: Millis
    stored_at: Millis | None


class RoundtripProbe:
    """One probe under way, with its results so far."""

    def __init__(self, request: ProbeRequest, task: RoundtripTask, context: RoundtripContext) -> None:
        self._request = request
        self._timeout = request.target.timeout
        self._via = replace(request, target=replace(task.via, timeout=self._timeout))
        self._to = replace(request, target=replace(task.to, timeout=self._timeout))
        self._task = task
        self._context = context
        self._signer = MessageSigner(context.secret, request.target.name)
        self._facts: ObservationFacts = {}
        self._submission: Submission | None = None
        self._submissions: list[Attempt] = []
        self._addresses: tuple[Address, ...] = ()
        self._first_uids: dict[bytes, int] = {}
        self._wait: ArrivalWait | None = None
        self._found: StoredMessage | None = None
        self._cleans_up = True
        self._clean_up_task = False
        self._waited = False

    async def run(self) -> Observation:
        """Run the round trip, and return its observation."""
        loop = asyncio.get_running_loop()
        arrivals = await self._wait_for_arrival(self._timeout * 16 + self._task.deadline)
        if self._clean_up_task:
            # A mail program does not search a huge mailbox: a failure of that must not cause an outage.
            self._facts["untidied"] = arrivals[-1].detail
            self._cleans_up = False
            arrivals += await self._wait_for_arrival(self._timeout * 16 + self._task.deadline)
        if self._submission is None:
            # The mailbox is not accessible, which makes it more important whether mail is still accepted.
            await self._submit()
        for pause in RECONNECT_SECONDS:
            last = arrivals[-1]
            if self._wait is None or not self._waited or last.cause not in _RECONNECT_CAUSES:
                break
            if loop.time() + pause >= self._wait.until:
                break
            await asyncio.sleep(pause)
            arrivals += await self._wait_for_arrival(self._timeout * 4 + self._wait.until - loop.time())
        if self._found is not None:
            ends = self._via.target, self._to.target
            self._facts |= arrival_facts(self._found, self._facts["message"]["sent_at"], ends)
            self._facts["dkim"] = await self._check_signatures(self._found)
        return self._conclude(arrivals)

    async def _wait_for_arrival(self, answer_seconds: float) -> list[Attempt]:
        attempts, addresses = await try_addresses(self._to, self._wait_in_mailbox, max_seconds=answer_seconds)
        self._addresses = addresses or self._addresses
        return [replace(attempt, facts={**(attempt.facts or {}), "end": "to"}) for attempt in attempts]

    async def _wait_in_mailbox(self, call: ProbeContext) -> CloseCallback:
        phase = call.recorder.phase
        async with bounded(self._timeout):
            client = await connect_and_login(call)
        mailbox = Mailbox(client)
        if self._wait is None:
            with phase(Phase.MAILBOX):
                async with bounded(self._timeout):
                    await mailbox.find_folders()
                    for folder in mailbox.folders:
                        self._first_uids[folder] = await mailbox.next_uid(folder)
                    await mailbox.examine(INBOX)
                if self._cleans_up:
                    self._clean_up_task = True
                    async with bounded(self._timeout):
                        await self._clean_up(mailbox)
                    self._clean_up_task = False
            await self._submit()
            if self._wait is None:
                return client.logout
        else:
            with phase(Phase.MAILBOX):
                async with bounded(self._timeout):
                    await mailbox.find_folders()
        self._waited = True
        with phase(Phase.DELIVER):
            self._found = await self._delivered(self._wait, mailbox)
            accepted = self._submission.accepted_clock if self._submission else monotonic.milliseconds()
            self._facts["latency_ms"] = max(0, monotonic.milliseconds() - accepted)
        if why := await delete_messages(mailbox, {self._found.folder: [self._found.uid]}, self._timeout):
            self._facts["left"] = call.recorder.hide(why)
        return client.logout

    async def _check_signatures(self, copy: StoredMessage) -> list[dict[str, str]]:
        """Return the result for each signature; those that are valid are passed on."""
        checked = await _signatures(copy, self._context.keys)
        for fact, key in checked if self._context.arrived else ():
            if fact["result"] == "pass" and self._context.arrived is not None:
                signed_by = fact["domain"], fact["selector"]
                self._context.arrived(SignedArrival(copy.message, *signed_by, key, now(), copy.stored_at))
        return [fact for fact, _ in checked]

    async def _clean_up(self, mailbox: Mailbox) -> None:
        try:
            own = self._task.sender == self._task.recipient
            found = await clean_up(mailbox, self._signer, self._context.outstanding, sent=own)
        except ImapCommandError as error:
            self._facts["untidied"] = str(error)[:200]
            return
        self._facts |= found.facts()
        known = found.seen | {entry["token"] for entry in found.bounced}
        lost = [token for token in self._context.outstanding.overdue(now()) if token.token not in known]
        if lost and found.complete:
            self._facts["lost"] = [{"token": token.token, "sent_at": token.sent_at} for token in lost]
        if found.leftovers and (why := await delete_messages(mailbox, found.leftovers, self._timeout)):
            self._facts["left"] = redactor(self._to.target.login).hide(why)
            self._facts.pop("cleaned", None)

    async def _submit(self) -> None:
        """Submit the message, once; the results are in `_submission` and `_submissions`."""
        task = self._task
        carried = self._context.checkpoint
        submission = self._submission = Submission(self._signer, task.sender, task.recipient, carried)
        self._submissions, addresses = await try_addresses(self._via, submission.probe)
        self._submissions = [replace(a, facts={**(a.facts or {}), "end": "via"}) for a in self._submissions]
        self._addresses = self._addresses or addresses
        await self._context.logged_in()
        if submission.facts:
            self._facts["message"] = submission.facts
        if submission.token is not None and submission.accepted_at is not None:
            until = asyncio.get_running_loop().time() + task.deadline
            self._wait = ArrivalWait(submission.token, self._signer, self._first_uids, until, self._timeout)

    async def _delivered(self, wait: ArrivalWait, mailbox: Mailbox) -> StoredMessage:
        found = await wait.arrival(mailbox)
        if wait.delayed is not None:
            self._facts["delayed"] = wait.delayed
        if isinstance(found, DeliveryReport):
            self._facts["bounce"] = {"status": found.status, "diagnostic": found.diagnostic}
            raise ProbeError(Cause.REJECTED, f"came back: {found.status} {found.diagnostic}".strip())
        if found is None:
            self._facts["stage"] = "missing" if wait.inbox_grew and wait.delayed is None else "queued"
            raise ProbeError(Cause.UNDELIVERED, f"accepted, but not there within {self._task.deadline:g} s")
        return found

    def _conclude(self, arrivals: list[Attempt]) -> Observation:
        submission = self._submission
        assert submission is not None
        ended = self._submissions[-1]
        failed = ended if submission.accepted_at is None else arrivals[-1]
        # The deciding attempt comes last.
        attempts = [*arrivals, *self._submissions] if failed is ended else [*self._submissions, *arrivals]
        if failed.cause is None and self._found is not None:
            self._facts["stage"] = "served"
        elif submission.unsure:
            self._facts["stage"] = "unsure"
        elif failed.cause is Cause.REJECTED:
            self._facts["stage"] = "rejected"
        elif submission.accepted_at is None:
            self._facts["stage"] = "unsubmitted"
        else:
            self._facts.setdefault("stage", "login")
        return Observation(
            target=self._request.target.name,
            scheduled_at=self._request.scheduled_at,
            started_at=min(attempt.started_at for attempt in attempts),
            ended_at=max(attempt.ended_at for attempt in attempts),
            outcome=failed.cause.outcome if failed.cause else Outcome.UP,
            cause=failed.cause,
            failed_phase=failed.failed_phase,
            detail=failed.detail,
            attempts=tuple(attempts),
            addresses=tuple(address.host for address in self._addresses),
            with_login=True,
            facts=self._facts,
        )
