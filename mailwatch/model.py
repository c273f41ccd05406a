"""The recorded facts of MailWatch as frozen types. The only module of ours imported here is times.

Points in time are `Millis`: whole milliseconds since 1970-01-01T00:00Z, UTC. They are exact, compare fast and go
into canonical JSON unchanged. Phase durations are whole microseconds of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mailwatch.facts import AttemptFacts, ObservationFacts
from mailwatch.times import Millis


class Kind(StrEnum):
    """The kind of a target: the protocol or method of its probes."""

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
    """A timed part of an attempt, in the order of a mail program."""

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
    """The result of one observation."""

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
        """Unknown for causes of the owner, our line or MailWatch; down for causes of the provider."""
        return Outcome.UNKNOWN if self in _CAUSES_NOT_PROVIDER else Outcome.DOWN


_CAUSES_NOT_PROVIDER = frozenset({Cause.THROTTLED, Cause.CREDENTIALS, Cause.OFFLINE, Cause.MONITOR})


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFacts:
    """The facts of a TLS handshake. `fingerprint` is the SHA-256 of the leaf certificate in hex."""

    version: str
    cipher: str
    fingerprint: str
    not_after: Millis | None


@dataclass(frozen=True, slots=True)
class ClockSpan:
    """A span on the steady clock (monotonic.py), in milliseconds.

    Readings are comparable only within one `boot`. `start` is None if it lies in an earlier boot. `bound` is the
    bound of the wall clock's error then, in milliseconds, None if unknown.
    """

    boot: str
    start: Millis | None
    end: Millis
    bound: Millis | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One connection to one address.

    `phases` are microseconds in the order passed, the failed phase included. `replies` are the server's texts,
    redacted and bounded. `peer` is "address:port" ("" if the name did not resolve). `facts` are further results of
    a kind, fit for canonical JSON: text, whole numbers, lists and mappings of them. `clock` is for the observation
    built from it; the record keeps only the observation's.
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
    facts: AttemptFacts | None = None


class ControlState(StrEnum):
    """The result of asking one control, unless it is the name of an error (guard/shared_check.py)."""

    OK = "ok"
    MONITOR = "monitor"
    """The control could not be asked by our own fault; this says nothing about the line."""
    INTERCEPTED = "intercepted"
    """Another host answered in the control's place."""
    NOT_AWAITED = "not awaited"
    DISCONNECTED = "disconnected"


class ResolverState(StrEnum):
    """A fault of the resolver, if it could be asked and is not `ok`."""

    SILENT = "silent"
    LIES = "lies"
    POISONED = "poisoned"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectivityResult:
    """Whether we were online, None if unknown.

    1. `controls` maps "host:port", "target:PROVIDER" and "dns:NAME" to "ok" or the reason.
    2. `online` is the line as a whole; `online4` and `online6` are IPv4 and IPv6, None also if they were not
       checked or the guard did not separate them.
    3. `resolver` is "ok", "silent", "lies" (it resolves names that do not exist), "poisoned" (it gives wrong
       addresses for the control names) or "monitor"; "" if it was not asked. `spoofed` are the wrong addresses.
    4. All results date from between `asked_at` and `answered_at`.
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
    """The result of one probe of one target: one or more attempts.

    The last attempt decides. `partial` names the addresses that failed although another one served. `addresses`
    are all that the name had, A and AAAA. `with_login` is False if a target with a login was probed without it
    (after rejected credentials), or without a valid access token; otherwise `secret` is a keyed digest of the
    password or grant, which shows only whether two probes used the same one. `facts` are as in an attempt, with
    the diagnosis of a failure. `interval` (milliseconds) was in force; it and `clock` are None only on old
    records. `node`: the first digits of the id of the node that made it, "" if that is the one that recorded it.
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
    facts: ObservationFacts | None = None
    clock: ClockSpan | None = None
    interval: Millis | None = None
    node: str = ""

    @property
    def deciding_attempt(self) -> Attempt | None:
        """The last attempt with the observation's cause, else the last one."""
        last = self.attempts[-1] if self.attempts else None
        return next((a for a in reversed(self.attempts) if a.cause is self.cause), last)


class EventType(StrEnum):
    """The type of event that a notification reports."""

    OPEN = "open"
    CLOSE = "close"
    CREDENTIALS = "credentials"
    OFFLINE = "offline"
    CERTIFICATE = "certificate"
    DISK = "disk"
    LEDGER = "ledger"
    MONITOR = "monitor"
    INCIDENT = "incident"
    CONFIRMED = "confirmed"


class HealthArea(StrEnum):
    """The areas of the self-check."""

    LOOP = "loop"
    PROBES = "probes"
    TARGETS = "targets"
    STORE = "store"
    FILES = "files"
    THREADS = "threads"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A notification. `key` identifies it for ever, so that it is sent once; `facts` are JSON, times in ms."""

    key: str
    event_type: EventType
    time: Millis
    facts: Mapping[str, object] = field(default_factory=dict)


class GapReason(StrEnum):
    """Why a target was not probed."""

    NOT_RUNNING = "not_running"
    SUSPENDED = "suspended"
    CLOCK_STEP = "clock_step"
    MISSED = "missed"
    THROTTLED = "throttled"
    STORE = "store"
    HANDOVER = "handover"
    """Another node took over the ledger."""


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
    """The rules that open and close an outage, and the seconds between observations in doubt, first to last."""

    open_after: int = 3
    close_after: int = 2
    recheck: tuple[float, ...] = (5.0, 10.0, 20.0)


class TargetEvent(StrEnum):
    """A change in how a target is watched."""

    BEGIN = "begin"
    CONTINUE = "continue"
    CHANGE = "change"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """The recorded settings of a target; `interval` and `timeout` in milliseconds.

    `catalogue`: the host is the catalogue's for that provider. `own_ca`: the owner's file, not the system's
    authorities, decides whether its certificate is trusted. `login` is a keyed digest of the login name, `task`
    one of the task of an mx, webmail or roundtrip target; "" without one. `login_name` is a commitment to the
    login name, which its owner can disclose; "" without a login, and in records of versions up to 0.2.0.
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
    login_name: str = ""

    @property
    def service(self) -> tuple[str, ...]:
        """The identity of the watched service: if it changes, the old target ends and a new one begins."""
        return self.kind.value, self.host.lower().rstrip("."), str(self.port), self.login, self.task


PAUSED, RESUMED = "paused", "resumed"
"""The reasons for recording that a target is not probed from now on, and that it is probed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetChange:
    """A target begins, continues, changes or ends. `settings` are in force from then on, at END until then.

    `reason` is start, reload, removed, replaced, daily, paused or resumed. While a target is paused, each of its
    changes says so; versions up to 0.2.0 read the reason as a text and need not know it. A target that is resumed
    after failures that opened no outage ends and begins.
    """

    target: str
    at: Millis
    event: TargetEvent
    settings: TargetSettings
    reason: str = ""
    clock: ClockSpan | None = None

    @property
    def paused(self) -> bool:
        """Whether the target is announced not to be probed from then on."""
        return self.reason == PAUSED and self.event is not TargetEvent.END


Fact = Observation | Gap | TargetChange
"""A recorded fact of one target."""
