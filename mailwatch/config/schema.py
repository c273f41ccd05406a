"""The sections of config.yaml, except targets and claims. Each field has its description.

config.example.yaml shows them all. Each maintenance rule is one section.
"""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    WithJsonSchema,
    model_validator,
)

from mailwatch.analysis.maintenance import RecurrenceRule, check_rule
from mailwatch.analysis.recurrence import InvalidRuleError
from mailwatch.config.errors import ConfigProblem, FieldError, KeyPath
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.config.schema_targets import AccountSection, LoginSection, TargetSection
from mailwatch.config.types import (
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
    read_duration,
    split_endpoint,
)
from mailwatch.config.yaml_file import YamlDocument
from mailwatch.model import EventType
from mailwatch.net import is_loopback, is_web_address
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


_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_quiet_hours(text: str) -> tuple[int, int]:
    """Parse "22:00-07:00" to minutes after midnight. Raises FieldError."""
    found = _HOURS.fullmatch(text)
    if not found:
        raise FieldError('must be from-until of a day; write for example "22:00-07:00"')
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start == end:
        raise FieldError("begins when it ends; remove it, or correct it")
    return start, end


def _hours(text: str) -> str:
    parse_quiet_hours(text)
    return text


def _timezone(text: str) -> str:
    if text not in zoneinfo.available_timezones():
        raise FieldError("is not a time zone; write for example Europe/Rome")
    return text


def _wait(value: object) -> float:
    return 0.0 if value in ("0s", 0.0) else read_duration(value)


def _bounded_wait(seconds: float) -> float:
    if seconds > 600:
        raise FieldError("must be at most 10m")
    return seconds


Wait = Annotated[
    float,
    BeforeValidator(_wait),
    AfterValidator(_bounded_wait),
    PlainSerializer(lambda seconds: duration_text(seconds) if seconds else "0s", return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["0s", "10s"]}),
]
Secret = Annotated[str, Field(min_length=1, max_length=2000)]


class UrlSection(Section):
    """An address, usually secret: written here, in a file or in the environment."""

    url: Secret | None = None
    """The address itself."""
    url_file: FolderPath | None = None
    """A file whose first line is the address."""
    url_env: Variable | None = None
    """The environment variable that holds it."""

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        given = [way for way in ("url", "url_file", "url_env") if getattr(self, way) is not None]
        if not given:
            raise FieldError("has no address; add url, url_file: PATH or url_env")
        if len(given) > 1:
            raise FieldError(f"has {len(given)} addresses; keep one of {', '.join(given)}", given[1])
        return self


class NotifySection(UrlSection):
    """A notification channel: any address that Apprise supports."""

    on: Annotated[tuple[EventType, ...], Field(min_length=1)] = tuple(EventType)
    """Events to report: open, close, credentials, offline, certificate, disk, ledger, monitor."""
    lang: Literal["it", "en"] = "en"
    """The language of the messages."""
    quiet_hours: Annotated[Text, AfterValidator(_hours)] | None = None
    """No messages in these hours, such as "22:00-07:00"; they follow afterwards."""
    timezone: Annotated[Text, AfterValidator(_timezone)] = "UTC"
    """The time zone of the quiet hours and of the times in messages."""
    group: Wait = 10.0
    """How long to wait for more, so that ten targets down are one message; 0s sends each at once."""


class HeartbeatSection(UrlSection):
    """An external service that notices when MailWatch itself is dead, such as Healthchecks."""

    every: Seconds = 60.0
    """How often to send a heartbeat, as long as probing and recording work."""

    @model_validator(mode="after")
    def _http(self) -> Self:
        if self.url is not None and not is_web_address(self.url):
            raise FieldError("is not an http or https address; write for example https://hc.example.org/ID", "url")
        return self


HASH_PREFIX = "$argon2"


def check_hash(text: str) -> str:
    """Return an argon2id hash unchanged. Raises FieldError, whose text does not repeat the hash."""
    # Imported late: only users with a hash should wait for argon2.
    from argon2 import Type, extract_parameters
    from argon2.exceptions import InvalidHashError

    advice = "is not an argon2id hash; make one with: mailwatch config hash-password"
    try:
        parameters = extract_parameters(text)
    except (InvalidHashError, ValueError):
        raise FieldError(advice) from None
    if parameters.type is not Type.ID or not re.fullmatch(r"\$[\w$=,]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+", text):
        raise FieldError(advice)
    return text


def _hash(secret: SecretStr) -> SecretStr:
    check_hash(secret.get_secret_value())
    return secret


def _redacted_hash(secret: SecretStr | None) -> str | None:
    """Return the parameters of a hash only; salt and hash would allow offline guessing."""
    return None if secret is None else "$".join([*secret.get_secret_value().split("$")[:4], "..."])


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise FieldError("is not an address or a network; write for example 192.0.2.7 or 10.0.0.0/8") from None
    return text


def _flag(value: object) -> object:
    # The environment provides text.
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise FieldError("must be true or false, without quotes")
    return value


Flag = Annotated[bool, BeforeValidator(_flag)]
Network = Annotated[str, AfterValidator(_network)]


class WebSection(Section):
    """The status page, the API and /metrics."""

    listen: Endpoint = "127.0.0.1:8080"
    """Host and port. Beyond loopback, without a password, MailWatch shows only the public view."""
    public: Flag = False
    """Whether everyone may see states and outages, without names; the rest needs the password or the token."""
    password_file: FolderPath | None = None
    """A file whose first line is the password, or its argon2id hash; the user is `mailwatch`."""
    password_env: Variable | None = None
    """The environment variable that holds either."""
    password_hash: Annotated[
        SecretStr | None, Field(max_length=500), AfterValidator(lambda given: given and _hash(given)),
        PlainSerializer(_redacted_hash),
    ] = None  # fmt: skip
    """The argon2id hash itself, as `mailwatch config hash-password` makes it."""
    token_file: FolderPath | None = None
    """A file whose first line is a token for programs such as Prometheus (Authorization: Bearer)."""
    token_env: Variable | None = None
    """The environment variable that holds it."""
    hosts: Annotated[tuple[Host, ...], Field(max_length=100)] = ()
    """Names under which browsers reach the pages, such as those of a proxy."""
    trusted_proxies: Annotated[tuple[Network, ...], Field(max_length=100)] = ()
    """Proxies whose X-Forwarded-For MailWatch trusts."""
    trust_network: Flag = False
    """Whether all who reach the port may see everything: no password, as something else protects the port."""

    @property
    def host(self) -> str:
        """The address to listen on."""
        return split_endpoint(self.listen)[0]

    @property
    def port(self) -> int:
        """The port to listen on; 0 lets the system choose."""
        return split_endpoint(self.listen)[1]

    @property
    def requires_login(self) -> bool:
        """Whether a password or token is set, so that a login is possible."""
        ways = (self.password_file, self.password_env, self.password_hash, self.token_file, self.token_env)
        return any(way is not None for way in ways)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        passwords = [
            way for way in ("password_file", "password_env", "password_hash") if getattr(self, way) is not None
        ]
        if len(passwords) > 1:
            raise FieldError(f"has {len(passwords)} passwords; keep one of {', '.join(passwords)}", passwords[-1])
        if self.token_file and self.token_env:
            raise FieldError("has two tokens; keep one of token_file, token_env", "token_env")
        return self


class VantagePointSection(Section):
    """The place of observation; part of every record."""

    name: Label
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
    """Limits on simultaneous work."""

    max_concurrent: Count = 200
    """Probes at the same time."""


class DetectionSection(Section):
    """How failed checks become an outage."""

    open_after: Count = 3
    """Failed checks in a row that open an outage."""
    close_after: Count = 2
    """Successful checks in a row that close it."""
    recheck: Annotated[tuple[Seconds, ...], Field(max_length=20)] = (5.0, 10.0, 20.0)
    """Waits between the rechecks after a change, which make both bounds of an outage tight."""


class ControlSection(Section):
    """A control server that shows whether our line works. A well-known address needs nothing else."""

    address: Endpoint
    """Host and port."""
    name: Host | Literal[""] = ""
    """The name its certificate must have; without a name, a connection to an unknown address is enough."""
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
        raise FieldError("must be host:port, or a mapping with address, name and ca_file")
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
    """How MailWatch finds out whether our own line works when a target fails."""

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
    """Servers of several operators, over IPv4 and IPv6; if none answers, we are offline."""
    timeout: Seconds = 3.0
    """How long to wait for an answer."""
    port25_controls: tuple[Host, ...] = (
        "gmail-smtp-in.l.google.com",
        "mx01.mail.icloud.com",
        "in1-smtp.messagingengine.com",
        "mail.protonmail.ch",
    )
    """mx: servers that should greet on port 25, asked when a domain does not; an empty list asks none."""


class ClockSection(Section):
    """Where MailWatch asks every hour how far our clock is off, besides the kernel."""

    servers: tuple[Endpoint, ...] = (
        "time.cloudflare.com:123",
        "ntp1.inrim.it:123",
        "ntp2.inrim.it:123",
        "time.google.com:123",
    )
    """SNTP servers of several operators; an empty list asks none."""


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


def _guard(value: object) -> object:
    if value == "off":
        return None
    if not isinstance(value, dict | GuardSection):
        raise FieldError("must be the word off, or a mapping with controls and timeout")
    return value


def _sqlite(value: object) -> object:
    # The value may contain a password, so it is not repeated.
    if isinstance(value, str) and value.startswith("postgres"):
        raise FieldError("this version does not support postgresql yet; write sqlite")
    if value != "sqlite":
        raise FieldError("is not a known database; write sqlite")
    return value


class Config(Section):
    """The whole of config.yaml."""

    vantage_point: VantagePointSection
    """The place of observation."""
    data_dir: FolderPath = Field(default=Path("data"), validate_default=True)
    """Keys and the SQLite file; one process at a time."""
    database: Annotated[Literal["sqlite"], BeforeValidator(_sqlite)] = "sqlite"
    """Where records are kept; only sqlite in this version."""
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
        PlainSerializer(lambda guard: "off" if guard is None else guard.model_dump(mode="json")),
        WithJsonSchema({"anyOf": [{"const": "off"}, GuardSection.model_json_schema()]}),
    ] = GuardSection()
    """How MailWatch finds out whether our own line works; the word off disables it."""
    clock: ClockSection = ClockSection()
    """Where MailWatch asks how far our clock is off."""
    maintenance: Annotated[tuple[MaintenanceSection, ...], Field(max_length=MAX_RULES)] = ()
    """Announced maintenance, left out of the availability."""
    timestamps: tuple[TimestampSection, ...] = ()
    """External authorities that timestamp the ledger; several are better than one."""
    signing: SigningSection | None = None
    """The owner's key that signs report.pdf."""
    claims: tuple[ClaimSection, ...] = ()
    """Your contracts, for the report and the letter of complaint."""
    notify: tuple[NotifySection, ...] = ()
    """Who gets messages, and how."""
    heartbeat: HeartbeatSection | None = None
    """A service that notices when MailWatch itself is dead."""

    _document: YamlDocument | None = PrivateAttr(default=None)

    def attach(self, document: YamlDocument) -> None:
        """Store the file of this config, which gives later problems their lines."""
        self._document = document

    @property
    def folder(self) -> Path:
        """The folder of the config file, else the working directory."""
        return self._document.path.absolute().parent if self._document else Path.cwd()

    def problem(self, place: KeyPath, what: str) -> ConfigProblem:
        """Return a problem at a place of the config file."""
        return self._document.problem(place, what) if self._document else ConfigProblem(Path("config"), 1, what)
