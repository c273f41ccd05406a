"""The active node's side: divides the targets among the nodes, sends jobs, and awaits their results.

A result counts only for a job that this dispatcher gave to that node in that epoch. A node that is lost costs the
probes under way: there is no observation of them, and they are made again at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailwatch import monotonic
from mailwatch.fleet.clocks import ClockRelation, Exchanged, on_our_clocks
from mailwatch.fleet.division import SHARES, UNDIVIDED, Division, account_name, divide, share_of, shares_of
from mailwatch.fleet.eligibility import weights, why_not
from mailwatch.fleet.exchange import Exchange, Item, Received
from mailwatch.fleet.messages import (
    DIFFERS,
    Job,
    MessageError,
    Result,
    check_answer,
    job_item,
    result_from,
    target_digest,
)
from mailwatch.kinds import KINDS
from mailwatch.model import Observation
from mailwatch.probes.certificates import CertificateText
from mailwatch.settings import Target
from mailwatch.store.errors import StoreError
from mailwatch.store.lease import Node
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.probe_messages import Address
from mailwatch.store.probe_shares import read_division, write_division
from mailwatch.times import Millis

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""Seconds between two checks of the nodes. They are asked for each second (store/lease.py)."""
BEGIN_MS: Millis = 3500
"""A probe begins so soon after its job was sent, or not at all: then it is made elsewhere."""
GRACE_SECONDS = 6.0
"""Seconds beyond the longest time of a probe until its result is given up: for its way, its attribution, and a
diagnosis.
"""
WAY_SECONDS = BEGIN_MS / 1000 + GRACE_SECONDS
"""Seconds that a probe may take longer at another node than here."""
LATE_SECONDS = 4.0
"""Seconds for results of before to come, after the database was away."""
HELLO_MS: Millis = 5000
"""Milliseconds after which a node that was sent nothing gets an empty message: it keeps the clocks compared."""
MAX_SAID = 100
"""Most targets whose settings differ elsewhere that the log names."""
NAME_CHARS = 4
"""Characters of a node's id that the record has."""


class ProbeLostError(Exception):
    """A node did not answer a job, so there is no observation; its text says why.

    `with_login`: whether it may have logged in.
    """

    def __init__(self, why: str, *, with_login: bool) -> None:
        super().__init__(why)
        self.with_login = with_login


@dataclass(frozen=True, slots=True)
class RemoteObservation:
    """What another node found, on our clocks: as it was probed, and as attributed there if it was not up."""

    probed: Observation
    attributed: Observation | None
    node: str
    """The first characters of its id."""
    certificates: Mapping[str, CertificateText]
    """What certificates say that it met first now, by fingerprint."""


@dataclass(slots=True)
class _UnderWay:
    job: Job
    to: Address
    sent: Millis
    result: asyncio.Future[tuple[Result, Millis]]


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """The numbers of the probes that other nodes make, since this node is active. For the metrics."""

    shares: Mapping[str, int]
    """The number of shares of each node, by the first characters of its id."""
    under_way: int
    remote: int
    """Results that counted."""
    lost: Mapping[str, int]
    """Probes without a result, by reason."""
    dropped: int
    """Messages and results that were not ours."""

    def as_numbers(self) -> dict[str, Any]:
        """Return what the metrics of a node have of it."""
        return {"remote": self.remote, "lost": self.lost, "dropped": self.dropped}


class Dispatcher:
    """Shares out the probes of the active node. Lives in the event loop.

    `own` is this node in its epoch, and `nodes` returns all nodes, as of the last answer of the database. `secret`
    is the ledger's. `at_once`: the most probes under way at one node. `on_tick` is called twice a second.
    """

    def __init__(
        self,
        place: PostgresPlace,
        own: Address,
        *,
        nodes: Callable[[], Sequence[Node]],
        secret: bytes,
        at_once: int,
        clock_bound: Callable[[], Millis | None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_tick = on_tick
        self._own, self._nodes, self._secret = own, nodes, secret
        self._engine = place.engine()
        self.at_once, self._clock_bound = at_once, clock_bound
        self._exchange = Exchange(
            place,
            own,
            on_message=self._on_message,
            on_undelivered=self._on_undelivered,
            on_reconnected=self._on_reconnected,
        )
        # A result to an earlier dispatcher of this node has another series, and nearly surely another number.
        self._series = secrets.token_hex(8)
        self._numbers = itertools.count(secrets.randbits(48))
        self._under_way: dict[int, _UnderWay] = {}
        self._busy = Counter[Address]()
        self._clocks: dict[Address, ClockRelation] = {}
        self._sent: dict[Address, Millis] = {}
        self._shares: dict[str, int] = {}
        self._able: dict[str, Address] = {}
        self._digests: dict[str, tuple[Target, str]] = {}
        self.division: Division = UNDIVIDED
        self._written = False
        self.remote, self.lost = 0, Counter[str]()
        self._said: dict[str, str] = {}
        self._refused = set[tuple[str, str]]()

    def set_targets(self, targets: Iterable[Target]) -> None:
        """Set which targets there are: accounts that a round trip joins are in one share."""
        self._shares = shares_of(targets)

    def record(self) -> FleetRecord:
        """Return the numbers for the metrics. For any thread."""
        shares = Counter(node[:NAME_CHARS] for node in self.division if node)
        return FleetRecord(shares, len(self._under_way), self.remote, dict(self.lost), self._exchange.dropped)

    def node_for(self, target: Target) -> Address | None:
        """Return the node that is to probe a target now, None for this one."""
        if KINDS[target.kind].awaits_delivery or (target.login is not None and target.login.oauth2 is not None):
            return None
        share = self._shares.get(target.name)
        node = self.division[share_of(account_name(target)) if share is None else share]
        to = self._able.get(node)
        if to is None or self._busy[to] >= self.at_once:
            return None
        return to

    async def probe(
        self,
        to: Address,
        target: Target,
        *,
        scheduled_at: Millis,
        with_login: bool,
        every_address: bool,
        diagnose: bool,
        max_seconds: float,
    ) -> RemoteObservation:
        """Have another node probe a target. Raises ProbeLostError.

        `max_seconds`: the longest time that the probe itself may take.
        """
        job = Job(
            number=next(self._numbers),
            target=target.name,
            digest=self._digest(target),
            with_login=with_login,
            every_address=every_address,
            diagnose=diagnose,
            scheduled_at=scheduled_at,
            within=BEGIN_MS,
        )
        sent = monotonic.milliseconds()
        found = asyncio.get_running_loop().create_future()
        self._under_way[job.number] = _UnderWay(job, to, sent, found)
        self._busy[to] += 1
        try:
            self._send(to, job_item(job))
            async with asyncio.timeout(max_seconds + WAY_SECONDS):
                result, taken = await found
        except TimeoutError:
            raise self._lost(job, "silent", "it did not answer") from None
        finally:
            del self._under_way[job.number]
            self._busy[to] -= 1
        if result.observation is None:
            self._say_refusal(to, target, result.refusal)
            raise self._lost(job, "refused", result.refusal, said_so=True)
        self.remote += 1
        by = Exchanged(monotonic.origin().boot, sent, taken, monotonic.offset(), self._clock_bound())
        difference = self._clocks.setdefault(to, ClockRelation()).difference(taken)
        return RemoteObservation(
            probed=on_our_clocks(result.observation, result.offset, difference, by),
            attributed=None
            if result.attributed is None
            else on_our_clocks(result.attributed, result.offset, difference, by),
            node=to.node[:NAME_CHARS],
            certificates=result.certificates,
        )

    def _say_refusal(self, to: Address, target: Target, why: str) -> None:
        """Log once why a node probes a target not at all; that it is busy or stops is no news."""
        if why == DIFFERS and (to.node, target.name) not in self._refused and len(self._refused) < MAX_SAID:
            self._refused.add((to.node, target.name))
            logger.warning("%s: node %s does not probe it: %s", target.name, to.node[:NAME_CHARS], why)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Exchange messages and divide the targets while the context lasts. What it has is closed at the end."""
        try:
            async with self._exchange.running():
                yield
        finally:
            self._engine.dispose()

    async def run(self) -> None:
        """Divide the targets, and give up nodes that are lost, until cancelled. Raises EvictedError."""
        async with self.running():
            await self._read()
            while True:
                self._on_tick()
                self._check_nodes()
                await self._divide()
                self._greet()
                await asyncio.sleep(TICK_SECONDS)

    async def _read(self) -> None:
        """Go on with the division on record."""
        with contextlib.suppress(StoreError):
            read = await asyncio.to_thread(read_division, self._engine)
            self.division = tuple(read.get(share, "") for share in range(SHARES))

    def _check_nodes(self) -> None:
        """Note which nodes may probe, and give up what the others had under way."""
        nodes = self._nodes()
        living = {Address(node.id, node.epoch) for node in nodes if node.lives}
        wanted = weights(nodes)
        self._able = {
            node.id: Address(node.id, node.epoch)
            for node in nodes
            if node.lives and node.id in wanted and node.id != self._own.node
        }
        for under_way in list(self._under_way.values()):
            if under_way.to not in living:
                self._fail(under_way, "lapsed", "its lease is over")
        for known in [known for known in self._clocks if known not in living]:
            del self._clocks[known]
            self._sent.pop(known, None)
        self._say(nodes)

    def _say(self, nodes: Sequence[Node]) -> None:
        """Log once why a living node gets no targets."""
        active = next((node for node in nodes if node.id == self._own.node), None)
        if active is None:
            return
        found = {
            node.id: why
            for node in nodes
            if node.lives and node is not active and (why := why_not(node, active)) and node.probing
        }
        for node in nodes:
            why = found.get(node.id, "")
            # The numbers in it change all the time.
            if why and self._said.get(node.id, "").split()[:3] != why.split()[:3]:
                logger.warning("nodes: %s (%s) gets no targets to probe: %s", node.name, node.id[:4], why)
        self._said = found

    async def _divide(self) -> None:
        """Divide the targets anew if the nodes changed, and write the division."""
        division = divide(weights(self._nodes()), self.division)
        if division == self.division and self._written:
            return
        try:
            # All rows, the first time: those of nodes that are gone may be left from before.
            former = self.division if self._written else ("?",) * SHARES
            await asyncio.to_thread(write_division, self._engine, former, division)
        except StoreError as error:
            # It is in force all the same: it decides who probes, and nothing else.
            self._written = False
            logger.debug("nodes: %s", error)
        else:
            self._written = True
        if division != self.division:
            counts = Counter(node[:NAME_CHARS] for node in division if node)
            parts = ", ".join(f"{node} {count}" for node, count in sorted(counts.items()))
            logger.info("nodes: the targets are divided: %s of %d shares", parts or "none", SHARES)
        self.division = division

    def _greet(self) -> None:
        """Send an empty message to nodes that were sent none lately."""
        now = monotonic.milliseconds()
        for to in self._able.values():
            if now - self._sent.get(to, -HELLO_MS) >= HELLO_MS:
                self._send(to, {"hello": True})

    def _send(self, to: Address, item: Item) -> None:
        self._sent[to] = monotonic.milliseconds()
        self._exchange.send(to, self._series, item)

    def _on_message(self, received: Received) -> None:
        message = received.message
        if message.series != self._series:
            self._exchange.drop("it is for an earlier term")
            return
        clock = self._clocks.setdefault(received.sender, ClockRelation())
        if message.received is not None:
            clock.sent(*message.received)
        clock.taken(message.sent, received.taken)
        for item in message.items:
            try:
                self._on_item(received, item)
            except MessageError as error:
                self._exchange.drop(str(error))
                self._fail_refused(received.sender, item, str(error))

    def _on_item(self, received: Received, item: Item) -> None:
        if "hello" in item:
            return
        result = result_from(item)
        under_way = self._under_way.get(result.number)
        if under_way is None or under_way.result.done():
            # It was given up meanwhile, and probed again.
            return
        if under_way.to != received.sender:
            raise MessageError("it is of a node that was not asked")
        check_answer(result, under_way.job)
        under_way.result.set_result((result, received.taken))

    def _fail_refused(self, sender: Address, item: Item, why: str) -> None:
        """Give up a job whose own node answered with what cannot be recorded."""
        number = item.get("job")
        under_way = self._under_way.get(number) if isinstance(number, int) else None
        if under_way is not None and under_way.to == sender:
            self._fail(under_way, "refused", why)

    def _on_undelivered(self, to: Address, items: Sequence[Item]) -> None:
        for item in items:
            number = item.get("job")
            if isinstance(number, int) and (under_way := self._under_way.get(number)) is not None:
                self._fail(under_way, "undelivered", "the job could not be delivered")

    def _on_reconnected(self) -> None:
        """Give up, soon, what was under way before the connection was lost: its messages may be lost as well."""
        asyncio.get_running_loop().call_later(LATE_SECONDS, self._fail_older, monotonic.milliseconds())

    def _fail_older(self, than: Millis) -> None:
        for under_way in list(self._under_way.values()):
            if under_way.sent < than:
                self._fail(under_way, "undelivered", "the database lost its message, or the result")

    def _fail(self, under_way: _UnderWay, reason: str, why: str) -> None:
        if not under_way.result.done():
            under_way.result.set_exception(self._lost(under_way.job, reason, why))

    def _lost(self, job: Job, reason: str, why: str, *, said_so: bool = False) -> ProbeLostError:
        self.lost[reason] += 1
        # A connection that was lost may have delivered the job all the same.
        return ProbeLostError(why, with_login=job.with_login and not said_so)

    def _digest(self, target: Target) -> str:
        known = self._digests.get(target.name)
        if known is None or known[0] is not target:
            known = self._digests[target.name] = target, target_digest(target, self._secret)
        return known[1]
