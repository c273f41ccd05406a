"""Jobs and results as JSON, and the check of what comes: all of it was written by another process.

A message is an object: `sent`, the sender's steady clock; `received`, the latest message from the other side, as
[its `sent`, when it was taken]; `series`, which dispatcher it belongs to; `items`, jobs or results.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import orjson

from mailwatch.fleet.shapes import JOB, MESSAGE, REFUSAL, RESULT, Rule
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.entry import secret_id
from mailwatch.ledger.payloads import fact_payload, observation_from
from mailwatch.model import Cause, Observation, Outcome
from mailwatch.probes.certificates import CertificateText
from mailwatch.settings import Login, RoundtripTask, Target
from mailwatch.times import Millis

MAX_ITEM_BYTES = 256 * 1024
"""Most bytes of one job or result: an observation with all replies of all its attempts has a tenth of that."""
MAX_MESSAGE_BYTES = 1024 * 1024
"""Most bytes of one message; more items make more messages."""
DIFFERS = "its settings or its password are not the same there"
"""The refusal of a node that has another idea of the target."""


class MessageError(ValueError):
    """A message that is not one of ours, or does not belong to what was asked. Its text names no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One probe that a node is asked for. `number` is the dispatcher's; `digest` is that of the target's settings.

    `diagnose`: whether a failure gets a diagnosis. `within`: milliseconds from the sending of the job within which
    the probe must begin.
    """

    number: int
    target: str
    digest: str
    with_login: bool
    every_address: bool
    diagnose: bool
    scheduled_at: Millis
    within: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a node found: the observation as it was probed, and as its node attributed it if it was not up.

    `offset`: the node's wall clock minus its steady clock when it probed. Without an observation, `refusal` says
    why it did not probe.
    """

    number: int
    observation: Observation | None = None
    attributed: Observation | None = None
    offset: Millis = 0
    certificates: Mapping[str, CertificateText] = field(default_factory=dict)
    """What certificates say that the node met first now, by fingerprint. It is not recorded."""
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message. `items` are not checked yet, each is an object.

    `received`: (sent, taken) of the latest one that its sender took from us, None before.
    """

    sent: Millis
    series: str
    items: tuple[Mapping[str, object], ...]
    received: tuple[Millis, Millis] | None = None


def target_digest(target: Target, secret: bytes) -> str:
    """Return the keyed digest of all settings of a target, its password included: 32 hex digits.

    `secret`: the ledger's. Who does not have it can test no guess of a password.
    """
    ends = [
        [end.kind.value, end.host, end.port, end.provider, end.tls.value, end.timeout, end.helo_name,
         end.ca_file is not None, _login(end.login, secret)]
        for end in (target, *(target.endpoints if isinstance(target.task, RoundtripTask) else ()))
    ]  # fmt: skip
    task = None if isinstance(target.task, RoundtripTask) else repr(target.task)
    text = json.dumps([target.name, ends, task, target.interval], separators=(",", ":")).encode()
    return hmac.new(secret, b"target\0" + text, hashlib.sha256).hexdigest()[:32]


def _login(login: Login | None, secret: bytes) -> object:
    if login is None:
        return None
    proof = secret_id(secret, login.username, login.password.get_secret_value())
    return [login.username, proof, login.oauth2 is not None]


def job_item(job: Job) -> dict[str, object]:
    """Return a job as an item of a message."""
    return {
        "job": job.number,
        "target": job.target,
        "digest": job.digest,
        "login": job.with_login,
        "every": job.every_address,
        "diagnose": job.diagnose,
        "due": job.scheduled_at,
        "within": job.within,
    }


def job_from(item: Mapping[str, object]) -> Job:
    """Parse a job. Raises MessageError."""
    _check(item, JOB, "a job")
    found = cast(dict[str, Any], item)
    return Job(
        number=found["job"],
        target=found["target"],
        digest=found["digest"],
        with_login=found["login"],
        every_address=found["every"],
        diagnose=found["diagnose"],
        scheduled_at=found["due"],
        within=found["within"],
    )


def result_item(result: Result) -> dict[str, object]:
    """Return a result as an item of a message. Raises TypeError, ValueError and others if it cannot be encoded."""
    if result.observation is None:
        return {"job": result.number, "refused": result.refusal}
    item: dict[str, object] = {
        "job": result.number,
        "observation": fact_payload(result.observation),
        "offset": result.offset,
    }
    if result.certificates:
        item["certificates"] = {name: asdict(text) for name, text in result.certificates.items()}
    if result.attributed is not None:
        item["attributed"] = fact_payload(result.attributed)
    if len(canonical(item)) > MAX_ITEM_BYTES:
        raise ValueError("the observation is longer than any that is recorded")
    return item


def result_from(item: Mapping[str, object]) -> Result:
    """Parse a result. Raises MessageError."""
    if "refused" in item:
        _check(item, REFUSAL, "a refusal")
        found = cast(dict[str, Any], item)
        return Result(number=found["job"], refusal=found["refused"][:200])
    _check(item, RESULT, "a result")
    found = cast(dict[str, Any], item)
    attributed = found.get("attributed")
    return Result(
        number=found["job"],
        observation=_observation(found["observation"]),
        attributed=None if attributed is None else _observation(attributed),
        offset=found["offset"],
        certificates={
            name: CertificateText(
                not_after=text["not_after"],
                unreadable=text["unreadable"],
                issuer=text["issuer"],
                names=tuple(text["names"]),
            )
            for name, text in found.get("certificates", {}).items()
        },
    )


def check_answer(result: Result, job: Job) -> None:
    """Check that a result is of the probe that was asked for. Raises MessageError."""
    for observation in filter(None, (result.observation, result.attributed)):
        if (observation.target, observation.scheduled_at) != (job.target, job.scheduled_at):
            raise MessageError("it is of another probe than the one asked for")
        if observation.with_login and not job.with_login:
            raise MessageError("it logged in without being allowed to")
        if observation.secret or observation.interval is not None or observation.node:
            raise MessageError("it says what only the recording node may say")
    if result.observation is None or result.attributed is None:
        return
    probed, judged = result.observation, result.attributed
    if (probed.started_at, probed.ended_at) != (judged.started_at, judged.ended_at):
        raise MessageError("its attribution is of another probe")
    if probed.with_login is not judged.with_login:
        raise MessageError("its attribution is of another probe")


def encode(message: Message) -> str:
    """Return a message as text."""
    return orjson.dumps(
        {"sent": message.sent, "received": message.received, "series": message.series, "items": message.items}
    ).decode()


def decode(text: str) -> Message:
    """Parse a message, but not its items. Raises MessageError."""
    if len(text) > 2 * MAX_MESSAGE_BYTES:
        raise MessageError("it is too long")
    try:
        read = orjson.loads(text)
    except ValueError:
        raise MessageError("it is not JSON") from None
    _check(read, MESSAGE, "a message")
    received = read["received"]
    return Message(
        sent=read["sent"],
        series=read["series"],
        items=tuple(read["items"]),
        received=None if received is None else (received[0], received[1]),
    )


def batches(items: Sequence[Mapping[str, object]]) -> list[list[Mapping[str, object]]]:
    """Return items in parts of at most MAX_MESSAGE_BYTES; an item that is longer by itself is one part."""
    parts, size = [list[Mapping[str, object]]()], 0
    for item in items:
        length = len(orjson.dumps(item))
        if parts[-1] and size + length > MAX_MESSAGE_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += length
    return [part for part in parts if part]


def _observation(payload: Mapping[str, object]) -> Observation:
    try:
        observation = observation_from(payload)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MessageError(f"its observation cannot be read ({type(error).__name__})") from None
    clock = observation.clock
    if clock is None or clock.start is None:
        raise MessageError("its observation has no clock")
    if not 0 < observation.started_at <= observation.ended_at:
        raise MessageError("its observation ends before it begins")
    if any(not 0 < one.started_at <= one.ended_at for one in observation.attempts):
        raise MessageError("an attempt ends before it begins")
    # Rejected logins may count as down once they are judged together; what is ours never does.
    ours = observation.cause in (Cause.MONITOR, Cause.OFFLINE, Cause.THROTTLED)
    if (observation.outcome is Outcome.UP) != (observation.cause is None) or (
        ours and observation.outcome is not Outcome.UNKNOWN
    ):
        raise MessageError("its outcome and its cause do not go together")
    return observation


def _check(value: object, rule: Rule, what: str) -> None:
    if not rule(value):
        raise MessageError(f"it is not {what}")
