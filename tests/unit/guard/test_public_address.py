"""Our public address by STUN: the vectors of RFC 5769, and servers whose answers are no answers."""

from __future__ import annotations

import hashlib
import hmac
import random
import socket
from collections.abc import Callable

import pytest

from mailwatch.guard import public_address
from mailwatch.guard.public_address import Family, PublicAddress, StunError, ask_public_address, read_answer
from mailwatch.times import now
from tests.helpers.patience import PATIENCE
from tests.helpers.stun_server import (
    BINDING_ERROR,
    BINDING_REQUEST,
    BINDING_SUCCESS,
    Script,
    attribute,
    message,
    sees,
    stun_server,
    xor_mapped,
)

ID = bytes.fromhex("b7e7a701bc34d686fa87dfae")
HEAD = "2112a442 b7e7a701 bc34d686 fa87dfae 8022000b 74657374 20766563 746f7220"
IPV4_VECTOR = bytes.fromhex(
    f"0101003c {HEAD} 00200008 0001a147 e112a643"
    "00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7 80280004 c07d4c96"
)
IPV6_VECTOR = bytes.fromhex(
    f"01010048 {HEAD} 00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9"
    "00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41 80280004 c8fb0b4c"
)
"""RFC 5769, sections 2.2 and 2.3."""
VECTOR_PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"


@pytest.mark.parametrize(
    ("vector", "address"),
    [(IPV4_VECTOR, "192.0.2.1"), (IPV6_VECTOR, "2001:db8:1234:5678:11:2233:4455:6677")],
)
def test_the_vectors_of_rfc_5769(vector: bytes, address: str) -> None:
    # The integrity attribute shows that the bytes are those of the RFC; the length is that up to its own end.
    signed = vector[:2] + (len(vector) - 28).to_bytes(2) + vector[4:-32]
    assert hmac.digest(VECTOR_PASSWORD, signed, hashlib.sha1) == vector[-28:-8]
    assert str(read_answer(vector, ID)) == address


def test_no_changed_byte_gives_another_address() -> None:
    """The fingerprint protects against damage on the way, though not against people."""
    read = set()
    for place in range(len(IPV4_VECTOR)):
        damaged = bytearray(IPV4_VECTOR)
        damaged[place] ^= 0x10
        try:
            read.add(str(read_answer(bytes(damaged), ID)))
        except StunError:
            continue
    # Where the attribute is no fingerprint any more, nothing else has changed.
    assert read == {"192.0.2.1"}


@pytest.mark.parametrize("vector", [IPV4_VECTOR, IPV6_VECTOR])
def test_no_cut_answer_is_read(vector: bytes) -> None:
    for length in range(len(vector)):
        with pytest.raises(StunError):
            read_answer(vector[:length], ID)


def test_random_attributes_end_in_an_address_or_an_error() -> None:
    chance = random.Random(15)
    for _ in range(3000):
        body = chance.randbytes(4 * chance.randrange(12))
        if chance.random() < 0.5 and len(body) > 4:
            body = bytes((0, 0x20, 0, chance.choice((4, 8, 20)))) + body[4:]
        try:
            read_answer(message(BINDING_SUCCESS, ID, body), ID)
        except StunError:
            continue


GOOD = xor_mapped("8.8.4.4", ID)
BAD_ANSWERS = {
    "no address": (message(BINDING_SUCCESS, ID), "names no address"),
    "only the plain one": (message(BINDING_SUCCESS, ID, attribute(1, GOOD[4:])), "names no address"),
    "a family that is none": (message(BINDING_SUCCESS, ID, attribute(0x20, b"\0\3" + bytes(6))), "neither IPv4"),
    "IPv6 in four bytes": (message(BINDING_SUCCESS, ID, attribute(0x20, b"\0\2" + bytes(6))), "neither IPv4"),
    "IPv4 in sixteen": (message(BINDING_SUCCESS, ID, attribute(0x20, b"\0\1" + bytes(18))), "neither IPv4"),
    "an empty one": (message(BINDING_SUCCESS, ID, attribute(0x20, b"")), "neither IPv4"),
    "longer than the answer": (
        message(BINDING_SUCCESS, ID, b"\0\x20\xff\xff" + bytes(8)),
        "longer than the answer",
    ),
    "an attribute to be understood": (message(BINDING_SUCCESS, ID, attribute(0x7001, b"?"), GOOD), "0x7001"),
    "an error": (message(BINDING_ERROR, ID, attribute(9, b"\0\0\4\x14busy"), GOOD), "refuses requests (420)"),
    "an error without a code": (message(BINDING_ERROR, ID), "refuses requests (without a code)"),
    "a request": (message(BINDING_REQUEST, ID, GOOD), "no answer"),
    "another transaction": (message(BINDING_SUCCESS, ID[::-1], GOOD), "no answer"),
    "another cookie": (IPV4_VECTOR[:4] + b"GET " + IPV4_VECTOR[8:], "no answer"),
    "a length beside it": (IPV4_VECTOR + bytes(4), "states 60 bytes of attributes and has 64"),
    "huge": (message(BINDING_SUCCESS, ID, GOOD, attribute(0x8022, bytes(60_000))), "no answer"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_a_bad_answer_says_why(name: str) -> None:
    data, why = BAD_ANSWERS[name]
    with pytest.raises(StunError) as refused:
        read_answer(data, ID)
    assert why in str(refused.value)


def test_an_unknown_attribute_that_need_not_be_understood_is_passed_over() -> None:
    second = xor_mapped("9.9.9.9", ID)
    answer = message(BINDING_SUCCESS, ID, attribute(0xC001, b"odd"), GOOD, second, fingerprint=True)
    assert str(read_answer(answer, ID)) == "8.8.4.4"


async def ask(script: Script, family: Family = 4, host: str = "127.0.0.1") -> PublicAddress:
    async with stun_server(script, host) as server:
        return await ask_public_address(host, server.port, family, PATIENCE)


@pytest.mark.parametrize(
    ("host", "family", "address"), [("127.0.0.1", 4, "8.8.4.4"), ("::1", 6, "2001:4860:4860::8844")]
)
async def test_a_server_is_asked(host: str, family: Family, address: str) -> None:
    before = now()
    async with stun_server(sees(address), host) as server:
        found = await ask_public_address(host, server.port, family, PATIENCE)
    shown = f"[::1]:{server.port}" if family == 6 else f"127.0.0.1:{server.port}"
    assert (found.address, found.family, found.server) == (address, family, shown)
    assert before <= found.at <= now()
    (request,) = server.requests
    assert request[:8] == bytes.fromhex("000100002112a442")
    assert len(request) == 20


async def test_each_request_has_an_id_of_its_own() -> None:
    async with stun_server(sees("8.8.4.4")) as server:
        for _ in range(3):
            await ask_public_address("127.0.0.1", server.port, 4, PATIENCE)
    assert len({request[8:20] for request in server.requests}) == 3


def before_the_true_one(*hostile: Callable[[bytes], bytes]) -> Script:
    """Hostile datagrams, then the answer."""
    return lambda request: [*(make(request) for make in hostile), *sees("8.8.4.4")(request)]


NO_ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "wrong id": lambda _: message(BINDING_SUCCESS, bytes(12), xor_mapped("9.9.9.9", bytes(12))),
    "one bit of the id": lambda request: message(
        BINDING_SUCCESS, request[8:19] + bytes((request[19] ^ 1,)), xor_mapped("9.9.9.9", request[8:20])
    ),
    "short": lambda request: sees("9.9.9.9")(request)[0][:19],
    "empty": lambda _: b"",
    "huge": lambda request: message(
        BINDING_SUCCESS, request[8:20], xor_mapped("9.9.9.9", request[8:20]), attribute(0x8022, bytes(50_000))
    ),
    "our own request": lambda request: request,
}


@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_what_is_no_answer_to_the_request_is_passed_over(name: str) -> None:
    assert (await ask(before_the_true_one(NO_ANSWERS[name]))).address == "8.8.4.4"


async def test_an_answer_from_another_source_is_dropped() -> None:
    """It even repeats the id, as one who saw the request could; the socket is connected to the server asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))

        def spoof(request: bytes) -> list[bytes]:
            other.sendto(sees("9.9.9.9")(request)[0], server.peer)
            return [*sees("8.8.4.4")(request)]

        async with stun_server(spoof) as server:
            found = await ask_public_address("127.0.0.1", server.port, 4, PATIENCE)
    assert found.address == "8.8.4.4"


async def test_a_lost_request_is_sent_again_with_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_address, "RETRANSMIT_SECONDS", 0.01)
    async with stun_server(lambda request: sees("8.8.4.4")(request) if len(server.requests) > 2 else []) as server:
        found = await ask_public_address("127.0.0.1", server.port, 4, PATIENCE)
    assert found.address == "8.8.4.4"
    assert len(set(server.requests)) == 1


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("2001:4860:4860::8844", "over IPv4 come from 2001:4860:4860::8844"),
        ("192.168.1.7", "no public address"),
        ("127.0.0.1", "no public address"),
        ("100.64.3.4", "no public address"),
    ],
)
async def test_an_address_that_is_none_of_this_line_in_public_is_refused(address: str, why: str) -> None:
    with pytest.raises(StunError, match=why):
        await ask(sees(address))


async def test_a_silent_server_ends_in_a_timeout() -> None:
    async with stun_server(lambda _: []) as server:
        with pytest.raises(TimeoutError):
            await ask_public_address("127.0.0.1", server.port, 4, 0.05)


async def test_a_server_that_only_sends_other_datagrams_ends_in_a_timeout() -> None:
    async with stun_server(lambda _: [b"x" * 100] * 50) as server:
        with pytest.raises(TimeoutError):
            await ask_public_address("127.0.0.1", server.port, 4, 0.05)


async def test_a_closed_port_is_an_error_and_no_wait() -> None:
    async with stun_server(lambda _: []) as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        await ask_public_address("127.0.0.1", port, 4, PATIENCE)


async def test_a_host_without_an_address_of_the_family_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        await ask_public_address("127.0.0.1", 3478, 6, PATIENCE)
