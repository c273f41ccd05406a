"""Changes config.yaml for its owner: mailboxes and channels come and go, all else keeps its bytes.

file = ConfigFile.read(path)
secret = file.stage_password("mario.rossi@libero.it", password)      # secrets/mario.rossi@libero.it
file.add_account({"address": "mario.rossi@libero.it", "password_file": secret})
file.save()                          # checked as `run` checks it; then both files are there, or neither

No password stands in the config.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from mailwatch.config import mounts, yaml_edit
from mailwatch.config.channels import channel_name
from mailwatch.config.errors import ConfigError, ConfigProblem, FieldError, KeyPath
from mailwatch.config.load import load
from mailwatch.config.references import reference_problems
from mailwatch.config.schema import Config
from mailwatch.config.secret_files import (
    ignore_errors,
    name_secret,
    owner_of,
    signals_blocked,
    write_secret,
)
from mailwatch.config.yaml_edit import NewItem
from mailwatch.config.yaml_file import YamlDocument, YamlValue, read_config
from mailwatch.files import sync_folder

_BOM = b"\xef\xbb\xbf"


class ConfigChangedError(ConfigError):
    """Another program changed the config since it was read, or is changing it now; nothing was written."""


class ConfigReadOnlyError(ConfigError):
    """The config cannot be written; the message has the reason. Nothing was written."""


class ConfigFile:
    """A config file being changed. Nothing is written before save()."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path = path
        self.digest = hashlib.sha256(raw).hexdigest()
        """SHA-256 of the file as it was read, in hex."""
        self._bom = _BOM if raw.startswith(_BOM) else b""
        self._document = YamlDocument(path, raw)
        if self._document.problems:
            raise ConfigError(self._document.problems)
        self._text = raw.removeprefix(_BOM).decode()
        self._secrets: dict[Path, SecretStr] = {}

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read a config. Raises ConfigNotFoundError, and ConfigError if it is not YAML."""
        return cls(path, read_config(path))

    @property
    def raw(self) -> bytes:
        """The file with the changes so far."""
        return self._bom + self._text.encode()

    def data(self, section: str) -> list[Mapping[str, YamlValue]]:
        """Return the entries of a list such as accounts, as they are written."""
        found = self._document.data.get(section) if isinstance(self._document.data, dict) else None
        items = found if isinstance(found, list) else []
        return [item if isinstance(item, dict) else {} for item in items]

    def read_only_reason(self) -> str:
        """Return why save() could not write, "" if it can."""
        return read_only_reason(self.path)

    @property
    def whole(self) -> YamlValue:
        """All of the config, as it is written."""
        return self._document.data

    # Mailboxes

    def stage_password(self, address: str, password: SecretStr) -> str:
        """Keep a password for save(), which writes it to a new file. Return the path for `password_file`."""
        folder = self.path.absolute().parent
        path = name_secret(folder, address)
        number = 1
        while path in self._secrets:
            number += 1
            path = name_secret(folder, f"{address}-{number}")
        self._secrets[path] = password
        return str(path.relative_to(folder))

    def add_account(self, entry: Mapping[str, YamlValue], remarks: Sequence[str] = ()) -> None:
        """Add an account; `remarks` are comments below it. Raises ConfigError."""
        self.add_entries("accounts", [NewItem(dict(entry), remarks)])

    def add_target(self, entry: Mapping[str, YamlValue], remarks: Sequence[str] = ()) -> None:
        """Add a target in the long form; `remarks` are comments below it. Raises ConfigError."""
        self.add_entries("targets", [NewItem(dict(entry), remarks)])

    def add_entries(self, section: str, entries: Sequence[NewItem]) -> None:
        """Add entries to accounts, targets or notify, with their comments. Raises ConfigError."""
        key = {"accounts": "address", "targets": "name"}.get(section, "")
        known = {str(item.get(key)).casefold(): number for number, item in enumerate(self.data(section)) if key}
        for item in entries:
            entry = item.value if isinstance(item.value, dict) else {}
            name = str(entry.get(key))
            if (number := known.get(name.casefold())) is not None:
                line = self._document.line((section, number))
                what = f"{name} is already in the config, on line {line}; nothing to add"
                raise self._error((section, number), what)
            if "password" in entry:
                raise self._error((), "the config must not contain a password; write password_file")

        def same(data: dict[str, YamlValue]) -> None:
            _items(data, section, create=True).extend(item.value for item in entries)

        self._change((section,), partial(yaml_edit.append_items, entries=entries), same)

    def entry(self, name: str) -> Mapping[str, YamlValue]:
        """Return an account by its address, or a target by its name. Raises ConfigError."""
        section, number = self._entry(name)
        return self.data(section)[number]

    def remove(self, name: str) -> None:
        """Remove an account by its address, or a target by its name. Raises ConfigError."""
        section, number = self._entry(name)
        self._change((section, number), yaml_edit.remove_item, lambda data: _items(data, section).pop(number))

    def set_paused(self, name: str, paused: bool) -> None:
        """Pause or resume an account by its address, or a target by its name. Raises ConfigError."""
        place: KeyPath = (*self._entry(name), "paused")
        if not paused and not yaml_edit.comment_of(self._text, place):
            self.set_value(place, None)
        else:
            self.set_value(place, paused)

    # Channels

    def add_channel(self, entry: Mapping[str, YamlValue]) -> None:
        """Add a notification channel. Raises ConfigError."""
        self.add_entries("notify", [NewItem(dict(entry))])

    def channel_number(self, name: str) -> int:
        """Return the place of a channel by its own name, or that of its scheme and place. Raises ConfigError."""
        config = load(self.path, self.raw)
        names: list[str] = []
        for number, section in enumerate(config.notify):
            # An address that cannot be read makes that channel nameless, and no other.
            with contextlib.suppress(FieldError):
                names.append(channel_name(section, number + 1))
                continue
            names.append("")
        if name not in names:
            known = ", ".join(filter(None, names)) or "none"
            raise self._error((), f"there is no channel named '{name}'; use one of {known}")
        return names.index(name)

    def remove_channel(self, name: str) -> None:
        """Remove a channel. Raises ConfigError."""
        number = self.channel_number(name)
        self._change(("notify", number), yaml_edit.remove_item, lambda data: _items(data, "notify").pop(number))

    # Single values

    def set_value(self, place: KeyPath, value: YamlValue) -> None:
        """Give the key at a place, such as ("web", "title"), a value; None removes it. Raises ConfigError."""
        if value is None:
            self._change(place, yaml_edit.remove_key, lambda data: _discard(data, place))
        else:
            change = partial(yaml_edit.set_value, value=value)
            self._change(place, change, lambda data: _assign(data, place, value))

    # To the disk

    def save(self) -> Config:
        """Write the config, and the passwords staged. Return the config that is there now.

        1. Check the new config by the code that `run` uses. Mistakes that are not new do not matter.
        2. Lock the file, and check that it is the one that was read; once more before it is replaced.
        3. Write the passwords to new files, and the config to a file beside the old one, which it then replaces,
           with its mode and owner. A link stays; the file that it names is replaced.

        A failure leaves all files as they were. Raises ConfigError, ConfigChangedError, ConfigReadOnlyError,
        OSError.
        """
        if reason := self.read_only_reason():
            raise self._read_only(reason)
        target = self.path.resolve()
        with _locked(target, self._changed), signals_blocked(), contextlib.ExitStack() as undo:
            if hashlib.sha256(read_config(self.path)).hexdigest() != self.digest:
                raise self._changed("has changed meanwhile; read it again, and repeat the change")
            try:
                config = self._write_secrets_and_check(undo)
                # A check may run programs for half a minute, and an editor of texts takes no lock.
                if hashlib.sha256(read_config(self.path)).hexdigest() != self.digest:
                    raise self._changed("has changed meanwhile; read it again, and repeat the change")
                _replace(target, self.raw, undo)
            except PermissionError as error:
                raise self._read_only(f"{error.filename or target.parent}: {error.strerror}") from None
            undo.pop_all()
        ignore_errors(partial(sync_folder, target.parent))
        self.digest = hashlib.sha256(self.raw).hexdigest()
        self._secrets.clear()
        return config

    def _write_secrets_and_check(self, undo: contextlib.ExitStack) -> Config:
        config = load(self.path, self.raw)
        owner = owner_of(config.data_dir, self.path.parent)
        for path, secret in self._secrets.items():
            write_secret(undo, path, secret, owner)
        problems, _ = reference_problems(config)
        known = self._known_mistakes(problems)
        if new := [problem for problem in problems if _without_places(problem.message) not in known]:
            raise ConfigError(new)
        return config

    def _known_mistakes(self, problems: Sequence[ConfigProblem]) -> set[str]:
        """Return the mistakes of the file as it is, such as a variable that only the monitor has."""
        if not problems:
            return set()
        try:
            return {_without_places(problem.message) for problem in reference_problems(load(self.path))[0]}
        except ConfigError:
            return set()

    def _change(
        self, place: KeyPath, change: Callable[[str, KeyPath], str], same: Callable[[dict[str, YamlValue]], object]
    ) -> None:
        """Change the text, if that gives what the `same` change of its data gives."""
        expected = copy.deepcopy(self._document.data) or {}
        if not isinstance(expected, dict):
            raise self._error((), "is not a mapping; see config.example.yaml")
        same(expected)
        by_hand = "is written in a way that MailWatch cannot change; change it by hand"
        try:
            text = change(self._text, place)
            document = YamlDocument(self.path, self._bom + text.encode())
        except (yaml_edit.UneditableError, ConfigError):
            raise self._error(place, by_hand) from None
        if _without_empty(document.data) != _without_empty(expected):
            raise self._error(place, by_hand)
        self._text, self._document = text, document

    def _entry(self, name: str) -> tuple[str, int]:
        for section, key in (("accounts", "address"), ("targets", "name")):
            for number, item in enumerate(self.data(section)):
                if item.get(key) == name:
                    return section, number
        address = name.rpartition("/")[0]
        known = [str(item.get("address")) for item in self.data("accounts")]
        known += [str(item.get("name")) for item in self.data("targets")]
        if address in known:
            raise self._error((), f"'{name}' belongs to the account {address}; name that, or change its channels")
        raise self._error((), f"there is no '{name}'; use one of {', '.join(known[:10]) or 'none'}")

    def problem(self, what: str) -> ConfigProblem:
        """Return a problem of the whole file."""
        return ConfigProblem(self.path, 1, what)

    def _error(self, place: KeyPath, what: str) -> ConfigError:
        return ConfigError([self._document.problem(place, what)])

    def _changed(self, what: str) -> ConfigChangedError:
        return ConfigChangedError([self.problem(what)])

    def _read_only(self, reason: str) -> ConfigReadOnlyError:
        return ConfigReadOnlyError([self.problem(f"cannot be changed: {reason}")])


def read_only_reason(path: Path) -> str:
    """Return why a config cannot be replaced by a changed one, with what to do; "" if it can."""
    target = path.resolve()
    folder = target.parent
    try:
        found = target.stat()
        if os.statvfs(folder).f_flag & os.ST_RDONLY or os.statvfs(target).f_flag & os.ST_RDONLY:
            return f"{target} is on a read-only mount; mount its folder writable (without :ro)"
    except OSError as error:
        return f"{target}: {error.strerror}"
    if (mount := mounts.mount_of(target)) is not None and mount.point == target:
        return f"{target} is mounted as a single file; mount its folder instead"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"MailWatch may not write to the folder {folder}; check its owner and permissions (ls -ld)"
    if os.geteuid() not in (0, found.st_uid):
        return f"{target} belongs to another user (uid {found.st_uid}); run the command as that user"
    return ""


@contextlib.contextmanager
def _locked(path: Path, changed: Callable[[str], ConfigChangedError]) -> Iterator[None]:
    """Lock the config against another editor, who has a file to compare with as soon as ours has replaced it.

    Not its folder: that may be the data_dir, which the monitor locks. Some file systems have no such locks.
    """
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise changed("is being changed by another program; try again") from None
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        yield
    finally:
        os.close(opened)


def _replace(path: Path, content: bytes, undo: contextlib.ExitStack) -> None:
    """Replace a file by one with the same mode and owner. Raises OSError."""
    before = path.stat()
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    undo.callback(partial(beside.unlink, missing_ok=True))
    with os.fdopen(opened, "wb") as file:
        file.write(content)
        if (os.fstat(opened).st_uid, os.fstat(opened).st_gid) != (before.st_uid, before.st_gid):
            os.fchown(opened, before.st_uid, before.st_gid)
        os.fchmod(opened, before.st_mode & 0o7777)
        file.flush()
        os.fsync(opened)
    beside.replace(path)


def _without_places(message: str) -> str:
    """Return a mistake without its places in lists, which a removal shifts: accounts[].password_env."""
    return re.sub(r"\[[0-9]+\]", "[]", message)


def _items(data: dict[str, YamlValue], section: str, *, create: bool = False) -> list[YamlValue]:
    found = data.setdefault(section, []) if create else data[section]
    return found if isinstance(found, list) else []


def _assign(data: dict[str, YamlValue], place: KeyPath, value: YamlValue) -> None:
    here: YamlValue = data
    for part in place[:-1]:
        if isinstance(here, dict):
            here = here.setdefault(str(part), {})
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part]
    if isinstance(here, dict):
        here[str(place[-1])] = value


def _discard(data: dict[str, YamlValue], place: KeyPath) -> None:
    here: YamlValue = data
    for part in place[:-1]:
        if isinstance(here, dict):
            here = here.get(str(part))
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part]
    if isinstance(here, dict):
        here.pop(str(place[-1]), None)


def _without_empty(data: YamlValue) -> YamlValue:
    """Leave out sections that hold nothing: the last entry may have gone with its section, or not."""
    if not isinstance(data, dict):
        return data or {}
    return {key: value for key, value in data.items() if value not in ([], {})}
