"""A reload changes all that it can, says what waits for the next start, and leaves nothing of the old config."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import logging
import re
import signal
import typing
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from starlette.types import ASGIApp

from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.config import Config, WebAccess, load
from mailwatch.config.recorded_targets import recorded_settings
from mailwatch.config.targets import resolved_targets
from mailwatch.metrics import Metrics
from mailwatch.monitor.build import RESTART_ONLY_KEYS
from mailwatch.monitor.enrolment import apply_settings
from mailwatch.monitor.service import Service
from mailwatch.monitor.startup import Startup
from mailwatch.times import now
from tests.helpers.paths import ROOT
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.process import MailWatchProcess
from tests.helpers.webhook import Webhook
from tests.servers import free_port

DOC = ROOT / "docs" / "reference" / "reload.md"
REFUSED = re.compile(r"database(\..*)?|timestamps\[\]\.login\.oauth2\..*")
"""Keys that have only one value here, or none. tests/e2e/test_postgresql.py has another database."""
IN_USE = ("signing", "claims")
"""Read when they are used, from the file as it is then."""


def models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models(inner)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of the config, with its path."""
    for name, key in model.model_fields.items():
        inner = list(dict.fromkeys(models(key.annotation)))
        many = "[]" if "tuple" in str(key.annotation) else ""
        if not inner:
            yield prefix + name
        for section in inner:
            yield from keys(section, f"{prefix}{name}{many}.")


ALL = list(dict.fromkeys(keys(Config)))
HASHES = [PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(word) for word in ("one", "other")]
ENDPOINTS = {
    "client_id": "me",
    "authorization_endpoint": "https://login.example/a",
    "token_endpoint": "https://login.example/t",
    "scope": "mail",
}


def target(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "imap", "host": "mail.example", "provider": "lab", **more}


WITNESS_KEY = "mailwatch-witness/4c58a042095f0d47+6e930214+BOjCEHV3UUlzlx2fCfFKtQ6uSVc8Y86JnxmKdvZunMBS"
HUB_KEY = "mailwatch/1faafa4917e1772d+9b38ef83+AVSw2B0Pp9AOSn1gDfq6bysiA1si/jNeF+31+apbsFB0"
LOG_KEY = "mailwatch/f9994a23a489c953+918209ba+AeQsJQEKXmuVcv3HuHOoxKsSx13K8E7g+GA4uLJ8gP43"

BASE: dict[str, Any] = {
    "vantage_point": {"name": "home", "place": "here"},
    "data_dir": "data",
    "database": "sqlite",
    "web": {"listen": "127.0.0.1:0", "password_file": "secret-a", "token_file": "token-a"},
    "limits": {"max_concurrent": 20},
    "defaults": {"interval": "60s", "timeout": "30s", "helo_name": "one.example"},
    "accounts": [
        {"address": "mario@libero.it", "channels": ["imap"], "password_file": "secret-a"},
        {"address": "anna@gmail.com", "channels": ["imap"], "oauth2": {"provider": "google", "client_id": "me"}},
        {"address": "luigi@gmail.com", "channels": ["imap"], "oauth2": ENDPOINTS},
    ],
    "targets": [
        target("imap", login={"username": "m@lab.example", "password_file": "secret-a"}),
        target("smtp", kind="smtp", login={"username": "m@lab.example", "password_file": "secret-a"}),
        target("web", kind="webmail", url="https://web.example/", host=None),
        target("mx", kind="mx", host="lab.example"),
        target("trip", kind="roundtrip", via="smtp", to="imap", host=None),
        target("google", login={"username": "g@lab.example", "oauth2": {"provider": "google", "client_id": "me"}}),
        target("oauth", login={"username": "o@lab.example", "oauth2": ENDPOINTS}),
    ],
    "detection": {"open_after": 3},
    "guard": {"controls": ["192.0.2.1:443"], "timeout": "2s"},
    "clock": {"servers": []},
    "maintenance": [
        {"name": "nightly", "cron": "0 3 * * *", "duration": "1h", "timezone": "UTC", "targets": ["imap"]},
        {"name": "once", "start": "2030-01-01T10:00", "end": "2030-01-01T12:00", "timezone": "UTC"},
        {"name": "weekly", "rrule": "FREQ=WEEKLY", "start": "2030-01-01T10:00", "duration": "1h",
         "timezone": "UTC", "providers": ["lab"]},
    ],
    "timestamps": [{"url": "https://tsa.example/", "login": {"username": "me", "password_file": "secret-a"}}],
    "signing": {"key_file": "key.pem"},
    "claims": [
        {"provider": "lab", "holder": {"name": "Mario"}, "fee": {"amount": "1.00", "period": "year"},
         "notified": [{"date": "2026-01-01", "means": "PEC"}]}
    ],
    "notify": [{"url": "json://127.0.0.1:1/a"}],
    "heartbeat": {"url": "http://127.0.0.1:1/a"},
    "backup": {"to": "backups"},
    "retention": {"keep": "400d"},
    "witness": {},
    "hub": {"url": "http://127.0.0.1:1/", "key": HUB_KEY, "send": "checkpoints"},
}  # fmt: skip
for section in BASE["targets"]:
    if section["host"] is None:
        del section["host"]


Edits = dict[str, Any]


def oauth2(place: str, named: str, written: str) -> dict[str, tuple[Edits, Edits]]:
    """Changes of each key of a section oauth2; `named` has a provider, `written` its endpoints."""
    return {
        f"{place}.provider": ({}, {f"{named}.provider": "microsoft"}),
        f"{place}.client_id": ({}, {f"{named}.client_id": "other"}),
        f"{place}.client_secret_file": ({}, {f"{named}.client_secret_file": "secret-a"}),
        f"{place}.client_secret_env": ({}, {f"{named}.client_secret_env": "SECRET_A"}),
        f"{place}.scope": ({}, {f"{written}.scope": "other"}),
        f"{place}.authorization_endpoint": ({}, {f"{written}.authorization_endpoint": "https://b.example/a"}),
        f"{place}.token_endpoint": ({}, {f"{written}.token_endpoint": "https://b.example/t"}),
        f"{place}.device_endpoint": ({}, {f"{written}.device_endpoint": "https://b.example/d"}),
        f"{place}.ca_file": ({}, {f"{written}.ca_file": "ca-a.pem"}),
    }


def password(place: str, here: str) -> dict[str, tuple[Edits, Edits]]:
    """Changes of each way in which a password is given."""
    return {
        f"{place}.password_file": ({}, {f"{here}.password_file": "secret-b"}),
        f"{place}.password_env": ({}, {f"{here}.password_file": None, f"{here}.password_env": "SECRET_B"}),
        f"{place}.password_command": (
            {},
            {f"{here}.password_file": None, f"{here}.password_command": ["echo", "by command"]},
        ),
    }


def address(place: str, here: str, scheme: str) -> dict[str, tuple[Edits, Edits]]:
    """Changes of each way in which a secret address is given."""
    return {
        f"{place}.url": ({}, {f"{here}.url": f"{scheme}://127.0.0.1:1/b"}),
        f"{place}.url_file": ({}, {f"{here}.url": None, f"{here}.url_file": f"url-{scheme}"}),
        f"{place}.url_env": ({}, {f"{here}.url": None, f"{here}.url_env": f"URL_{scheme.upper()}"}),
    }


CHANGES: dict[str, tuple[Edits, Edits]] = {
    "vantage_point.name": ({}, {"vantage_point.name": "away"}),
    "vantage_point.place": ({}, {"vantage_point.place": "there"}),
    "timezone": ({}, {"timezone": "Asia/Kolkata"}),
    "data_dir": ({}, {"data_dir": "elsewhere"}),
    "web.listen": ({}, {"web.listen": "127.0.0.1:1"}),
    "web.metrics_listen": ({}, {"web.metrics_listen": "127.0.0.1:2"}),
    "web.public": ({}, {"web.public": True}),
    "web.password_file": ({}, {"web.password_file": "secret-b"}),
    "web.password_env": ({}, {"web.password_file": None, "web.password_env": "SECRET_B"}),
    "web.password_hash": (
        {"web.password_file": None, "web.password_hash": HASHES[0]},
        {"web.password_file": None, "web.password_hash": HASHES[1]},
    ),
    "web.token_file": ({}, {"web.token_file": "token-b"}),
    "web.token_env": ({}, {"web.token_file": None, "web.token_env": "TOKEN_B"}),
    "web.hosts": ({}, {"web.hosts": ["mail.example"]}),
    "web.trusted_proxies": ({}, {"web.trusted_proxies": ["192.0.2.0/24"]}),
    "web.trust_network": ({}, {"web.trust_network": True}),
    "web.url": ({}, {"web.url": "https://status.example"}),
    "web.title": ({}, {"web.title": "Mail"}),
    "web.text": ({}, {"web.text": "Call us."}),
    "web.logo": ({}, {"web.logo": "logo.svg"}),
    "web.announcement": ({}, {"web.announcement": "On Sunday."}),
    "web.embed": ({}, {"web.embed": ["https://home.example"]}),
    "web.noindex": ({}, {"web.noindex": False}),
    "web.badges": ({}, {"web.badges": True}),
    "limits.max_concurrent": ({}, {"limits.max_concurrent": 7}),
    "limits.spool": ({}, {"limits.spool": "3 GB"}),
    "defaults.interval": ({}, {"defaults.interval": "90s"}),
    "defaults.timeout": ({}, {"defaults.timeout": "10s"}),
    "defaults.helo_name": ({}, {"defaults.helo_name": "two.example"}),
    **password("accounts[]", "accounts[0]"),
    **oauth2("accounts[].oauth2", "accounts[1].oauth2", "accounts[2].oauth2"),
    "accounts[].address": ({}, {"accounts[0].address": "carla@libero.it"}),
    "accounts[].provider": ({}, {"accounts[0].provider": "virgilio"}),
    "accounts[].channels": ({}, {"accounts[0].channels": ["imap", "smtp"]}),
    "accounts[].interval": ({}, {"accounts[0].interval": "5m"}),
    "accounts[].timeout": ({}, {"accounts[0].timeout": "5s"}),
    "accounts[].paused": ({}, {"accounts[0].paused": True}),
    "targets[].name": ({}, {"targets[2].name": "page"}),
    "targets[].kind": ({}, {"targets[5].kind": "pop3"}),
    "targets[].provider": ({}, {"targets[0].provider": "renamed"}),
    "targets[].host": ({}, {"targets[0].host": "other.example"}),
    "targets[].port": ({}, {"targets[0].port": 1993}),
    "targets[].tls": ({}, {"targets[0].tls": "starttls"}),
    "targets[].ca_file": ({}, {"targets[0].ca_file": "ca-a.pem"}),
    **password("targets[].login", "targets[0].login"),
    **oauth2("targets[].login.oauth2", "targets[5].login.oauth2", "targets[6].login.oauth2"),
    "targets[].login.username": ({}, {"targets[0].login.username": "n@lab.example"}),
    "targets[].interval": ({}, {"targets[0].interval": "2h"}),
    "targets[].timeout": ({}, {"targets[0].timeout": "5s"}),
    "targets[].paused": ({}, {"targets[0].paused": True}),
    "targets[].url": ({}, {"targets[2].url": "https://web.example/b"}),
    "targets[].contains": ({}, {"targets[2].contains": "welcome"}),
    "targets[].absent": ({}, {"targets[2].absent": "maintenance"}),
    "targets[].recipient": ({}, {"targets[3].recipient": "x@lab.example"}),
    "targets[].sender": ({}, {"targets[3].sender": "y@lab.example"}),
    "targets[].via": (
        {
            "targets[7]": target(
                "smtp2", kind="smtp", login={"username": "m@lab.example", "password_file": "secret-a"}
            )
        },
        {
            "targets[7]": target(
                "smtp2", kind="smtp", login={"username": "m@lab.example", "password_file": "secret-a"}
            ),
            "targets[4].via": "smtp2",
        },
    ),
    "targets[].to": ({}, {"targets[4].to": "google", "targets[5].login.username": "g@lab.example"}),
    "targets[].deadline": ({}, {"targets[4].deadline": "2m"}),
    "detection.open_after": ({}, {"detection.open_after": 5}),
    "detection.close_after": ({}, {"detection.close_after": 5}),
    "detection.quorum": ({}, {"detection.quorum": 2}),
    "detection.recheck": ({}, {"detection.recheck": ["1s"]}),
    "guard.controls[].address": ({}, {"guard.controls": ["192.0.2.2:443"]}),
    "guard.controls[].name": ({}, {"guard.controls": [{"address": "192.0.2.1:443", "name": "a.example"}]}),
    "guard.controls[].ca_file": (
        {"guard.controls": [{"address": "192.0.2.1:443", "name": "a.example"}]},
        {"guard.controls": [{"address": "192.0.2.1:443", "name": "a.example", "ca_file": "ca-a.pem"}]},
    ),
    "guard.timeout": ({}, {"guard.timeout": "3s"}),
    "guard.port25_controls": ({}, {"guard.port25_controls": ["a.example"]}),
    "guard.public_address.stun": ({}, {"guard.public_address": {"stun": "127.0.0.1:1"}}),
    "guard.public_address.every": (
        {"guard.public_address": {"stun": "127.0.0.1:1"}},
        {"guard.public_address": {"stun": "127.0.0.1:1", "every": "2h"}},
    ),
    "clock.servers": ({}, {"clock.servers": ["127.0.0.1:123"]}),
    "maintenance[].name": ({}, {"maintenance[0].name": "daily"}),
    "maintenance[].targets": ({}, {"maintenance[0].targets": ["smtp"]}),
    "maintenance[].providers": ({}, {"maintenance[2].providers": ["gmail"]}),
    "maintenance[].rrule": ({}, {"maintenance[2].rrule": "FREQ=MONTHLY"}),
    "maintenance[].cron": ({}, {"maintenance[0].cron": "0 4 * * *"}),
    "maintenance[].start": ({}, {"maintenance[1].start": "2030-01-01T11:00"}),
    "maintenance[].end": ({}, {"maintenance[1].end": "2030-01-01T13:00"}),
    "maintenance[].duration": ({}, {"maintenance[0].duration": "2h"}),
    "maintenance[].timezone": ({}, {"maintenance[0].timezone": "Europe/Rome"}),
    "timestamps[].url": ({}, {"timestamps[0].url": "https://other.example/"}),
    "timestamps[].every": ({}, {"timestamps[0].every": "2h"}),
    "timestamps[].ca_file": ({}, {"timestamps[0].ca_file": "ca-a.pem"}),
    **password("timestamps[].login", "timestamps[0].login"),
    "timestamps[].login.username": ({}, {"timestamps[0].login.username": "you"}),
    "witnesses[].url": (
        {"witnesses": [{"url": "http://192.0.2.1:9743", "key": WITNESS_KEY}]},
        {"witnesses": [{"url": "http://192.0.2.2:9743", "key": WITNESS_KEY}]},
    ),
    "witnesses[].key": ({}, {"witnesses": [{"url": "http://192.0.2.1:9743", "key": WITNESS_KEY}]}),
    "witness.listen": ({}, {"witness.listen": "127.0.0.1:3"}),
    "hub.url": ({}, {"hub.url": "http://127.0.0.1:2/"}),
    "hub.key": ({}, {"hub.key": LOG_KEY}),
    "hub.send": ({}, {"hub.send": "all"}),
    "hub.every": ({}, {"hub.every": "20s"}),
    "hub_server.listen": ({}, {"hub_server": {"listen": "127.0.0.1:3"}}),
    "witness.logs": ({}, {"witness.logs": [LOG_KEY]}),
    "signing.key_file": ({}, {"signing.key_file": "other.pem"}),
    "signing.certificate_file": ({}, {"signing.certificate_file": "cert.pem"}),
    "signing.password_file": ({}, {"signing.password_file": "secret-a"}),
    "signing.password_env": ({}, {"signing.password_env": "SECRET_A"}),
    "signing.timestamp": ({}, {"signing.timestamp": False}),
    "claims[].targets": ({}, {"claims[0].targets": ["imap"]}),
    "claims[].accounts": ({}, {"claims[0].accounts": ["mario@libero.it"]}),
    "claims[].provider": ({}, {"claims[0].provider": "libero"}),
    "claims[].holder.name": ({}, {"claims[0].holder.name": "Anna"}),
    "claims[].holder.tax_code": ({}, {"claims[0].holder.tax_code": "X"}),
    "claims[].holder.address": ({}, {"claims[0].holder.address": "Roma"}),
    "claims[].holder.email": ({}, {"claims[0].holder.email": "a@b.example"}),
    "claims[].holder.pec": ({}, {"claims[0].holder.pec": "a@pec.example"}),
    "claims[].plan": ({}, {"claims[0].plan": "free"}),
    "claims[].contract_number": ({}, {"claims[0].contract_number": "7"}),
    "claims[].fee.amount": ({}, {"claims[0].fee.amount": "2.00"}),
    "claims[].fee.currency": ({}, {"claims[0].fee.currency": "USD"}),
    "claims[].fee.period": ({}, {"claims[0].fee.period": "month"}),
    "claims[].since": ({}, {"claims[0].since": "2025-01-01"}),
    "claims[].sla": ({}, {"claims[0].sla": "pec"}),
    "claims[].notified[].date": ({}, {"claims[0].notified[0].date": "2026-01-02"}),
    "claims[].notified[].means": ({}, {"claims[0].notified[0].means": "letter"}),
    "claims[].notified[].to": ({}, {"claims[0].notified[0].to": "office"}),
    "claims[].notified[].reference": ({}, {"claims[0].notified[0].reference": "7"}),
    "claims[].notified[].answer": ({}, {"claims[0].notified[0].answer": "no"}),
    **address("notify[]", "notify[0]", "json"),
    "notify[].name": ({}, {"notify[0].name": "telephone"}),
    "notify[].on": ({}, {"notify[0].on": ["open"]}),
    "notify[].lang": ({}, {"notify[0].lang": "it"}),
    "notify[].quiet_hours": ({}, {"notify[0].quiet_hours": "22:00-07:00"}),
    "notify[].timezone": ({}, {"notify[0].timezone": "Europe/Rome"}),
    "notify[].group": ({}, {"notify[0].group": "20s"}),
    "notify[].remind": ({}, {"notify[0].remind": "1d"}),
    **address("heartbeat", "heartbeat", "http"),
    "heartbeat.every": ({}, {"heartbeat.every": "2m"}),
    "backup.to": ({}, {"backup.to": "elsewhere"}),
    "backup.every": ({}, {"backup.every": "2d"}),
    "backup.keep": ({}, {"backup.keep": 2}),
    "retention.rows": ({}, {"retention.rows": "8d"}),
    "retention.keep": ({}, {"retention.keep": "off"}),
}
"""For each key two configs that differ in it: what is edited in BASE before, and after; None removes a key."""


def edited(edits: Edits) -> dict[str, Any]:
    """BASE with some places changed."""
    made = copy.deepcopy(BASE)
    for place, value in edits.items():
        *path, last = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", place)]
        here: Any = made
        for part in path:
            here = here[part]
        if value is None:
            del here[last]
        elif isinstance(last, int) and last == len(here):
            here.append(value)
        else:
            here[last] = value
    return made


@dataclass
class Running:
    """A MailWatch in this process that probes nothing: what a reload makes of it is what is asked."""

    path: Path
    service: Service
    made_for: list[WebAccess] = field(default_factory=list)

    async def reload(self, settings: dict[str, Any]) -> None:
        self.path.write_text(json.dumps(settings))
        await self.service.reload()

    def in_force(self) -> dict[str, Any]:
        """All that runs by the config, from where it is used."""
        service, monitor = self.service, self.service.monitor
        guard, port25 = monitor.attribution.guard, monitor.attribution.port25
        assert guard is not None
        assert port25 is not None
        assert monitor.attribution.expiry._guard is guard
        assert service.cosigner is not None
        return {
            "targets": {runtime.target.name: runtime.target for runtime in monitor.targets.values()},
            "on record": {runtime.target.name: runtime.settings for runtime in monitor.targets.values()},
            "intervals": {name: trigger.interval for name, trigger in monitor.schedule._triggers.items()},
            "shown": {
                record.name: (record.labels, record.interval) for record in monitor.metrics._records.values()
            },
            "limit": monitor.runner._limit,
            "spool": monitor.spooler and monitor.spooler._spool.most,
            "guard": (guard._controls, guard._timeout, port25._controls),
            "public address": service.addresses.section and service.addresses.section.public_address,
            "time servers": (service._housekeeping._time_servers, monitor.attribution.expiry._servers),
            "maintenance": monitor.maintenance.announced.announcements[-1].rules,
            "authorities": service.timestamping._authorities,
            "witnesses": dict(service.witnessing._witnesses),
            "cosigned": set(service.cosigner._logs),
            "hub": service.hub_pusher._hub,
            "every": monitor.metrics._token_interval,
            "channels": service.notifier._channels,
            "counted": set(monitor.metrics._notifications),
            "heartbeat": service._heartbeat.settings,
            "access": self.made_for[-1],
            "rules": monitor.rules,
            "vantage point": monitor.vantage_point,
            "data_dir": service.config.data_dir,
            "listen": service.config.web.listen,
            "zone": service.config.zone(),
            "web": service.config.web,
            "paused": [section.paused for section, _ in resolved_targets(service.config)],
            "backup": service.config.backup,
            "retention": service.storage.retention,
        }


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr("mailwatch.store.writer.BATCH_SECONDS", 0.001)
    for name in "ab":
        monkeypatch.setenv(f"SECRET_{name.upper()}", f"from the environment {name}")
        monkeypatch.setenv(f"TOKEN_{name.upper()}", f"token from the environment {name}")
        (tmp_path / f"secret-{name}").write_text(f"secret {name}\n")
        (tmp_path / f"token-{name}").write_text(f"a token of sixteen or more {name}\n")
    for scheme in ("json", "http"):
        monkeypatch.setenv(f"URL_{scheme.upper()}", f"{scheme}://127.0.0.1:1/environment")
        (tmp_path / f"url-{scheme}").write_text(f"{scheme}://127.0.0.1:1/file\n")
    (tmp_path / "ca-a.pem").write_text(_certificate())
    (tmp_path / "logo.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    for named in ("key.pem", "other.pem", "cert.pem"):
        # That it is a key is seen by who signs with it.
        (tmp_path / named).write_text("a key\n")
    for made in tmp_path.iterdir():
        made.chmod(0o600)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(BASE))
    async with contextlib.AsyncExitStack() as undo:
        start = Startup(path, load(path), Metrics(CollectorRegistry()), undo)
        service = await start.run()
        running = Running(path, service, [service.built_config.access])
        app_for = service.app_for
        assert app_for is not None
        # A file has none: it is made here, so that its limit is seen to change.
        await start._spool(service)

        def noted(access: WebAccess) -> ASGIApp:
            running.made_for.append(access)
            return app_for(access)

        service.app_for = noted
        yield running


def _certificate() -> str:
    """A PEM certificate of the system's, which any machine that runs these tests has."""
    import certifi

    text = Path(certifi.where()).read_text()
    begin = text.index("-----BEGIN")
    return text[begin : text.index("-----END") + 25] + "\n"


def test_each_key_of_the_config_is_changed_here_and_is_in_the_table_of_the_docs() -> None:
    tested = [key for key in ALL if not REFUSED.fullmatch(key)]
    assert sorted(CHANGES) == sorted(tested), (
        "a key of the config needs a change here, and a row in docs/reference/reload.md"
    )
    rows = dict(re.findall(r"^\| `([^`]+)` \| (at once|next start|when used) \|", DOC.read_text(), re.MULTILINE))
    for key in ALL:
        matching = [row for row in rows if key == row or key.startswith((f"{row}.", f"{row}[]"))]
        # The row that says most of it counts.
        assert matching, f"{key} is in no row of docs/reference/reload.md"
        assert rows[max(matching, key=len)] == effect(key), key
    assert [row for row in rows if not any(key.startswith(row) for key in ALL)] == []


def effect(key: str) -> str:
    if key.startswith(IN_USE):
        return "when used"
    waits = any(key == one or key.startswith(f"{one}.") for one in RESTART_ONLY_KEYS)
    return "next start" if waits else "at once"


PARTS = {
    "web": "access", "limits": "limit", "defaults": "targets", "accounts": "targets", "targets": "targets",
    "guard": "guard", "clock": "time servers", "maintenance": "maintenance", "timestamps": "authorities",
    "notify": "channels", "heartbeat": "heartbeat", "timezone": "zone", "backup": "backup",
    "retention": "retention", "witnesses": "witnesses", "witness": "cosigned", "hub": "hub",
}  # fmt: skip
"""Where each section of the config is seen to be in force."""
SHOWN = re.compile(r"web\.url")
SPOOL = re.compile(r"limits\.spool")
PAUSED = re.compile(r".*\.paused")


def part_of(key: str) -> str:
    """Where a key is seen to be in force."""
    if SHOWN.fullmatch(key):
        return "web"
    if SPOOL.fullmatch(key):
        return "spool"
    if key.startswith("guard.public_address."):
        return "public address"
    return "paused" if PAUSED.fullmatch(key) else PARTS[re.split(r"[.\[]", key)[0]]


FOLLOWS = {
    "access": {"web"},
    "zone": {"channels"},
    "targets": {"on record", "intervals", "shown", "maintenance", "paused"},
    "authorities": {"every"},
    "channels": {"counted"},
    "hub": {"cosigned"},
}
"""What may change with it."""


def rounds() -> Iterator[list[str]]:
    """All keys in as few reloads as can be: in each one a key of every part, so that each is seen by itself."""
    by_part: dict[str, list[str]] = {}
    for key in CHANGES:
        section = re.split(r"[.\[]", key)[0]
        by_part.setdefault(part_of(key) if effect(key) == "at once" else section, []).append(key)
    for together in itertools.zip_longest(*by_part.values()):
        yield [key for key in together if key is not None]


@pytest.mark.slow
async def test_each_key_takes_effect_as_the_table_says(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mailwatch.monitor.service")
    at_first, seen = running.in_force(), list[str]()
    for together in rounds():
        before: Edits = {}
        after: Edits = {}
        for key in together:
            before |= CHANGES[key][0]
            after |= CHANGES[key][1]
        await running.reload(edited(before))
        old = running.in_force()
        caplog.clear()
        await running.reload(edited(after))
        logged = [record.getMessage() for record in caplog.records]
        assert any("config reloaded" in line for line in logged), (together, logged)
        waits = [
            one
            for one in RESTART_ONLY_KEYS
            if any(effect(key) == "next start" and key.startswith(one) for key in together)
        ]
        assert [line for line in logged if "next start" in line] == [
            f"{one} changed: this takes effect at the next start" for one in waits
        ], together
        expected = {part_of(key) for key in together if effect(key) == "at once"}
        new = running.in_force()
        changed = {part for part in old if old[part] != new[part]}
        assert expected <= changed, together
        assert changed <= expected.union(*(FOLLOWS.get(part, set()) for part in expected)), together
        seen += together
    assert sorted(seen) == sorted(CHANGES)
    # Nothing is left of any of them.
    await running.reload(BASE)
    assert running.in_force() == at_first


SECRETS = {
    "web.password_file": "secret-web",
    "web.token_file": "token-web",
    "accounts[0].password_file": "secret-web",
    "targets[0].login.password_file": "secret-web",
    "targets[6].login.oauth2.client_secret_file": "secret-web",
    "timestamps[0].login.password_file": "secret-web",
    "notify[0].url_file": "notify-url",
    "heartbeat.url_file": "ping-url",
}


@pytest.mark.parametrize("place", SECRETS)
@pytest.mark.slow
async def test_secret_files_are_read_again_at_reload_and_a_missing_one_changes_nothing(
    running: Running, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    file = running.path.parent / SECRETS[place]
    texts = {
        "notify-url": ("json://127.0.0.1:1/one", "json://127.0.0.1:1/two"),
        "ping-url": ("http://127.0.0.1:1/one", "http://127.0.0.1:1/two"),
    }.get(SECRETS[place], ("canary, the first of the secrets", "canary, the second of the secrets"))
    file.write_text(texts[0])
    edits: dict[str, str | None] = {place: file.name}
    if place.endswith("url_file"):
        edits[place.removesuffix("_file")] = None
    await running.reload(edited(edits))
    first = running.in_force()
    file.write_text(texts[1])
    await running.reload(edited(edits))
    second = running.in_force()
    assert [part for part in first if first[part] != second[part]] != []
    file.unlink()
    caplog.clear()
    await running.reload(edited({**edits, "limits.max_concurrent": 3}))
    assert running.in_force() == second
    assert "the config was not reloaded" in caplog.text
    assert file.name in caplog.text
    assert "canary" not in caplog.text
    assert running.service.monitor.metrics._reload[0] == 0


async def test_settings_that_need_a_restart_are_logged_at_each_reload_until_then(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    changed = edited({"vantage_point.name": "away", "detection.open_after": 9, "data_dir": "elsewhere"})
    for _ in range(2):
        caplog.clear()
        await running.reload(changed)
        for key in ("vantage_point", "detection", "data_dir"):
            assert f"{key} changed: this takes effect at the next start" in caplog.text
    newest = next(running.service.reader.entries(kinds=["node"], descending=True)).payload
    assert newest["event"] == "reload"
    assert newest["vantage_point"] == "home"
    assert newest["rules"]["open_after"] == 3
    # The access that was granted lies where it lay.
    google = running.service.monitor.targets["google"].target
    assert google.login is not None
    assert google.login.oauth2 is not None
    assert google.login.oauth2.grant_file.is_relative_to(running.path.parent / "data")


async def test_the_certificates_of_a_file_are_read_anew(running: Running) -> None:
    trusting = edited({"targets[0].ca_file": "ca-a.pem"})
    await running.reload(trusting)
    runner, name = running.service.monitor.runner, BASE["targets"][0]["name"]
    before = runner._contexts.get(running.service.monitor.targets[name].target)
    await running.reload(trusting)
    assert runner._contexts.get(running.service.monitor.targets[name].target) is not before


async def test_the_guard_can_be_switched_off_and_on(running: Running) -> None:
    stop = asyncio.Event()
    judging = running.service.monitor.attribution
    async with running.service._housekeeping.running(stop.set):
        await running.reload(edited({"guard": "off"}))
        assert judging.guard is None
        assert judging.port25 is None
        while judging.line_check_wanted.is_set():
            await asyncio.sleep(0.01)
        await running.reload(BASE)
        assert judging.guard is not None
        while judging.line_check_wanted.is_set():
            await asyncio.sleep(0.01)
    assert not stop.is_set()


async def test_an_interval_that_grows_leaves_no_blind_days(tmp_path: Path) -> None:
    harness = PipelineHarness(tmp_path / "data")
    await harness.writer.start()
    await harness.greet()
    short = replace(harness.target, interval=0.01)
    harness.runtime.settings = recorded_settings(short, harness.pipeline.rules, harness.pipeline.secret)
    harness.pipeline.change_target(harness.runtime, short)
    harness.runtime.rolling_availability = RollingAvailability(interval=0.01)
    await harness.probe(short)
    await apply_settings(harness.pipeline, harness.runtime, replace(short, interval=60.0), "reload")
    await harness.probe(harness.runtime.target)
    # Farther apart than the interval before lets observations be.
    await asyncio.sleep(1.2)
    await harness.probe(harness.runtime.target)
    assert (
        harness.runtime.rolling_availability.days(now())[-1].up
        + harness.runtime.rolling_availability.days(now())[-2].up
        >= 1200
    )
    assert harness.recorded("gap") == []
    assert 'mailwatch_probe_interval_seconds{target="t",provider="",kind="imap"} 60.0' in harness.exposition()
    assert harness.server is not None
    harness.server.close()
    await harness.close()


def test_a_running_mailwatch_sends_elsewhere_and_asks_for_a_password_from_the_reload_on(tmp_path: Path) -> None:
    before, after = Webhook().open(), Webhook().open()
    before.status = 500
    down = {"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none"}
    process = MailWatchProcess(
        tmp_path,
        [{**down, "interval": "1s", "timeout": "1s"}],
        detection={"open_after": 2, "recheck": ["200ms"]},
        notify=[{"url": before.url, "group": "0s"}],
        heartbeat={"url": f"http://127.0.0.1:{before.port}/before", "every": "1s"},
    )
    try:
        with process.running():
            process.wait_until(lambda: len(before.refused) >= 2, "refused twice")
            (tmp_path / "secret-web").write_text("open sesame\n")
            process.settings["notify"] = [{"url": after.url, "group": "0s"}]
            process.settings["heartbeat"] = {"url": f"http://127.0.0.1:{after.port}/after", "every": "1s"}
            process.settings["web"]["password_file"] = "secret-web"
            process.write_config()
            process.signal(signal.SIGHUP)
            process.wait_until(lambda: after.received, "sent to the new address")
            process.wait_until(lambda: "/after" in after.pings, "a heartbeat there")
            process.wait_until(lambda: process.get("/metrics").startswith("401"), "closed")
            assert process.get("/readyz") == "ok\n"
            # Of what is not readable nothing is taken over.
            (tmp_path / "secret-web").unlink()
            process.settings["notify"] = []
            process.write_config()
            process.signal(signal.SIGHUP)
            process.wait_until(lambda: "the config was not reloaded" in process.log.read_text(), "refused")
            assert "secret-web cannot be read" in process.log.read_text()
            assert process.get("/metrics").startswith("401")
    finally:
        before.close()
        after.close()
