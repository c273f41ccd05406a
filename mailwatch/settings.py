"""What the config says is to be watched, as frozen facts with their secrets read."""

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
    """How a login gets its access tokens: who asks where, and the file with what its owner granted.

    Endpoints are https, or http on the loopback; `device_endpoint` is "" where there is none. A public client
    has no `client_secret`. `redirect_host` is the loopback host that the client is registered with.
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
    """What an mx target asks of each exchanger. The empty `sender` is the null reverse-path."""

    recipient: str
    sender: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebmailTask:
    """What a webmail target asks for: `contains` must appear in the page, `absent` must not."""

    url: str
    contains: str = ""
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundtripTask:
    """What a roundtrip target sends: through `via` (smtp), awaited in `to` (imap) for `deadline` seconds."""

    via: Target
    to: Target
    sender: str
    recipient: str
    deadline: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that is probed. `interval` and `timeout` are seconds.

    `host` of an mx target is the mail domain. `task` is what mx, webmail and roundtrip targets have besides.
    `helo_name` is what smtp and mx targets greet with, "" for our address.
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
    """An outside authority that stamps checkpoints (RFC 3161): asked every so many seconds.

    Its signatures must lead to the certificates in `ca_file` (PEM), without one to the system's.
    """

    name: str
    url: str
    every: float
    ca_file: Path | None = None
    login: Login | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Where notifications go: an Apprise address, mostly a secret. `name` is its scheme and number: json-1.

    `quiet` is from and until in minutes after midnight in `timezone`; `group` seconds are waited for more.
    """

    name: str
    url: SecretStr
    on: frozenset[EventType] = frozenset(EventType)
    lang: str = "en"
    quiet: tuple[int, int] | None = None
    timezone: str = "UTC"
    group: float = 10.0
