"""What is true in a simulated world: the providers' services, our line, our machine, the passwords.

All times are seconds of true time since the world began. Everything is drawn from the seed before the world
begins; what happens while it runs (which probe is lost) is drawn from a generator of the same seed.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pydantic import SecretStr

from mailwatch.model import Cause, Kind, Phase, Rules, TlsMode
from mailwatch.settings import Login, Target

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WEEK, YEAR = 7 * DAY, 365 * DAY
MAX_CLOCK_ERROR_SECONDS = 30 * YEAR
"""By how much a wall clock is wrong at the most."""
LINE_LOSS_KILLS_SECONDS = 6.0
"""Seconds that our own line must be down to take connections with it: a new address, a forgetful router."""
DEFAULTS = Rules()
SHARE_AS_INSTALLED = 0.03
"""Share of worlds with the interval of a fresh install, a probe a minute, which take twenty times as long."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of true time, [start, end).

    `breaks_connections`: a connection that met it does not recover with it.
    """

    start: float
    end: float
    kind: str = ""
    breaks_connections: bool = False

    def overlaps(self, start: float, end: float) -> bool:
        """Whether it shares a moment with [start, end], both ends included."""
        return self.start <= end and start < self.end


class Spans:
    """Spans that do not overlap, in order."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self.all: list[Span] = []
        for span in sorted(spans, key=lambda span: (span.start, span.end)):
            if not self.all or span.start > self.all[-1].end:
                self.all.append(span)
        self._starts = [span.start for span in self.all]

    def at(self, moment: float) -> Span | None:
        """Return the span of that moment."""
        place = bisect_right(self._starts, moment) - 1
        return self.all[place] if place >= 0 and moment < self.all[place].end else None

    def touching(self, start: float, end: float) -> list[Span]:
        """Return the spans that share a moment with [start, end]."""
        first = max(0, bisect_right(self._starts, start) - 1)
        return [s for s in self.all[first : bisect_right(self._starts, end)] if s.overlaps(start, end)]


@dataclass(frozen=True, slots=True)
class MachineEvent:
    """Something that happens to our machine: off, kill, reboot, suspend, step, ntp, stall, reload.

    A `killed` reload is one in the middle of which the process dies.

    `value` is seconds. For a reboot: how long it was without power; `clock` is then by how much the wall clock is
    wrong after it, None where a battery kept it, and `ntp` how many seconds later it is put right, None for not by
    itself; `killed`: the power failed, and nobody stopped MailWatch before.
    """

    at: float
    what: str
    value: float = 0.0
    clock: float | None = None
    ntp: float | None = None
    killed: bool = False


@dataclass(slots=True)
class Account:
    """A mailbox login: the password in the config and the one that the provider demands, each from a time on."""

    username: str
    provider: str
    configured: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, "first")])
    demands: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, "first")])

    def written(self, moment: float) -> str:
        """Return the password of the config."""
        return _since(self.configured, moment)

    def demanded(self, moment: float) -> str:
        """Return the password that is right."""
        return _since(self.demands, moment)


def _since(changes: Sequence[tuple[float, str]], moment: float) -> str:
    return [word for at, word in changes if at <= moment][-1]


Entry = tuple[str, float]
"""How the config has a service: the target's name, and the interval in seconds."""


@dataclass(slots=True)
class Service:
    """One host, and what is true of it. Its name here is that of `target`, whatever the config calls it.

    `entries` are how the config has it, each from a time on; None where it does not.
    """

    target: Target
    phases: tuple[Phase, ...]
    account: Account | None
    address: str
    """Where its host is: outside, so that who is seen up there proves our line."""
    faults: Spans = field(default_factory=Spans)
    throttled: Spans = field(default_factory=Spans)
    slow: Spans = field(default_factory=Spans)
    lossy: Spans = field(default_factory=Spans)
    entries: list[tuple[float, Entry | None]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """How it is named here."""
        return self.target.name

    @property
    def longest(self) -> float:
        """The longest interval that it ever has."""
        return max([self.target.interval, *(entry[1] for _, entry in self.entries if entry)])

    def configured(self, moment: float) -> Entry | None:
        """Return how the config has it then."""
        return [entry for at, entry in self.entries if at <= moment][-1]


@dataclass(slots=True)
class World:
    """All that is true."""

    seed: str
    end: float
    rules: Rules
    services: dict[str, Service]
    line: Spans
    resolver: Spans
    machine_events: list[MachineEvent]
    chance: random.Random
    time_servers: bool
    """Whether MailWatch may ask time servers, or has only the kernel's word."""


_PHASES = {
    Kind.IMAP: (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
    Kind.POP3: (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
    Kind.SMTP: (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH),
}
_WITH_LOGIN = (Phase.AUTH, Phase.MAILBOX, Phase.FETCH)
CAUSES = ("refused", "unreachable", "timeout", "disconnected", "tls", "protocol", "unavailable", "dns", "slow")


def make_world(seed: str, weeks: float = 2.0) -> World:
    """Draw a world."""
    draw = _Draw(seed, weeks * WEEK)
    return draw.world()


class _Draw:
    def __init__(self, seed: str, end: float) -> None:
        self.seed, self.end = seed, end
        self.chance = random.Random(f"world {seed}")

    def world(self) -> World:
        services = self._services()
        spares = self._spares(services)
        slots = list(services.values())
        services |= spares
        for provider in sorted({service.target.provider for service in services.values()}):
            self._provider([s for s in services.values() if s.target.provider == provider])
        edges = [edge for s in services.values() for f in s.faults.all for edge in (f.start, f.end)]
        self.edges = sorted(edges)
        self.within = [f for s in services.values() for f in s.faults.all if f.end < self.end]
        line = self._own_troubles(6, 1.0, 6 * HOUR, ("silent", "unreachable"))
        resolver = self._own_troubles(2, 1.0, 2 * HOUR, ("resolver",))
        return World(
            seed=self.seed,
            end=self.end,
            rules=self.rules,
            services=services,
            line=line,
            resolver=resolver,
            machine_events=self._happenings(services, slots, spares),
            chance=random.Random(f"run {self.seed}"),
            time_servers=self.chance.random() < 0.6,
        )

    def _services(self) -> dict[str, Service]:
        chance = self.chance
        count = chance.randint(1, 5)
        interval = float(round(count * chance.uniform(400, 1500)))
        # Now and then MailWatch's own defaults of recheck; else some that fit the interval.
        fitting = tuple(round(interval / part, 1) for part in (12, 6, 3))
        recheck = chance.choice([DEFAULTS.recheck if count < 3 else (), (), *[fitting] * 6])
        self.rules = Rules(chance.choice([2, 3, 3, 3, 3, 4]), chance.choice([1, 2, 2, 2, 3]), recheck)
        timeout = float(chance.choice([10, 20, 30]))
        if chance.random() < SHARE_AS_INSTALLED:
            count, interval, timeout, self.rules = 1, 60.0, 30.0, DEFAULTS
        services: dict[str, Service] = {}
        accounts: dict[tuple[str, int], Account] = {}
        providers = chance.randint(1, min(3, count))
        for number in range(count):
            provider = f"provider{number % providers}"
            kind = chance.choice(list(_PHASES))
            account = None
            if chance.random() < 0.7:
                who = chance.randint(1, 3)
                account = accounts.setdefault((provider, who), Account(f"user{who}@{provider}", provider))
            name = f"{provider}-{number}-{kind.value}"
            target = Target(
                name=name,
                kind=kind,
                host=f"mail{number}.{provider}.example",
                port=number + 1000,
                provider=provider,
                tls=TlsMode.IMPLICIT,
                login=Login(username=account.username, password=SecretStr(account.written(0.0)))
                if account
                else None,
                interval=interval,
                timeout=timeout,
            )
            phases = tuple(phase for phase in _PHASES[kind] if account or phase not in _WITH_LOGIN)
            services[name] = Service(target, phases, account, f"93.184.215.{number + 1}")
        return services

    def _log_uniform(self, least: float, most: float) -> float:
        return math.exp(self.chance.uniform(math.log(least), math.log(most)))

    def _times(self, a_week: float) -> list[float]:
        """Moments at random, on average so many a week."""
        found, at = [], 0.0
        while (at := at + self.chance.expovariate(a_week / WEEK)) < self.end:
            found.append(at)
        return found

    def _provider(self, services: Sequence[Service]) -> None:
        faults: dict[str, list[Span]] = {service.target.name: [] for service in services}
        for start in self._times(3):
            for span in self._outage(start):
                self._break_services(services, span, faults)
        for service in services:
            service.faults = Spans(faults[service.target.name])
            service.throttled = self._spans(0.7, MINUTE, 6 * HOUR)
            service.slow = self._spans(1, MINUTE, DAY)
            service.lossy = self._spans(1, HOUR, DAY)

    def _outage(self, start: float) -> list[Span]:
        """An outage, now and then one that comes and goes."""
        chance = self.chance
        cause = chance.choice([*CAUSES, "mailbox", "mailbox", "login", "login"])
        breaks_connections = chance.random() < 0.5
        found = [Span(start, start + self._log_uniform(3.0, 3 * DAY), cause, breaks_connections)]
        while chance.random() < 0.35 and len(found) < 12:
            start = found[-1].end + self._log_uniform(0.5, HOUR)
            found.append(Span(start, start + self._log_uniform(3.0, 2 * HOUR), cause, breaks_connections))
        return found

    def _break_services(self, services: Sequence[Service], span: Span, faults: dict[str, list[Span]]) -> None:
        """Part of the provider's services break, not at quite the same moment; the login for all at once."""
        chance = self.chance
        if span.kind == "login":
            for service in services:
                if service.account:
                    faults[service.target.name].append(span)
            return
        for service in services:
            if chance.random() < 0.7 and (span.kind != "mailbox" or Phase.MAILBOX in service.phases):
                shift, longer = chance.uniform(0, 30), self._log_uniform(1, HOUR) * chance.choice([0, 0, 1])
                faults[service.target.name].append(
                    replace(span, start=span.start + shift, end=span.end + shift + longer)
                )

    def _spans(self, a_week: float, least: float, most: float, what: Sequence[str] = ("",)) -> Spans:
        return Spans(
            Span(at, at + self._log_uniform(least, most), self.chance.choice(what), self.chance.random() < 0.5)
            for at in self._times(a_week)
        )

    def _own_troubles(self, a_week: float, least: float, most: float, what: Sequence[str]) -> Spans:
        spans = []
        for at in self._times(a_week):
            begin = self._near(at)
            spans.append(Span(begin, begin + self._log_uniform(least, most), self.chance.choice(what)))
        breaks_connections = (self.chance.random() < 0.5 for _ in spans)
        return Spans(
            replace(s, breaks_connections=s.end - s.start >= LINE_LOSS_KILLS_SECONDS and one)
            for s, one in zip(spans, breaks_connections, strict=True)
        )

    def _near(self, at: float) -> float:
        """Half of our own troubles come just when a provider breaks or comes back: there they do harm."""
        if self.edges and self.chance.random() < 0.5:
            return max(1.0, self.chance.choice(self.edges) + self.chance.uniform(-120, 120))
        return at

    def _worst(self, at: float) -> float:
        """Two thirds of what makes times wrong comes within an outage, or at one of its ends."""
        if self.within and self.chance.random() < 1 / 3:
            fault = self.chance.choice(self.within)
            return self.chance.uniform(fault.start, fault.end)
        return self._near(at)

    def _wrong(self, least: float) -> float:
        """By how much a clock is wrong: from `least` seconds to years, more often slow than fast."""
        return self.chance.choice([-1, -1, 1]) * self._log_uniform(least, 3 * YEAR)

    def _spares(self, services: dict[str, Service]) -> dict[str, Service]:
        """Other hosts of the same providers, which may come under the names of the first ones."""
        spares = {}
        for service in services.values():
            name, host = f"{service.key}-spare", f"spare-{service.target.host}"
            target = replace(service.target, name=name, host=host)
            address = service.address.replace("215", "216")
            spares[name] = Service(target, service.phases, service.account, address)
        return spares

    def _config(self, service: Service, spare: Service) -> list[MachineEvent]:
        """What an owner does to a target in the config: its interval, its name, its host, all of it."""
        chance, found = self.chance, []
        name, interval, here, there, free = service.key, service.target.interval, service, spare, 0.0
        here.entries, there.entries = [(0.0, (name, interval))], [(0.0, None)]
        for number, at in enumerate(sorted(self._worst(at) for at in self._times(1.2))):
            if at <= free:
                continue
            what, free = chance.choice(["interval", "interval", "remove", "rename", "swap"]), at
            if what == "interval":
                interval = max(20.0, round(service.target.interval * chance.choice([0.2, 0.5, 1.0, 2.0, 4.0])))
            if what == "rename":
                name = f"{service.key}-{number}"
            if what == "swap":
                here.entries.append((at, None))
                here, there = there, here
            if what == "remove":
                here.entries.append((at, None))
                free = at + self._log_uniform(MINUTE, 3 * DAY)
                found.append(MachineEvent(at, "reload", killed=chance.random() < 0.1))
            here.entries.append((free, (name, interval)))
            found.append(MachineEvent(free, "reload", killed=chance.random() < 0.1))
        return found

    def _happenings(
        self, services: dict[str, Service], slots: Sequence[Service], spares: dict[str, Service]
    ) -> list[MachineEvent]:
        found = []
        for at in self._times(1):
            found.append(MachineEvent(self._near(at), "off", self._log_uniform(2, DAY)))
        for at in self._times(2):
            found.append(MachineEvent(self._near(at), "kill", self._log_uniform(1, 2 * HOUR)))
        for at in self._times(4):
            found.append(MachineEvent(self._near(at), "suspend", self._log_uniform(0.2, 10 * HOUR)))
        for at in self._times(3):
            found += self._step(self._worst(at))
        for at in self._times(1.5):
            found.append(self._reboot(self._worst(at)))
        for at in self._times(2):
            found.append(MachineEvent(self._near(at), "stall", self._log_uniform(0.5, 120)))
        for account in {id(s.account): s.account for s in services.values() if s.account}.values():
            found += self._passwords(account)
        for service in slots:
            found += self._config(service, spares[f"{service.key}-spare"])
        return sorted(found, key=lambda happening: happening.at)

    def _step(self, at: float) -> list[MachineEvent]:
        """Someone sets the clock, and mostly NTP puts it right later."""
        step = [MachineEvent(at, "step", self._wrong(0.05))]
        if self.chance.random() < 0.7:
            step.append(MachineEvent(at + self._log_uniform(1.0, 2 * DAY), "ntp"))
        return step

    def _reboot(self, at: float) -> MachineEvent:
        """The machine restarts: with a clock battery, or as a Raspberry without one, which NTP puts right."""
        clock = None if self.chance.random() < 0.3 else self._wrong(MINUTE)
        ntp = None if self.chance.random() < 0.1 else self._log_uniform(1.0, DAY)
        off = self._log_uniform(5.0, 10 * HOUR)
        return MachineEvent(at, "reboot", off, clock=clock, ntp=ntp, killed=self.chance.random() < 0.5)

    def _passwords(self, account: Account) -> list[MachineEvent]:
        """Owners mistype a password in the config, or change it at the provider and in the config later."""
        found, right = [], "first"
        for number, at in enumerate(self._times(0.4)):
            if at < account.configured[-1][0]:
                continue
            until = at + self._log_uniform(MINUTE, DAY)
            if self.chance.random() < 0.5:
                account.configured += [(at, f"mistyped {number}"), (until, right)]
                found.append(MachineEvent(at, "reload"))
            else:
                right = f"changed {number}"
                account.demands.append((at, right))
                account.configured.append((until, right))
            found.append(MachineEvent(until, "reload"))
        return found


def cause_of(what: str) -> Cause:
    """The cause that a probe gives for a fault."""
    return Cause.TIMEOUT if what == "slow" else Cause.CREDENTIALS if what == "login" else Cause(what)
