"""A round trip's message carries the newest checkpoint, and a provider's DKIM signature over it is enclosed."""

from __future__ import annotations

import re
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from mailwatch.cli import main
from mailwatch.evidence.verify import Claim, Trust, verify
from mailwatch.ledger.carried import read_carried
from mailwatch.ledger.checkpoint import Checkpoint, sign
from mailwatch.ledger.dkim_signature import DkimError, verify_dkim
from mailwatch.model import Kind, Observation
from mailwatch.monitor.carried import CheckpointCarrier
from mailwatch.probes import ProbeRequest, observe
from mailwatch.probes.roundtrip.dkim import check_signatures
from mailwatch.probes.roundtrip.message import MessageSigner, compose, new_token
from mailwatch.store import Store
from mailwatch.store.keys import load_keys
from mailwatch.times import now
from tests.helpers.dkim_signing import RECORD, record_of, signed
from tests.helpers.faults.fault import Fault, closed_port
from tests.helpers.faults.roundtrip import Service, roundtrip_target, serving
from tests.helpers.malicious_operator import Operator
from tests.helpers.pdf import text_of
from tests.helpers.pipeline import PipelineHarness

TRIP = Fault(kind=Kind.ROUNDTRIP, what="", cause=None, phase=None, place=closed_port).target


async def own_key(name: str) -> bytes | None:
    return RECORD if name == "mw._domainkey.example.org." else None


async def with_own_key(request: ProbeRequest) -> Observation:
    """A probe whose keys come from the test, not from a name server."""
    assert request.roundtrip is not None
    return await observe(replace(request, roundtrip=replace(request.roundtrip, keys=own_key)))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path)
    await made.writer.start()
    made.pipeline.runner.observe = with_own_key
    public = load_keys(tmp_path).public
    made.pipeline.runner.carrier = CheckpointCarrier(made.pipeline.recorder, made.reader, public)
    yield made
    await made.close()


async def trip(harness: PipelineHarness, service: Service) -> None:
    """A round trip over the service."""
    async with serving(service) as (via, to):
        target = roundtrip_target(TRIP, via, to)
        if target.name not in harness.pipeline.targets:
            harness.add_target(target)
        await harness.pipeline.run_probe(target, now())


async def test_a_signed_message_is_kept_with_the_key_of_then_and_again_only_after_an_hour(
    harness: PipelineHarness, tmp_path: Path
) -> None:
    service = Service(sign=signed)
    await trip(harness, service)
    assert harness.recorded("carried") == [], "no checkpoint was signed before the first message"
    await harness.writer.checkpoint()
    await trip(harness, service)
    await harness.writer.checkpoint()
    await trip(harness, service)
    (kept,) = harness.recorded("carried")
    found = read_carried(kept, load_keys(tmp_path).public)
    assert (kept["provider"], kept["domain"], kept["key"].encode()) == (TRIP.provider, "example.org", RECORD)
    assert found.checkpoint.size == 1
    assert kept["message"].encode() == service.sent[1]
    facts = [one["facts"] for one in harness.recorded("observation")]
    assert {one["stage"] for one in facts} == {"served"}
    assert facts[1]["dkim"] == [{"result": "pass", "domain": "example.org", "selector": "mw"}]


async def test_after_an_outage_opened_or_ended_the_next_one_is_kept(harness: PipelineHarness) -> None:
    await harness.writer.checkpoint()
    await trip(harness, Service(sign=signed))
    await harness.writer.checkpoint()
    for notify in harness.pipeline.recorder.on_outage_recorded:
        notify()
    await trip(harness, Service(sign=signed))
    assert len(harness.recorded("carried")) == 1


def without_signature(message: bytes) -> bytes:
    return message


def altered_on_its_way(message: bytes) -> bytes:
    return signed(message) + b"Sent from my phone\r\n"


def partly_signed(message: bytes) -> bytes:
    return signed(message, length=True)


@pytest.mark.parametrize("sign", [without_signature, altered_on_its_way, partly_signed])
async def test_without_a_signature_over_the_whole_body_nothing_is_kept(
    harness: PipelineHarness, sign: Callable[[bytes], bytes]
) -> None:
    await trip(harness, Service())
    await harness.writer.checkpoint()
    await trip(harness, Service(sign=sign))
    assert harness.recorded("carried") == []
    assert [one["facts"]["stage"] for one in harness.recorded("observation")] == ["served", "served"]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    store = Store.open(tmp_path / "data")
    yield Operator(store, tmp_path / "data")
    store.close()


def message_with(note: str) -> bytes:
    token = new_token(now())
    seal = MessageSigner(b"s" * 32, "trip").sign(token)
    return signed(compose(token, seal, "a@example.org", "b@example.org", note))


def carry(operator: Operator, provider: str = "lab", **changed: Any) -> dict[str, Any]:
    """Have the newest checkpoint carried by a message, as a round trip does; write it down and return it."""
    operator.store.checkpoint()
    with operator.reader() as reader:
        row = reader.last_checkpoint()
    assert row is not None
    payload = {
        "checkpoint": row.size, "provider": provider, "domain": "example.org", "selector": "mw",
        "key": RECORD.decode(), "at": operator.clock(), "message": message_with(row.note).decode(),
    } | changed  # fmt: skip
    operator.entry("carried", payload)
    return payload


def record_outage(operator: Operator, **changed: Any) -> Path:
    """An outage with a message before and after it."""
    operator.observe("++")
    carry(operator, **changed)
    operator.observe("++----++")
    carry(operator, **changed)
    return operator.bundle()


def the_claim(path: Path) -> Claim:
    claims = verify(path, Trust())
    (found,) = [claim for claim in claims if claim.claim == "carried"]
    assert [claim.detail for claim in claims if not claim.valid and claim is not found] == []
    return found


def test_a_bundle_reaches_to_the_messages_around_an_outage_and_says_what_they_show(operator: Operator) -> None:
    found = the_claim(record_outage(operator))
    assert (found.valid, found.note) == (True, True)
    for words in (
        "2 checkpoints, of 3 to",
        "the key of example.org signed (DKIM, 2048 bits)",
        "by the clock of the signer from",
        "the ledger states this key",
        "mw._domainkey.example.org",
    ):
        assert words in found.detail


def test_messages_of_other_providers_stay_hidden(operator: Operator) -> None:
    found = the_claim(record_outage(operator, provider="other"))
    assert (found.note, found.detail) == (
        False,
        "no message that a mail provider signed carries a checkpoint here",
    )
    with zipfile.ZipFile(operator.folder / "case.zip") as bundle:
        assert b"X-MailWatch-Token" not in bundle.read("entries.jsonl")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"key": record_of(generate_private_key(65537, 2048)).decode()}, "does not match"),
        ({"key": "v=DKIM1; p="}, "the key is not valid"),
        ({"selector": "other"}, "no signature of example.org with other"),
        ({"domain": "libero.it"}, "no signature of libero.it"),
        ({"checkpoint": 1}, "another checkpoint than the entry states"),
        ({"message": "From: x\r\n\r\nx"}, "no signature"),
        ({"message": 7}, "no message with its key"),
        ({"message": "x" * 20_000}, "longer than MailWatch keeps"),
    ],
)
def test_a_message_that_does_not_show_what_its_entry_states_is_refused(
    operator: Operator, changed: dict[str, Any], why: str
) -> None:
    found = the_claim(record_outage(operator, **changed))
    assert not found.valid
    assert why in found.detail


def test_a_checkpoint_of_another_history_is_refused(operator: Operator) -> None:
    """The message carried another root for that size, by the same key."""
    operator.observe("++")
    kept = carry(operator)
    operator.observe("++----++")
    size = operator.store.size
    note = sign(Checkpoint(operator.store.keys.origin, size, b"x" * 32), operator.store.keys.private)
    operator.store.checkpoint()
    operator.entry("carried", kept | {"checkpoint": size, "message": message_with(note).decode()})
    found = the_claim(operator.bundle())
    assert not found.valid
    assert "is not one of the bundle's" in found.detail


def test_dates_of_a_signature_are_not_compared_with_our_clock() -> None:
    """A message verifies as long as its key is known: years after its signature expired."""
    message = message_with("")
    assert verify_dkim(message, "example.org", "mw", RECORD.decode()).time is not None
    assert "t=" in message.decode()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace(b"a=rsa-sha256", b"a=rsa-sha1"), "not by SHA-256"),
        (lambda text: text.replace(b"MailWatch, un", b"MailWotch, un"), "body hash mismatch"),
        (lambda text: text.replace(b"Subject: MailWatch", b"Subject: MailWotch"), "does not match"),
        (lambda text: re.sub(rb"h=[^;]*;", b"h=subject;", text), "does not cover"),
        (lambda text: b" folded\r\n" + text, "cannot be read"),
        (lambda text: text.replace(b"d=example.org", b"d=example.net"), "no signature of example.org"),
    ],
)
def test_what_is_no_valid_signature(change: Callable[[bytes], bytes], why: str) -> None:
    with pytest.raises(DkimError, match=why):
        verify_dkim(change(message_with("")), "example.org", "mw", RECORD.decode())


RFC8463_MESSAGE = b"""\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
""".replace(b"\n", b"\r\n")
"""The message of RFC 8463, A.3."""
RFC8463_KEY = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


async def test_the_ed25519_signature_of_rfc_8463_verifies_as_evidence_and_at_the_probe() -> None:
    found = verify_dkim(RFC8463_MESSAGE, "football.example.com", "brisbane", RFC8463_KEY)
    assert (found.bits, found.time) == (256, 1_528_637_909_000)
    (checked,) = await check_signatures(RFC8463_MESSAGE, ed25519_key)
    assert checked["result"] == "pass"


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        (lambda text: text.replace(b"Is dinner", b"Is supper"), RFC8463_KEY, "does not match"),
        (lambda text: text.replace(b"We lost", b"We won"), RFC8463_KEY, "body hash mismatch"),
        (lambda text: text, RFC8463_KEY.replace("p=11", "p=12"), "does not match|not valid"),
        (lambda text: text, RFC8463_KEY.replace("p=11qY", "p="), "could not parse ed25519|not valid"),
        (lambda text: text, RECORD.decode(), "does not match"),
    ],
)
async def test_what_is_no_valid_ed25519_signature(change: Callable[[bytes], bytes], key: str, why: str) -> None:
    with pytest.raises(DkimError, match=why):
        verify_dkim(change(RFC8463_MESSAGE), "football.example.com", "brisbane", key)
    (checked,) = await check_signatures(change(RFC8463_MESSAGE), lambda _: ready(key.encode()))
    assert checked["result"] in ("fail", "permerror")


async def ready(key: bytes) -> bytes:
    return key


async def ed25519_key(name: str) -> bytes | None:
    return RFC8463_KEY.encode() if name == "brisbane._domainkey.football.example.com." else None


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", "messages that the DKIM key of example.org"), ("it", "chiave DKIM di example.org")],
)
def test_the_report_names_who_signed_and_is_made_again_from_the_bundle(
    operator: Operator, capsys: pytest.CaptureFixture[str], language: str, words: str
) -> None:
    record_outage(operator)
    path = operator.bundle(report=language)
    with zipfile.ZipFile(path) as bundle:
        bundle.extract("report.pdf", operator.folder)
    assert words in text_of(operator.folder / "report.pdf")
    assert main(["verify", str(path)]) == 0
    assert "made again from the bundle, is the same to the byte" in " ".join(capsys.readouterr().out.split())
