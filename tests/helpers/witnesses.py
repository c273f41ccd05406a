"""Witnesses over HTTP on loopback, in the test's own event loop: honest ones, and what else may answer there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

from mailwatch.ledger.cosignature import VerifierKey, signatures, split_note, verify_cosignature
from mailwatch.ledger.entry import target_id
from mailwatch.ledger.witness_register import mailbox_commitment, register_request
from mailwatch.monitor.witnessing import WitnessScheduler
from mailwatch.settings import Witness
from mailwatch.store import Store
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.web.server import serving
from mailwatch.witness.app import WitnessApp
from mailwatch.witness.client import Cosigned, cosignature_request
from mailwatch.witness.cosigner import Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.malicious_operator import Operator
from tests.servers import free_port


class WitnessServer:
    """A witness with a data_dir of its own, for the ledgers of these keys."""

    def __init__(self, data_dir: Path, logs: Iterable[VerifierKey]) -> None:
        Store.open(data_dir).close()
        self.register = WitnessRegister(data_dir)
        self.cosigner = Cosigner(load_witness_key(data_dir), self.register, logs)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Witness:
        """How a client names it in its config."""
        return Witness(url=self.url, key=str(self.cosigner.key))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[WitnessServer]:
        """Answer while the context lasts."""
        try:
            async with serving(WitnessApp(lambda: self.cosigner), "127.0.0.1", self.port):
                yield self
        finally:
            self.register.close()


@contextlib.asynccontextmanager
async def answering(answer: bytes | Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[str]:
    """Serve one fixed answer to every request, or what a function makes of the request; yield the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = (
                int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line
            )
            body = await reader.readexactly(length)
            writer.write(answer if isinstance(answer, bytes) else await answer(body))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def http_answer(status: int, body: bytes, content_type: str = "text/plain") -> bytes:
    """An answer in HTTP/1.1."""
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.asynccontextmanager
async def requesting(scheduler: WitnessScheduler) -> AsyncIterator[WitnessScheduler]:
    """Let a client of witnesses run while the context lasts."""
    task = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        task.cancel()
        await asyncio.wait((task,))


def cosign_by_hand(operator: Operator, cosigner: Cosigner, known: int = 0) -> int:
    """Have the operator's newest checkpoint cosigned, and write down truly what came back; return its size.

    `known`: the size that the witness cosigned last. A refusal is written down as one.
    """
    operator.store.checkpoint()
    with operator.reader() as reader:
        signed = reader.last_checkpoint()
        assert signed is not None
        request = cosignature_request(reader, known, signed)
    asked = operator.clock()
    answer = cosigner.add_checkpoint(request.text().encode())
    key = str(cosigner.key)
    if answer.status != 200:
        refused = {"checkpoint": signed.size, "witness": key, "refused": answer.body, "old": known, "proof": []}
        operator.entry("witness", refused)
        return signed.size
    (signature,) = signatures(answer.body)
    time = verify_cosignature(signature, split_note(request.note)[0], cosigner.key)
    operator.entry("witness", Cosigned(signature, time, asked, operator.clock()).payload(signed.size, key))
    return signed.size


def register_by_hand(operator: Operator, cosigner: Cosigner, address: str) -> str:
    """Have the mailbox of the operator's target registered, and write down the statement; return it."""
    keys = operator.store.keys
    request = register_request(keys.origin, keys.private, cosigner.key.name, mailbox_commitment(address))
    answer = cosigner.register(request.encode())
    assert answer.status == 200, answer
    payload = {"witness": str(cosigner.key), "statement": answer.body}
    operator.entry("register", payload | {"targets": [target_id(keys.secret, operator.target)]})
    return answer.body
