"""What the pages can change, and what they need to know for it: a protocol that the running monitor implements.

The pages that set up and manage MailWatch are in web/manage/. They come to the monitor only by this protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from mailwatch.i18n import Language
from mailwatch.model import Kind
from mailwatch.settings import OAuth2
from mailwatch.setup.code import CodeResult
from mailwatch.setup.servers import MailboxServers


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxAnswers:
    """A mailbox as its owner entered it and the login test found it.

    `kinds` are to be monitored; `skipped` are not, each with the reason. `untested`: no login has worked yet.
    A login by OAuth 2 has an `authority` and a `client_id`, and an empty password.
    """

    address: str
    username: str
    password: SecretStr
    servers: MailboxServers
    kinds: tuple[Kind, ...]
    skipped: Mapping[Kind, str] = field(default_factory=dict)
    untested: bool = False
    authority: str = ""
    client_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesAnswers:
    """What the owner chose for the pages. `password_hash` is an argon2id hash, "" for no password."""

    password_hash: str
    timezone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A change that is written and in force, but for the keys in `waiting`: these wait for the next start.

    `text` is the whole config, without secrets. `targets`: the names of the new targets.
    """

    path: Path
    text: str = ""
    secret: Path | None = None
    targets: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxEntry:
    """An account or a target of the config, by the name it has there. `targets`: the names of what it monitors."""

    name: str
    targets: tuple[str, ...]
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEntry:
    """A notification channel of the config. `scheme`: the first word of its address; the rest is secret."""

    name: str
    scheme: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigEntries:
    """What the config has, as it is on disk. `digest`: that of the file. `read_only`: why it cannot be changed.

    `mistakes`: those of the file on disk, which MailWatch does not use then; the entries are what runs.
    """

    path: Path
    digest: str
    read_only: str
    mailboxes: Sequence[MailboxEntry]
    channels: Sequence[ChannelEntry]
    timezone: str
    password_here: bool
    """Whether the password of the pages is a hash in the config, or there is none: then the page can set it."""
    mistakes: str = ""


class ManagementError(Exception):
    """A change was not made. The argument is the reason, without secrets, in English.

    `fields`: what is wrong with single values of the new entry, by the key that the config has for it.
    """

    def __init__(self, reason: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.fields = fields or {}


class ConfigChangedMeanwhileError(ManagementError):
    """Another program or person changed the config since the page was made."""


class Management(Protocol):
    """What the pages of set-up and management ask of the monitor."""

    @property
    def timezone(self) -> str:
        """The time zone in force (IANA)."""
        ...

    def oauth_client(self, address: str, authority: str, client_id: str) -> OAuth2:
        """Return the OAuth client of a mailbox, as the config would have it. Raises ManagementError."""
        ...

    # The first set-up

    def setup_is_open(self) -> bool:
        """Return whether the set-up of a first mailbox is open; a mailbox or a password closes it for good."""
        ...

    def setup_problem(self) -> str:
        """Return why the config could not be written, "" if it can."""
        ...

    async def try_code(self, text: str) -> CodeResult:
        """Try a one-time code. Raises OSError."""
        ...

    async def set_up(
        self, pages: PagesAnswers, mailbox: MailboxAnswers, *, language: Language, timestamps: bool
    ) -> Saved:
        """Write the first config, with comments in a language, and take it over. Raises ManagementError."""
        ...

    # The config that is there. Every change is written and taken over; `digest` is that of the page.

    async def entries(self) -> ConfigEntries:
        """Read the config. Raises ManagementError."""
        ...

    async def add_mailbox(self, mailbox: MailboxAnswers, language: Language) -> Saved:
        """Add a mailbox. Raises ManagementError."""
        ...

    async def remove_mailbox(self, name: str, digest: str) -> None:
        """Remove a mailbox and its own password file. Raises ManagementError."""
        ...

    async def pause_mailbox(self, name: str, paused: bool, digest: str) -> None:
        """Pause or resume a mailbox. Raises ManagementError."""
        ...

    async def add_channel(self, name: str, url: SecretStr, language: Language) -> None:
        """Add a notification channel; its address goes into a file. Raises ManagementError."""
        ...

    async def remove_channel(self, name: str, digest: str) -> None:
        """Remove a channel. Raises ManagementError."""
        ...

    async def set_pages_password(self, password_hash: str, digest: str) -> None:
        """Change the password of the pages, as its argon2id hash; all sessions end. Raises ManagementError."""
        ...

    async def set_timezone(self, name: str, digest: str) -> None:
        """Change the time zone. Raises ManagementError."""
        ...

    # Acts that change nothing in the config

    def check_now(self, targets: Sequence[str]) -> bool:
        """Have these targets checked at once; return whether that is possible so soon after the last check."""
        ...

    async def acknowledge(self, identity: str, note: str, *, withdraw: bool) -> None:
        """Take note of an incident, or withdraw that: its reminders stop or go on. Raises ManagementError."""
        ...

    async def test_channel(self, name: str) -> str:
        """Send a test message; return why it failed, "" on success. Raises ManagementError."""
        ...
