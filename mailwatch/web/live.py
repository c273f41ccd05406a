"""The event stream that notifies an open page of a change (server-sent events)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from mailwatch.net import is_loopback
from mailwatch.web.frame import Frame, PageRoute

MAX_STREAMS = 32
MAX_STREAMS_PER_PEER = 8
"""Concurrent event streams of one peer. A browser without a stream shows the page as it was loaded."""
POLL_SECONDS = 2.0


def routes(frame: Frame) -> list[PageRoute]:
    """Return the route of the stream."""
    return [PageRoute(path="/live", answer=EventStreams(frame).stream, public=True)]


class EventStreams:
    """The open event streams."""

    def __init__(self, frame: Frame) -> None:
        self._read_model = frame.read_model
        self._streams = Counter[str]()

    async def stream(self, request: Request, seen: Annotated[str, Query(max_length=40)] = "") -> Response:
        """Answer one request."""
        peer = getattr(request.state, "peer", "")
        # Many clients behind an untrusted proxy on this machine appear as one peer.
        full = not is_loopback(peer) and self._streams[peer] >= MAX_STREAMS_PER_PEER
        if full or self._streams.total() >= MAX_STREAMS:
            return PlainTextResponse("too many listen\n", 503, {"retry-after": "60"})
        headers = {"x-accel-buffering": "no"}
        changes = self._changes(request.headers.get("last-event-id", seen), peer)
        return StreamingResponse(changes, media_type="text/event-stream", headers=headers)

    async def _changes(self, seen: str, peer: str) -> AsyncIterator[bytes]:
        """Yield an event when something changed since the page was rendered, or since the token `seen`."""
        self._streams[peer] += 1
        try:
            yield b"retry: 5000\n\n"
            seen = seen or self._read_model.change_token()
            while True:
                pulse = self._read_model.change_token()
                # Otherwise a comment, so that a client that has gone is noticed.
                yield b": \n\n" if pulse == seen else f"id: {pulse}\nevent: changed\ndata: {pulse}\n\n".encode()
                seen = pulse
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._streams[peer] -= 1
            self._streams += Counter()  # Drops the peers at zero.
