"""A hub over HTTP. A member that sends checkpoints alone uses it as a witness (C2SP tlog-witness).

GET  /hub/v1/keys
POST /hub/v1/join
GET  /hub/v1/logs/LOG                     the newest checkpoint here; LOG is the SHA-256 of the ledger's name
PUT  /hub/v1/logs/LOG/entries/FIRST       a push: 200 cosignature, 409 the size that is here, 422 other history
GET  /hub/v1/checkpoint/SIZE              the hub's own newest checkpoint, with the proof from SIZE entries on
PUT  /hub/v1/logs/LOG/cosignatures/SIZE   a member's cosignature of the hub's checkpoint of that size
PUT  /hub/v1/logs/LOG/send                what a member agrees to send
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mailwatch.hub.receiver import Receiver
from mailwatch.ledger import consent
from mailwatch.ledger.enrolment import MAX_NOTE_BYTES
from mailwatch.ledger.push import MAX_BYTES
from mailwatch.store import StoreError
from mailwatch.witness.cosigner import Answer

logger = logging.getLogger(__name__)
MAX_AT_ONCE = 2
"""Requests that are worked on at the same time; the others wait."""
MAX_BODIES = 8
"""Bodies that are received at the same time."""
BODY_SECONDS = 60.0
"""Seconds for which a body may take."""
_LOG = re.compile(r"/hub/v1/logs/([0-9a-f]{64})(?:/(entries|cosignatures)/([0-9]{1,18}))?")
_SEND = re.compile(r"/hub/v1/logs/([0-9a-f]{64})/send")
_CHECKPOINT = re.compile(r"/hub/v1/checkpoint/([0-9]{1,18})")


class HubApp:
    """Answers requests to a hub, and others by `witness`. `receiver` returns the one in use, None without one."""

    def __init__(self, receiver: Callable[[], Receiver | None], witness: ASGIApp) -> None:
        self._receiver, self._witness = receiver, witness
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._bodies = asyncio.Semaphore(MAX_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if not request.url.path.startswith("/hub/"):
            await self._witness(scope, receive, send)
            return
        try:
            answer = await self._answer(request)
        except ClientDisconnect:
            return
        except StoreError as error:
            logger.error("hub: the ledgers cannot be used: %s", error)
            answer = Answer(503, "the ledgers of this hub cannot be used now\n")
        response = Response(answer.body, answer.status, {"content-type": answer.content_type})
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Answer:
        receiver = self._receiver()
        if receiver is None:
            return Answer(503, "the hub is starting\n")
        path, method = request.url.path, request.method
        if path == "/hub/v1/keys":
            return receiver.keys() if method == "GET" else _other_method("GET")
        if path == "/hub/v1/join":
            if method != "POST":
                return _other_method("POST")
            return await self._with_body(request, MAX_NOTE_BYTES, receiver.join)
        if (asked := _CHECKPOINT.fullmatch(path)) is not None:
            known = asked[1]
            return await self._run(lambda: receiver.checkpoint(known)) if method == "GET" else _other_method("GET")
        if (stating := _SEND.fullmatch(path)) is not None:
            log = stating[1]
            if method != "PUT":
                return _other_method("PUT")
            admitted = await self._run(lambda: receiver.admits(log))
            if admitted.status != 200:
                return admitted
            return await self._with_body(request, consent.MAX_NOTE_BYTES, lambda body: receiver.agree(log, body))
        if (found := _LOG.fullmatch(path)) is None:
            return Answer(404, "a hub answers /hub/v1/...\n")
        log, part, number = found.groups()
        if part is None:
            return await self._run(lambda: receiver.newest(log)) if method == "GET" else _other_method("GET")
        if method != "PUT":
            return _other_method("PUT")
        # Before the body is received: only members may send so much.
        admitted = await self._run(lambda: receiver.admits(log))
        if admitted.status != 200:
            return admitted
        if part == "entries":
            return await self._with_body(request, MAX_BYTES, lambda body: receiver.push(log, number, body))
        return await self._with_body(
            request, MAX_NOTE_BYTES, lambda body: receiver.add_cosignature(log, number, body)
        )

    async def _with_body(self, request: Request, limit: int, work: Callable[[bytes], Answer]) -> Answer:
        async with self._bodies:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await _body(request, limit)
            except TimeoutError:
                return Answer(408, f"the request took longer than {BODY_SECONDS:.0f} s\n")
            if body is None:
                return Answer(413, f"this request has at most {limit} bytes\n")
            return await self._run(lambda: work(body))

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        async with self._at_once:
            return await asyncio.to_thread(work)


def _other_method(method: str) -> Answer:
    return Answer(405, f"send a {method} request\n")


async def _body(request: Request, limit: int) -> bytes | None:
    """Return the body of a request, None if it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            return None
    return bytes(body)
