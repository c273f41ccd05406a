"""The local time zone, for dates on the command line and in reports."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from zoneinfo import ZoneInfo

from tzlocal import get_localzone

from mailwatch.errors import UsageError

_ADVICE = "set its name, for example TZ=Europe/Rome"


class TimeZoneError(UsageError):
    """TZ, or the machine's setting if TZ is unset, names no time zone."""


def local_zone() -> ZoneInfo:
    """Return the zone that TZ names, else the machine's. Raises TimeZoneError rather than fall back silently."""
    given = os.environ.get("TZ")
    if given is not None:
        return _zone_of(given)
    try:
        zone = get_localzone()
    except (LookupError, ValueError, OSError):
        raise TimeZoneError(f"mailwatch: the time zone of this machine is unclear; {_ADVICE}") from None
    return zone if isinstance(zone, ZoneInfo) else ZoneInfo("UTC")


def normalise_zone() -> None:
    """Strip quotes from TZ, which a list in a compose file leaves on it. The C library would silently use UTC."""
    given = os.environ.get("TZ")
    if given is not None and unquoted(given) != given:
        _set_zone(unquoted(given))


def zone_or_utc() -> str:
    """Check the zone for a command that must go on. Without a zone, set UTC and return the reason, else ""."""
    try:
        local_zone()
    except TimeZoneError as error:
        _set_zone("UTC")
        return f"{str(error).removeprefix('mailwatch: ')}; until then times are in UTC"
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
    raise TimeZoneError(f"mailwatch: TZ={printable} is not a time zone; {_ADVICE}")


def _set_zone(name: str) -> None:
    os.environ["TZ"] = name
    time.tzset()
