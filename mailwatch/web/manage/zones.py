"""The time zones that the forms offer."""

from __future__ import annotations

from functools import cache

from mailwatch.time_zone import known_zones


@cache
def listed_zones() -> tuple[str, ...]:
    """Return the zones with a region and a place, in alphabetical order."""
    return tuple(sorted(zone for zone in known_zones() if "/" in zone and not zone.startswith("Etc/")))
