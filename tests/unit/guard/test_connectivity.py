"""Are we online: real sockets on the loopback; nothing leaves the machine."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from mailwatch.evidence.warnings import answering_controls
from mailwatch.guard.attribution import attribute, resolver_matters
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control, Reachability
from mailwatch.guard.shared_check import SHARED_SECONDS
from mailwatch.model import Attempt, Cause, ConnectivityResult, Observation, Outcome, Phase, TlsFacts
from mailwatch.times import now

RESOLVES = "localhost"
DOES_NOT = "no-such-name.invalid"
HANGS = "slow.invalid"


@dataclass
class Listener:
    """A control that accepts, and counts how often."""

    control: Control = field(default_factory=lambda: Control("", 0))
    visits: int = 0

    async def visit(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


@asynccontextmanager
async def door(host: str = "127.0.0.1") -> AsyncIterator[Listener]:
    candidate = Listener()
    server = await asyncio.start_server(candidate.visit, host, 0)
    async with server:
        candidate.control = Control(*server.sockets[0].getsockname()[:2])
        yield candidate


@pytest.fixture
def closed() -> Control:
    """A port that refuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Control(*probe.getsockname()[:2])


@pytest.fixture
def silent() -> Iterator[Control]:
    """A port that never answers: its queue is full, and nobody takes from it."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield Control(*listener.getsockname())


def failing(cause: Cause = Cause.TIMEOUT) -> Observation:
    at = now()
    return Observation(
        target="lab", scheduled_at=at, started_at=at, ended_at=at, outcome=Outcome.DOWN,
        cause=cause, failed_phase=Phase.CONNECT, detail="no answer in 5 s",
    )  # fmt: skip


async def test_one_control_that_accepts_is_enough(closed: Control, silent: Control) -> None:
    async with door() as good:
        before = now()
        answer = await Guard([closed, silent, good.control], timeout=60).check()
    assert answer.online is True
    assert answer.controls[good.control.label] == "ok"
    assert answer.controls[silent.label] == "not awaited"
    assert before <= answer.asked_at <= now()


async def test_all_controls_failing_is_offline_each_with_its_reason(closed: Control, silent: Control) -> None:
    answer = await Guard([closed, silent], timeout=0.2).check()
    assert answer.online is False
    assert answer.controls == {closed.label: "refused", silent.label: "timeout"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems name it otherwise")
async def test_an_address_without_a_route_is_unreachable() -> None:
    # The kernel refuses to connect to a broadcast address before anything is sent.
    answer = await Guard([Control("255.255.255.255", 443)], timeout=5).check()
    assert answer.online is False
    assert answer.controls == {"255.255.255.255:443": "unreachable"}


async def test_no_control_at_all_gives_no_answer() -> None:
    assert (await Guard([], timeout=1).check()).online is None


async def test_a_check_leaves_no_socket_and_no_task_behind(closed: Control, silent: Control) -> None:
    async with door() as good:
        tasks = asyncio.all_tasks()
        await Guard([closed, silent, silent, good.control], timeout=60).check()
        assert {task.get_name() for task in asyncio.all_tasks() - tasks if not task.done()} == set()
    # A socket left open is a ResourceWarning, and warnings are errors.
    gc.collect()


async def test_concurrent_callers_share_one_check() -> None:
    async with door() as good:
        guard = Guard([good.control], timeout=5)
        answers = await asyncio.gather(*(guard.check(provider=f"p{n}") for n in range(50)))
    assert good.visits == 1
    assert {answer.online for answer in answers} == {True}


async def test_an_answer_older_than_the_failing_probe_is_not_reused() -> None:
    async with door() as good:
        guard = Guard([good.control], timeout=5)
        first = await guard.check()
        await guard.check(since=first.asked_at)
        assert good.visits == 1
        later = await guard.check(since=first.asked_at + 1)
        assert good.visits == 2
        assert later.online is True


async def test_an_answer_is_reused_for_two_seconds_only() -> None:
    async with door() as good:
        guard = Guard([good.control], timeout=5)
        await guard.check()
        guard.line_checks[4].began -= SHARED_SECONDS - 1
        await guard.check()
        assert good.visits == 1
        guard.line_checks[4].began -= 1.01
        await guard.check()
        assert good.visits == 2


async def test_a_cancelled_caller_does_not_cancel_the_shared_check(silent: Control) -> None:
    guard = Guard([silent], timeout=0.3)
    impatient = asyncio.create_task(guard.check())
    patient = asyncio.create_task(guard.check())
    while guard.line_checks[4].latest is None:
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # now both wait for it
    impatient.cancel()
    assert (await patient).online is False
    assert impatient.cancelled()


async def test_an_up_observation_of_another_provider_proves_that_we_were_online(closed: Control) -> None:
    guard = Guard([closed], timeout=1)
    guard.record_up("libero", now())
    assert (await guard.check(provider="virgilio")).online is True
    assert (await guard.check(provider="virgilio")).controls["target:libero"] == "ok"
    assert (await guard.check(provider="libero")).online is False


async def test_peer_evidence_half_a_minute_old_proves_nothing(closed: Control) -> None:
    guard = Guard([closed], timeout=1)
    guard.record_up("libero", now() - 31_000)
    assert (await guard.check(provider="virgilio")).online is False


async def test_peer_evidence_before_the_failing_probe_proves_nothing(closed: Control) -> None:
    guard = Guard([closed], timeout=1)
    seen = now()
    guard.record_up("libero", seen)
    assert (await guard.check(provider="virgilio", since=seen + 1)).online is False
    guard.record_up("libero", seen + 1)
    assert (await guard.check(provider="virgilio", since=seen + 1)).online is True


@pytest.mark.parametrize(
    ("peer", "proof"),
    [
        ("", True),
        ("213.209.0.1:993", True),
        ("2001:4860::1:993", True),
        ("[2001:4860::1]:993", True),
        ("127.0.0.1:993", False),
        ("192.168.1.2:993", False),
        ("::1:993", False),
        ("fe80::1%eth0:993", False),
    ],
)
async def test_a_server_in_our_own_network_does_not_prove_the_line(
    closed: Control, peer: str, proof: bool
) -> None:
    guard = Guard([closed], timeout=1)
    guard.record_up("lab", now(), peer)
    assert (await guard.check(provider="libero")).online is proof


async def test_a_silence_during_the_probe_outweighs_a_line_that_came_back(closed: Control) -> None:
    guard = Guard([closed], timeout=1)
    began = now()
    assert (await guard.check()).online is False
    guard.line_checks[4].began -= SHARED_SECONDS  # a new round would find the line up
    with socket.create_server((closed.host, closed.port)):
        assert (await guard.check(since=began)).online is False
        while now() == began or now() <= guard.line_checks[4].last_failure.ended_at:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        assert (await guard.check(since=now())).online is True


async def test_a_silence_before_the_clock_was_set_back_is_not_one_of_later_probes(
    closed: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, real = Guard([closed], timeout=1), time.time_ns
    guard.record_up("libero", now())
    assert (await guard.check(provider="libero")).online is False
    monkeypatch.setattr(time, "time_ns", lambda: real() - 365 * 86_400 * 10**9)
    guard.line_checks[4].began -= SHARED_SECONDS
    # Nor is a sighting before it one of this very moment.
    monkeypatch.setattr("mailwatch.guard.connectivity.PEER_EVIDENCE_MS", -1)
    assert (await guard.check(provider="virgilio")).online is False
    guard.line_checks[4].began -= SHARED_SECONDS
    with socket.create_server((closed.host, closed.port)):
        assert (await guard.check(since=now() + 1)).online is True


async def test_our_own_lack_of_file_handles_is_not_being_offline(closed: Control) -> None:
    free = os.dup(0)  # the lowest number that is free
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        answer = await Guard([closed, Control("127.0.0.2", closed.port)], timeout=1).check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert answer.online is None
    assert set(answer.controls.values()) == {"monitor"}


@dataclass
class Resolver:
    """Knows one name, and hangs on another until it is released."""

    asked: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    answers: dict[str, str] = field(default_factory=dict)
    """What it makes of further names; "*" is every name that it does not know."""


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Stands in for the system's resolver, which would ask a server for every name but localhost."""
    real, resolver = socket.getaddrinfo, Resolver()

    def getaddrinfo(host: str, *args: object, **options: object) -> object:
        resolver.asked.append(host)
        if host == HANGS:
            resolver.release.wait(60)
        if made_up := resolver.answers.get(host, resolver.answers.get("*")):
            return real(made_up, *args, **options)  # type: ignore[arg-type]
        if host != RESOLVES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield resolver
    resolver.release.set()


@pytest.mark.usefixtures("resolver")
async def test_names_that_resolve_leave_a_dns_failure_with_the_provider() -> None:
    async with door() as good:
        answer = await Guard([good.control], timeout=5, names=[DOES_NOT, RESOLVES]).check(dns=True)
    assert answer.online is True
    assert answer.controls[f"dns:{RESOLVES}"] == "ok"


@pytest.mark.usefixtures("resolver")
async def test_a_line_without_names_is_not_online_for_a_dns_failure() -> None:
    async with door() as good:
        guard = Guard([good.control], timeout=5, names=[DOES_NOT])
        answer = await guard.check(dns=True)
        assert answer.online is True
        assert answer.resolver == "silent"
        names = {f"dns:{DOES_NOT}": "unresolved", "dns:*.invalid": "unresolved"}
        assert answer.controls == {good.control.label: "ok", **names}
        assert (await guard.check()).resolver == ""
    attributed = attribute(failing(Cause.DNS), answer)
    assert attributed.cause is Cause.OFFLINE
    assert attributed.detail == "DNS lookups failed here, even for the control names (was: dns)"


@pytest.mark.usefixtures("resolver")
async def test_a_control_may_be_a_host_name(closed: Control) -> None:
    async with door() as good:
        port = good.control.port
        answer = await Guard([Control(RESOLVES, port), Control(DOES_NOT, port)], timeout=5, names=[]).check(
            dns=True
        )
    assert answer.online is True
    assert answer.controls[f"{RESOLVES}:{port}"] == "ok"
    assert (await Guard([Control(DOES_NOT, port)], timeout=5).check()).controls == {
        f"{DOES_NOT}:{port}": "unresolved"
    }


async def test_a_name_that_leads_into_our_own_network_goes_on_record_by_its_address(resolver: Resolver) -> None:
    """Else the record would say that another operator's server answered."""
    resolver.answers["control.example.org"] = "127.0.0.1"
    async with door() as good:
        port = good.control.port
        answer = await Guard([Control("control.example.org", port)], timeout=5, names=[]).check()
    assert answer.controls == {f"127.0.0.1:{port}": "ok"}
    assert answering_controls(answer.controls) == ([], [f"127.0.0.1:{port}"])


async def test_a_server_of_our_own_network_does_not_end_the_round_before_the_others_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers first, and shows nothing about the line."""
    near, far = Control("192.168.1.1", 443), Control("203.0.113.9", 443)
    monkeypatch.setattr("mailwatch.guard.connectivity.is_near", lambda host: host == near.host)
    monkeypatch.setattr("mailwatch.guard.connectivity.is_outside", lambda host: host == far.host)
    near_answered = asyncio.Event()

    class Line(Reachability):
        async def reach(self, control: Control, address: str) -> str:
            if control == far:
                await near_answered.wait()
            near_answered.set()
            return "ok"

    guard = Guard([near, far], timeout=60, names=[])
    guard._line = Line()
    answer = await guard.check()
    assert answer.controls == {near.label: "ok", far.label: "ok"}


async def test_a_resolver_that_hangs_is_asked_once_and_not_waited_for(resolver: Resolver) -> None:
    guard = Guard([], timeout=0.05, names=[HANGS])
    first = await guard.check(dns=True)
    second = await guard.check(dns=True, since=now() + 1)
    # The name that cannot exist may not have been answered in so short a time either.
    assert first.controls[f"dns:{HANGS}"] == second.controls[f"dns:{HANGS}"] == "timeout"
    assert first.resolver == "silent"
    assert resolver.asked.count(HANGS) == 1


TRUTH = {"one.one.one.one": "1.1.1.1", "dns.quad9.net": "149.112.112.112", "dns.google": "2001:4860:4860::8844"}


@pytest.mark.parametrize(
    ("answers", "state", "lie"),
    [
        (TRUTH, "ok", ()),
        ({}, "silent", ()),
        (TRUTH | {"*": "10.9.9.9"}, "lies", ("10.9.9.9",)),
        ({"*": "10.9.9.9"}, "poisoned", ("10.9.9.9",)),
        (TRUTH | {"dns.google": "203.0.113.9"}, "poisoned", ("203.0.113.9",)),
        # A family filter: no lie, and two others tell the truth.
        (TRUTH | {"dns.google": "0.0.0.0"}, "ok", ()),
        (dict.fromkeys(TRUTH, "0.0.0.0"), "silent", ()),
    ],
    ids=["true", "dead", "every-name", "all-names", "one-name", "filter", "filter-of-all"],
)
async def test_a_resolver_is_believed_as_far_as_it_gives_true_answers(
    resolver: Resolver, answers: dict[str, str], state: str, lie: tuple[str, ...]
) -> None:
    resolver.answers = answers
    answer = await Guard([], timeout=10).check(dns=True)
    assert answer.resolver == state
    assert answer.spoofed == lie
    (nonsense,) = [name for name in resolver.asked if name not in TRUTH]
    assert nonsense.endswith(".invalid.")


async def test_a_name_that_cannot_exist_is_another_each_time(resolver: Resolver) -> None:
    guard = Guard([], timeout=10, names=[])
    await guard.check(dns=True)
    await guard.check(dns=True, since=now() + 1)
    assert len(set(resolver.asked)) == 2


async def test_silence_of_controls_that_answered_before_outweighs_peer_evidence() -> None:
    async with door() as good:
        guard = Guard([good.control], timeout=5)
        began = now()
        assert (await guard.check()).online is True
    guard.line_checks[4].began -= SHARED_SECONDS
    # The line goes in the middle of a long probe, after another provider was seen up.
    guard.record_up("libero", now() - 1, "213.209.0.1:993")
    assert (await guard.check("virgilio", since=began)).online is False
    silence = guard.line_checks[4].last_failure
    assert silence is not None
    while now() <= silence.ended_at:
        await asyncio.sleep(0)
    # It comes back before that probe fails: what is seen now says nothing of then.
    guard.record_up("libero", now(), "213.209.0.1:993")
    assert (await guard.check("virgilio", since=began)).online is False
    # Seen up while the controls were asked anew: the controls are wrong.
    guard.record_up("libero", now() + 60_000, "213.209.0.1:993")
    assert (await guard.check("virgilio", since=now())).online is True


async def test_peer_evidence_proves_the_line_of_its_family_only(closed: Control) -> None:
    guard = Guard([closed, Control("::1", closed.port)], timeout=1)
    guard.record_up("libero", now(), "[2001:4860::1]:993")
    answer = await guard.check("virgilio")
    assert (answer.online, answer.online4, answer.online6) == (True, False, True)


async def test_peer_evidence_alone_dates_the_answer(closed: Control) -> None:
    guard = Guard([closed], timeout=1)
    seen = now() - 20_000
    guard.record_up("libero", seen, "213.209.0.1:993")
    assert (await guard.check("virgilio")).asked_at == seen
    async with door() as good:
        both = Guard([good.control, Control("::1", closed.port)], timeout=1)
        both.record_up("libero", seen, "[2001:4860::1]:993")
        answer = await both.check("virgilio")
    assert (answer.online4, answer.online6, answer.asked_at) == (True, True, seen)


def tried(*attempts: tuple[str, Phase, Cause], tls: bool = False) -> Observation:
    """A probe that failed at these peers."""
    at = now()
    facts = TlsFacts(version="TLSv1.3", cipher="", fingerprint="", not_after=None) if tls else None
    made = tuple(
        Attempt(started_at=at, ended_at=at, peer=peer, cause=cause, failed_phase=phase, detail=peer, tls=facts)
        for peer, phase, cause in attempts
    )
    last = made[-1]
    return Observation(
        target="t", scheduled_at=at, started_at=at, ended_at=at, outcome=Outcome.DOWN, attempts=made,
        cause=last.cause, failed_phase=last.failed_phase, detail=last.detail,
    )  # fmt: skip


FOUR, SIX = "213.209.0.1:993", "[2001:4860::1]:993"
DEAD = (Phase.CONNECT, Cause.TIMEOUT)
REFUSED = (Phase.CONNECT, Cause.REFUSED)
GREETED = (Phase.AUTH, Cause.UNAVAILABLE)


@pytest.mark.parametrize(
    ("attempts", "online4", "online6", "cause", "reported"),
    [
        ([(SIX, *DEAD)], True, False, Cause.OFFLINE, "our own line was down over IPv6 (was: timeout)"),
        ([(SIX, *DEAD)], False, True, Cause.TIMEOUT, SIX),
        ([(FOUR, *DEAD)], False, True, Cause.OFFLINE, "our own line was down over IPv4 (was: timeout)"),
        ([(FOUR, *DEAD)], True, False, Cause.TIMEOUT, FOUR),
        ([(FOUR, *DEAD)], False, False, Cause.OFFLINE, "our own line was down (was: timeout)"),
        # What the family saw that works is what counts.
        ([(SIX, *DEAD), (FOUR, *REFUSED)], True, False, Cause.REFUSED, FOUR),
        ([(SIX, *REFUSED), (FOUR, *DEAD)], False, True, Cause.REFUSED, SIX),
        # Nobody was asked over IPv6: a connection is its own proof, the lack of one proves nothing.
        ([(SIX, *DEAD)], True, None, Cause.MONITOR, "whether our own line was up over IPv6 is unknown"),
        ([(SIX, *GREETED)], True, None, Cause.UNAVAILABLE, SIX),
        ([("[::1]:993", *DEAD)], True, None, Cause.TIMEOUT, "[::1]:993"),
    ],
)
def test_a_failure_is_attributed_by_its_own_address_family(
    attempts: list[tuple[str, Phase, Cause]],
    online4: bool | None,
    online6: bool | None,
    cause: Cause,
    reported: str,
) -> None:
    answer = ConnectivityResult(asked_at=1, online=True in (online4, online6), online4=online4, online6=online6)
    attributed = attribute(tried(*attempts), answer)
    assert attributed.cause is cause
    assert attributed.outcome is cause.outcome
    assert attributed.detail.startswith(reported)
    assert attributed.guard == answer


SPOOFED = "10.9.9.9"
HANDSHAKE = (Phase.TLS, Cause.TLS)


@pytest.mark.parametrize(
    ("peer", "resolver", "misled"),
    [
        (FOUR, "ok", False),
        (FOUR, "silent", False),
        (FOUR, "lies", False),
        (f"{SPOOFED}:993", "lies", True),
        ("203.0.113.77:993", "lies", True),
        ("192.168.1.1:993", "lies", True),
        (FOUR, "poisoned", True),
        ("192.168.1.1:993", "ok", False),
    ],
)
def test_an_address_from_a_spoofing_resolver_is_not_the_provider(peer: str, resolver: str, misled: bool) -> None:
    lie = (SPOOFED, "203.0.113.77")
    answer = ConnectivityResult(asked_at=1, online=True, online4=True, resolver=resolver, spoofed=lie)
    attributed = attribute(tried((peer, *HANDSHAKE)), answer)
    assert attributed.outcome is (Outcome.UNKNOWN if misled else Outcome.DOWN)
    assert attributed.detail.startswith("the resolver lies") is misled
    # A server that shows the provider's certificate is the provider, however we came there.
    assert attribute(tried((peer, *GREETED), tls=True), answer).outcome is Outcome.DOWN


@pytest.mark.parametrize(
    ("resolver", "cause"),
    [
        ("ok", Cause.DNS),
        ("silent", Cause.OFFLINE),
        ("lies", Cause.OFFLINE),
        ("poisoned", Cause.OFFLINE),
        ("monitor", Cause.MONITOR),
    ],
)
def test_a_name_that_does_not_resolve_is_the_providers_only_where_names_resolve(
    resolver: str, cause: Cause
) -> None:
    assert (
        attribute(failing(Cause.DNS), ConnectivityResult(asked_at=1, online=True, resolver=resolver)).cause
        is cause
    )


@pytest.mark.parametrize(
    ("host", "observation", "matter"),
    [
        ("imap.example.org", tried((FOUR, *HANDSHAKE)), True),
        ("imap.example.org", tried((FOUR, *GREETED)), True),
        ("imap.example.org", tried((FOUR, *GREETED), tls=True), False),
        ("213.209.0.1", tried((FOUR, *HANDSHAKE)), False),
        ("localhost", tried((FOUR, *HANDSHAKE)), False),
        ("", tried((FOUR, *HANDSHAKE)), False),
        ("", failing(Cause.DNS), True),
    ],
)
def test_the_resolver_is_asked_where_its_answer_could_matter(
    host: str, observation: Observation, matter: bool
) -> None:
    assert resolver_matters(observation, host) is matter


def test_offline_makes_a_failure_unknown_and_says_what_it_was() -> None:
    observation = failing()
    answer = ConnectivityResult(asked_at=1, online=False, controls={"192.0.2.1:443": "timeout"})
    attributed = attribute(observation, answer)
    assert attributed == replace(
        observation, outcome=Outcome.UNKNOWN, cause=Cause.OFFLINE, guard=answer,
        detail="our own line was down (was: timeout)",
    )  # fmt: skip


def test_a_guard_without_an_answer_makes_a_failure_unknown() -> None:
    attributed = attribute(
        failing(), ConnectivityResult(asked_at=1, online=None, controls={"192.0.2.1:443": "monitor"})
    )
    assert (attributed.outcome, attributed.cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert "was: timeout" in attributed.detail


def test_online_leaves_the_failure_with_the_provider_and_stores_the_answer() -> None:
    observation, answer = failing(), ConnectivityResult(asked_at=1, online=True)
    assert attribute(observation, answer) == replace(observation, guard=answer)


@pytest.mark.parametrize("outcome", [Outcome.UP, Outcome.UNKNOWN])
def test_only_a_failure_is_attributed(outcome: Outcome) -> None:
    observation, answer = replace(failing(), outcome=outcome), ConnectivityResult(asked_at=1, online=False)
    assert attribute(observation, answer) == replace(observation, guard=answer)
