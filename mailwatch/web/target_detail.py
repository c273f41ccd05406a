"""The data of the page of one target, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mailwatch.analysis.rolling_availability import AvailabilityRatio
from mailwatch.analysis.target_json import CertificateJson, SettingsJson, WindowSharesJson
from mailwatch.store.pruning import PrunedTime
from mailwatch.times import Millis, Window, rfc3339, rfc3339_or_none
from mailwatch.web.public_shapes import PublicOutageJson, PublicTargetJson


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredSettings:
    """What is configured for a target; never a secret. `interval` and `timeout` in seconds."""

    host: str
    port: int
    tls: str
    interval: float
    timeout: float
    has_login: bool
    own_ca: bool = False
    page: str = ""
    """The page of a webmail target, without its query."""
    ends: tuple[str, ...] = ()
    """The servers of a round trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCertificate:
    """The certificate of the latest observation with TLS. `issuer` and `names` are empty where not known."""

    at: Millis
    not_after: Millis | None
    fingerprint: str
    version: str
    cipher: str
    issuer: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDetail:
    """A target, watched or on record only; what is not public is empty in the public view."""

    target: PublicTargetJson
    is_watched: bool
    since: Millis | None = None
    """When its present state began; None where that is not on record."""
    first_seen: Millis | None = None
    """When its first observation began."""
    last_seen: Millis | None = None
    """When its latest observation began."""
    phases: Mapping[str, float]
    """Seconds in each phase of the latest observation."""
    ratios: Mapping[str, AvailabilityRatio]
    """Availability by window: 24h, 7d, 30d, 90d; empty while the ledger is being read, or if it is not watched."""
    outages: Sequence[PublicOutageJson] = ()
    """The latest on record, newest first."""
    more_outages: int = 0
    """The number of older outages on record."""
    settings: ConfiguredSettings | None = None
    certificate: SeenCertificate | None = None
    maintenance: Sequence[Window] = ()
    """Announced windows from now to seven days ahead."""
    detail: str = ""
    """What the latest observation says in words."""
    pruned: PrunedTime | None = None
    """Up to when its observations were pruned; None if none was."""


def detail_json(detail: TargetDetail) -> Mapping[str, object]:
    """Return a target in the JSON of the API: `TargetDetailJson`, of a public view the keys that it has."""
    return {
        **detail.target,
        "since": rfc3339_or_none(detail.since),
        "watched": detail.is_watched,
        "phases": dict(detail.phases),
        "availability": {window: _shares_json(ratio) for window, ratio in detail.ratios.items()},
        "settings": _settings_json(detail.settings),
        "certificate": _certificate_json(detail.certificate),
        "maintenance": [{"from": rfc3339(start), "to": rfc3339(end)} for start, end in detail.maintenance],
    }


def _shares_json(ratio: AvailabilityRatio) -> WindowSharesJson:
    return {"availability": {"lower": ratio.lower, "upper": ratio.upper}, "coverage": ratio.coverage}


def _settings_json(settings: ConfiguredSettings | None) -> SettingsJson | None:
    if settings is None:
        return None
    return {
        "host": settings.host,
        "port": settings.port,
        "tls": settings.tls,
        "interval": settings.interval,
        "timeout": settings.timeout,
        "login": settings.has_login,
    }


def _certificate_json(seen: SeenCertificate | None) -> CertificateJson | None:
    if seen is None:
        return None
    return {
        "seen": rfc3339(seen.at),
        "not_after": rfc3339_or_none(seen.not_after),
        "issuer": seen.issuer,
        "names": list(seen.names),
        "fingerprint": seen.fingerprint,
        "version": seen.version,
        "cipher": seen.cipher,
    }
