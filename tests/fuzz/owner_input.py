"""What the owner writes and what the record holds, put into words: config, times, names, messages."""

from __future__ import annotations

import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from mailwatch.config import ConfigError, load, salvage
from mailwatch.config.catalogue import by_domain
from mailwatch.config.edit import ConfigFile
from mailwatch.config.yaml_file import compose
from mailwatch.model import EventType, Notification
from mailwatch.notify.text import message_text
from mailwatch.settings import Channel
from mailwatch.setup.mailbox_table import TEMPLATE, add_rows, read_table
from mailwatch.setup.servers import ascii_domain, is_host_name
from mailwatch.times import parse_duration, parse_rfc3339
from tests.fuzz.target import Target
from tests.helpers.paths import ROOT, TESTDATA


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mailwatch-fuzz-")


def _config(data: bytes) -> None:
    path = Path(_folder().name) / "config.yaml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        load(path)
    salvage(path)
    _edit(path, data)


def _edit(path: Path, data: bytes) -> None:
    """What MailWatch adds to any config that it can read, it removes again to the byte."""
    with contextlib.suppress(ConfigError):
        file = ConfigFile.read(path)
        file.add_account({"address": "fuzz@libero.it", "password_env": "P"}, ["a comment"])
        assert file.raw != data
        file.remove("fuzz@libero.it")
        # In a config on one line, as JSON, an empty list stays.
        root = compose(data.decode("utf-8-sig"))
        assert file.raw == data or (isinstance(root, yaml.MappingNode) and root.flow_style)


@cache
def _config_file() -> ConfigFile:
    path = Path(_folder().name) / "sound.yaml"
    path.write_text("accounts: [{address: anna@libero.it, password_env: P}]")
    return ConfigFile.read(path)


def _table(data: bytes) -> None:
    path = Path(_folder().name) / "table.csv"
    path.write_bytes(data)
    table = read_table(path, _config_file())
    if not table.problems:
        file = ConfigFile(_config_file().path, _config_file().raw)
        add_rows(file, table.rows)
        assert all(row.address.encode() in file.raw for row in table.rows)


CHANNELS = [
    Channel(name="c", url=SecretStr("json://x"), on=frozenset(EventType), lang=lang, timezone="Europe/Rome")
    for lang in ("en", "it")
]
FACTS: dict[str, Any] = {
    "target": "a/imap",
    "id": "0123",
    "provider": "p",
    "kind": "imap",
    "first_bad": 1_700_000_000_000,
    "cause": "timeout",
    "last_good": None,
    "first_good": 1_700_000_100_000,
    "last_bad": 1_700_000_090_000,
    "causes": ["timeout"],
    "duration_ms": {"min": 1000, "max": None},
    "detail": "no",
    "finding": "x",
    "free": 7,
    "not_after": 1_700_000_000_000,
    "targets": ["a", "b"],
    "vantage_point": "v",
    "host": "h",
    "seconds": 4,
    "reason": "r",
    "sign": "loop",
}


def _message(data: bytes) -> None:
    """Whatever a server says or an owner names a target, it comes out as it went in, and formats nothing."""
    text = data.decode("utf-8", "replace")
    for number, topic in enumerate(EventType):
        facts = FACTS | dict.fromkeys(("target", "detail", "provider", "finding", "vantage_point"), text)
        with contextlib.suppress(KeyError):
            news = Notification(key="k", event_type=topic, time=0, facts=facts | {"causes": [text]})
            title, body = message_text([news], CHANNELS[number % 2], 0)
            if "{" not in text:
                assert "{" not in body + title


def _time(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        parse_rfc3339(text)
    with contextlib.suppress(ValueError):
        parse_duration(text)


def _name(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    domain = ascii_domain(text)
    assert not domain or is_host_name(domain)
    by_domain(text)


def targets() -> list[Target]:
    """What is written by the owner, and what is written to them."""
    bad = [path.read_bytes() for path in sorted((TESTDATA / "bad-config").glob("*.yaml"))]
    example = (ROOT / "config.example.yaml").read_bytes()
    whole = json.dumps(
        {"vantage_point": {"name": "x"}, "accounts": [{"address": "a@libero.it", "password_env": "P"}]}
    )
    return [
        Target(
            "config",
            _config,
            [example, whole.encode(), *bad],
            15,
            longest=8192,
            words=[
                b"- ",
                b"&a ",
                b"*a",
                b"<<: ",
                b"!!python/object:x ",
                b"? ",
                b": ",
                b"|\n",
                b"${X}",
                b"!!int ",
                b"!!timestamp ",
            ],
        ),
        Target(
            "table",
            _table,
            [
                TEMPLATE.encode(),
                b"address;password_env;imap;username\na@b.example;P;c.example:993;a\nanna@libero.it;P;;\n",
                b'address,password,channels\n"a@libero.it"," x ""y","imap smtp"\n',
            ],
            15,
            words=[b"\n", b'"', b",", b";", b"address", b"password_file", b"=cmd|", b"\t", b"\r\n"],
        ),
        Target(
            "messages",
            _message,
            [b"a/imap", b"{0.__class__}", b"{target!r:>9999999}", b"NO [ALERT] {x}", b"%(x)s"],
            15,
        ),
        Target("times", _time, [b"2026-01-01T00:00:00.000Z", b"0001-01-01T00:00:00+14:00", b"5m", b"1.5h"], 60),
        Target(
            "names",
            _name,
            [b"a@example.org", "a@b\u00fccher.example".encode(), b"xn--a.b", b"a@" + b"b." * 100 + b"c"],
            60,
        ),
    ]
