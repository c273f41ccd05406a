"""Messages of earlier looks: found late, found unknown to the record, or sent back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mailwatch.models import Millis, now
from mailwatch.probes.imap_client import Refused
from mailwatch.probes.roundtrip.arrival import either, reports, said
from mailwatch.probes.roundtrip.mailbox import MAX_FOUND, Copy, Mailbox, since
from mailwatch.probes.roundtrip.message import NEEDLE, Mark, Sealer
from mailwatch.probes.roundtrip.outstanding import Outstanding
from mailwatch.probes.roundtrip.received import fields_of, head_of, hops

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
