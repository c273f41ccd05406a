"""What a set-up knows of the config that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailwatch.config.schema_web import WebSection
from mailwatch.model import Kind
from mailwatch.setup.servers import MailboxServers


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDraft:
    """What the user entered and the login test found.

    `password_file`, `ca_file`: paths as the config writes them; `password_file` is "" for a login by OAuth 2
    (`authority`, `client_id`). `skipped`: the kinds left out, with the reason. `untested`: whether no login has
    worked yet. `timezone`: "" for that of the machine. `pages_hash`: the argon2id hash of the pages' password, ""
    for none.
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
    guard: bool = True
    timezone: str = ""
    listen: str = WebSection().listen
    pages_hash: str = ""
    ca_file: str = ""
