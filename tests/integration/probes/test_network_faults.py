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


def probe(
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
        observation = await observe(
            ProbeRequest(wanted, scheduled_at=began, contexts=TlsContexts(), listener=watch, lookup=lookup)
        )
        if observation.outcome is not DOWN:
            return observation
        names = resolver_matters(observation, wanted.host)
        return attribute(observation, await guard.check("provider", dns=names, since=began))

    return world.home.run_async(work)


def classification(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None]:
    return observation.outcome, observation.cause, observation.failed_phase


def test_without_a_fault_it_is_up(world: IsolatedNetwork) -> None:
    for tls in (TlsMode.IMPLICIT, TlsMode.STARTTLS):
        assert classification(probe(world, tls)) == (Outcome.UP, None, None)


PHASES = [Phase.CONNECT, Phase.TLS, Phase.AUTH, Phase.MAILBOX, Phase.FETCH]


@pytest.mark.parametrize("phase", PHASES)
def test_packets_that_the_provider_drops_are_its_timeout_in_that_phase(
    world: IsolatedNetwork, phase: Phase
) -> None:
    observation = probe(world, faults={phase: [f"input ip daddr {PROVIDER} drop"]})
    assert classification(observation) == (DOWN, Cause.TIMEOUT, phase)
    assert observation.guard is not None
    assert (observation.guard.online, observation.guard.online4) == (True, True)


def test_a_greeting_that_is_lost_on_the_way_is_a_timeout_of_the_greeting(world: IsolatedNetwork) -> None:
    # The handshakes of TCP pass, whatever carries words does not.
    world.fault(f"output tcp sport {world.dovecot.imap_port} meta length > 80 drop")
    assert classification(probe(world, TlsMode.STARTTLS)) == (DOWN, Cause.TIMEOUT, Phase.GREETING)


@pytest.mark.parametrize("phase", PHASES)
def test_a_line_that_goes_dead_in_any_phase_is_our_own_failure(world: IsolatedNetwork, phase: Phase) -> None:
    observation = probe(world, faults={phase: ["input drop", "output drop"]})
    assert classification(observation) == (UNKNOWN, Cause.OFFLINE, phase)
    assert observation.detail == "our own line was down (was: timeout)"


@pytest.mark.parametrize("phase", PHASES)
def test_a_reset_is_recorded_in_its_phase(world: IsolatedNetwork, phase: Phase) -> None:
    observation = probe(
        world, faults={phase: [f"input tcp dport {world.dovecot.imaps_port} reject with tcp reset"]}
    )
    cause = Cause.REFUSED if phase is Phase.CONNECT else Cause.DISCONNECTED
    assert classification(observation) == (DOWN, cause, phase)


@pytest.mark.parametrize("kind", ["host-unreachable", "admin-prohibited"])
def test_a_router_that_rejects_the_controls_too_is_not_the_provider(world: IsolatedNetwork, kind: str) -> None:
    only = f"input ip daddr {PROVIDER} reject with icmp {kind}"
    assert classification(probe(world, faults={Phase.CONNECT: [only]}))[::2] == (DOWN, Phase.CONNECT)
    world.clear_faults()
    assert classification(probe(world, faults={Phase.CONNECT: ["input reject"]})) == (
        UNKNOWN,
        Cause.OFFLINE,
        Phase.CONNECT,
    )


SIX_IS_DEAD = "input meta nfproto ipv6 meta l4proto tcp drop"


def test_ipv6_broken_with_ipv4_working_is_up_in_part(world: IsolatedNetwork) -> None:
    world.fault(SIX_IS_DEAD)
    observation = probe(world, addresses=(PROVIDER6, PROVIDER))
    assert classification(observation) == (Outcome.UP, None, None)
    assert observation.partial == (f"[{PROVIDER6}]:{world.dovecot.imaps_port}",)


def test_ipv6_broken_is_not_the_failure_of_a_name_that_has_nothing_else(world: IsolatedNetwork) -> None:
    world.fault(SIX_IS_DEAD)
    observation = probe(world, addresses=(PROVIDER6,))
    assert classification(observation) == (UNKNOWN, Cause.OFFLINE, Phase.CONNECT)
    assert observation.detail == "our own line was down over IPv6 (was: timeout)"
    assert observation.guard is not None
    assert (observation.guard.online, observation.guard.online4, observation.guard.online6) == (True, True, False)


def test_ipv6_working_and_the_provider_silent_on_it_is_the_providers_failure(world: IsolatedNetwork) -> None:
    world.fault(f"input ip6 daddr {PROVIDER6} meta l4proto tcp drop")
    assert classification(probe(world, addresses=(PROVIDER6,))) == (DOWN, Cause.TIMEOUT, Phase.CONNECT)


def test_ipv6_broken_here_and_the_provider_refusing_on_ipv4_is_the_providers_failure(
    world: IsolatedNetwork,
) -> None:
    refusal = f"input ip daddr {PROVIDER} tcp dport {world.dovecot.imaps_port} reject with tcp reset"
    world.fault(SIX_IS_DEAD, refusal)
    observation = probe(world, addresses=(PROVIDER, PROVIDER6))
    # The last attempt timed out on our own broken IPv6; what IPv4 saw is what counts.
    assert classification(observation) == (DOWN, Cause.REFUSED, Phase.CONNECT)
    assert observation.detail == "connection refused"


def test_a_captive_portal_that_accepts_every_connection_is_not_online(world: IsolatedNetwork) -> None:
    world.serve(PORTAL, 443, world.certificates.portal)
    world.fault(f"before ip daddr != {PORTAL} meta l4proto tcp dnat ip to {PORTAL}:443", SIX_IS_DEAD)
    observation = probe(world)
    assert classification(observation) == (UNKNOWN, Cause.OFFLINE, Phase.TLS)
    assert observation.detail == "something else answered for the control servers (captive portal?) (was: tls)"


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
        observation = probed(world, tmp_path)
        assert observation["outcome"] == "up"
        assert observation["peer"].startswith(PROVIDER)
        alone = probed(world, tmp_path, MAIL6)
    assert (alone["outcome"], alone["cause"]) == ("unknown", "offline")
    assert alone["detail"] == "our own line was down over IPv6 (was: timeout)"


def test_a_name_that_is_gone_is_the_providers_failure(world: IsolatedNetwork, tmp_path: Path) -> None:
    with world.resolver(TRUTH):
        observation = probed(world, tmp_path)
    assert (observation["outcome"], observation["cause"], observation["failed_phase"]) == (
        "down",
        "dns",
        "resolve",
    )


@pytest.mark.parametrize("fault", ["", "input ip daddr 10.77.0.4 drop"], ids=["refuses", "silent"])
def test_a_dead_resolver_is_our_own_failure(world: IsolatedNetwork, tmp_path: Path, fault: str) -> None:
    if fault:
        world.fault(fault)
    observation = probed(world, tmp_path)
    assert (observation["outcome"], observation["cause"], observation["failed_phase"]) == (
        "unknown",
        "offline",
        "resolve",
    )
    assert observation["detail"].startswith("DNS lookups failed here, even for the control names")


def test_a_resolver_that_spoofs_every_name_is_our_own_failure(world: IsolatedNetwork, tmp_path: Path) -> None:
    with world.resolver({"#": PORTAL}):
        observation = probed(world, tmp_path)
    assert (observation["outcome"], observation["cause"], observation["failed_phase"]) == (
        "unknown",
        "offline",
        "connect",
    )
    assert observation["detail"].startswith(f"the resolver lies: it answers the names of controls with {PORTAL}")
    assert f"sent us to {PORTAL}" in observation["detail"]


def test_a_resolver_that_invents_names_is_our_own_failure_where_it_sent_us(
    world: IsolatedNetwork, tmp_path: Path
) -> None:
    with world.resolver(TRUTH | {"invalid": PORTAL, MAIL: PORTAL}):
        observation = probed(world, tmp_path)
        assert (observation["outcome"], observation["cause"]) == ("unknown", "offline")
        assert observation["detail"].startswith(
            f"the resolver lies: it answers a name that cannot exist with {PORTAL}"
        )
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
    process = MailWatchProcess(tmp_path, [watched], guard=guard, detection={"recheck": ["500ms"]})

    def work() -> None:
        with process.running():
            process.wait_until(lambda: process.count("t", "up") >= 2, "up")
            process.wait_until(lambda: process.metric("mailwatch_guard_online") == 1, "online")
            before_cut = now()
            world.cut_line()
            after_cut = now()
            process.wait_until(lambda: process.count("t", "unknown") >= 2, "unknown")
            (period,) = process.wait_until(lambda: line(process), "a time offline")
            assert period["state"] == "open"
            assert process.metric('mailwatch_guard_family_online{family="ipv4"}') == 0
            before_repair = now()
            world.clear_faults()
            after_repair = now()
            process.wait_until(lambda: line(process)[0]["state"] == "closed", "online again")
            process.wait_until(lambda: process.state("t") == "up", "up again")
            assert process.api("outages") == []
            assert process.count("t", "down") == 0
            (period,) = line(process)
            assert period["last_online"] <= rfc3339(after_cut)
            assert period["first_offline"] >= rfc3339(before_cut)
            assert period["last_offline"] <= rfc3339(after_repair)
            assert period["first_online"] >= rfc3339(before_repair)
            shortest, longest = before_repair - after_cut, after_repair - before_cut
            assert period["duration"]["min"] <= longest / 1000
            assert period["duration"]["max"] >= shortest / 1000
            assert period["reasons"] == ["timeout"]
        # The command reads the same from the ledger, also when nothing runs.
        read = json.loads(process.command("offline", "--json").stdout)
        assert period in read
        assert json.loads(process.command("ledger", "audit", "--json").stdout)["valid"]

    world.home.run(work)


def line(process: MailWatchProcess) -> list[dict[str, Any]]:
    return [period for period in process.api("offline") if period["part"] == "line"]
