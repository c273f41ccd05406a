"""What the config names besides secrets: certificates, the owner's key, the folder of the data, the address.

It is opened before the start: what is missing is a mistake with a line, not a failure of every probe.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from mailwatch.config.errors import ConfigError, Fault, Place, written
from mailwatch.config.files import CERTIFICATES, fault_of_folder, read_file
from mailwatch.config.load import source
from mailwatch.config.schema import Config
from mailwatch.config.targets import mistake_at


def check_named(config: Config) -> None:
    """Open all that is named. Raises ConfigError with all that is not as it must be."""
    mistakes = [
        mistake_at(config, place, f"{written(place)}{source(place)}: {what}") for place, what in _faults(config)
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _faults(config: Config) -> Iterator[tuple[Place, str]]:
    if what := fault_of_folder(config.data_dir):
        yield ("data_dir",), what
    if what := _fault_of_address(config.web.host):
        yield ("web", "listen"), what
    said: dict[Path, str] = {}
    for place, path in _certificates(config):
        if path not in said:
            said[path] = _fault_of_certificates(path)
        if said[path]:
            yield place, said[path]
    if config.signing:
        for key in ("key_file", "certificate_file"):
            if (path := getattr(config.signing, key)) is not None and (what := fault_of_file(path)):
                yield ("signing", key), what


def _certificates(config: Config) -> Iterator[tuple[Place, Path]]:
    found: list[tuple[Place, Path | None]] = []
    for number, target in enumerate(config.targets):
        place: Place = ("targets", number)
        found.append(((*place, "ca_file"), target.ca_file))
        if target.login and target.login.oauth2:
            found.append(((*place, "login", "oauth2", "ca_file"), target.login.oauth2.ca_file))
    for number, account in enumerate(config.accounts):
        if account.oauth2:
            found.append((("accounts", number, "oauth2", "ca_file"), account.oauth2.ca_file))
    for number, control in enumerate(config.guard.controls if config.guard else ()):
        found.append((("guard", "controls", number, "ca_file"), control.ca_file))
    yield from ((place, path) for place, path in found if path is not None)


def _fault_of_certificates(path: Path) -> str:
    if what := fault_of_file(path):
        return what
    try:
        # As a probe will load it.
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return f"{path} holds no PEM certificates; save the authority's certificate there"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}; save the authority's certificate there"
    return ""


def fault_of_file(path: Path) -> str:
    """Say why a file of certificates or keys cannot be read, "" if it can."""
    try:
        if len(read_file(path, CERTIFICATES + 1, "put it there, or name another")) > CERTIFICATES:
            return f"{path} is larger than {CERTIFICATES} bytes; is it the right file?"
    except Fault as fault:
        return str(fault)
    return ""


def _fault_of_address(host: str) -> str:
    """Say that an address is not one of this machine; a name is not asked for, a taken port has its own words."""
    try:
        family = socket.AF_INET if ipaddress.ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        return ""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as tried:
        try:
            tried.bind((host, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{host} is not an address of this machine; write 127.0.0.1, 0.0.0.0 or one that it has"
    return ""
