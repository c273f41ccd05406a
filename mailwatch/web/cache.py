"""Answers that many ask for at once: made once for all, and making them takes no more than a tenth of the time.

An answer that took 5 ms to make is given for 50 ms. That cannot be seen; a crowd that reloads, or two
Prometheus servers, do not take the processor from the probes.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from starlette.datastructures import Headers

COST_MULTIPLE = 10.0
"""How many times as long as it took to make an answer is given."""
MAX_KEYS = 64
GZIP_LEVEL = 1
"""A page of fifty targets becomes a tenth in a few milliseconds."""
GZIP_WBITS = 31
"""What zlib calls the form of RFC 1952."""
PART_BYTES = 1 << 15


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """An answer, packed (gzip): of ten thousand targets the metrics are 50 MB, and packed a twentieth of it.

    `cost` is the seconds it took, `at` when it was begun, by the monotonic clock.
    """

    packed: bytes
    at: float
    cost: float

    def unpacked(self) -> Iterator[bytes]:
        """Yield it unpacked, part by part."""
        unpacker = zlib.decompressobj(GZIP_WBITS)
        for start in range(0, len(self.packed), PART_BYTES):
            yield unpacker.decompress(self.packed[start : start + PART_BYTES])


def accepts_gzip(headers: Headers) -> bool:
    """Whether a client takes gzip (RFC 9110 section 12.5.3)."""
    accepted = [word.partition(";") for word in headers.get("accept-encoding", "").replace(" ", "").split(",")]
    return any(name.lower() == "gzip" and rest not in ("q=0", "q=0.0") for name, _, rest in accepted)


class ResponseCache:
    """Keeps the latest answer of each key. To be used from the event loop; answers are made in a thread."""

    def __init__(self) -> None:
        self._responses: dict[Hashable, CachedResponse] = {}
        self._making: dict[Hashable, asyncio.Task[CachedResponse]] = {}

    async def get(self, key: Hashable, make: Callable[[], Iterable[bytes]]) -> CachedResponse:
        """Return the answer for `key`. Raises what `make` raises.

        1. One that is young enough is given again.
        2. Else it is made anew, once for all who ask; for as long again the old one is given meanwhile.
        """
        made = self._responses.get(key)
        age = 0.0 if made is None else time.monotonic() - made.at - made.cost
        if made is not None and age < COST_MULTIPLE * made.cost:
            return made
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.create_task(self._make(key, make))
        if made is not None and age < 2 * COST_MULTIPLE * made.cost:
            return made
        # Who gives up waiting does not take it from the others.
        return await asyncio.shield(task)

    async def _make(self, key: Hashable, make: Callable[[], Iterable[bytes]]) -> CachedResponse:
        try:
            made = await asyncio.to_thread(_make, make)
            if len(self._responses) >= MAX_KEYS:
                self._responses.clear()
            self._responses[key] = made
            return made
        finally:
            del self._making[key]


def _make(make: Callable[[], Iterable[bytes]]) -> CachedResponse:
    began = time.monotonic()
    packer = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WBITS)
    packed = [packer.compress(part) for part in make()]
    return CachedResponse(b"".join([*packed, packer.flush()]), began, time.monotonic() - began)
