"""The words of MailWatch as frozen facts; this module imports nothing of ours.

Points in time are `Millis`: whole milliseconds since 1970-01-01T00:00Z, UTC. They are exact, compare
fast and go into canonical JSON unchanged. Phase durations are whole microseconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mailwatch.times import Millis


class Kind(StrEnum):
    """How a mail service is spoken to."""

    IMAP = "imap"
    POP3 = "pop3"
    SMTP = "smtp"
    MX = "mx"
    WEBMAIL = "webmail"
    ROUNDTRIP = "roundtrip"


class TlsMode(StrEnum):
    """When encryption begins: at the first byte, by STARTTLS, or never (loopback only with a login)."""

    IMPLICIT = "implicit"
    STARTTLS = "starttls"
    NONE = "none"


class Phase(StrEnum):
    """A timed part of an attempt, in the order in which a mail program meets them."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    AUTH = "auth"
    MAILBOX = "mailbox"
    FETCH = "fetch"
    SUBMIT = "submit"
    DELIVER = "deliver"


class Outcome(StrEnum):
    """What one observation says of the service."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why an observation is not up (docs/reference/causes.md)."""

    DNS = "dns"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    TLS = "tls"
    PROTOCOL = "protocol"
    UNAVAILABLE = "unavailable"
    MAILBOX = "mailbox"
    UNDELIVERED = "undelivered"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    CREDENTIALS = "credentials"
    OFFLINE = "offline"
    MONITOR = "monitor"

    @property
    def outcome(self) -> Outcome:
        """Unknown for what is the owner's, our line's or our own doing; down for the provider's."""
        return Outcome.UNKNOWN if self in _CAUSES_NOT_PROVIDER else Outcome.DOWN


_CAUSES_NOT_PROVIDER = frozenset({Cause.THROTTLED, Cause.CREDENTIALS, Cause.OFFLINE, Cause.MONITOR})


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFacts:
    """What the handshake showed. `fingerprint` is the SHA-256 of the leaf certificate in hex."""

    version: str
    cipher: str
    fingerprint: str
    not_after: Millis | None


@dataclass(frozen=True, slots=True)
class ClockSpan:
    """From when to when something lasted, on the steady clock (monotonic.py), in milliseconds.

    Readings of one `boot` can be compared, others cannot. `start` is None for what began in an earlier boot.
    `bound` is how far the wall clock may have been off then, in milliseconds, None where it is not known.
    """

    boot: str
    start: Millis | None
    end: Millis
    bound: Millis | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One connection to one address.

    `phases` are microseconds in the order walked, the failed phase included. `replies` are the server's own words,
    redacted and bounded. `peer` is "address:port" ("" when the name did not resolve). `facts` are what else a kind
    has to report, fit for canonical JSON: text, whole numbers, lists and mappings of them. `clock` is for the
    observation made of it; the record keeps only that one's.
    """

    started_at: Millis
    ended_at: Millis
    clock: ClockSpan | None = field(default=None, compare=False)
    peer: str = ""
    phases: dict[Phase, int] = field(default_factory=dict)
    cause: Cause | None = None
    failed_phase: Phase | None = None
    detail: str = ""
    replies: tuple[str, ...] = ()
    tls: TlsFacts | None = None
    facts: dict[str, Any] | None = None


class ControlState(StrEnum):
    """What asking one control came to, where it is not the name of an error (guard/shared_check.py)."""

    OK = "ok"
    MONITOR = "monitor"
    """It could not be asked by our own fault; that says nothing of the line."""
    INTERCEPTED = "intercepted"
    """Another host answered in the control's place."""
    NOT_AWAITED = "not awaited"
    DISCONNECTED = "disconnected"


class ResolverState(StrEnum):
    """What is wrong with the resolver, where it could be asked and is not `ok`."""

    SILENT = "silent"
    LIES = "lies"
    POISONED = "poisoned"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectivityResult:
    """Were we online? None where it is not known.

    1. `controls` maps "host:port", "target:PROVIDER" and "dns:NAME" to "ok" or the reason.
    2. `online` is the line as a whole; `online4` and `online6` are IPv4 and IPv6 apart, None also where they were
       not checked or the guard did not separate them.
    3. `resolver` is "ok", "silent", "lies" (it resolves names that do not exist), "poisoned" (it gives wrong
       addresses for the control names) or "monitor"; "" when it was not asked. `spoofed` are the wrong addresses.
    4. All of it was seen between `asked_at` and `answered_at`.
    """

    asked_at: Millis
    online: bool | None
    controls: dict[str, str] = field(default_factory=dict)
    answered_at: Millis | None = None
    online4: bool | None = None
    online6: bool | None = None
    resolver: str = ""
    spoofed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one vantage point saw of one target at one time: one or more attempts.

    The last attempt decides. `partial` names the addresses that did not serve although another did.
    `addresses` are all that the name had, A and AAAA. `with_login` is False while a target with a login
    was probed without it (rejected credentials back off), or without an access token that counts; `secret`
    is else a keyed digest of the password or grant, which shows whether two probes used the same one and nothing
    else. `facts` are as an attempt's; the diagnosis of a failure is among them. `interval` (milliseconds) was in
    force; it and `clock` are None on old records only.
    """

    target: str
    scheduled_at: Millis
    started_at: Millis
    ended_at: Millis
    outcome: Outcome
    cause: Cause | None = None
    failed_phase: Phase | None = None
    detail: str = ""
    attempts: tuple[Attempt, ...] = ()
    addresses: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    with_login: bool = False
    secret: str = ""
    guard: ConnectivityResult | None = None
    facts: dict[str, Any] | None = None
    clock: ClockSpan | None = None
    interval: Millis | None = None

    @property
    def deciding_attempt(self) -> Attempt | None:
        """The last attempt that came to what was concluded, else the last one."""
        last = self.attempts[-1] if self.attempts else None
        return next((a for a in reversed(self.attempts) if a.cause is self.cause), last)


class EventType(StrEnum):
    """What notifications are about."""

    OPEN = "open"
    CLOSE = "close"
    CREDENTIALS = "credentials"
    OFFLINE = "offline"
    CERTIFICATE = "certificate"
    DISK = "disk"
    LEDGER = "ledger"
    MONITOR = "monitor"


class HealthArea(StrEnum):
    """By what MailWatch notices that it does not work as it should."""

    LOOP = "loop"
    PROBES = "probes"
    TARGETS = "targets"
    STORE = "store"
    FILES = "files"
    THREADS = "threads"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A notification: `key` identifies it for good, so that it is sent once; `facts` are JSON, times in ms."""

    key: str
    event_type: EventType
    time: Millis
    facts: dict[str, Any] = field(default_factory=dict)


class GapReason(StrEnum):
    """Why a target was not probed."""

    NOT_RUNNING = "not_running"
    SUSPENDED = "suspended"
    CLOCK_STEP = "clock_step"
    MISSED = "missed"
    THROTTLED = "throttled"
    STORE = "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time in which a target was not probed; never counted as up or down."""

    target: str
    start: Millis
    end: Millis
    reason: GapReason
    clock: ClockSpan | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """When an outage opens and closes, and the seconds between observations that are in doubt, first to last."""

    open_after: int = 3
    close_after: int = 2
    recheck: tuple[float, ...] = (5.0, 10.0, 20.0)


class TargetEvent(StrEnum):
    """What happens to the watching of a target."""

    BEGIN = "begin"
    CONTINUE = "continue"
    CHANGE = "change"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """What is watched under a target's name, and how; `interval` and `timeout` in milliseconds.

    `catalogue`: the host is the catalogue's for that provider. `own_ca`: its certificate is trusted by a file of
    the owner's, not by the system's authorities. `login` is a keyed digest of the login name, `task` one of what
    mx, webmail and roundtrip targets ask for; "" without one.
    """

    kind: Kind
    provider: str
    host: str
    port: int
    tls: TlsMode
    interval: Millis
    timeout: Millis
    catalogue: bool
    own_ca: bool
    login: str = ""
    task: str = ""
    rules: Rules = Rules()

    @property
    def service(self) -> tuple[str, ...]:
        """What makes it the same thing that is watched: with another one the watching of the old one ends."""
        return self.kind.value, self.host.lower().rstrip("."), str(self.port), self.login, self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetChange:
    """The watching of a target begins, goes on, changes or ends. `settings` hold from then on; those that held, at
    END.

    `reason` says why: start, reload, removed, replaced, daily.
    """

    target: str
    at: Millis
    event: TargetEvent
    settings: TargetSettings
    reason: str = ""
    clock: ClockSpan | None = None


Fact = Observation | Gap | TargetChange
"""What the ledger knows of one target, in its order."""
