"""Checks what the config names besides secrets: certificates, the owner's key, the data folder, the address.

They are checked before the start: a missing one is a mistake with a line, not a failure of every probe.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from mailwatch.config.errors import ConfigError, FieldError, KeyPath, format_key_path
from mailwatch.config.files import MAX_CERTIFICATE_BYTES, folder_problem, read_file
from mailwatch.config.load import environment_source
from mailwatch.config.schema import Config
from mailwatch.config.schema_database import DatabaseSection
from mailwatch.config.schema_web import LOGO_TYPES
from mailwatch.config.secrets import read_secret
from mailwatch.net import family_of, is_address

MAX_LOGO_BYTES = 256 << 10
"""Bytes of the logo: it is sent with each page that a browser has not cached."""


def check_references(config: Config) -> None:
    """Check all references of the config. Raises ConfigError with all that are broken."""
    problems = [
        config.problem(place, f"{format_key_path(place)}{environment_source(place)}: {what}")
        for place, what in _problems(config)
    ]
    if problems:
        raise ConfigError(problems)


def _problems(config: Config) -> Iterator[tuple[KeyPath, str]]:
    if what := folder_problem(config.data_dir):
        yield ("data_dir",), what
    if what := _password_problem(config.database):
        yield ("database",), what
    if what := _address_problem(config.web.host):
        yield ("web", "listen"), what
    if config.web.logo and (what := logo_problem(config.web.logo)):
        yield ("web", "logo"), what
    found_by_path: dict[Path, str] = {}
    for place, path in _certificate_files(config):
        if path not in found_by_path:
            found_by_path[path] = _certificates_problem(path)
        if found_by_path[path]:
            yield place, found_by_path[path]
    if config.signing:
        for key in ("key_file", "certificate_file"):
            if (path := getattr(config.signing, key)) is not None and (what := file_problem(path)):
                yield ("signing", key), what


def _password_problem(section: DatabaseSection | None) -> str:
    """Return why the password of the database cannot be read, "" if it can or there is none."""
    if section is None or (section.password_file is None and section.password_env is None):
        return ""
    try:
        read_secret(section.password_file, section.password_env)
    except FieldError as fault:
        return f"{'password_env' if section.password_file is None else 'password_file'}: {fault}"
    return ""


def logo_problem(path: Path) -> str:
    """Return why a file cannot be the logo of the pages, "" if it can."""
    try:
        content = read_file(path, MAX_LOGO_BYTES + 1, "put it there, or name another")
    except FieldError as fault:
        return str(fault)
    if len(content) > MAX_LOGO_BYTES:
        return f"{path} is larger than 256 KiB; make the picture smaller"
    is_kind = {
        "image/png": content.startswith(b"\x89PNG\r\n\x1a\n"),
        "image/svg+xml": b"<svg" in content,
        "image/jpeg": content.startswith(b"\xff\xd8\xff"),
    }
    if not is_kind[LOGO_TYPES[path.suffix.lower()]]:
        return f"{path} is not the picture that its name says; name a PNG, SVG or JPEG file"
    return ""


def _certificate_files(config: Config) -> Iterator[tuple[KeyPath, Path]]:
    found: list[tuple[KeyPath, Path | None]] = []
    for number, target in enumerate(config.targets):
        place: KeyPath = ("targets", number)
        found.append(((*place, "ca_file"), target.ca_file))
        if target.login and target.login.oauth2:
            found.append(((*place, "login", "oauth2", "ca_file"), target.login.oauth2.ca_file))
    for number, account in enumerate(config.accounts):
        if account.oauth2:
            found.append((("accounts", number, "oauth2", "ca_file"), account.oauth2.ca_file))
    for number, control in enumerate(config.guard.controls if config.guard else ()):
        found.append((("guard", "controls", number, "ca_file"), control.ca_file))
    yield from ((place, path) for place, path in found if path is not None)


def _certificates_problem(path: Path) -> str:
    if what := file_problem(path):
        return what
    try:
        # Load it as a probe does.
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return f"{path} holds no PEM certificates; save the authority's certificate there"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}; save the authority's certificate there"
    return ""


def file_problem(path: Path) -> str:
    """Return why a file of certificates or keys cannot be read, "" if it can."""
    try:
        if (
            len(read_file(path, MAX_CERTIFICATE_BYTES + 1, "put it there, or name another"))
            > MAX_CERTIFICATE_BYTES
        ):
            return f"{path} is larger than {MAX_CERTIFICATE_BYTES} bytes; is it the right file?"
    except FieldError as fault:
        return str(fault)
    return ""


def _address_problem(host: str) -> str:
    """Return why a host is no address of this machine, else ""; names and busy ports are not checked."""
    if not is_address(host):
        return ""
    family = socket.AF_INET if family_of(host) == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as tried:
        try:
            tried.bind((host, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{host} is not an address of this machine; write 127.0.0.1, 0.0.0.0 or one that it has"
    return ""
