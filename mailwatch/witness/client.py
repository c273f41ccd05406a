"""Asks a witness to cosign a checkpoint (C2SP tlog-witness); its answer is bounded in bytes and time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mailwatch import __version__
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.cosignature import Signature, VerifierKey, signatures, split_note, verify_cosignature
from mailwatch.ledger.witness_register import read_statement
from mailwatch.ledger.witness_request import AddCheckpoint, RequestError, parse_size
from mailwatch.store import CheckpointRow, Reader
from mailwatch.store.proofs import consistency_between
from mailwatch.times import Millis, now

TIMEOUT_SECONDS = 20.0
"""Seconds to wait for an answer."""
MAX_ANSWER_BYTES = 65_536
MAX_WORDS = 200
"""Characters of an answer to repeat in a message."""


class WitnessError(Exception):
    """The witness gave no cosignature, for a reason that says nothing about our ledger."""


class WitnessRefusedError(WitnessError):
    """The witness does not know our ledger, or does not accept its key (404, 403)."""


class HistoryConflictError(Exception):
    """The witness says that it has seen another history of our ledger (422)."""


class OtherSizeError(Exception):
    """The witness knows our ledger with another size (409)."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the witness knows {size} entries")
        self.size = size


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A verified cosignature, its time by the witness's clock, and when we asked and got the answer."""

    signature: Signature
    time: Millis
    asked_at: Millis
    answered_at: Millis

    def payload(self, size: int, key: str) -> dict[str, object]:
        """Return the payload of its entry. `size`: of the checkpoint; `key`: the witness's."""
        return {
            "checkpoint": size,
            "witness": key,
            "cosignature": str(self.signature),
            "time": self.time,
            "asked": self.asked_at,
            "answered": self.answered_at,
            "offset_ms": (self.asked_at + self.answered_at) // 2 - self.time,
        }


def cosignature_request(reader: Reader, known: int, signed: CheckpointRow) -> AddCheckpoint:
    """Return the request for a checkpoint, with the proof from the size that the witness knows."""
    return AddCheckpoint(known, consistency_between(reader, known, signed.size), signed.note)


async def request_cosignature(url: str, key: VerifierKey, request: AddCheckpoint) -> Cosigned:
    """Ask the witness at `url` for a cosignature by `key`.

    Raises OtherSizeError, HistoryConflictError, WitnessRefusedError, and WitnessError for any other failure.
    """
    asked_at = now()
    status, words = await post(f"{url.rstrip('/')}/add-checkpoint", request.text().encode())
    answered_at = now()
    if status == 409:
        try:
            raise OtherSizeError(parse_size(words.removesuffix("\n")))
        except RequestError as error:
            raise WitnessError(f"HTTP 409, but {error}") from None
    if status == 422:
        raise HistoryConflictError(readable(words))
    if status in (403, 404):
        raise WitnessRefusedError(f"HTTP {status}: {readable(words)}")
    if status != 200:
        raise WitnessError(f"HTTP {status}: {readable(words)}")
    try:
        text, _ = split_note(request.note)
        own = next((one for one in signatures(words) if one.is_by(key)), None)
        if own is None:
            raise WitnessError(f"the answer has no cosignature by {key.name}")
        return Cosigned(own, verify_cosignature(own, text, key), asked_at, answered_at)
    except CheckpointError as error:
        raise WitnessError(f"the answer is not a cosignature: {error}") from None


async def request_statement(url: str, key: VerifierKey, request: str, origin: str, commitment: str) -> str:
    """Ask the witness at `url` to register a mailbox of the ledger `origin`; return its signed statement.

    Raises WitnessRefusedError if it does not (403, 404), and WitnessError for any other failure.
    """
    status, words = await post(f"{url.rstrip('/')}/mailwatch/register", request.encode())
    if status in (403, 404):
        raise WitnessRefusedError(f"HTTP {status}: {readable(words)}")
    if status != 200:
        raise WitnessError(f"HTTP {status}: {readable(words)}")
    try:
        stated = read_statement(words, key)
    except CheckpointError as error:
        raise WitnessError(f"the answer is not a statement: {error}") from None
    if (stated.ledger, stated.commitment) != (origin, commitment):
        raise WitnessError("the statement is about another ledger or mailbox")
    return words


async def post(url: str, body: bytes) -> tuple[int, str]:
    """Send a request; return the status and the text of the answer. Raises WitnessError."""
    return await exchange("POST", url, body)


async def exchange(
    method: str, url: str, body: bytes | None = None, *, seconds: float = TIMEOUT_SECONDS
) -> tuple[int, str]:
    """Send a request; return the status and the text of the answer within `seconds`. Raises WitnessError."""
    # Imported when a witness is asked: httpx takes longer to load than all else that a command needs.
    import httpx

    try:
        async with asyncio.timeout(seconds):
            return await _exchange(method, url, body, seconds)
    except (TimeoutError, httpx.TimeoutException):
        raise WitnessError(f"no answer within {seconds:.0f} s") from None
    except httpx.HTTPError as error:
        raise WitnessError(f"{type(error).__name__}: {error}"[:MAX_WORDS]) from None


async def _exchange(method: str, url: str, body: bytes | None, seconds: float) -> tuple[int, str]:
    import httpx

    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": f"MailWatch/{__version__}"}
    async with (
        httpx.AsyncClient(timeout=seconds, trust_env=False) as client,
        client.stream(method, url, content=body, headers=headers) as got,
    ):
        answer = bytearray()
        # Read raw bytes: a gzip body could unpack to any size.
        async for part in got.aiter_raw():
            answer += part
            if len(answer) > MAX_ANSWER_BYTES:
                raise WitnessError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        try:
            return got.status_code, answer.decode()
        except UnicodeDecodeError:
            raise WitnessError("the answer is not UTF-8") from None


def readable(words: str) -> str:
    """Return the beginning of an answer in one line of printable text, for messages."""
    return "".join(sign if sign.isprintable() else " " for sign in words[:MAX_WORDS]).strip()
