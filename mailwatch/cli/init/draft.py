"""The text of a config.yaml for one mailbox, with a comment on each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from mailwatch.cli.init.prompts import printable_text
from mailwatch.cli.init.servers import MailboxServers
from mailwatch.i18n import Texts
from mailwatch.model import Kind

_COLUMN = 44
_PLAIN = re.compile(r"[A-Za-z./][A-Za-z0-9._@+/-]*")
_WORDS_OF_YAML = frozenset({"true", "false", "null"})
TIMESTAMP_URL = "http://timestamp.digicert.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDraft:
    """What the user entered and the login test found.

    `password_file`: path as the config writes it, "" for a login by OAuth 2 (`authority`, `client_id`). `skipped`:
    the kinds left out, with the reason. `untested`: whether no login has worked yet.
    """

    name: str
    place: str
    address: str
    username: str
    servers: MailboxServers
    kinds: tuple[Kind, ...]
    skipped: Mapping[Kind, str] = field(default_factory=dict)
    password_file: str = ""
    authority: str = ""
    client_id: str = ""
    untested: bool = False
    timestamps: bool = True


def config_text(draft: ConfigDraft, texts: Texts, today: date) -> str:
    """Return the text of the config."""
    comments = texts.section("config")
    lines = [
        f"# {comments['head'].format(date=today)}",
        f"# {comments['check']}",
        "",
        "vantage_point:",
        _line(f"  name: {_value(draft.name)}", comments["name"]),
        _line(f"  place: {_value(draft.place)}", comments["place"]),
        "",
        _line("data_dir: ./data", comments["data_dir"]),
        "",
        "web:",
        _line("  listen: 127.0.0.1:8080", comments["listen"]),
        "",
        *(_account if draft.servers.provider else _targets)(draft, comments),
    ]
    if draft.timestamps:
        lines += ["", _line("timestamps:", comments["timestamps"]), f"  - url: {TIMESTAMP_URL}"]
        lines.append(_line("    every: 1h", comments["every"]))
    return "".join(f"{line}\n" for line in lines)


def _account(draft: ConfigDraft, comments: Texts) -> Iterator[str]:
    yield _line("accounts:", comments["accounts"])
    yield f"  - address: {_value(draft.address)}"
    if draft.servers.named_in_config and draft.servers.provider:
        yield _line(f"    provider: {draft.servers.provider.key}", comments["provider"])
    if draft.authority:
        yield _line("    oauth2:", comments["oauth2"].format(address=printable_text(draft.address)))
        yield f"      provider: {draft.authority}"
        yield f"      client_id: {_value(draft.client_id)}"
    else:
        yield _line(f"    password_file: {_value(draft.password_file)}", comments["password_file"])
    yield _line(f"    channels: [{', '.join(draft.kinds)}]", comments["channels"])
    yield from _remarks(draft, comments, "    ")


def _targets(draft: ConfigDraft, comments: Texts) -> Iterator[str]:
    yield _line("targets:", comments["targets"])
    yield from _remarks(draft, comments, "  ")
    secret, domain = _value(draft.password_file), _value(draft.address.rpartition("@")[2])
    for number, candidate in enumerate(
        candidate for candidate in draft.servers.candidates if candidate.kind in draft.kinds
    ):
        lines = (
            (f"  - name: {_value(f'{draft.address}/{candidate.kind}')}", ""),
            (f"    kind: {candidate.kind}", ""),
            (f"    provider: {domain}", comments["company"]),
            (f"    host: {_value(candidate.host)}", ""),
            (f"    port: {candidate.port}", ""),
            (f"    tls: {candidate.tls}", comments["tls"]),
            ("    login:", ""),
            (f"      username: {_value(draft.username)}", ""),
            (f"      password_file: {secret}", comments["password_file"]),
        )
        # Comments only at the first server.
        yield from (_line(text, comment if number == 0 else "") for text, comment in lines)


def _remarks(draft: ConfigDraft, comments: Texts, indent: str) -> Iterator[str]:
    for kind, why in draft.skipped.items():
        yield f"{indent}# {comments['left'].format(kind=kind, why=printable_text(why))}"
    if draft.untested:
        yield f"{indent}# {comments['unproven']}"


def _line(text: str, comment: str) -> str:
    if not comment:
        return text
    return f"{text:{_COLUMN}}# {comment}" if len(text) < _COLUMN - 1 else f"{text}   # {comment}"


def _value(text: str) -> str:
    """Return `text` as a YAML scalar, in JSON quotes where YAML needs quotes."""
    plain = _PLAIN.fullmatch(text) and text.casefold() not in _WORDS_OF_YAML
    return text if plain else json.dumps(text, ensure_ascii=False)
