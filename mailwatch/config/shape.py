"""The sections of config.yaml. Each field says what it is for; config.example.yaml shows them all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, PrivateAttr, WithJsonSchema, model_validator

from mailwatch.config.claims import ClaimSection
from mailwatch.config.document import Document
from mailwatch.config.fields import (
    AuthorityUrl,
    Count,
    Endpoint,
    FolderPath,
    Host,
    Label,
    Seconds,
    Section,
    Text,
    Variable,
    split_endpoint,
)
from mailwatch.config.maintenance import RULES, MaintenanceSection
from mailwatch.config.mistakes import Fault
from mailwatch.config.notify import HeartbeatSection, NotifySection
from mailwatch.config.watched import AccountSection, LoginSection, TargetSection
from mailwatch.config.web import WebSection
from mailwatch.oauth.endpoints import is_loopback


class VantagePointSection(Section):
    """Where we look from; it stands in every record."""

    name: Label
    """A short name of this machine or place."""
    place: Text = ""
    """Where that is, for the reader of a report."""


class DefaultsSection(Section):
    """What targets and accounts use unless they say otherwise."""

    interval: Seconds = 60.0
    """How often to look."""
    timeout: Seconds = 30.0
    """How long one attempt may take."""
    helo_name: Host | Literal[""] = ""
    """smtp and mx: the name that this machine greets with (EHLO), if servers refuse its address."""


class LimitsSection(Section):
    """How much MailWatch may do at once."""

    max_concurrent: Count = 200
    """Probes at the same time."""


class DetectionSection(Section):
    """When down is an outage."""

    open_after: Count = 3
    """Down observations in a row that open an outage."""
    close_after: Count = 2
    """Up observations in a row that close it."""
    recheck: Annotated[tuple[Seconds, ...], Field(max_length=20)] = (5.0, 10.0, 20.0)
    """Waits between the sooner looks after a change, so that both bounds of an outage are tight."""


class ControlSection(Section):
    """Somebody who is asked whether our line works. Who is known by the address needs no more than that."""

    address: Endpoint
    """Host and port."""
    name: Host | Literal[""] = ""
    """Whose certificate must be shown there; without a name, and of an unknown address, a connection is enough."""
    ca_file: FolderPath | None = None
    """Trust this for the certificate instead of the system's authorities."""

    @property
    def host(self) -> str:
        """The host to connect to."""
        return split_endpoint(self.address)[0]

    @property
    def port(self) -> int:
        """The port to connect to."""
        return split_endpoint(self.address)[1]


def _control(value: object) -> object:
    if isinstance(value, str):
        split_endpoint(value)
        return {"address": value}
    if not isinstance(value, dict | ControlSection):
        raise Fault("must be host:port, or a mapping with address, name and ca_file")
    return value


def _control_written(control: ControlSection) -> str | dict[str, Any]:
    written = control.model_dump(mode="json", exclude_defaults=True)
    return control.address if len(written) == 1 else written


ControlEntry = Annotated[
    ControlSection,
    BeforeValidator(_control),
    PlainSerializer(_control_written),
    WithJsonSchema({"anyOf": [{"type": "string"}, ControlSection.model_json_schema()]}),
]


class GuardSection(Section):
    """Who is asked whether our own line works, when a target does not."""

    controls: Annotated[tuple[ControlEntry, ...], Field(min_length=1)] = tuple(
        ControlSection(address=address)
        for address in (
            "1.1.1.1:443",
            "9.9.9.9:443",
            "8.8.8.8:443",
            "[2606:4700:4700::1111]:443",
            "[2620:fe::fe]:443",
            "[2001:4860:4860::8888]:443",
        )
    )
    """Endpoints of several operators, over IPv4 and IPv6; all of them silent means that we are offline."""
    timeout: Seconds = 3.0
    """How long to wait for them."""
    port25_controls: tuple[Host, ...] = (
        "gmail-smtp-in.l.google.com",
        "mx01.mail.icloud.com",
        "in1-smtp.messagingengine.com",
        "mail.protonmail.ch",
    )
    """mx: who is asked for a greeting on port 25 when a domain is silent there; an empty list asks nobody."""


class ClockSection(Section):
    """Who is asked hourly how far our clock is off, besides the kernel."""

    servers: tuple[Endpoint, ...] = (
        "time.cloudflare.com:123",
        "ntp1.inrim.it:123",
        "ntp2.inrim.it:123",
        "time.google.com:123",
    )
    """SNTP servers of several operators; an empty list asks nobody."""


class TimestampSection(Section):
    """An outside authority that stamps checkpoints of the ledger (RFC 3161)."""

    url: AuthorityUrl
    """Where it is asked. Plain http is usual: the answer is signed."""
    every: Seconds = 3600.0
    """How often; besides, whenever an outage opens or closes."""
    ca_file: FolderPath | None = None
    """PEM certificates that its signature must lead to; without it the system's."""
    login: LoginSection | None = None
    """For an authority that wants to know who asks, such as a qualified one."""

    @property
    def name(self) -> str:
        """The authority's name in records: the host that is asked."""
        return urlsplit(self.url).netloc

    @model_validator(mode="after")
    def _login_fits(self) -> Self:
        parts = urlsplit(self.url)
        if self.login and self.login.oauth2:
            raise Fault("is for mailboxes; an authority takes a password_file", "login")
        if self.login and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise Fault("would send the password in the clear; write https, or remove login", "url")
        return self


class SigningSection(Section):
    """The owner's own key, with which report.pdf is signed (PAdES)."""

    key_file: FolderPath
    """A PEM private key (EC P-256 or RSA), or PKCS#12 if there is no certificate_file."""
    certificate_file: FolderPath | None = None
    """The PEM certificate of the key, and those that lead to its issuer."""
    password_file: FolderPath | None = None
    """A file whose first line opens the key."""
    password_env: Variable | None = None
    """The environment variable that does."""
    timestamp: bool = True
    """Whether the first of the timestamp authorities, if there is one, puts its time into the signature."""

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_file and self.password_env:
            raise Fault("has two passwords; keep one of password_file, password_env", "password_env")
        return self


def _guard(value: object) -> object:
    if value == "off":
        return None
    if not isinstance(value, dict | GuardSection):
        raise Fault("must be the word off, or a mapping with controls and timeout")
    return value


def _sqlite(value: object) -> object:
    # The value may hold a password, so it is not repeated.
    if isinstance(value, str) and value.startswith("postgres"):
        raise Fault("postgresql is not built yet in this version; write sqlite")
    if value != "sqlite":
        raise Fault("is not a known store; write sqlite")
    return value


class Config(Section):
    """The whole of config.yaml."""

    vantage_point: VantagePointSection
    """Where we look from."""
    data_dir: FolderPath = Field(default=Path("data"), validate_default=True)
    """Keys and the SQLite file; one process at a time."""
    database: Annotated[Literal["sqlite"], BeforeValidator(_sqlite)] = "sqlite"
    """Where records are kept; postgresql:// will follow."""
    web: WebSection = WebSection()
    """The status page, the API and /metrics."""
    limits: LimitsSection = LimitsSection()
    """How much MailWatch may do at once."""
    defaults: DefaultsSection = DefaultsSection()
    """What targets and accounts use unless they say otherwise."""
    accounts: tuple[AccountSection, ...] = ()
    """The short form: addresses with all their channels."""
    targets: tuple[TargetSection, ...] = ()
    """The long form: any server."""
    detection: DetectionSection = DetectionSection()
    """When down is an outage."""
    guard: Annotated[
        GuardSection | None,
        BeforeValidator(_guard),
        PlainSerializer(lambda guard: "off" if guard is None else guard.model_dump(mode="json")),
        WithJsonSchema({"anyOf": [{"const": "off"}, GuardSection.model_json_schema()]}),
    ] = GuardSection()
    """Who is asked whether our own line works; the word off disables it."""
    clock: ClockSection = ClockSection()
    """Who is asked how far our clock is off."""
    maintenance: Annotated[tuple[MaintenanceSection, ...], Field(max_length=RULES)] = ()
    """Times that are announced as maintenance, and left out of the availability."""
    timestamps: tuple[TimestampSection, ...] = ()
    """Outside authorities that stamp the ledger; several are better than one."""
    signing: SigningSection | None = None
    """The owner's own key for report.pdf."""
    claims: tuple[ClaimSection, ...] = ()
    """What the owner says of the contracts: for the report and the letter of complaint."""
    notify: tuple[NotifySection, ...] = ()
    """Who is told of outages, and how."""
    heartbeat: HeartbeatSection | None = None
    """Who notices when MailWatch itself is dead."""

    _document: Document | None = PrivateAttr(default=None)
