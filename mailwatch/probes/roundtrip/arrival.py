"""Wait for a message in INBOX and the junk folder, and find those that come late."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from mailwatch.models import Cause
from mailwatch.probes.failures import Failed
from mailwatch.probes.imap_client import Refused, ServerBye
from mailwatch.probes.imap_lines import NotImap
from mailwatch.probes.roundtrip.bounce import Bounce, read_bounce
from mailwatch.probes.roundtrip.mailbox import INBOX, Copy, Mailbox
from mailwatch.probes.roundtrip.message import NEEDLE, TOKEN_FIELD, Mark, Sealer
from mailwatch.probes.roundtrip.received import fields_of

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
