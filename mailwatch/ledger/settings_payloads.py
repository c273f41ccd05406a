"""How the settings of a target and the rules of judgement are written in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict, cast

from mailwatch.model import (
    Kind,
    Rules,
    TargetSettings,
    TlsMode,
)
from mailwatch.times import Millis


class RulesPayload(TypedDict):
    """Outage rules in a payload (`Rules`)."""

    open_after: int
    close_after: int
    recheck_ms: list[Millis]


class SettingsPayload(TypedDict):
    """A target's settings in a payload (`TargetSettings`)."""

    kind: str
    provider: str
    host: str
    port: int
    tls: str
    interval: Millis
    timeout: Millis
    catalogue: bool
    own_ca: bool
    rules: RulesPayload
    login: NotRequired[str]
    login_name: NotRequired[str]
    task: NotRequired[str]


def rules_payload(rules: Rules) -> RulesPayload:
    """Return rules as a payload."""
    recheck = [round(seconds * 1000) for seconds in rules.recheck]
    return {"open_after": rules.open_after, "close_after": rules.close_after, "recheck_ms": recheck}


def rules_from(payload: Mapping[str, object]) -> Rules:
    """Parse the output of `rules_payload`. Raises KeyError, TypeError or ValueError for anything else."""
    written = cast(RulesPayload, payload)
    recheck = tuple(int(millis) / 1000 for millis in written["recheck_ms"])
    return Rules(int(written["open_after"]), int(written["close_after"]), recheck)


def rules_on_record(node: Mapping[str, object]) -> Rules | None:
    """Return the rules that a node entry puts in force, None if it has none.

    Raises KeyError, TypeError or ValueError for malformed rules.
    """
    return rules_from(cast(RulesPayload, node["rules"])) if "rules" in node else None


def settings_payload(settings: TargetSettings) -> SettingsPayload:
    """Return a target's settings as a payload."""
    written: SettingsPayload = {
        "kind": settings.kind.value,
        "provider": settings.provider,
        "host": settings.host,
        "port": settings.port,
        "tls": settings.tls.value,
        "interval": settings.interval,
        "timeout": settings.timeout,
        "catalogue": settings.catalogue,
        "own_ca": settings.own_ca,
        "rules": rules_payload(settings.rules),
    }
    if settings.login:
        written["login"] = settings.login
    if settings.login_name:
        written["login_name"] = settings.login_name
    if settings.task:
        written["task"] = settings.task
    return written


def settings_from(written: SettingsPayload) -> TargetSettings:
    """Parse the output of `settings_payload`. Raises KeyError, TypeError or ValueError for anything else."""
    numbers = [written["port"], written["interval"], written["timeout"]]
    if any(type(number) is not int or number < 0 for number in numbers) or written["interval"] == 0:
        raise TypeError("port, interval and timeout are not whole numbers")
    if any(not isinstance(text, str) for text in (written["provider"], written["host"])):
        raise TypeError("provider and host are not text")
    if any(not isinstance(flag, bool) for flag in (written["catalogue"], written["own_ca"])):
        raise TypeError("catalogue and own_ca are not true or false")
    return TargetSettings(
        kind=Kind(written["kind"]),
        provider=written["provider"],
        host=written["host"],
        port=written["port"],
        tls=TlsMode(written["tls"]),
        interval=written["interval"],
        timeout=written["timeout"],
        catalogue=written["catalogue"],
        own_ca=written["own_ca"],
        login=str(written.get("login", "")),
        task=str(written.get("task", "")),
        rules=rules_from(written["rules"]),
        login_name=str(written.get("login_name", "")),
    )
