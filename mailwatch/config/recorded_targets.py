"""The settings of a target as recorded, and the error for an unknown target name. Pure.

A name stands for the same target while `TargetSettings.service` stays the same: kind, host, port, login name and
task. If it changes, the old target's record ends and a new one begins.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
from collections.abc import Iterable, Iterator

from mailwatch.config import catalogue
from mailwatch.ledger.entry import login_id, login_name_commitment, login_name_key
from mailwatch.ledger.settings_payloads import rules_from, rules_payload
from mailwatch.model import PAUSED, RESUMED, Kind, Rules, TargetChange, TargetEvent, TargetSettings
from mailwatch.settings import Login, MxTask, RoundtripTask, Target, WebmailTask

START, RELOAD, DAILY, REMOVED, REPLACED = "start", "reload", "daily", "removed", "replaced"
"""The reasons for writing an entry."""
TargetStep = tuple[TargetEvent, TargetSettings, str]
"""An event, the settings in force from then on (at END: until then), and the reason."""

MAX_NAMED = 10
IN_ALL = ", in the config or on record"
SEE_CONFIG = "`mailwatch config show` lists the targets of the config"
SEE_API = "GET /api/v1/targets lists the monitored targets"


class UnknownTargetError(LookupError):
    """No target of that name exists; the message suggests the most similar names, or lists all.

    `where` says where it was searched, `see` where to find more than ten names.
    """

    def __init__(self, name: str, known: Iterable[str], *, where: str = IN_ALL, see: str = SEE_CONFIG) -> None:
        names = sorted(set(known))
        if near := difflib.get_close_matches(name, names, n=3, cutoff=0.5):
            advice = f"is it {' or '.join(near)}?"
        elif len(names) > MAX_NAMED:
            advice = f"there are {len(names)}, {see}"
        elif names:
            advice = f"there {'are' if names[1:] else 'is only'} {', '.join(names)}"
        else:
            advice = "there is none yet"
        super().__init__(f"there is no target {name[:100]!r}{where}; {advice}")


def recorded_settings(target: Target, rules: Rules, secret: bytes) -> TargetSettings:
    """Return the settings of a target as recorded. `secret` is the ledger's, for the keyed digests."""
    login = target.task.to.login if isinstance(target.task, RoundtripTask) else target.login
    return TargetSettings(
        kind=target.kind,
        provider=target.provider,
        host=target.host,
        port=target.port,
        tls=target.tls,
        interval=max(1, round(target.interval * 1000)),
        timeout=round(target.timeout * 1000),
        catalogue=_is_catalogue_server(target),
        own_ca=any(end.ca_file is not None for end in (target, *target.endpoints)),
        login=_login(secret, login),
        task=_task(secret, target.task),
        # As they are read back; else values that the record cannot distinguish would be a change at each start.
        rules=rules_from(rules_payload(rules)),
        login_name=_commitment(secret, login),
    )


def change_reason(reason: str, *, paused: bool, was_paused: bool) -> str:
    """Return the reason to record of a change: a pause, or its end, says more than the occasion."""
    return PAUSED if paused else RESUMED if was_paused else reason


def target_steps(
    latest: TargetChange | None, on_record: bool, settings: TargetSettings, reason: str
) -> Iterator[TargetStep]:
    """Yield the events of a target in the config, given the latest change on record.

    `on_record`: whether the record has entries of it. A record from before 2026-11 has no such changes: there the
    target was watched all along, and continues.
    """
    if latest is None:
        yield (TargetEvent.CONTINUE if on_record else TargetEvent.BEGIN), settings, reason
    elif latest.event is TargetEvent.END:
        yield TargetEvent.BEGIN, settings, reason
    elif latest.settings == settings:
        yield TargetEvent.CONTINUE, settings, reason
    elif latest.settings.service == settings.service:
        yield TargetEvent.CHANGE, settings, reason
    else:
        yield TargetEvent.END, latest.settings, REPLACED
        yield TargetEvent.BEGIN, settings, reason


def renewed_steps(steps: Iterable[TargetStep], latest: TargetSettings) -> Iterator[TargetStep]:
    """Yield the events of a target that is resumed after failures that opened no outage: its state is forgotten.

    Else a failure before the pause and one after it would be an outage that surely lasted as long as the pause.
    Versions up to 0.2.0 replay an end and a begin to the same.
    """
    for event, settings, reason in steps:
        if event in (TargetEvent.CONTINUE, TargetEvent.CHANGE):
            yield TargetEvent.END, latest, reason
            yield TargetEvent.BEGIN, settings, reason
        else:
            yield event, settings, reason


def _is_catalogue_server(target: Target) -> bool:
    """Return whether the catalogue has the host for that provider and kind; for mx targets, the domain."""
    provider = catalogue.by_key(target.provider) if target.provider else None
    if provider is None:
        return False
    if isinstance(target.task, RoundtripTask):
        return all(_is_catalogue_server(end) for end in target.endpoints)
    host = target.host.lower().rstrip(".")
    if target.kind is Kind.MX:
        return host in provider.domains
    return any(server.kind is target.kind and server.host.lower() == host for server in provider.servers)


def _login(secret: bytes, login: Login | None) -> str:
    return "" if login is None else login_id(secret, login.username)


def _commitment(secret: bytes, login: Login | None) -> str:
    if login is None:
        return ""
    return login_name_commitment(login_name_key(secret, login.username), login.username)


def _task(secret: bytes, task: MxTask | WebmailTask | RoundtripTask | None) -> str:
    """Return a digest of the task: 16 hex digits that only the holder of the ledger's secret can compute."""
    match task:
        case None:
            return ""
        case MxTask():
            parts = ["mx", task.recipient, task.sender]
        case WebmailTask():
            parts = ["webmail", task.url]
        case RoundtripTask():
            parts = ["roundtrip", task.sender, task.recipient]
            for end in (task.via, task.to):
                parts += [end.host.lower().rstrip("."), str(end.port), _login(secret, end.login)]
    text = "task\0" + "\0".join(parts)
    return hmac.new(secret, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:16]
