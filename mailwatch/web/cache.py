"""Cache of answers: concurrent requests share one answer, and making answers takes at most a tenth of the time.

An answer that took 5 ms to make is reused for 50 ms. That is imperceptible, and a crowd that reloads, or two
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
"""An answer is reused for this multiple of the time that it took to make."""
MAX_KEYS = 64
GZIP_LEVEL = 1
"""A page of fifty targets shrinks to a tenth in a few milliseconds."""
GZIP_WBITS = 31
"""zlib's code for the gzip format (RFC 1952)."""
PART_BYTES = 1 << 15


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """An answer, compressed (gzip): the metrics of ten thousand targets are 50 MB, compressed a twentieth of that.

    `cost`: seconds that it took to make. `at`: when making it began, by the monotonic clock.
    """

    packed: bytes
    at: float
    cost: float

    def unpacked(self) -> Iterator[bytes]:
        """Yield the decompressed answer in parts."""
        unpacker = zlib.decompressobj(GZIP_WBITS)
        for start in range(0, len(self.packed), PART_BYTES):
            yield unpacker.decompress(self.packed[start : start + PART_BYTES])


def accepts_gzip(headers: Headers) -> bool:
    """Return whether a client accepts gzip (RFC 9110 section 12.5.3)."""
    accepted = [word.partition(";") for word in headers.get("accept-encoding", "").replace(" ", "").split(",")]
    return any(name.lower() == "gzip" and rest not in ("q=0", "q=0.0") for name, _, rest in accepted)


class ResponseCache:
    """Keeps the latest answer for each key. Call it from the event loop; answers are made in a thread."""

    def __init__(self) -> None:
        self._responses: dict[Hashable, CachedResponse] = {}
        self._making: dict[Hashable, asyncio.Task[CachedResponse]] = {}

    async def get(self, key: Hashable, make: Callable[[], Iterable[bytes]]) -> CachedResponse:
        """Return the answer for `key`. Raises what `make` raises.

        1. A recent enough answer is reused.
        2. Otherwise a new answer is made, once for all concurrent requests. For as long again, the old answer is
           returned meanwhile.
        """
        made = self._responses.get(key)
        age = 0.0 if made is None else time.monotonic() - made.at - made.cost
        if made is not None and age < COST_MULTIPLE * made.cost:
            return made
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.create_task(self._make(key, make))
        if made is not None and age < 2 * COST_MULTIPLE * made.cost:
            # No one may wait for the new one: its error is read here, or asyncio logs it.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            return made
        # A client that stops waiting does not cancel the answer for the others.
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
