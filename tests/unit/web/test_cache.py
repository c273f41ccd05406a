"""Answers that are made once for many."""

from __future__ import annotations

import asyncio
import gzip
import threading
import time

import pytest
from starlette.datastructures import Headers

from mailwatch.web.cache import CachedResponse, ResponseCache, accepts_gzip
from tests.helpers.patience import PATIENCE


def read(made: CachedResponse) -> bytes:
    return b"".join(made.unpacked())


class Maker:
    """Makes numbered answers, each when it is let."""

    def __init__(self, cost: float = 0.0) -> None:
        self.made, self.cost = 0, cost
        self.let = threading.Event()
        self.let.set()

    def __call__(self) -> list[bytes]:
        assert self.let.wait(PATIENCE)
        time.sleep(self.cost)  # What it costs is what is measured.
        self.made += 1
        return [b"%d" % self.made]


async def test_concurrent_requests_share_one_answer() -> None:
    kept, maker = ResponseCache(), Maker()
    maker.let.clear()
    asking = [asyncio.create_task(kept.get("page", maker)) for _ in range(100)]
    await asyncio.sleep(0)
    maker.let.set()
    assert {read(made) for made in await asyncio.gather(*asking)} == {b"1"}
    assert maker.made == 1


async def test_a_costly_answer_is_served_stale_while_it_is_recomputed() -> None:
    kept, maker = ResponseCache(), Maker(cost=0.05)
    first = await kept.get("page", maker)
    assert (await kept.get("page", maker)) is first
    assert read(await kept.get("other", maker)) == b"2"
    while (await kept.get("page", maker)) is first:
        await asyncio.sleep(0.01)
    assert time.monotonic() - first.at > 10 * 0.05


async def test_an_old_answer_is_not_given() -> None:
    kept, maker = ResponseCache(), Maker()
    first = await kept.get("page", maker)
    await asyncio.sleep(25 * first.cost + 0.01)
    assert read(await kept.get("page", maker)) == b"2"


async def test_a_failure_is_passed_to_all_and_not_cached() -> None:
    kept = ResponseCache()

    def fail() -> list[bytes]:
        raise OSError("no")

    reported = await asyncio.gather(*(kept.get("page", fail) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in reported] == ["no"] * 3
    assert read(await kept.get("page", lambda: [b"yes"])) == b"yes"


@pytest.mark.parametrize(
    ("asked", "packed"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("identity", False),
    ],
)
def test_answers_are_compressed_for_clients_that_accept_it(asked: str, packed: bool) -> None:
    assert accepts_gzip(Headers({"accept-encoding": asked})) is packed


async def test_compressed_and_plain_answers_are_equal_at_any_length() -> None:
    parts = [b"%d line of metrics\n" % number for number in range(200_000)]
    made = await ResponseCache().get("metrics", lambda: iter(parts))
    assert gzip.decompress(made.packed) == b"".join(parts)
    unpacked = list(made.unpacked())
    assert b"".join(unpacked) == b"".join(parts)
    assert len(unpacked) > 1
    # One moment or another, the same bytes: no date is in it.
    assert (await ResponseCache().get("metrics", lambda: iter(parts))).packed == made.packed
