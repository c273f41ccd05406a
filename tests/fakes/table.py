"""All faults, and the page that docs/failures.md is: `python -m tests.fakes.table > docs/failures.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.fakes import cleartext, imap, mx, oauth, pop3, roundtrip, smtp, webmail
from tests.fakes.fault import Fault

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
# Each way a mailbox fails, and what MailWatch says of it

Printed from the data of the tests (`python -m tests.fakes.table > docs/failures.md`): each line is played by a
server over real sockets in tests/test_faults.py. *Down* counts towards an outage of the provider; *unknown*
does not: it is our line's, our own or the owner's doing, or the server asks us to come less often. A number in
brackets stands for a mistake that another monitor made.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *_sections(), *_lessons()]) + "\n"


def _sections() -> Iterator[str]:
    for kind in dict.fromkeys(fault.kind for fault in FAULTS):
        yield f"## {kind}\n"
        yield "| what happens | MailWatch says | cause | phase |"
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


if __name__ == "__main__":
    sys.stdout.write(page())
