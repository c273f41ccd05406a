"""Finds the time zone that a user means."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from mailwatch.time_zone import known_zones

MAX_SUGGESTIONS = 3
_CUTOFF = 0.5
"""How alike two names must be, from 0 to 1."""
_ROME = {
    "roma", "italia", "italy", "milano", "milan", "torino", "turin", "napoli", "naples", "firenze", "florence",
    "venezia", "venice", "genova", "genoa", "bologna", "palermo", "bari", "catania", "trieste",
}  # fmt: skip
"""Cities that have no zone of their own name, and two names of the country."""


def find_zone(text: str) -> str:
    """Return the name of the time zone (IANA) that a text means, "" if it names none.

    >>> find_zone("europe/rome"), find_zone("Rome"), find_zone("roma")
    ('Europe/Rome', 'Europe/Rome', 'Europe/Rome')
    >>> find_zone("Europe/Milan")
    'Europe/Rome'
    >>> find_zone("Springfield")
    ''
    """
    wanted = "_".join(text[:100].split()).casefold()
    italian = "Europe/Rome" if wanted.removeprefix("europe/") in _ROME else ""
    return _by_name().get(wanted) or _by_city().get(wanted) or italian


def similar_zones(text: str) -> list[str]:
    """Return at most MAX_SUGGESTIONS zones whose names are like a text that names none."""
    wanted = "_".join(text[:100].split()).casefold()
    cities = get_close_matches(wanted, _by_city(), n=MAX_SUGGESTIONS, cutoff=_CUTOFF)
    names = get_close_matches(wanted, _by_name(), n=MAX_SUGGESTIONS, cutoff=_CUTOFF)
    found = [*(_by_city()[city] for city in cities), *(_by_name()[name] for name in names)]
    return list(dict.fromkeys(found))[:MAX_SUGGESTIONS]


@cache
def _by_name() -> dict[str, str]:
    return {name.casefold(): name for name in sorted(known_zones())}


@cache
def _by_city() -> dict[str, str]:
    """Return the zones by their last part, as long as only one has it."""
    found: dict[str, list[str]] = {}
    for name in sorted(known_zones()):
        if "/" in name:
            found.setdefault(name.rpartition("/")[2].casefold(), []).append(name)
    return {city: names[0] for city, names in found.items() if len(names) == 1}
