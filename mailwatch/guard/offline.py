"""When we were offline: a pure function of the guard's entries, with bounds like those of an outage.

A round of questions lasts from its start to its end, and the line may go or come back in the middle of it.
Hence the four times, as in mailwatch/outages:

    last_online   start of the last good round      first_offline  end of the first silent round
    last_offline  start of the last silent round    first_online   end of the first good round

It began between the first two and ended between the last two. Times that run backwards because the clock was
set are held at the later one. Between two runs of MailWatch nobody asked: that time is `unobserved`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mailwatch.guard.names import LIES, POISONED, SILENT
from mailwatch.guard.reasons import NOT_AWAITED, OK
from mailwatch.models import Millis
from mailwatch.outages import durations

Part = Literal["line", "ipv4", "ipv6", "names"]
PARTS: tuple[Part, ...] = ("line", "ipv4", "ipv6", "names")
_FAMILIES = {"ipv4": "online4", "ipv6": "online6"}
_NAMES = {OK: True, LIES: True, SILENT: False, POISONED: False}


@dataclass(slots=True)
class _Spell:
    """A time offline that is not over yet."""

    last_online: Millis | None
    first_offline: Millis
    last_offline: Millis
    first_index: int
    last_index: int
    reasons: set[str]
    unobserved: Millis = 0


@dataclass(slots=True)
class _Follower:
    """Follows one part of the line through the entries."""

    part: Part
    found: list[dict[str, Any]] = field(default_factory=list)
    online: bool | None = None
    last_online: Millis | None = None
    seen_until: Millis | None = None
    spell: _Spell | None = None

    def take(self, index: int, payload: Mapping[str, Any]) -> None:
        """Take in one entry: what was so until `checked_at`, and what is so since."""
        checked, asked = payload.get("checked_at"), payload["asked_at"]
        if checked is not None and self.online is not None:
            self._sign(self.online, checked, checked, index)
        elif checked is None and self.spell is not None and self.seen_until is not None:
            self.spell.unobserved += max(0, asked - self.seen_until)
        self.online = _online(self.part, payload)
        if self.online is not None:
            self._sign(self.online, asked, payload.get("answered_at") or asked, index)
            if self.spell is not None:
                self.spell.reasons |= _reasons(self.part, payload)

    def _sign(self, online: bool, start: Millis, end: Millis, index: int) -> None:
        self.seen_until = max(end, self.seen_until or end)
        spell = self.spell
        if online:
            if spell is not None:
                spell.last_index = index
                self.found.append(_payload(self.part, spell, max(end, spell.last_offline)))
                self.spell = None
            self.last_online = start
        elif spell is None:
            good = None if self.last_online is None else min(self.last_online, end)
            self.spell = _Spell(good, end, end, index, index, set())
        else:
            spell.last_offline, spell.last_index = max(spell.last_offline, start), index


def offline_payloads(entries: Iterable[tuple[int, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the times offline that the guard's entries (index, payload) tell, oldest first; milliseconds.

    Each is of one part: "line" (no family works), "ipv4", "ipv6", or "names" (control names do not resolve, or
    wrongly). A family that never worked is none that this line has: it is not told as offline.
    """
    followers = [_Follower(part) for part in PARTS]
    for index, payload in entries:
        for follower in followers:
            follower.take(index, payload)
    found = [told for follower in followers for told in follower.found]
    found += [_payload(each.part, each.spell, None) for each in followers if each.spell is not None]
    told = [spell for spell in found if spell["part"] not in _FAMILIES or spell["last_online"] is not None]
    return sorted(told, key=lambda spell: int(spell["first_offline"]))


def _payload(part: Part, spell: _Spell, first_online: Millis | None) -> dict[str, Any]:
    good, bad, last = spell.last_online, spell.first_offline, spell.last_offline
    return {
        "part": part,
        "state": "open" if first_online is None else "closed",
        "last_online": good,
        "first_offline": bad,
        "last_offline": last,
        "first_online": first_online,
        "duration_ms": durations(good, bad, last, first_online),
        "unobserved_ms": spell.unobserved,
        "reasons": sorted(spell.reasons),
        "ledger": {"first": spell.first_index, "last": spell.last_index},
    }


def _online(part: Part, payload: Mapping[str, Any]) -> bool | None:
    if part == "names":
        return _NAMES.get(payload.get("resolver", ""))
    online: bool | None = payload.get(_FAMILIES.get(part, "online"))
    return online


def _reasons(part: Part, payload: Mapping[str, Any]) -> set[str]:
    """Say why the controls of that part were not reached."""
    told = set()
    for name, reason in payload["controls"].items():
        if part == "names":
            fits = name.startswith("dns:")
        else:
            fits = not name.startswith(("dns:", "target:")) and part in ("line", _family(name))
        if fits and reason not in (OK, NOT_AWAITED):
            told.add(reason)
    return told


def _family(control: str) -> Part:
    return "ipv6" if control.startswith("[") or control.endswith("(IPv6)") else "ipv4"
