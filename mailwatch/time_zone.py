"""The owner's time zone: `timezone` of the config, else TZ, else the machine's. All local times are in it."""

from __future__ import annotations

import contextlib
import os
import time
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from tzlocal import get_localzone

from mailwatch.errors import UsageError

_ADVICE = "set its name, for example TZ=Europe/Rome"


class TimeZoneError(UsageError):
    """TZ, or the machine's setting if TZ is unset, names no time zone."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"mailwatch: {reason}")
        self.reason = reason


def local_zone() -> ZoneInfo:
    """Return the zone that TZ names, else the machine's. Raises TimeZoneError rather than fall back silently.

    Config.zone() is for all that has a config: its key `timezone` comes first.
    """
    given = os.environ.get("TZ")
    if given is not None:
        return _zone_of(given)
    try:
        zone = get_localzone()
    except (LookupError, ValueError, OSError):
        raise TimeZoneError(f"the time zone of this machine is unclear; {_ADVICE}") from None
    if not isinstance(zone, ZoneInfo):
        return ZoneInfo("UTC")
    if not _is_known(zone.key):
        # A copy of a zone's file in place of a link to it has rules, but no name.
        raise TimeZoneError(f"the time zone of this machine has no name; {_ADVICE}")
    return zone


@cache
def known_zones() -> frozenset[str]:
    """Return the names of all time zones (IANA); they are read from disk once."""
    return frozenset(available_timezones())


def normalise_zone() -> None:
    """Strip quotes from TZ, which a list in a compose file leaves on it. The C library would silently use UTC."""
    given = os.environ.get("TZ")
    if given is not None and unquoted(given) != given:
        _set_zone(unquoted(given))


def zone_or_utc(configured: str | None = None) -> str:
    """Set the zone of this process and its children, for a command that must go on.

    `configured`: the config's `timezone`. Without any zone, set UTC and return the reason, else "".
    """
    if configured:
        _set_zone(configured)
        return ""
    try:
        local_zone()
    except TimeZoneError as error:
        _set_zone("UTC")
        return f"{error.reason}; until then times are in UTC"
    return ""


def unquoted(given: str) -> str:
    """Return the value of TZ without surrounding blanks and quotes."""
    name = given.strip()
    while len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1].strip()
    return name


def _zone_of(given: str) -> ZoneInfo:
    # An empty TZ means UTC, and a colon may precede the name (POSIX).
    name = unquoted(given).removeprefix(":") or "UTC"
    if name.startswith("/"):
        path = Path(os.path.realpath(name))
        for start in range(1, len(path.parts)):
            with contextlib.suppress(LookupError, ValueError, OSError):
                return ZoneInfo("/".join(path.parts[start:]))
    with contextlib.suppress(LookupError, ValueError, OSError):
        return ZoneInfo(name)
    printable = "".join(one if one.isprintable() else "?" for one in given)[:40]
    raise TimeZoneError(f"TZ={printable} is not a time zone; {_ADVICE}")


def _is_known(name: str) -> bool:
    with contextlib.suppress(LookupError, ValueError, OSError):
        return bool(ZoneInfo(name))
    return False


def _set_zone(name: str) -> None:
    os.environ["TZ"] = name
    time.tzset()
