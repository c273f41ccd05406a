"""What the pages of set-up and management change: the config file, and with it the running service."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import SecretStr

from mailwatch.config import Config, ConfigError, load
from mailwatch.config.channels import channel_name
from mailwatch.config.edit import ConfigChangedError, ConfigFile, read_only_reason
from mailwatch.config.errors import FieldError
from mailwatch.config.load import VARIABLES
from mailwatch.config.schema_targets import OAuth2Section
from mailwatch.config.schema_web import WebSection
from mailwatch.config.secret_files import ignore_errors
from mailwatch.config.targets import oauth_client
from mailwatch.config.yaml_file import read_config
from mailwatch.i18n import Language
from mailwatch.monitor.acknowledge import acknowledge
from mailwatch.monitor.build import BuiltConfig
from mailwatch.monitor.first_config import has_own_mailbox, log_new_code, setup_target, write_first_config
from mailwatch.monitor.recorded_outages import open_outages
from mailwatch.monitor.service import Service
from mailwatch.notify import try_channels
from mailwatch.settings import OAuth2, Target
from mailwatch.setup.code import CodeResult, remove_code, try_code
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.entries import add_mailbox
from mailwatch.setup.mailbox_entries import entries_of, remove_channel, remove_mailbox, target_groups
from mailwatch.setup.texts import texts
from mailwatch.store import StoreError
from mailwatch.store.acknowledgements import MAX_NOTE, UnknownSubjectError
from mailwatch.store.place import configured_place
from mailwatch.times import now
from mailwatch.web.management import (
    ChannelEntry,
    ConfigChangedMeanwhileError,
    ConfigEntries,
    MailboxAnswers,
    MailboxEntry,
    ManagementError,
    PagesAnswers,
    Saved,
)

T = TypeVar("T")
CHECK_SECONDS = 10.0
"""Seconds between two checks of the same target that a visitor asks for: providers throttle."""


class ServiceManagement:
    """Changes the config of a running service, and has it reloaded."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._checked: dict[str, float] = {}
        self._read: tuple[BuiltConfig, ConfigEntries] | None = None
        """The entries as they were read last, with the built config of that time."""

    @property
    def timezone(self) -> str:
        """The time zone in force."""
        return self._service.config.zone().key

    def oauth_client(self, address: str, authority: str, client_id: str) -> OAuth2:
        """Return the OAuth client of a mailbox, as the config would have it. Raises ManagementError."""
        try:
            section = OAuth2Section(provider=authority, client_id=client_id)
            return oauth_client(section, address, self._service.config.data_dir)
        except ValueError as error:
            raise ManagementError(str(error)) from None

    # The first set-up

    def setup_is_open(self) -> bool:
        """Return whether the set-up is open: no mailbox and no password yet, and no config where it writes one."""
        target = self._setup_target()
        return (
            target is not None
            and not self._service.built_config.access.requires_login
            and not has_own_mailbox(self._service.config)
            and not os.path.lexists(target)
        )

    def _setup_target(self) -> Path | None:
        return setup_target(self._service.path, named=self._service.named)

    def setup_problem(self) -> str:
        """Return why the first config could not be written, "" if it can."""
        target = self._setup_target()
        if target is None or os.access(target.parent, os.W_OK | os.X_OK):
            return ""
        return f"MailWatch may not write to the folder {target.parent}"

    async def log_code(self) -> None:
        """Log a new one-time code and where to enter it, if the set-up is open."""
        if self.setup_is_open():
            config = self._service.config
            await asyncio.to_thread(log_new_code, config.data_dir, config.web.listen)

    async def try_code(self, text: str) -> CodeResult:
        """Try a one-time code. Raises OSError."""
        return await asyncio.to_thread(try_code, self._service.config.data_dir, text, now())

    async def set_up(
        self, pages: PagesAnswers, mailbox: MailboxAnswers, *, language: Language, timestamps: bool
    ) -> Saved:
        """Write the first config, and take it over. Raises ManagementError."""
        target = self._setup_target()
        if target is None or not self.setup_is_open():
            raise ManagementError("closed")
        draft = self._draft(mailbox, pages=pages, timestamps=timestamps)
        try:
            password = None if mailbox.authority else mailbox.password
            text, secret = await asyncio.to_thread(write_first_config, target, draft, password, language)
        except FileExistsError:
            raise ManagementError("closed") from None
        except ConfigError as error:
            raise ManagementError(str(error)) from None
        except OSError as error:
            raise ManagementError(_reason(error)) from None
        await asyncio.to_thread(remove_code, self._service.config.data_dir)
        if self._service.named:
            # The example was named; its successor is what a reload reads from now on.
            self._service.path = target
        return await self._take_over(Saved(path=target, text=text, secret=secret))

    def _draft(
        self, mailbox: MailboxAnswers, *, pages: PagesAnswers | None = None, timestamps: bool = False
    ) -> ConfigDraft:
        config = self._service.config
        from_environment = os.environ.get(VARIABLES["web", "listen"])
        return ConfigDraft(
            name=config.vantage_point.name,
            place=config.vantage_point.place,
            address=mailbox.address,
            username=mailbox.username,
            servers=mailbox.servers,
            kinds=mailbox.kinds,
            skipped=mailbox.skipped,
            untested=mailbox.untested,
            authority=mailbox.authority,
            client_id=mailbox.client_id,
            timestamps=timestamps,
            timezone=pages.timezone if pages else "",
            listen=WebSection().listen if from_environment else config.web.listen,
            pages_hash=pages.password_hash if pages else "",
        )

    async def _take_over(self, saved: Saved) -> Saved:
        """Have the written config reloaded. Raises ManagementError."""
        before = {each.name for each in self._service.built_config.targets}
        result = await self._service.reload()
        if result.error:
            raise ManagementError(result.error)
        new = tuple(each.name for each in self._service.built_config.targets if each.name not in before)
        return Saved(path=saved.path, text=saved.text, secret=saved.secret, targets=new, waiting=result.waiting)

    # The config that is there

    async def entries(self) -> ConfigEntries:
        """Read the config. Raises ManagementError."""
        return await self._in_thread(self._entries)

    def _entries(self) -> ConfigEntries:
        path, built = self._service.path, self._service.built_config
        read_only = read_only_reason(path)
        # A thousand mailboxes take a second to parse.
        if self._read is not None and self._read[0] is built:
            kept = self._read[1]
            if (kept.path, kept.digest) == (path, hashlib.sha256(read_config(path)).hexdigest()):
                return replace(kept, read_only=read_only)
        entries = self._read_entries(path, read_only)
        self._read = built, entries
        return entries

    def _read_entries(self, path: Path, read_only: str) -> ConfigEntries:
        """Return what the file has; where it has mistakes, what runs instead."""
        raw = read_config(path)
        try:
            return self._parse_entries(ConfigFile(path, raw), load(path, raw), read_only)
        except ConfigError as error:
            return ConfigEntries(
                path=path,
                digest=hashlib.sha256(raw).hexdigest(),
                read_only=read_only,
                mailboxes=self._running_mailboxes(),
                channels=[
                    ChannelEntry(name=each.name, scheme=each.place.rpartition("-")[0])
                    for each in self._service.built_config.channels
                ],
                timezone=self.timezone,
                password_here=self._has_password_here(),
                mistakes=str(error),
            )

    def _running_mailboxes(self) -> list[MailboxEntry]:
        targets: dict[str, list[Target]] = {}
        for each in self._service.built_config.targets:
            targets.setdefault(each.name.rpartition("/")[0] or each.name, []).append(each)
        return [
            MailboxEntry(
                name=name, targets=tuple(each.name for each in group), paused=all(each.paused for each in group)
            )
            for name, group in targets.items()
        ]

    def _parse_entries(self, file: ConfigFile, config: Config, read_only: str) -> ConfigEntries:
        of_account: dict[str, list[str]] = {}
        for each in self._service.built_config.targets:
            of_account.setdefault(each.name.rpartition("/")[0], []).append(each.name)
        mailboxes = [
            MailboxEntry(name=name, targets=tuple(of_account.get(name, ())), paused=item.get("paused") is True)
            for item in file.data("accounts")
            if (name := str(item.get("address", "")))
        ]
        mailboxes += [
            MailboxEntry(name=name, targets=tuple(names), paused=paused)
            for name, (names, paused) in target_groups(file).items()
        ]
        return ConfigEntries(
            path=file.path,
            digest=file.digest,
            read_only=read_only,
            mailboxes=mailboxes,
            channels=_channels(config),
            timezone=self.timezone,
            password_here=self._has_password_here(),
        )

    def _has_password_here(self) -> bool:
        web = self._service.config.web
        return web.password_file is None and web.password_env is None

    async def add_mailbox(self, mailbox: MailboxAnswers, language: Language) -> Saved:
        """Add a mailbox. Raises ManagementError."""

        def add() -> Saved:
            file = ConfigFile.read(self._service.path)
            secret = "" if mailbox.authority else file.stage_password(mailbox.address, mailbox.password)
            add_mailbox(file, replace(self._draft(mailbox), password_file=secret), texts(language))
            file.save()
            return Saved(path=file.path, secret=file.path.absolute().parent / secret if secret else None)

        return await self._take_over(await self._in_thread(add))

    async def remove_mailbox(self, name: str, digest: str) -> None:
        """Remove a mailbox and its own password file. Raises ManagementError."""

        def remove(file: ConfigFile) -> Callable[[], None]:
            return partial(_unlink, remove_mailbox(file, name))

        await self._change(remove, digest)

    async def pause_mailbox(self, name: str, paused: bool, digest: str) -> None:
        """Pause or resume a mailbox. Raises ManagementError."""

        def pause(file: ConfigFile) -> None:
            for each in entries_of(file, name):
                file.set_paused(each, paused)

        await self._change(pause, digest)

    async def add_channel(self, name: str, url: SecretStr, language: Language) -> None:
        """Add a notification channel; its address goes into a file. Raises ManagementError."""

        def add(file: ConfigFile) -> Saved:
            place = f"notify[{len(file.data('notify'))}]."
            secret = file.stage_password(f"notify-{name}", url)
            file.add_channel({"name": name, "url_file": secret, "lang": language})
            try:
                file.save()
            except ConfigError as error:
                wrong = [text.message.removeprefix(place).partition(": ") for text in error.problems]
                # Only if nothing else is wrong: what is, stands beside no field of the form.
                if all(text.message.startswith(place) for text in error.problems):
                    raise ManagementError(str(error), {key: what for key, _, what in wrong}) from None
                raise
            return Saved(path=file.path)

        await self._take_over(await self._in_thread(lambda: add(ConfigFile.read(self._service.path))))

    async def remove_channel(self, name: str, digest: str) -> None:
        """Remove a channel. Raises ManagementError."""

        def remove(file: ConfigFile) -> Callable[[], None]:
            return partial(_unlink, remove_channel(file, name))

        await self._change(remove, digest)

    async def set_pages_password(self, password_hash: str, digest: str) -> None:
        """Change the password of the pages; all sessions end. Raises ManagementError."""
        await self._change(lambda file: file.set_value(("web", "password_hash"), password_hash), digest)

    async def set_timezone(self, name: str, digest: str) -> None:
        """Change the time zone. Raises ManagementError."""
        await self._change(lambda file: file.set_value(("timezone",), name), digest)

    async def _change(
        self, change: Callable[[ConfigFile], Callable[[], None] | None], digest: str | None = None
    ) -> None:
        """Change the config, save it and take it over; what `change` returns is called after the save.

        Raises ManagementError.
        """

        def save() -> Saved:
            file = ConfigFile.read(self._service.path)
            if digest is not None and digest != file.digest:
                raise ConfigChangedMeanwhileError("changed")
            after = change(file)
            file.save()
            if after is not None:
                after()
            return Saved(path=file.path)

        await self._take_over(await self._in_thread(save))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Work on the config in a thread. Raises ManagementError."""
        try:
            return await asyncio.to_thread(work)
        except ConfigChangedError:
            raise ConfigChangedMeanwhileError("changed") from None
        except ConfigError as error:
            raise ManagementError(str(error)) from None
        except OSError as error:
            raise ManagementError(_reason(error)) from None

    # Acts that change nothing in the config

    def check_now(self, targets: Sequence[str]) -> bool:
        """Have targets checked at once; return False if each was checked so only some seconds ago."""
        at = time.monotonic()
        due = [name for name in targets if self._checked.get(name, -CHECK_SECONDS) <= at - CHECK_SECONDS]
        known = self._service.monitor.targets
        for name in due:
            if name in known:
                self._checked[name] = at
                self._service.monitor.schedule.advance_to(name, 0.0)
        self._checked = {name: since for name, since in self._checked.items() if name in known}
        return bool(due)

    async def acknowledge(self, identity: str, note: str, *, withdraw: bool) -> None:
        """Take note of an incident, or withdraw that. Raises ManagementError."""
        reader, live = self._service.reader, open_outages(self._service.monitor)
        acknowledging = partial(
            acknowledge,
            reader,
            configured_place(self._service.config),
            identity,
            note[:MAX_NOTE],
            withdraw=withdraw,
            live=live,
        )
        try:
            await asyncio.to_thread(acknowledging)
        except (UnknownSubjectError, StoreError) as error:
            reason = error.public_reason if isinstance(error, StoreError) else str(error)
            raise ManagementError(reason) from None

    async def test_channel(self, name: str) -> str:
        """Send a test message; return why it failed, "" on success. Raises ManagementError."""
        channel = next((each for each in self._service.built_config.channels if each.name == name), None)
        if channel is None:
            raise ManagementError(f"there is no channel named '{name}'")
        (why,) = await try_channels([channel], self._service.config.vantage_point.name)
        return why or ""


def _reason(error: OSError) -> str:
    """Return the message of an error, without the number that Python puts before the system's own."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


def _unlink(files: Sequence[Path]) -> None:
    for path in files:
        ignore_errors(path.unlink)


def _channels(config: Config) -> list[ChannelEntry]:
    found = []
    for number, section in enumerate(config.notify, 1):
        try:
            unnamed = channel_name(section.model_copy(update={"name": None}), number)
            found.append(ChannelEntry(name=section.name or unnamed, scheme=unnamed.rpartition("-")[0]))
        except (FieldError, OSError):
            found.append(ChannelEntry(name=section.name or f"notify-{number}", scheme=""))
    return found
