"""Wait for a message in INBOX and the junk folder, and find those that come late.

Messages of earlier looks: found late, found unknown to the record, or sent back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from mailwatch.model import Cause
from mailwatch.probes.failures import Failed
from mailwatch.probes.imap_client import Refused, ServerBye
from mailwatch.probes.imap_lines import NotImap
from mailwatch.probes.roundtrip.delivery_report import Bounce, read_bounce
from mailwatch.probes.roundtrip.headers import fields_of, head_of, hops
from mailwatch.probes.roundtrip.mailbox import INBOX, MAX_FOUND, Copy, Mailbox, since
from mailwatch.probes.roundtrip.message import NEEDLE, TOKEN_FIELD, Mark, Outstanding, Sealer
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

POLL = 5.0
"""Seconds between two questions to a server that does not tell of news."""
SLICE = 30.0
"""Seconds of one IDLE: the junk folder is asked in between, and RFC 2177 allows no more than 29 minutes."""
HURRIES = 5
"""How often at most we search again at once."""
MAX_REPORTS = 20


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Bound a part of a look. Raises Failed with the cause timeout."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Failed(Cause.TIMEOUT, f"no answer within {seconds:g} s") from error


async def reports(mailbox: Mailbox, sealer: Sealer, *criteria: bytes) -> list[tuple[int, Bounce]]:
    """Read the delivery reports that speak of a message of ours, and no others."""
    try:
        uids = await mailbox.search(*criteria, f'HEADER Content-Type "multipart/report" TEXT "{NEEDLE}"'.encode())
    except Refused:
        return []
    found = []
    for uid in uids[-MAX_REPORTS:]:
        copy = await mailbox.copy(uid)
        report = read_bounce(copy.message, sealer) if copy else None
        if report is not None:
            found.append((uid, report))
    return found


def said(report: Bounce) -> dict[str, str]:
    return {"status": report.status, "diagnostic": report.diagnostic}


def either(needle: str) -> bytes:
    # The Message-ID is what servers have an index of; some replace it by one of their own.
    return f'OR HEADER Message-ID "{needle}" HEADER {TOKEN_FIELD} "{needle}"'.encode()


@dataclass(slots=True)
class Wait:
    """The waiting for one message, over as many connections as it takes. `until` is of the loop's clock."""

    mark: Mark
    sealer: Sealer
    first_uids: dict[bytes, int]
    until: float
    patience: float
    delayed: dict[str, str] | None = None
    """What a report said that the message is delayed."""
    grown: bool = False
    """Whether any message at all came to INBOX meanwhile."""

    async def arrival(self, mailbox: Mailbox) -> Copy | Bounce | None:
        """Return the message, or the report that it will not come; None when the time is over.

        Raises Failed, Refused, and what ends the connection.
        """
        clock = asyncio.get_running_loop().time
        idles, asked_junk, hurried = mailbox.idles, clock(), 0
        while True:
            last = clock() >= self.until
            async with within(self.patience):
                await mailbox.examine(INBOX)
                counted = mailbox.count
                found = await self._look(mailbox, INBOX, thorough=last)
            if found is None and (last or clock() - asked_junk >= SLICE):
                asked_junk = clock()
                for folder in mailbox.folders[1:]:
                    async with within(self.patience):
                        found = found or await self._look(mailbox, folder, thorough=last)
            if found is not None or last:
                return found
            async with within(self.patience):
                await mailbox.examine(INBOX)
            hurried = hurried + 1 if mailbox.count != counted else 0
            if 0 < hurried < HURRIES:
                # It came while we searched: the server has told so already, and would be silent now.
                continue
            left = max(0.0, min(self.until - clock(), SLICE if idles else POLL))
            if idles:
                try:
                    await mailbox.await_news(left, self.patience)
                except Refused:
                    idles = False
                except TimeoutError as error:
                    raise Failed(Cause.TIMEOUT, f"IDLE: no answer within {self.patience:g} s") from error
            else:
                await asyncio.sleep(left)
                async with within(self.patience):
                    await mailbox.poke()

    async def _look(self, mailbox: Mailbox, folder: bytes, *, thorough: bool) -> Copy | Bounce | None:
        if folder != INBOX and await mailbox.next_uid(folder) <= self.first_uids.get(folder, 1):
            return None
        await mailbox.examine(folder)
        # "n:*" has the last message even if its UID is below n: harmless, since the seal decides.
        new = b"UID %d:*" % self.first_uids.get(folder, 1)
        try:
            uids = await mailbox.search(new, either(self.mark.needle))
        except Refused:
            uids, thorough = [], True
        if thorough and not uids:
            # A search that finds nothing may be a search that does not work: no outage is founded on it.
            uids = await mailbox.search(new)
            self.grown |= folder == INBOX and any(uid >= self.first_uids.get(folder, 1) for uid in uids)
        for uid, head in (await mailbox.marks(uids)).items():
            if self.sealer.recognise(dict(fields_of(head))) == self.mark:
                return await mailbox.copy(uid)
        for _, report in await reports(mailbox, self.sealer, new):
            if report.token == self.mark.token and report.action == "failed":
                return report
            if report.token == self.mark.token:
                self.delayed = said(report)
        return None


async def clear(mailbox: Mailbox, rubbish: dict[bytes, list[int]], patience: float) -> str:
    """Delete messages of ours; return why some were left, "" if none was. Raises nothing of the server's."""
    why = ""
    for folder, uids in rubbish.items():
        try:
            async with within(patience):
                why = await mailbox.remove(folder, uids) or why
        except (Failed, Refused, ServerBye, NotImap, OSError) as error:
            return str(error)[:200] or type(error).__name__
        except Exception as error:
            logger.exception("messages of ours were not deleted by our own fault")
            return f"our own fault: {type(error).__name__}"
    return why


REMEMBERED: Millis = 30 * 24 * 3_600_000
"""Messages of ours that are older are not looked for any more."""
MAX_TOLD = 50


@dataclass(slots=True)
class Tidied:
    """What lay in the mailbox of earlier round trips. `rubbish` is by folder what may be deleted."""

    late: list[dict[str, Any]] = field(default_factory=list)
    stray: list[dict[str, Any]] = field(default_factory=list)
    bounced: list[dict[str, Any]] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    rubbish: dict[bytes, list[int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    """All tokens of ours that lie in the mailbox."""
    whole: bool = True
    """Whether everything that may be ours was looked at."""

    def facts(self) -> dict[str, Any]:
        """Return what there is to tell."""
        told = {"late": self.late, "stray": self.stray, "bounced": self.bounced, "cleaned": self.known}
        return {name: entries for name, entries in told.items() if entries}


async def tidy(mailbox: Mailbox, sealer: Sealer, outstanding: Outstanding, *, sent: bool) -> Tidied:
    """Look through all folders for messages of earlier looks; in that of what was `sent` all of ours is rubbish.

    1. One that is on its way has come late: it is told, and left where it is until that is on record.
    2. One that was told so is rubbish.
    3. One that nothing on record knows, but that carries our seal, was sent shortly before we were killed: it is
       told as stray, and is rubbish.
    4. A delivery report on one that is on its way ends the waiting for it, and is rubbish once that is on record.
    """
    found = Tidied()
    age = since(now() - REMEMBERED)
    for folder in mailbox.folders:
        await mailbox.examine(folder)
        for uid, mark in await _ours(mailbox, sealer, found, age):
            found.seen.add(mark.token)
            if mark.token in outstanding.told:
                found.known.append(mark.token)
            elif len(found.late) + len(found.stray) < MAX_TOLD:
                copy = await mailbox.copy(uid)
                if copy is not None:
                    late = mark.token in outstanding.sent
                    # The record knows the clock of the one that is on its way; the message does not.
                    mark = outstanding.sent.get(mark.token, mark)
                    (found.late if late else found.stray).append(_belated(mark, copy))
                    if late:
                        continue
            else:
                continue
            found.rubbish.setdefault(folder, []).append(uid)
        for uid, report in await reports(mailbox, sealer, age):
            if report.token in outstanding.sent and report.action == "failed":
                found.bounced.append({"token": report.token, **said(report)})
            elif report.proven and report.token not in outstanding.sent:
                found.rubbish.setdefault(folder, []).append(uid)
    for folder in mailbox.sent if sent else ():
        await mailbox.examine(folder)
        if copies := [uid for uid, _ in await _ours(mailbox, sealer, Tidied(), age)]:
            found.rubbish[folder] = copies
    return found


def _belated(mark: Mark, copy: Copy) -> dict[str, Any]:
    seen_at = now()
    told: dict[str, Any] = {
        "token": mark.token,
        "sent_at": mark.sent_at,
        "seen_at": seen_at,
        "folder": copy.folder.decode("utf-8", "backslashreplace"),
        "hops": hops(fields_of(head_of(copy.message)), mark.sent_at),
    }
    stored, age = copy.stored_at, mark.age(seen_at)
    # When it was sent by the wall clock as it goes now, which may have been set meanwhile.
    sent_at = seen_at - age
    # The server's own date, unless it cannot be: we know only that the message was there when we looked.
    told["delay_ms"] = stored - sent_at if stored and sent_at - 2000 <= stored <= seen_at else age
    return told


async def _ours(mailbox: Mailbox, sealer: Sealer, found: Tidied, age: bytes) -> list[tuple[int, Mark]]:
    """Find what carries our seal; on a server that cannot search headers, among all messages of that time."""
    try:
        uids = await mailbox.search(age, either(NEEDLE))
    except Refused:
        uids = await mailbox.search(age)
    found.whole = found.whole and len(uids) < MAX_FOUND
    read = await mailbox.marks(uids)
    marks = ((uid, sealer.recognise(dict(fields_of(head)))) for uid, head in read.items())
    return [(uid, mark) for uid, mark in marks if mark is not None]
