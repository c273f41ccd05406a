"""The entries of a mailbox in a config, and the secret files that only one entry names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mailwatch.config.edit import ConfigFile
from mailwatch.config.secret_files import SECRETS_FOLDER
from mailwatch.config.yaml_file import YamlValue
from mailwatch.setup.checks import ADDRESS


def target_groups(file: ConfigFile) -> dict[str, tuple[list[str], bool]]:
    """Return the targets of a config by mailbox, and whether all of it is paused.

    A mailbox outside the catalogue has a target for each server, named ADDRESS/KIND; any other is by itself.
    """
    groups: dict[str, tuple[list[str], bool]] = {}
    for item in file.data("targets"):
        name = str(item.get("name", ""))
        login = item.get("login")
        address, _, kind = name.rpartition("/")
        is_part = address and kind == item.get("kind") and isinstance(login, dict) and not ADDRESS(address)
        names, paused = groups.get(address if is_part else name, ([], True))
        groups[address if is_part else name] = ([*names, name], paused and item.get("paused") is True)
    return groups


def entries_of(file: ConfigFile, name: str) -> list[str]:
    """Return the names of the entries of a mailbox: an account, its targets, or a target by its own name."""
    if any(item.get("address") == name for item in file.data("accounts")):
        return [name]
    names, _ = target_groups(file).get(name, ([name], False))
    return names


def remove_mailbox(file: ConfigFile, name: str) -> list[Path]:
    """Remove a mailbox. Return the password files that nothing names any more. Raises ConfigError."""
    found = []
    for each in entries_of(file, name):
        found += _own_files(file, file.entry(each))
        file.remove(each)
    # Two servers of one mailbox name the same file, which the last of them gives up.
    return list(dict.fromkeys(found))


def remove_channel(file: ConfigFile, name: str) -> list[Path]:
    """Remove a channel. Return the secret files that nothing names any more. Raises ConfigError."""
    found = _own_files(file, file.data("notify")[file.channel_number(name)])
    file.remove_channel(name)
    return found


def _own_files(file: ConfigFile, entry: Mapping[str, YamlValue]) -> list[Path]:
    # Compared as paths: ./secrets/a and secrets/a are one file.
    folder = file.path.absolute().parent
    used = {_path(folder, text) for text in _named_files(file.whole, entry)}
    found = [_path(folder, text) for text in _named_files(entry)]
    return [path for path in found if path not in used and path.parent == folder / SECRETS_FOLDER]


def _named_files(data: YamlValue | Mapping[str, YamlValue], but: object = None) -> Iterator[str]:
    """Yield every file that a part of a config names by a key such as password_file, outside of one entry."""
    if data is but:
        return
    if isinstance(data, Mapping):
        for key, value in data.items():
            if isinstance(value, str) and key.endswith("_file"):
                yield value
            else:
                yield from _named_files(value, but)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        for item in data:
            yield from _named_files(item, but)


def _path(folder: Path, text: str) -> Path:
    return Path(os.path.normpath(folder / text))
