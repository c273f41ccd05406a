"""The sections of config.yaml about our own line and clock: which hosts to ask."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
)

from mailwatch.config.errors import FieldError
from mailwatch.config.types import (
    Endpoint,
    FolderPath,
    Host,
    Seconds,
    Section,
    SectionOr,
    split_endpoint,
)


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


def _control_written(control: ControlSection) -> str | dict[str, object]:
    written = control.model_dump(mode="json", exclude_defaults=True)
    return control.address if len(written) == 1 else written


ControlEntry = Annotated[
    ControlSection,
    BeforeValidator(_control),
    PlainSerializer(_control_written),
    SectionOr(ControlSection, {"type": "string"}),
]


def _not_often(seconds: float) -> float:
    if seconds < 60:
        raise FieldError("must be at least 1m")
    return seconds


class PublicAddressSection(Section):
    """Which server MailWatch asks for our own public address, as a provider sees it."""

    stun: Endpoint
    """A STUN server: host and port, often 3478. It sees our public address, with each request."""
    every: Annotated[Seconds, AfterValidator(_not_often)] = 3600.0
    """How often the address is recorded at least; a new address, and one during an outage, is recorded sooner."""


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
    public_address: Annotated[
        PublicAddressSection | None,
        SectionOr(PublicAddressSection, {"type": "null"}, first=False),
    ] = None
    """Records our public address, by which a provider finds us in its logs; by default it is not asked for."""


class ClockSection(Section):
    """Where MailWatch asks every hour how far our clock is off, besides the kernel."""

    servers: tuple[Endpoint, ...] = (
        "time.cloudflare.com:123",
        "ntp1.inrim.it:123",
        "ntp2.inrim.it:123",
        "time.google.com:123",
    )
    """SNTP servers of several operators; an empty list asks none."""
