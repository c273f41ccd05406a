"""What a broken network looks like, and whose fault it is: real packets, servers, resolvers and probes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mailwatch.guard.attribution import attribute, resolver_matters
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.connect import Address, resolve
from mailwatch.settings import Login, Target
from mailwatch.times import now, rfc3339
from tests.helpers.netns import (
    CONTROL,
    CONTROL6,
    CONTROL_NAME,
    MAIL,
    MAIL6,
    PORTAL,
    PROVIDER,
    PROVIDER6,
    TRUTH,
    IsolatedNetwork,
)
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need_root
from tests.servers import ALICE, DOVECOT, server_folder

TIMEOUT = 2.0
DOWN, UNKNOWN = Outcome.DOWN, Outcome.UNKNOWN


@pytest.fixture(scope="module")
def built() -> Iterator[IsolatedNetwork]:
    need_root("ip", "nft", "dnsmasq", str(DOVECOT))
    with server_folder() as folder:
        world = IsolatedNetwork(folder)
        try:
            world.resolv_conf()
            yield world
        finally:
            world.close()


@pytest.fixture
def world(built: IsolatedNetwork) -> Iterator[IsolatedNetwork]:
    """The world without a fault."""
    yield built
    built.clear_faults()


def target(world: IsolatedNetwork, tls: TlsMode = TlsMode.IMPLICIT) -> Target:
    dovecot = world.dovecot
    port = dovecot.imaps_port if tls is TlsMode.IMPLICIT else dovecot.imap_port
    return Target(
        name="t", kind=Kind.IMAP, provider="provider", host=PROVIDER, port=port, tls=tls, timeout=TIMEOUT,
        ca_file=world.certificates.ca_file,
        login=Login(username=ALICE, password=SecretStr(dovecot.passwords[ALICE])),
    )  # fmt: skip


def look(
    world: IsolatedNetwork, tls: TlsMode = TlsMode.IMPLICIT, *, faults: dict[Phase, list[str]] | None = None,
    addresses: tuple[str, ...] = (),
) -> Observation:  # fmt: skip
    """Probe from home as the monitor does; `faults` begin with their phases. `addresses` are the host's."""
    wanted = target(world, tls)

    async def lookup(host: str, port: int, timeout: float) -> tuple[Address, ...]:
        found = [await resolve(address, port, timeout) for address in addresses or (host,)]
        return tuple(address for each in found for address in each)

    def watch(phase: Phase, event: str, _: int) -> None:
        if event == "begin" and faults and phase in faults:
            world.fault(*faults[phase])

    async def work() -> Observation:
        controls = [Control(host, 443, CONTROL_NAME, wanted.ca_file) for host in (CONTROL, CONTROL6)]
        guard = Guard(controls, timeout=1.0)
        began = now()
        seen = await observe(
            ProbeRequest(wanted, scheduled_at=began, contexts=TlsContexts(), listener=watch, lookup=lookup)
        )
        if seen.outcome is not DOWN:
            return seen
        names = resolver_matters(seen, wanted.host)
        return attribute(seen, await guard.check("provider", dns=names, since=began))

    return world.home.run_async(work)


def told(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None]:
    return observation.outcome, observation.cause, observation.failed_phase


def test_without_a_fault_it_is_up(world: IsolatedNetwork) -> None:
    for tls in (TlsMode.IMPLICIT, TlsMode.STARTTLS):
        assert told(look(world, tls)) == (Outcome.UP, None, None)


PHASES = [Phase.CONNECT, Phase.TLS, Phase.AUTH, Phase.MAILBOX, Phase.FETCH]


@pytest.mark.parametrize("phase", PHASES)
def test_packets_that_the_provider_drops_are_its_timeout_in_that_phase(
    world: IsolatedNetwork, phase: Phase
) -> None:
    seen = look(world, faults={phase: [f"input ip daddr {PROVIDER} drop"]})
    assert told(seen) == (DOWN, Cause.TIMEOUT, phase)
    assert seen.guard is not None
    assert (seen.guard.online, seen.guard.online4) == (True, True)


def test_a_greeting_that_is_lost_on_the_way_is_a_timeout_of_the_greeting(world: IsolatedNetwork) -> None:
    # The handshakes of TCP pass, whatever carries words does not.
    world.fault(f"output tcp sport {world.dovecot.imap_port} meta length > 80 drop")
    assert told(look(world, TlsMode.STARTTLS)) == (DOWN, Cause.TIMEOUT, Phase.GREETING)


@pytest.mark.parametrize("phase", PHASES)
def test_a_line_that_goes_dead_in_any_phase_is_our_own_failure(world: IsolatedNetwork, phase: Phase) -> None:
    seen = look(world, faults={phase: ["input drop", "output drop"]})
    assert told(seen) == (UNKNOWN, Cause.OFFLINE, phase)
    assert seen.detail == "our own line was down (was: timeout)"


@pytest.mark.parametrize("phase", PHASES)
def test_a_reset_is_recorded_in_its_phase(world: IsolatedNetwork, phase: Phase) -> None:
    seen = look(world, faults={phase: [f"input tcp dport {world.dovecot.imaps_port} reject with tcp reset"]})
    cause = Cause.REFUSED if phase is Phase.CONNECT else Cause.DISCONNECTED
    assert told(seen) == (DOWN, cause, phase)


@pytest.mark.parametrize("kind", ["host-unreachable", "admin-prohibited"])
def test_a_router_that_rejects_the_controls_too_is_not_the_provider(world: IsolatedNetwork, kind: str) -> None:
    only = f"input ip daddr {PROVIDER} reject with icmp {kind}"
    assert told(look(world, faults={Phase.CONNECT: [only]}))[::2] == (DOWN, Phase.CONNECT)
    world.clear_faults()
    assert told(look(world, faults={Phase.CONNECT: ["input reject"]})) == (UNKNOWN, Cause.OFFLINE, Phase.CONNECT)


SIX_IS_DEAD = "input meta nfproto ipv6 meta l4proto tcp drop"


def test_ipv6_broken_with_ipv4_working_is_up_in_part(world: IsolatedNetwork) -> None:
    world.fault(SIX_IS_DEAD)
    seen = look(world, addresses=(PROVIDER6, PROVIDER))
    assert told(seen) == (Outcome.UP, None, None)
    assert seen.partial == (f"[{PROVIDER6}]:{world.dovecot.imaps_port}",)


def test_ipv6_broken_is_not_the_failure_of_a_name_that_has_nothing_else(world: IsolatedNetwork) -> None:
    world.fault(SIX_IS_DEAD)
    seen = look(world, addresses=(PROVIDER6,))
    assert told(seen) == (UNKNOWN, Cause.OFFLINE, Phase.CONNECT)
    assert seen.detail == "our own line was down over IPv6 (was: timeout)"
    assert seen.guard is not None
    assert (seen.guard.online, seen.guard.online4, seen.guard.online6) == (True, True, False)


def test_ipv6_working_and_the_provider_silent_on_it_is_the_providers_failure(world: IsolatedNetwork) -> None:
    world.fault(f"input ip6 daddr {PROVIDER6} meta l4proto tcp drop")
    assert told(look(world, addresses=(PROVIDER6,))) == (DOWN, Cause.TIMEOUT, Phase.CONNECT)


def test_ipv6_broken_here_and_the_provider_refusing_on_ipv4_is_the_providers_failure(
    world: IsolatedNetwork,
) -> None:
    refusal = f"input ip daddr {PROVIDER} tcp dport {world.dovecot.imaps_port} reject with tcp reset"
    world.fault(SIX_IS_DEAD, refusal)
    seen = look(world, addresses=(PROVIDER, PROVIDER6))
    # The last attempt timed out on our own broken IPv6; what IPv4 saw is what counts.
    assert told(seen) == (DOWN, Cause.REFUSED, Phase.CONNECT)
    assert seen.detail == "connection refused"


def test_a_captive_portal_that_accepts_every_connection_is_not_online(world: IsolatedNetwork) -> None:
    world.serve(PORTAL, 443, world.certificates.portal)
    world.fault(f"before ip daddr != {PORTAL} meta l4proto tcp dnat ip to {PORTAL}:443", SIX_IS_DEAD)
    seen = look(world)
    assert told(seen) == (UNKNOWN, Cause.OFFLINE, Phase.TLS)
    assert seen.detail == "something else answered for the control servers (captive portal?) (was: tls)"


def probed(world: IsolatedNetwork, folder: Path, host: str = MAIL) -> dict[str, Any]:
    """What `mailwatch probe` prints at home, with the resolver that the network names."""
    ca_file = str(world.certificates.ca_file)
    watched = {
        "name": "t", "kind": "imap", "host": host, "port": world.dovecot.imaps_port, "ca_file": ca_file,
        "timeout": "2s",
    }  # fmt: skip
    controls = [
        {"address": f"{host}:443", "name": CONTROL_NAME, "ca_file": ca_file} for host in (CONTROL, f"[{CONTROL6}]")
    ]
    config = folder / "config.yaml"
    settings = {
        "vantage_point": {"name": "test"},
        "guard": {"controls": controls, "timeout": "2s"},
        "targets": [watched],
    }
    config.write_text(json.dumps(settings))
    words = [sys.executable, "-m", "mailwatch", "--config", str(config), "probe", "--json"]
    done = subprocess.run([*world.home.prefix, *words], capture_output=True, text=True, check=False)
    (seen,) = json.loads(done.stdout)
    assert done.returncode == {"up": 0, "down": 1, "unknown": 3}[seen["outcome"]]
    return dict(seen)


def test_a_name_with_both_families_is_up_in_part_where_ipv6_is_broken(
    world: IsolatedNetwork, tmp_path: Path
) -> None:
    world.fault(SIX_IS_DEAD)
    with world.resolver(TRUTH | {MAIL: f"{PROVIDER},{PROVIDER6}", MAIL6: PROVIDER6}):
        seen = probed(world, tmp_path)
        assert seen["outcome"] == "up"
        assert seen["peer"].startswith(PROVIDER)
        alone = probed(world, tmp_path, MAIL6)
    assert (alone["outcome"], alone["cause"]) == ("unknown", "offline")
    assert alone["detail"] == "our own line was down over IPv6 (was: timeout)"


def test_a_name_that_is_gone_is_the_providers_failure(world: IsolatedNetwork, tmp_path: Path) -> None:
    with world.resolver(TRUTH):
        seen = probed(world, tmp_path)
    assert (seen["outcome"], seen["cause"], seen["failed_phase"]) == ("down", "dns", "resolve")


@pytest.mark.parametrize("fault", ["", "input ip daddr 10.77.0.4 drop"], ids=["refuses", "silent"])
def test_a_dead_resolver_is_our_own_failure(world: IsolatedNetwork, tmp_path: Path, fault: str) -> None:
    if fault:
        world.fault(fault)
    seen = probed(world, tmp_path)
    assert (seen["outcome"], seen["cause"], seen["failed_phase"]) == ("unknown", "offline", "resolve")
    assert seen["detail"].startswith("DNS lookups failed here, even for the control names")


def test_a_resolver_that_spoofs_every_name_is_our_own_failure(world: IsolatedNetwork, tmp_path: Path) -> None:
    with world.resolver({"#": PORTAL}):
        seen = probed(world, tmp_path)
    assert (seen["outcome"], seen["cause"], seen["failed_phase"]) == ("unknown", "offline", "connect")
    assert seen["detail"].startswith(f"the resolver lies: it answers the names of controls with {PORTAL}")
    assert f"sent us to {PORTAL}" in seen["detail"]


def test_a_resolver_that_invents_names_is_our_own_failure_where_it_sent_us(
    world: IsolatedNetwork, tmp_path: Path
) -> None:
    with world.resolver(TRUTH | {"invalid": PORTAL, MAIL: PORTAL}):
        seen = probed(world, tmp_path)
        assert (seen["outcome"], seen["cause"]) == ("unknown", "offline")
        assert seen["detail"].startswith(f"the resolver lies: it answers a name that cannot exist with {PORTAL}")
    with world.resolver(TRUTH | {"invalid": PORTAL, MAIL: PROVIDER}):
        assert probed(world, tmp_path)["outcome"] == "up"


def test_a_line_that_was_cut_is_on_record_with_bounds_and_no_outage(
    world: IsolatedNetwork, tmp_path: Path
) -> None:
    ca_file = str(world.certificates.ca_file)
    watched = {
        "name": "t", "kind": "imap", "host": PROVIDER, "port": world.dovecot.imaps_port, "ca_file": ca_file,
        "interval": "500ms", "timeout": "2s",
    }  # fmt: skip
    control = {"address": f"{CONTROL}:443", "name": CONTROL_NAME, "ca_file": ca_file}
    guard = {"controls": [control], "timeout": "1s"}
    watching = MailWatchProcess(tmp_path, [watched], guard=guard, detection={"recheck": ["500ms"]})

    def work() -> None:
        with watching.running():
            watching.wait_until(lambda: watching.count("t", "up") >= 2, "up")
            watching.wait_until(lambda: watching.metric("mailwatch_guard_online") == 1, "online")
            before_cut = now()
            world.cut_line()
            after_cut = now()
            watching.wait_until(lambda: watching.count("t", "unknown") >= 2, "unknown")
            (spell,) = watching.wait_until(lambda: line(watching), "a time offline")
            assert spell["state"] == "open"
            assert watching.metric('mailwatch_guard_family_online{family="ipv4"}') == 0
            before_mend = now()
            world.clear_faults()
            after_mend = now()
            watching.wait_until(lambda: line(watching)[0]["state"] == "closed", "online again")
            watching.wait_until(lambda: watching.state("t") == "up", "up again")
            assert watching.api("outages") == []
            assert watching.count("t", "down") == 0
            (spell,) = line(watching)
            assert spell["last_online"] <= rfc3339(after_cut)
            assert spell["first_offline"] >= rfc3339(before_cut)
            assert spell["last_offline"] <= rfc3339(after_mend)
            assert spell["first_online"] >= rfc3339(before_mend)
            shortest, longest = before_mend - after_cut, after_mend - before_cut
            assert spell["duration"]["min"] <= longest / 1000
            assert spell["duration"]["max"] >= shortest / 1000
            assert spell["reasons"] == ["timeout"]
        # The command reads the same from the ledger, also when nothing runs.
        read = json.loads(watching.command("offline", "--json").stdout)
        assert spell in read
        assert json.loads(watching.command("ledger", "audit", "--json").stdout)["valid"]

    world.home.run(work)


def line(watching: MailWatchProcess) -> list[dict[str, Any]]:
    return [spell for spell in watching.api("offline") if spell["part"] == "line"]
