"""The text of a config.yaml for one mailbox, with a comment at each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from mailwatch.cli.init.prompts import clean
from mailwatch.cli.init.servers import Servers
from mailwatch.model import Kind

_COLUMN = 44
_PLAIN = re.compile(r"[A-Za-z./][A-Za-z0-9._@+/-]*")
_WORDS_OF_YAML = frozenset({"true", "false", "null"})
STAMP_URL = "http://timestamp.digicert.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All that the person said and the servers showed.

    `password_file` is as the config names it, "" for a login by OAuth 2 (`authority`, `client_id`). `left` are
    the kinds left out, and why; `unproven` is whether no login has worked yet.
    """

    name: str
    place: str
    address: str
    username: str
    servers: Servers
    kinds: tuple[Kind, ...]
    left: Mapping[Kind, str] = field(default_factory=dict)
    password_file: str = ""
    authority: str = ""
    client_id: str = ""
    unproven: bool = False
    timestamps: bool = True


def text_of(draft: Draft, words: Mapping[str, Any], today: date) -> str:
    """Write it."""
    told = words["config"]
    lines = [
        f"# {told['head'].format(date=today)}",
        f"# {told['check']}",
        "",
        "vantage_point:",
        _line(f"  name: {_value(draft.name)}", told["name"]),
        _line(f"  place: {_value(draft.place)}", told["place"]),
        "",
        _line("data_dir: ./data", told["data_dir"]),
        "",
        "web:",
        _line("  listen: 127.0.0.1:8080", told["listen"]),
        "",
        *(_account(draft, words) if draft.servers.provider else _targets(draft, words)),
    ]
    if draft.timestamps:
        lines += ["", _line("timestamps:", told["timestamps"]), f"  - url: {STAMP_URL}"]
        lines.append(_line("    every: 1h", told["every"]))
    return "".join(f"{line}\n" for line in lines)


def _account(draft: Draft, words: Mapping[str, Any]) -> Iterator[str]:
    told = words["config"]
    yield _line("accounts:", told["accounts"])
    yield f"  - address: {_value(draft.address)}"
    if draft.servers.written and draft.servers.provider:
        yield _line(f"    provider: {draft.servers.provider.key}", told["provider"])
    if draft.authority:
        yield _line("    oauth2:", told["oauth2"].format(address=clean(draft.address)))
        yield f"      provider: {draft.authority}"
        yield f"      client_id: {_value(draft.client_id)}"
    else:
        yield _line(f"    password_file: {_value(draft.password_file)}", told["password_file"])
    yield _line(f"    channels: [{', '.join(draft.kinds)}]", told["channels"])
    yield from _remarks(draft, words, "    ")


def _targets(draft: Draft, words: Mapping[str, Any]) -> Iterator[str]:
    told = words["config"]
    yield _line("targets:", told["targets"])
    yield from _remarks(draft, words, "  ")
    secret, domain = _value(draft.password_file), _value(draft.address.rpartition("@")[2])
    for number, door in enumerate(door for door in draft.servers.doors if door.kind in draft.kinds):
        lines = (
            (f"  - name: {_value(f'{draft.address}/{door.kind}')}", ""),
            (f"    kind: {door.kind}", ""),
            (f"    provider: {domain}", told["company"]),
            (f"    host: {_value(door.host)}", ""),
            (f"    port: {door.port}", ""),
            (f"    tls: {door.tls}", told["tls"]),
            ("    login:", ""),
            (f"      username: {_value(draft.username)}", ""),
            (f"      password_file: {secret}", told["password_file"]),
        )
        # Each comment once is enough.
        yield from (_line(text, comment if number == 0 else "") for text, comment in lines)


def _remarks(draft: Draft, words: Mapping[str, Any], indent: str) -> Iterator[str]:
    for kind, why in draft.left.items():
        yield f"{indent}# {words['config']['left'].format(kind=kind, why=clean(why))}"
    if draft.unproven:
        yield f"{indent}# {words['config']['unproven']}"


def _line(text: str, comment: str) -> str:
    if not comment:
        return text
    return f"{text:{_COLUMN}}# {comment}" if len(text) < _COLUMN - 1 else f"{text}   # {comment}"


def _value(text: str) -> str:
    """Write a text so that YAML reads just that: in quotes where it must, which JSON's are too."""
    plain = _PLAIN.fullmatch(text) and text.casefold() not in _WORDS_OF_YAML
    return text if plain else json.dumps(text, ensure_ascii=False)
