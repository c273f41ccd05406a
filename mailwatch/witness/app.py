"""The cosigner over HTTP (C2SP tlog-witness): `POST /add-checkpoint`, `GET /ORIGIN-HASH/checkpoint`.

Our own addition is `POST /mailwatch/register`, by which a ledger registers a mailbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mailwatch.ledger.witness_request import MAX_REQUEST_BYTES
from mailwatch.store import StoreError
from mailwatch.witness.cosigner import Answer, Cosigner

logger = logging.getLogger(__name__)
MAX_AT_ONCE = 4
"""Requests that are checked at the same time; the others wait."""


class WitnessApp:
    """Answers requests to a witness. `cosigner` returns the one in use, None while there is none."""

    def __init__(self, cosigner: Callable[[], Cosigner | None]) -> None:
        self._cosigner = cosigner
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            try:
                answer = await self._answer(Request(scope, receive))
            except ClientDisconnect:
                return
            response = Response(answer.body, answer.status, {"content-type": answer.content_type})
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Answer:
        cosigner = self._cosigner()
        if cosigner is None:
            return Answer(503, "the witness is starting\n")
        path = request.url.path
        known = {"/add-checkpoint": cosigner.add_checkpoint, "/mailwatch/register": cosigner.register}
        parts = path.removeprefix("/").split("/")
        try:
            if path in known:
                if request.method != "POST":
                    return Answer(405, "send a POST request\n")
                body = await _body(request)
                if body is None:
                    return Answer(413, f"a request has at most {MAX_REQUEST_BYTES} bytes\n")
                async with self._at_once:
                    return await asyncio.to_thread(known[path], body)
            if request.method == "GET" and len(parts) == 2 and parts[1] == "checkpoint":
                async with self._at_once:
                    return await asyncio.to_thread(cosigner.checkpoint, parts[0])
        except StoreError as error:
            logger.error("witness: the register cannot be used: %s", error)
            return Answer(503, "the register of this witness cannot be used now\n")
        return Answer(404, "a witness answers /add-checkpoint and /ORIGIN-HASH/checkpoint\n")


async def _body(request: Request) -> bytes | None:
    """Return the body of a request, None if it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)
