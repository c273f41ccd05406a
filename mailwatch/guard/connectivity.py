"""Checks whether we are online: without proof, for the address family concerned, no failure is the provider's.

Only a control that is reached, and proves its name if the name is known, counts. A refusal does not, although it
mostly comes from the remote host: a firewall in our own network answers for others with the same packet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from mailwatch.config.schema_guard import GuardSection
from mailwatch.guard.control_dates import ControlTime
from mailwatch.guard.controls import (
    FAMILIES,
    IPV6,
    OPERATORS,
    Control,
    Reachability,
)
from mailwatch.guard.resolver import ResolverCheck
from mailwatch.guard.shared_check import CheckResult, SharedCheck, TimedResult, combine, first_ok, reason_of
from mailwatch.model import ConnectivityResult, ControlState
from mailwatch.monotonic import offset, to_wall_clock
from mailwatch.net import family_of, is_near, is_outside, peer_host
from mailwatch.times import Millis, now

PEER_EVIDENCE_MS: Millis = 30_000
DEFAULT_NAMES = tuple(OPERATORS)
_NONE = ""
"""The result for a control without an address of the family: not asked."""


class Guard:
    """Asks `controls` of several operators, all at once, over IPv4 and IPv6 separately, each for `timeout`
    seconds.

    Also checks that `names` and the host names among the controls resolve, and to true addresses.
    """

    def __init__(self, controls: Sequence[Control], timeout: float, names: Sequence[str] = DEFAULT_NAMES) -> None:
        self._controls = tuple({control.label: control for control in controls}.values())
        self._timeout = timeout
        self._line = Reachability()
        hosts = [control.host for control in self._controls if family_of(control.host) is None]
        self._resolver = ResolverCheck([*hosts, *names], timeout)
        self.line_checks = {family: SharedCheck(partial(self._check_controls, family)) for family in FAMILIES}
        """The check of the line for each address family, with its latest round."""
        self._resolver_checks = SharedCheck(self._resolver.check)
        self._peers_up: dict[tuple[str, int | None], tuple[Millis, Millis]] = {}
        """When each (provider, family) was last up, and the offset of the wall clock then."""

    @classmethod
    def from_config(cls, section: GuardSection | None) -> Guard | None:
        """Build the guard from the config; None for `guard: off`."""
        if section is None:
            return None
        controls = [Control(c.host, c.port, c.name, c.ca_file) for c in section.controls]
        return cls(controls, section.timeout)

    def record_up(self, provider: str, at: Millis, peer: str = "") -> None:
        """Record that a target of `provider` was up; a `peer` ("address:port") near us proves nothing."""
        host = peer_host(peer)
        if not peer or is_outside(host):
            key = provider, family_of(host)
            before = self._peers_up.get(key)
            self._peers_up[key] = (at if before is None else max(at, to_wall_clock(*before)), offset())

    async def check(
        self, provider: str | None = None, *, dns: bool = False, since: Millis | None = None
    ) -> ConnectivityResult:
        """Return whether we were online; with `dns`, also whether names resolved to true addresses.

        `since` is when the failing probe began. Then no older proof counts, and a round since then in which all
        controls were silent outweighs a good one now: the line may have come back in between.
        """
        called_at = now()
        rounds = [*self.line_checks.values(), *([self._resolver_checks] if dns else [])]
        results = await asyncio.gather(*(each.ask(since) for each in rounds))
        lines, names = (
            dict(zip(FAMILIES, results, strict=False)),
            results[2].result if dns else CheckResult({}, None),
        )
        peer_evidence = self._peer_evidence(provider, lines, since, called_at)
        online, asked_at = {}, min(each.asked_at for each in results)
        for family, line in lines.items():
            proofs = [at for (_, peer_family), at in peer_evidence.items() if peer_family == family]
            online[family] = True if proofs else line.result.good
            if proofs and not line.result.good:
                # The proof shows that we were online at that time.
                asked_at = min(asked_at, max(proofs))
        if peer_evidence and not any(line.result.good for line in lines.values()):
            asked_at = min(asked_at, max(peer_evidence.values()))
        reached = {name: reason for line in lines.values() for name, reason in line.result.controls.items()}
        reached |= {f"target:{name}": ControlState.OK for name, _ in peer_evidence}
        return ConnectivityResult(
            asked_at=asked_at,
            answered_at=max(each.ended_at for each in results),
            online=combine(reached.values()),
            online4=online[4],
            online6=online[6],
            controls=reached | names.controls,
            resolver=names.resolver,
            spoofed=names.spoofed,
        )

    async def control_times(self) -> dict[str, ControlTime]:
        """Return the true time shown by each control that has a certificate, by the control's label."""
        asked = [control for control in self._controls if control.certified]
        times = await asyncio.gather(*(self._control_time(control) for control in asked))
        return {control.label: time for control, time in zip(asked, times, strict=True) if time is not None}

    async def _control_time(self, control: Control) -> ControlTime | None:
        try:
            async with asyncio.timeout(2 * self._timeout):
                addresses: tuple[str, ...] = (control.host,)
                if family_of(control.host) is None:
                    addresses = (await self._resolver.lookup(control.host)).addresses
                return await self._line.control_time(control, addresses, self._timeout)
        except TimeoutError:
            return None

    def _peer_evidence(
        self, provider: str | None, lines: dict[int, TimedResult], since: Millis | None, called_at: Millis
    ) -> dict[tuple[str, int | None], Millis]:
        """Return when targets of other providers were up, where that proves the line of their family."""

        def proves(family: int | None, at: Millis) -> bool:
            asked = [line for each, line in lines.items() if family in (None, each)]
            if not any(self.line_checks[each].answered for each in lines if family in (None, each)):
                # A firewall of our own may block the controls.
                return at >= max(asked[0].asked_at - PEER_EVIDENCE_MS, since or 0)
            # Controls that answered before are silent now: the line is down, or was during the probe.
            return all(line.ended_at >= called_at and at >= line.asked_at for line in asked)

        up_at = {key: to_wall_clock(*found) for key, found in self._peers_up.items() if key[0] != provider}
        return {key: at for key, at in up_at.items() if proves(key[1], at)}

    async def _check_controls(self, family: int) -> CheckResult:
        asking, near = {}, dict[str, str]()
        for control in self._controls:
            host = family_of(control.host)
            if host in (None, family):
                label = f"{control.label} (IPv6)" if host is None and family == IPV6 else control.label
                asking[label] = self._reach(control, family, partial(near.setdefault, label))
                if is_near(control.host):
                    near[label] = label
        # A server of our own network answers first, and shows nothing about the line: the others are waited for.
        only_near = len(near) == len(asking)
        found = await first_ok(asking, lambda label: only_near or label not in near)
        # A control whose name leads into our own network goes on record by the address that answered.
        reasons = {
            near.get(label, label) if reason == ControlState.OK else label: reason
            for label, reason in found.items()
            if reason != _NONE
        }
        return CheckResult(reasons, combine(reasons.values()))

    async def _reach(self, control: Control, family: int, on_near: Callable[[str], object]) -> str:
        """Return "ok", or why a control could not be reached; call `on_near` with the endpoint of our own network
        that answered.
        """
        try:
            async with asyncio.timeout(self._timeout):
                addresses: tuple[str, ...] = (control.host,)
                if family_of(control.host) is None:
                    found = await self._resolver.lookup(control.host)
                    if found.reason != ControlState.OK:
                        # Listed once, under IPv4: the families of the name are unknown.
                        return _NONE if family == IPV6 else found.reason
                    addresses = tuple(address for address in found.addresses if family_of(address) == family)
                reason: str = _NONE
                for address in addresses:
                    reason = await self._line.reach(control, address)
                    if reason == ControlState.OK:
                        if not is_outside(address):
                            on_near(Control(address, control.port).label)
                        break
                return reason
        except TimeoutError as error:
            return reason_of(error)
