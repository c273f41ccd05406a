"""What fails for want of our own memory, handles or sense is not the server's (found by `make chaos`)."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import aiosmtplib.protocol
import pytest

from mailwatch.model import Cause, Kind, Outcome
from mailwatch.probes.connect import MonitorError, resolve
from mailwatch.probes.imap_client import ImapClient
from mailwatch.probes.imap_lines import ImapLineBuffer
from tests.helpers.scripted_probe import IMAP, SMTP, at, probe, probe_script
from tests.helpers.scripted_server import scripted_server


@pytest.fixture
def few_handles() -> Iterator[Callable[[int], None]]:
    """Leave so many file handles free."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(free: int) -> None:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + free, before[1]))
        # Numbers are given from below: fill the holes.
        held.extend(iter(_next_below(highest), -1))

    held: list[int] = []
    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for file in held:
        os.close(file)


def _next_below(highest: int) -> Callable[[], int]:
    def open_one() -> int:
        file = os.open(os.devnull, os.O_RDONLY)
        if file <= highest:
            return file
        os.close(file)
        return -1

    return open_one


async def test_a_name_that_cannot_be_resolved_for_want_of_handles_is_not_unknown(
    few_handles: Callable[[int], None],
) -> None:
    with pytest.raises(OSError, match=r"not known|resolution"):
        await resolve("does-not-exist.invalid", 143, 10.0)
    few_handles(1)
    with pytest.raises(MonitorError, match="no file handle"):
        await resolve("does-not-exist.invalid", 143, 10.0)


def fails(error: type[Exception]) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error("ours")

    return fail


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError, RecursionError])
@pytest.mark.parametrize(
    ("where", "name", "kind"),
    [
        (ImapLineBuffer, "feed", Kind.IMAP),
        (ImapClient, "_handle_line", Kind.IMAP),
        (aiosmtplib.protocol.SMTPProtocol, "data_received", Kind.SMTP),
    ],
)
async def test_an_exception_of_ours_in_the_middle_of_reading_is_no_lost_connection(
    where: Any, name: str, kind: Kind, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_server(IMAP if kind is Kind.IMAP else SMTP) as port:
        monkeypatch.setattr(where, name, fails(error))
        observation = await probe(at(port, kind))
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert "internal error" in observation.detail


@pytest.mark.parametrize("value", [b"{-1}", b"{x}", b"17", b""])
async def test_a_header_that_is_not_text_is_none(value: bytes) -> None:
    seen = await probe_script([*IMAP[:6], b"* 2 FETCH (BODY[HEADER.FIELDS (DATE)] " + value + b")\r\nTAG OK\r\n"])
    assert (seen.outcome, seen.cause) == (Outcome.DOWN, Cause.MAILBOX)
