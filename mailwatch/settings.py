"""The configured targets, channels and authorities as frozen types, with their secrets read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from mailwatch.model import (
    EventType,
    Kind,
    TlsMode,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth2:
    """The OAuth client of a login: its endpoints, its identity, and the file of the owner's grant.

    Endpoints are https, or http on the loopback; `device_endpoint` is "" if there is none. A public client has no
    `client_secret`. `redirect_host` is the loopback host that the client is registered with.
    """

    authorization_endpoint: str
    token_endpoint: str
    scope: str
    client_id: str
    grant_file: Path
    device_endpoint: str = ""
    redirect_host: str = "127.0.0.1"
    client_secret: SecretStr = field(default=SecretStr(""))
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user name and its password, which is never printed.

    With `oauth2` the password is an access token, "" until one is supplied.
    """

    username: str
    password: SecretStr
    oauth2: OAuth2 | None = None


@dataclass(frozen=True, slots=True)
class MxTask:
    """The recipient and sender that an mx target tests. The empty `sender` is the null reverse-path."""

    recipient: str
    sender: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebmailTask:
    """The page of a webmail target: `contains` must appear in it, `absent` must not."""

    url: str
    contains: str = ""
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundtripTask:
    """The message of a round trip: sent through `via` (smtp), awaited in `to` (imap) for `deadline` seconds."""

    via: Target
    to: Target
    sender: str
    recipient: str
    deadline: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target of probes. `interval` and `timeout` are seconds.

    `host` of an mx target is the mail domain. `task` has the further settings of mx, webmail and roundtrip
    targets. `helo_name` is the name with which smtp and mx targets greet, "" for our address.
    """

    name: str
    kind: Kind
    host: str
    port: int
    provider: str = ""
    tls: TlsMode = TlsMode.IMPLICIT
    ca_file: Path | None = None
    login: Login | None = None
    interval: float = 60.0
    timeout: float = 30.0
    task: MxTask | WebmailTask | RoundtripTask | None = None
    helo_name: str = ""
    paused: bool = False
    """Whether it is known and shown, but not probed."""

    @property
    def endpoints(self) -> tuple[Target, ...]:
        """The targets whose logins a probe uses: the two ends of a round trip, else the target itself."""
        return (self.task.via, self.task.to) if isinstance(self.task, RoundtripTask) else (self,)


@dataclass(frozen=True, slots=True, kw_only=True)
class VantagePoint:
    """The place from which MailWatch probes."""

    name: str
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampAuthority:
    """An outside authority that timestamps checkpoints (RFC 3161), every `every` seconds.

    Its signatures must chain to the certificates in `ca_file` (PEM), or else to the system's.
    """

    name: str
    url: str
    every: float
    ca_file: Path | None = None
    login: Login | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A witness that cosigns checkpoints: its address and its key as `name+id+key`."""

    url: str
    key: str

    @property
    def name(self) -> str:
        """The name of its key."""
        return self.key.partition("+")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A hub to which this vantage point pushes its ledger: its address, and its ledger's key as `name+id+key`.

    `send`: the targets whose entries are sent, None for all of all targets. `checkpoints_only`: nothing but
    checkpoints. `every`: seconds that new entries may wait.
    """

    url: str
    key: str
    send: frozenset[str] | None = None
    checkpoints_only: bool = False
    every: float = 30.0

    @property
    def name(self) -> str:
        """The name of its ledger."""
        return self.key.partition("+")[0]

    @property
    def scope(self) -> str | tuple[str, ...]:
        """What is sent: "all", "checkpoints", or the names of targets in order."""
        if self.checkpoints_only:
            return "checkpoints"
        return "all" if self.send is None else tuple(sorted(self.send))


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A notification channel: an Apprise address, usually a secret. `name` is its scheme and number: json-1.

    `quiet` is from and until in minutes after midnight in `timezone`; `group` is how many seconds to wait for
    more, and `remind` after how many to repeat that an outage is open, 0 never.
    """

    name: str
    url: SecretStr
    on: frozenset[EventType] = frozenset(EventType)
    lang: str = "en"
    quiet: tuple[int, int] | None = None
    timezone: str = "UTC"
    group: float = 10.0
    remind: float = 0.0
    web_url: str = ""
    """The base of links in messages, "" for none."""
    place: str = ""
    """Its scheme and place in the list, such as json-1: its name, unless it has one of its own."""
