"""Waits for a message in INBOX and the junk folder, and finds messages that arrive late.

A message of an earlier probe may arrive late, be unknown to the record, or return in a delivery report.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from mailwatch.facts import EarlierMessage, ObservationFacts
from mailwatch.model import Cause
from mailwatch.probes.failures import ProbeError
from mailwatch.probes.imap_client import ImapCommandError, ServerByeError
from mailwatch.probes.imap_lines import ImapProtocolError
from mailwatch.probes.roundtrip.delivery_report import DeliveryReport, read_delivery_report
from mailwatch.probes.roundtrip.headers import header_fields, header_section, hops
from mailwatch.probes.roundtrip.mailbox import INBOX, MAX_SEARCH_RESULTS, Mailbox, StoredMessage, search_since
from mailwatch.probes.roundtrip.message import TOKEN_FIELD, TOKEN_PREFIX, MessageSigner, MessageToken, Outstanding
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Seconds between two searches on a server without IDLE."""
IDLE_SECONDS = 30.0
"""Seconds of one IDLE: between two, the junk folder is searched. RFC 2177 allows at most 29 minutes."""
MAX_IMMEDIATE_SEARCHES = 5
"""The largest number of consecutive searches without a wait."""
MAX_REPORTS = 20


@contextlib.asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Limit a part of a probe to `seconds`. Raises ProbeError with the cause timeout."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise ProbeError(Cause.TIMEOUT, f"no answer within {seconds:g} s") from error


async def delivery_reports(
    mailbox: Mailbox, signer: MessageSigner, *criteria: bytes
) -> list[tuple[int, DeliveryReport]]:
    """Return the delivery reports about our messages, and no others."""
    try:
        uids = await mailbox.search(
            *criteria, f'HEADER Content-Type "multipart/report" TEXT "{TOKEN_PREFIX}"'.encode()
        )
    except ImapCommandError:
        return []
    found = []
    for uid in uids[-MAX_REPORTS:]:
        copy = await mailbox.fetch(uid)
        report = read_delivery_report(copy.message, signer) if copy else None
        if report is not None:
            found.append((uid, report))
    return found


def report_fact(report: DeliveryReport) -> dict[str, str]:
    return {"status": report.status, "diagnostic": report.diagnostic}


def header_or_text(needle: str) -> bytes:
    # Servers index the Message-ID; but some replace it by one of their own.
    return f'OR HEADER Message-ID "{needle}" HEADER {TOKEN_FIELD} "{needle}"'.encode()


@dataclass(slots=True)
class ArrivalWait:
    """The wait for one message, over as many connections as needed. `until` is on the loop's clock."""

    token: MessageToken
    signer: MessageSigner
    first_uids: dict[bytes, int]
    until: float
    answer_seconds: float
    delayed: dict[str, str] | None = None
    """The fields of a report of delay."""
    inbox_grew: bool = False
    """Whether any message arrived in INBOX meanwhile."""

    async def arrival(self, mailbox: Mailbox) -> StoredMessage | DeliveryReport | None:
        """Return the message, or the report of its failure; None when the time is over.

        Raises ProbeError, ImapCommandError, and the errors that end the connection.
        """
        clock = asyncio.get_running_loop().time
        idles, asked_junk, hurried = mailbox.can_idle, clock(), 0
        while True:
            last = clock() >= self.until
            async with bounded(self.answer_seconds):
                await mailbox.examine(INBOX)
                counted = mailbox.count
                found = await self._search_folder(mailbox, INBOX, thorough=last)
            if found is None and (last or clock() - asked_junk >= IDLE_SECONDS):
                asked_junk = clock()
                for folder in mailbox.folders[1:]:
                    async with bounded(self.answer_seconds):
                        found = found or await self._search_folder(mailbox, folder, thorough=last)
            if found is not None or last:
                return found
            async with bounded(self.answer_seconds):
                await mailbox.examine(INBOX)
            hurried = hurried + 1 if mailbox.count != counted else 0
            if 0 < hurried < MAX_IMMEDIATE_SEARCHES:
                # A message came during our search: the server has already announced it, and would not do so again.
                continue
            left = max(0.0, min(self.until - clock(), IDLE_SECONDS if idles else POLL_SECONDS))
            if idles:
                try:
                    await mailbox.wait_for_news(left, self.answer_seconds)
                except ImapCommandError:
                    idles = False
                except TimeoutError as error:
                    raise ProbeError(Cause.TIMEOUT, f"IDLE: no answer within {self.answer_seconds:g} s") from error
            else:
                await asyncio.sleep(left)
                async with bounded(self.answer_seconds):
                    await mailbox.refresh()

    async def _search_folder(
        self, mailbox: Mailbox, folder: bytes, *, thorough: bool
    ) -> StoredMessage | DeliveryReport | None:
        if folder != INBOX and await mailbox.next_uid(folder) <= self.first_uids.get(folder, 1):
            return None
        await mailbox.examine(folder)
        # "n:*" includes the last message even if its UID is below n: harmless, since the seal decides.
        new = b"UID %d:*" % self.first_uids.get(folder, 1)
        try:
            uids = await mailbox.search(new, header_or_text(self.token.search_text))
        except ImapCommandError:
            uids, thorough = [], True
        if thorough and not uids:
            # The search itself may be broken: an empty result must not cause an outage.
            uids = await mailbox.search(new)
            self.inbox_grew |= folder == INBOX and any(uid >= self.first_uids.get(folder, 1) for uid in uids)
        for uid, head in (await mailbox.token_headers(uids)).items():
            if self.signer.recognise(dict(header_fields(head))) == self.token:
                return await mailbox.fetch(uid)
        for _, report in await delivery_reports(mailbox, self.signer, new):
            if report.token == self.token.token and report.action == "failed":
                return report
            if report.token == self.token.token:
                self.delayed = report_fact(report)
        return None


async def delete_messages(mailbox: Mailbox, leftovers: dict[bytes, list[int]], max_seconds: float) -> str:
    """Delete messages of ours; return why some were left, "" if none. Raises no error of the server."""
    why = ""
    for folder, uids in leftovers.items():
        try:
            async with bounded(max_seconds):
                why = await mailbox.remove(folder, uids) or why
        except (ProbeError, ImapCommandError, ServerByeError, ImapProtocolError, OSError) as error:
            return str(error)[:200] or type(error).__name__
        except Exception as error:
            logger.exception("our messages were not deleted: internal error")
            return f"internal error: {type(error).__name__}"
    return why


REMEMBERED_MS: Millis = 30 * 24 * 3_600_000
"""Milliseconds after which our messages are no longer searched for."""
MAX_RECORDED = 50


@dataclass(slots=True)
class MailboxCleanUp:
    """Messages of earlier round trips in the mailbox. `leftovers` are those to delete, by folder."""

    late: list[EarlierMessage] = field(default_factory=list)
    stray: list[EarlierMessage] = field(default_factory=list)
    bounced: list[EarlierMessage] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    leftovers: dict[bytes, list[int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    """The tokens of all our messages in the mailbox."""
    complete: bool = True
    """Whether all messages that may be ours were checked."""

    def facts(self) -> ObservationFacts:
        """Return the facts for the record."""
        found: ObservationFacts = {}
        if self.late:
            found["late"] = self.late
        if self.stray:
            found["stray"] = self.stray
        if self.bounced:
            found["bounced"] = self.bounced
        if self.known:
            found["cleaned"] = self.known
        return found


async def clean_up(
    mailbox: Mailbox, signer: MessageSigner, outstanding: Outstanding, *, sent: bool
) -> MailboxCleanUp:
    """Search all folders for messages of earlier probes; if `sent`, all of ours in the sent folder are leftovers.

    1. A message under way has come late: it is recorded, and stays in its folder until that is on record.
    2. A message recorded as late is a leftover.
    3. A message with our seal that is not on record was sent shortly before we were killed: it is recorded as
       stray, and is a leftover.
    4. A delivery report about a message under way ends the wait for it, and is a leftover once that is on record.
    """
    found = MailboxCleanUp()
    age = search_since(now() - REMEMBERED_MS)
    for folder in mailbox.folders:
        await mailbox.examine(folder)
        for uid, token in await _own_messages(mailbox, signer, found, age):
            if await _is_leftover(mailbox, uid, token, outstanding, found):
                found.leftovers.setdefault(folder, []).append(uid)
        for uid, report in await delivery_reports(mailbox, signer, age):
            if report.token in outstanding.sent and report.action == "failed":
                found.bounced.append(
                    {"token": report.token, "status": report.status, "diagnostic": report.diagnostic}
                )
            elif report.proven and report.token not in outstanding.sent:
                found.leftovers.setdefault(folder, []).append(uid)
    for folder in mailbox.sent if sent else ():
        await mailbox.examine(folder)
        if copies := [uid for uid, _ in await _own_messages(mailbox, signer, MailboxCleanUp(), age)]:
            found.leftovers[folder] = copies
    return found


async def _is_leftover(
    mailbox: Mailbox, uid: int, token: MessageToken, outstanding: Outstanding, found: MailboxCleanUp
) -> bool:
    """Sort one of our messages into `found`, and return whether it may be deleted."""
    found.seen.add(token.token)
    if token.token in outstanding.recorded:
        found.known.append(token.token)
        return True
    if len(found.late) + len(found.stray) >= MAX_RECORDED:
        return False
    copy = await mailbox.fetch(uid)
    if copy is None:
        return True
    late = token.token in outstanding.sent
    # The record has the steady-clock time of a message under way; the message does not.
    token = outstanding.sent.get(token.token, token)
    (found.late if late else found.stray).append(_late_fact(token, copy))
    return not late


def _late_fact(token: MessageToken, copy: StoredMessage) -> EarlierMessage:
    seen_at = now()
    fact: EarlierMessage = {
        "token": token.token,
        "sent_at": token.sent_at,
        "seen_at": seen_at,
        "folder": copy.folder.decode("utf-8", "backslashreplace"),
        "hops": hops(header_fields(header_section(copy.message)), token.sent_at),
    }
    stored, age = copy.stored_at, token.age(seen_at)
    # The time of sending by the current wall clock, which may have been set meanwhile.
    sent_at = seen_at - age
    # The server's date, unless it is impossible: then we know only that the message was there at our search.
    fact["delay_ms"] = stored - sent_at if stored and sent_at - 2000 <= stored <= seen_at else age
    return fact


async def _own_messages(
    mailbox: Mailbox, signer: MessageSigner, found: MailboxCleanUp, since: bytes
) -> list[tuple[int, MessageToken]]:
    """Return the messages with our seal; if the server cannot search headers, check all messages of that time."""
    try:
        uids = await mailbox.search(since, header_or_text(TOKEN_PREFIX))
    except ImapCommandError:
        uids = await mailbox.search(since)
    found.complete = found.complete and len(uids) < MAX_SEARCH_RESULTS
    read = await mailbox.token_headers(uids)
    marks = ((uid, signer.recognise(dict(header_fields(head)))) for uid, head in read.items())
    return [(uid, token) for uid, token in marks if token is not None]
