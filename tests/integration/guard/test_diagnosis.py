"""What is found out at the first moment of a failure: how the name is answered, and the way to the host."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from dns.asyncresolver import Resolver
from dns.rcode import SERVFAIL, Rcode

from mailwatch.guard.diagnosis import MAX_CONCURRENT, Diagnosis, lookup_names
from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Attempt, Cause, Kind, Observation, Outcome
from mailwatch.settings import Target
from tests.helpers.faults.names import name_server
from tests.helpers.name_servers import dnsmasq_resolver
from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.requirements import need_root
from tests.servers import DNSMASQ, Dnsmasq, server_folder

TARGET = Target(name="t", kind=Kind.IMAP, host="127.0.0.1", port=1)


def failed(peer: str) -> Observation:
    attempt = Attempt(started_at=1, ended_at=2, peer=peer, cause=Cause.TIMEOUT)
    return Observation(
        target="t",
        scheduled_at=1,
        started_at=1,
        ended_at=2,
        outcome=Outcome.DOWN,
        cause=Cause.TIMEOUT,
        attempts=(attempt,),
    )


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def way() -> Iterator[tuple[str, str]]:
    """Three network namespaces in a row: ours, a router, a host. Give the name of the first."""
    need_root("ip")
    names = [f"mw{os.getpid()}{part}" for part in "abc"]
    ours, router, host = names
    with ExitStack() as undo:
        for name in names:
            ip("netns", "add", name)
            undo.callback(ip, "netns", "del", name)
        for left, right, net in ((ours, router, 1), (router, host, 2)):
            ip(
                "link",
                "add",
                f"v{net}l",
                "netns",
                left,
                "type",
                "veth",
                "peer",
                "name",
                f"v{net}r",
                "netns",
                right,
            )
            for name, side, last in ((left, "l", 1), (right, "r", 2)):
                ip("-n", name, "addr", "add", f"10.99.{net}.{last}/24", "dev", f"v{net}{side}")
                ip("-n", name, "addr", "add", f"fd99:{net}::{last}/64", "dev", f"v{net}{side}", "nodad")
                ip("-n", name, "link", "set", f"v{net}{side}", "up")
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            subprocess.run(["ip", "netns", "exec", router, "sysctl", "-q", "-w", setting], check=True)
        for name, route, via in ((ours, "2", "10.99.1.2"), (host, "1", "10.99.2.1")):
            ip("-n", name, "route", "add", f"10.99.{route}.0/24", "via", via)
        ip("-n", ours, "route", "add", "fd99:2::/64", "via", "fd99:1::2")
        ip("-n", host, "route", "add", "fd99:1::/64", "via", "fd99:2::1")
        yield ours, router


def traced(namespace: str, peer: str, *, loop: str = "asyncio") -> Any:
    script = (
        f"import {loop} as l, asyncio, json; from mailwatch.guard.diagnosis import trace;"
        f"print(json.dumps(l.run(trace({peer!r}, 3.0))))"
    )
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("peer", "own", "hops"),
    [
        ("10.99.2.2:993", "10.99.1.1", ["10.99.1.2", "10.99.2.2"]),
        ("[fd99:2::2]:993", "fd99:1::1", ["fd99:1::2", "fd99:2::2"]),
    ],
)
def test_the_route_to_a_host_is_found_without_privileges(
    way: tuple[str, str], loop: str, peer: str, own: str, hops: list[str]
) -> None:
    reported = traced(way[0], peer, loop=loop)
    assert reported == {"to": hops[-1], "from": own, "hops": hops, "arrived": True}


def test_a_route_that_ends_halfway_shows_where(way: tuple[str, str]) -> None:
    ours, router = way
    rules = "table inet t { chain f { type filter hook forward priority 0; policy drop; }; }"
    subprocess.run(["ip", "netns", "exec", router, "nft", "-f", "-"], input=rules, text=True, check=True)
    reported = traced(ours, "10.99.2.2:993")
    assert reported == {"to": "10.99.2.2", "from": "10.99.1.1", "hops": ["10.99.1.2"], "arrived": False}


def test_without_a_route_nothing_is_found_and_nothing_breaks(way: tuple[str, str]) -> None:
    assert traced(way[0], "192.0.2.1:993") == {"to": "192.0.2.1", "from": "", "hops": [], "arrived": False}


async def test_localhost_and_addresses_need_no_dns_query() -> None:
    diagnosis = await Diagnosis().diagnose(TARGET, failed("127.0.0.1:1"))
    assert diagnosis["route"] == {"skipped": "the host is this machine"}
    assert diagnosis["dns"] == {"skipped": "the host is an address"}
    assert "skipped" in await lookup_names("localhost", 1.0)
    canonical(diagnosis)


async def test_a_probe_without_an_address_has_no_route() -> None:
    diagnosis = await Diagnosis().diagnose(TARGET, failed(""))
    assert diagnosis["route"] == {"skipped": "no address was tried"}


async def test_when_everything_fails_at_once_only_a_few_diagnoses_are_made() -> None:
    diagnosis = Diagnosis()
    found = await asyncio.gather(
        *(diagnosis.diagnose(TARGET, failed("127.0.0.1:1")) for _ in range(MAX_CONCURRENT + 3))
    )
    assert sum("skipped" in each for each in found) == 3
    assert "skipped" not in await diagnosis.diagnose(TARGET, failed("127.0.0.1:1"))


async def test_errors_in_a_diagnosis_are_recorded_and_never_raised() -> None:
    diagnosis: Any = await Diagnosis().diagnose(TARGET, failed("no address:1"))
    assert diagnosis["route"]["failed"].startswith("ValueError")


async def test_the_first_failure_has_a_diagnosis_and_the_others_have_none(tmp_path: Path) -> None:
    harness = PipelineHarness(tmp_path)
    await harness.writer.start()
    harness.pipeline.attribution.clock_bound.set(1234)
    for _ in range(3):
        await harness.probe()
    first, *rest = harness.recorded("observation")
    # In whole milliseconds, rounded up; it grows until the probe, however long that takes.
    assert first["facts"]["diagnosis"]["clock_error_bound_us"] in range(2000, 100_000, 1000)
    assert first["facts"]["diagnosis"]["route"] == {"skipped": "the host is this machine"}
    assert [observation.get("facts") for observation in rest] == [None, None]
    await harness.close()


@pytest.fixture
def names() -> Iterator[Resolver]:
    """A resolver of a real dnsmasq."""
    records = (
        "host-record=there.example,192.0.2.1,2001:db8::1",
        "cname=alias.example,there.example",
        "cname=far.example,alias.example",
        "txt-record=empty.example,hello",
        "mx-host=mail.example,there.example,10",
        "server=/refused.example/#",
    )
    with dnsmasq_resolver(*records) as resolver:
        yield resolver


async def test_each_answer_of_the_name_server_is_recorded(names: Resolver) -> None:
    there: Any = await lookup_names("there.example", 5.0, names)
    assert there["A"]["status"] == there["AAAA"]["status"] == "NOERROR"
    assert (there["A"]["addresses"], there["AAAA"]["addresses"]) == (["192.0.2.1"], ["2001:db8::1"])
    assert "chain" not in there["A"]
    far: Any = await lookup_names("far.example", 5.0, names)
    assert far["A"]["chain"] == ["alias.example.", "there.example."]
    assert far["A"]["addresses"] == ["192.0.2.1"]
    assert await lookup_names("gone.example", 5.0, names) == {
        "A": {"status": "NXDOMAIN"},
        "AAAA": {"status": "NXDOMAIN"},
    }
    empty: Any = await lookup_names("empty.example", 5.0, names)
    assert (empty["A"]["status"], empty["A"]["addresses"]) == ("no data", [])
    refused: Any = await lookup_names("refused.example", 5.0, names)
    assert refused["A"] == {"status": "no server answers usefully", "servers": [f"127.0.0.1@{names.port} REFUSED"]}
    mail: Any = await lookup_names("mail.example", 5.0, names, kinds=("MX",))
    assert mail["MX"]["addresses"] == ["10 there.example."]
    for reported in (there, far, empty, refused, mail):
        canonical(reported)


@pytest.mark.parametrize(
    ("reply", "status"),
    [(SERVFAIL, "no server answers usefully"), (None, "no answer")],
    ids=["SERVFAIL", "silence"],
)
async def test_a_failing_name_server_behind_ours_is_recorded(reply: Rcode | None, status: str) -> None:
    need_root(str(DNSMASQ))
    async with name_server({"broken.example A": reply, "broken.example AAAA": reply}) as upstream:
        with server_folder() as folder:
            server = Dnsmasq(folder, f"server=/broken.example/127.0.0.1#{upstream}")
            await asyncio.to_thread(server.start)
            try:
                reported: Any = await lookup_names("broken.example", 1.0, server.resolver)
            finally:
                await asyncio.to_thread(server.stop)
    assert reported["A"]["status"] == reported["AAAA"]["status"] == status
    assert reported["A"].get("servers", []) == ([f"127.0.0.1@{server.port} SERVFAIL"] if reply else [])
