"""The whole of config.yaml, and its sections without a module of their own. Each field has its description.

config.example.yaml shows them all. Each maintenance rule is one section.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)

from mailwatch.analysis.maintenance import RecurrenceRule, check_rule
from mailwatch.analysis.recurrence import InvalidRuleError
from mailwatch.config.errors import ConfigProblem, FieldError, KeyPath
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.config.schema_database import DatabaseSection, database_as_text, database_from
from mailwatch.config.schema_guard import ClockSection, GuardSection
from mailwatch.config.schema_hub import HubSection, HubServerSection
from mailwatch.config.schema_notify import HeartbeatSection, NotifySection
from mailwatch.config.schema_retention import RetentionSection
from mailwatch.config.schema_targets import AccountSection, LoginSection, TargetSection
from mailwatch.config.schema_web import WebSection
from mailwatch.config.schema_witness import MAX_WITNESSES, WitnessSection, WitnessServerSection
from mailwatch.config.types import (
    AuthorityUrl,
    Count,
    FolderPath,
    Host,
    InARow,
    Label,
    Seconds,
    Section,
    SectionOr,
    Size,
    Text,
    Variable,
    ZoneName,
    read_duration,
)
from mailwatch.config.yaml_file import YamlDocument
from mailwatch.net import is_loopback
from mailwatch.time_zone import local_zone
from mailwatch.times import DURATION_PATTERN, duration_text

MAX_RULES = 100
"""The number of maintenance rules that a config may have."""


def _bounded(seconds: float) -> float:
    if not 60 <= seconds <= 31 * 86_400:
        raise FieldError("must lie between 1m and 31d")
    return seconds


WindowLength = Annotated[
    float,
    BeforeValidator(read_duration),
    AfterValidator(_bounded),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["30m", "2h"]}),
]
Names = Annotated[tuple[Label, ...], Field(min_length=1)]


class MaintenanceSection(Section):
    """Announced maintenance: observations are still recorded, but left out of the availability."""

    name: Label
    """The purpose; part of the record."""
    targets: Names | None = None
    """The targets it applies to, by name; without targets and providers it applies to all."""
    providers: Names | None = None
    """The providers it applies to, with all their targets."""
    rrule: Annotated[Text, Field(min_length=1)] | None = None
    """A recurrence by RFC 5545, such as FREQ=WEEKLY;BYDAY=SU;BYHOUR=3, from `start` on."""
    cron: Annotated[Text, Field(min_length=1)] | None = None
    """A recurrence as crontab writes it, such as 0 3 * * 0."""
    start: Text | None = None
    """When a single window, or the first of an RRULE, begins: local time, such as 2026-01-04T03:00."""
    end: Text | None = None
    """When a single window ends."""
    duration: WindowLength | None = None
    """The length of each window of an RRULE or cron line."""
    timezone: Text
    """The time zone of the local times, such as Europe/Rome."""

    def recurrence_rule(self) -> RecurrenceRule:
        """Return the rule in canonical form. Raises InvalidRuleError."""
        return RecurrenceRule.canonical(
            timezone=self.timezone,
            rrule=self.rrule or "",
            cron=self.cron or "",
            start=self.start or "",
            end=self.end or "",
            duration=round((self.duration or 0) * 1000),
        )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.targets and self.providers:
            raise FieldError("does not go with targets; keep one of the two", "providers")
        try:
            check_rule(self.recurrence_rule())
        except InvalidRuleError as wrong:
            raise FieldError(str(wrong), wrong.field) from None
        return self


class VantagePointSection(Section):
    """The place of observation; part of every record."""

    name: Label = "home"
    """A short name of this machine or place."""
    place: Text = ""
    """Where it is, for the reader of a report."""


class DefaultsSection(Section):
    """What targets and accounts use unless they say otherwise."""

    interval: Seconds = 60.0
    """The time between checks."""
    timeout: Seconds = 30.0
    """The time limit of one attempt."""
    helo_name: Host | Literal[""] = ""
    """smtp and mx: the name this machine greets with (EHLO), if servers reject its address."""


class LimitsSection(Section):
    """Limits on simultaneous work and on what waits."""

    max_concurrent: Count = 200
    """Probes at the same time."""
    spool: Size = 2_000_000_000
    """While PostgreSQL is away, observations wait in a file of data_dir that grows to this size."""


class DetectionSection(Section):
    """How failed checks become an outage."""

    open_after: InARow = 3
    """Failed checks in a row that open an outage."""
    close_after: InARow = 2
    """Successful checks in a row that close it."""
    recheck: Annotated[tuple[Seconds, ...], Field(max_length=20)] = (5.0, 10.0, 20.0)
    """Waits between the rechecks after a change, which make both bounds of an outage tight."""
    quorum: Annotated[int, Field(strict=True, ge=2, le=100)] | None = None
    """On a hub: how many vantage points confirm that a channel is down; none without it."""


class TimestampSection(Section):
    """An external authority that timestamps checkpoints of the ledger (RFC 3161)."""

    url: AuthorityUrl
    """Its address. Plain http is usual, as the answer is signed."""
    every: Seconds = 3600.0
    """How often, besides whenever an outage opens or closes."""
    ca_file: FolderPath | None = None
    """PEM certificates its signature must lead to; default: those of the system."""
    login: LoginSection | None = None
    """The login, if the authority requires one, as qualified ones do."""

    @property
    def name(self) -> str:
        """The authority's name in records: the host that is asked."""
        return urlsplit(self.url).netloc

    @model_validator(mode="after")
    def _login_fits(self) -> Self:
        parts = urlsplit(self.url)
        if self.login and self.login.oauth2:
            raise FieldError("is only for mailboxes; an authority takes a password_file", "login")
        if self.login and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise FieldError("would send the password unencrypted; write https, or remove login", "url")
        return self


class SigningSection(Section):
    """The owner's key that signs report.pdf (PAdES)."""

    key_file: FolderPath
    """A PEM private key (EC P-256 or RSA), or PKCS#12 if there is no certificate_file."""
    certificate_file: FolderPath | None = None
    """The PEM certificate of the key, and those that lead to its issuer."""
    password_file: FolderPath | None = None
    """A file whose first line is the password of the key."""
    password_env: Variable | None = None
    """The environment variable that holds it."""
    timestamp: bool = True
    """Whether the first timestamp authority adds its time to the signature."""

    @model_validator(mode="after")
    def _single_password(self) -> Self:
        if self.password_file and self.password_env:
            raise FieldError("has two passwords; keep one of password_file, password_env", "password_env")
        return self


class BackupSection(Section):
    """Backups that the monitor itself makes; without this section it makes none."""

    to: FolderPath
    """The folder for the backups, best on another disk; it is created if it does not exist."""
    every: WindowLength = 86_400.0
    """How often to make a backup."""
    keep: Annotated[int, Field(strict=True, ge=1, le=1000)] = 7
    """The number of backups to keep; older ones are removed."""


def _guard(value: object) -> object:
    if value == "off":
        return None
    if not isinstance(value, dict | GuardSection):
        raise FieldError("must be the word off, or a mapping with controls and timeout")
    return value


class Config(Section):
    """The whole of config.yaml."""

    vantage_point: VantagePointSection = VantagePointSection()
    """The place of observation."""
    timezone: ZoneName | None = None
    """The time zone of pages, messages, reports, letters and commands; default: $TZ, else the machine's."""
    data_dir: FolderPath = Field(default=Path("data"), validate_default=True)
    """Keys, and the SQLite file if there is one; one process at a time."""
    database: Annotated[
        DatabaseSection | None,
        BeforeValidator(database_from),
        PlainSerializer(database_as_text),
        SectionOr(DatabaseSection, {"type": "string", "pattern": "^(sqlite|postgres(ql)?://.*)$"}),
    ] = None
    """Where records are kept: sqlite, which is the default, or postgresql://user@host/database."""
    retention: RetentionSection = RetentionSection()
    """How long the ledger keeps what, and in which form."""
    web: WebSection = WebSection()
    """The status page, the API and /metrics."""
    limits: LimitsSection = LimitsSection()
    """Limits on simultaneous work."""
    defaults: DefaultsSection = DefaultsSection()
    """What targets and accounts use unless they say otherwise."""
    accounts: tuple[AccountSection, ...] = ()
    """The short form: addresses with all their channels."""
    targets: tuple[TargetSection, ...] = ()
    """The long form: any server."""
    detection: DetectionSection = DetectionSection()
    """How failed checks become an outage."""
    guard: Annotated[
        GuardSection | None,
        BeforeValidator(_guard),
        PlainSerializer(
            lambda guard: "off" if guard is None else guard.model_dump(mode="json", exclude_none=True)
        ),
        SectionOr(GuardSection, {"const": "off"}),
    ] = GuardSection()
    """How MailWatch finds out whether our own line works; the word off disables it."""
    clock: ClockSection = ClockSection()
    """Where MailWatch asks how far our clock is off."""
    maintenance: Annotated[tuple[MaintenanceSection, ...], Field(max_length=MAX_RULES)] = ()
    """Announced maintenance, left out of the availability."""
    timestamps: tuple[TimestampSection, ...] = ()
    """External authorities that timestamp the ledger; several are better than one."""
    witnesses: Annotated[tuple[WitnessSection, ...], Field(max_length=MAX_WITNESSES)] = ()
    """Witnesses that cosign the ledger: they notice a second history of it."""
    witness: WitnessServerSection | None = None
    """A witness of one's own, for the ledgers of others."""
    hub: HubSection | None = None
    """A hub to which this vantage point pushes its ledger."""
    hub_server: HubServerSection | None = None
    """A hub of one's own, to which vantage points push their ledgers."""
    signing: SigningSection | None = None
    """The owner's key that signs report.pdf."""
    claims: tuple[ClaimSection, ...] = ()
    """Your contracts, for the report and the letter of complaint."""
    notify: tuple[NotifySection, ...] = ()
    """Who gets messages, and how."""
    heartbeat: HeartbeatSection | None = None
    """A service that notices when MailWatch itself is dead."""
    backup: BackupSection | None = None
    """Backups that the monitor itself makes."""

    _document: YamlDocument | None = PrivateAttr(default=None)

    def attach(self, document: YamlDocument) -> None:
        """Store the file of this config, which gives later problems their lines."""
        self._document = document

    def zone(self) -> ZoneInfo:
        """Return the time zone of `timezone`, else of TZ, else of the machine. Raises TimeZoneError."""
        return ZoneInfo(self.timezone) if self.timezone else local_zone()

    @property
    def folder(self) -> Path:
        """The folder of the config file, else the working directory."""
        return self._document.path.absolute().parent if self._document else Path.cwd()

    def problem(self, place: KeyPath, what: str) -> ConfigProblem:
        """Return a problem at a place of the config file."""
        return self._document.problem(place, what) if self._document else ConfigProblem(Path("config"), 1, what)
