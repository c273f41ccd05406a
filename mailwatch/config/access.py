"""The password that the pages ask for."""

from __future__ import annotations

from pydantic import SecretStr

from mailwatch.config.mistakes import ConfigError, Fault
from mailwatch.config.secrets import read_plain
from mailwatch.config.shape import Config
from mailwatch.config.targets import mistake_at


def web_password(config: Config) -> SecretStr | None:
    """Read it; None without one. Raises ConfigError when it cannot be read."""
    if config.web.password_file is None:
        return None
    try:
        return read_plain(config.web.password_file, None)
    except Fault as fault:
        what = f"web.password_file: {fault}"
        raise ConfigError([mistake_at(config, ("web", "password_file"), what)]) from None
