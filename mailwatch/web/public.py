"""What anybody may see: states and outages with their bounds, under names that tell nobody's.

Each answer is made anew from the keys that are named here, so that what is added elsewhere stays inside. A target
is called by its provider and channel, numbered where there are several; an outage has another id than on record,
since that id is a hash of the target's name, which could be tried out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailwatch.config.recorded_targets import SEE_API, NoSuchTarget
from mailwatch.times import Millis
from mailwatch.web.read_model import NotMade, Sources, Views

Told = dict[str, Any]
_TARGET = ("provider", "kind", "state", "last_observation", "outcome", "cause", "failed_phase")
_TIMES = ("last_good", "first_bad", "last_bad", "first_good")
_OUTAGE = ("provider", "kind", "state", *_TIMES, "duration", "observations", "largest_gap", "unobserved", "causes",
           "phases", "proven_afterwards", "maintenance", "clock")  # fmt: skip
_PAGE = ("provider", "kind", "state", *_TIMES, "duration_ms", "observations", "largest_gap_ms", "unobserved_ms",
         "causes", "phases", "proven_afterwards", "maintenance_ms", "clock_bound", "clock")  # fmt: skip
_INCIDENT = ("provider", "state", *_TIMES, "duration", "surely_down")
_MEMBER = ("kind", "state", *_TIMES, "duration", "causes", "trouble", "proven_afterwards", "maintenance")
_STAGE = ("at", "targets_down", "channels_down", "trouble")


@dataclass(slots=True)
class Masks:
    """Gives the names that strangers see. `secret` is the ledger's own, so that ids stay over restarts."""

    secret: bytes
    targets: Callable[[], list[Told]]
    shown: Mapping[str, str] = field(default_factory=dict)
    """The true name of each target that was shown last: put in place whole, so that no lock is needed."""

    def identity(self, real: str) -> str:
        """Another id of the same form."""
        return hmac.digest(self.secret, f"public\n{real}".encode(), hashlib.sha256).hex()[:12]

    def names(self) -> Callable[[Mapping[str, Any]], str]:
        """Return what names a target by its provider and channel."""
        known = self.targets()
        several = Counter((told["provider"], told["kind"]) for told in known)
        counted: Counter[tuple[str, str]] = Counter()
        named: dict[str, str] = {}
        for told in known:
            place = told["provider"], told["kind"]
            counted[place] += 1
            named[told["target"]] = _name(*place) + (f" {counted[place]}" if several[place] > 1 else "")
        # What is no longer watched has no number.
        return lambda told: named.get(told["target"]) or _name(told["provider"], told["kind"])


def public_sources(sources: Sources, masks: Masks) -> Sources:
    """Return the sources of the public pages and API: what is not shown gives nothing."""

    def targets() -> list[Told]:
        name, found = masks.names(), sources.targets()
        masks.shown = {name(told): told["target"] for told in found}
        return [
            _only(told, _TARGET)
            | {"target": name(told), "outage": told["outage"] and masks.identity(told["outage"])}
            for told in found
        ]

    def unknown(asked: str) -> str:
        # Only what is shown may be named.
        name = masks.names()
        shown = {name(told) for told in (*sources.targets(), *sources.outages(False, None, None))}
        return "" if asked in shown else str(NoSuchTarget(asked, shown, where="", see=SEE_API))

    def outages(only_open: bool, start: Millis | None, end: Millis | None) -> list[Told]:
        return public_outages(masks, sources.outages(only_open, start, end))

    def incidents(only_open: bool, start: Millis | None, end: Millis | None) -> list[Told]:
        return [_incident(masks, told) for told in sources.incidents(only_open, start, end)]

    def incident(asked: str) -> Told | None:
        real = _real(masks, asked, sources.incidents(False, None, None))
        told = real and sources.incident(real)
        return _incident(masks, told) if told else None

    return Sources(
        targets=targets,
        unknown=unknown,
        outages=outages,
        incidents=incidents,
        incident=incident,
        observations=lambda *_: [],
        offline=lambda *_: [],
        availability=lambda *_: [],
        unready=list,
        # Whether, not why.
        ill=lambda: ["ill"] if sources.ill() else [],
        metrics=lambda: iter(()),
    )


def public_views(views: Views, sources: Sources, masks: Masks) -> Views:
    """Return what the public pages show besides. A glance is asked by a name of `masks.shown`."""

    def glance(name: str, at: Millis) -> Told:
        told = _only(views.glance(masks.shown[name], at), ("ratio", "days", "filling"))
        return told | {"phases": {}, "duration": 0.0}

    def outage(asked: str) -> Told | None:
        real = _real(masks, asked, sources.outages(False, None, None))
        told = real and views.outage(real)
        if not told:
            return None
        guard = told["guard"]
        return _only(told, _PAGE) | {
            "id": asked,
            "target": masks.names()(told),
            "transitions": [_only(change, ("at", "outcome", "cause", "phase")) | {"detail": ""}
                            for change in told["transitions"]],
            "guard": None if guard is None else {"online": guard["online"], "controls": {}},
        }  # fmt: skip

    async def evidence(_identity: str, _language: str) -> Path:
        raise NotMade("evidence is not public; log in")

    return Views(
        vantage_point="",
        place="",
        glance=glance,
        outages=lambda: public_outages(masks, views.outages()),
        outage=outage,
        ledger=dict,
        pulse=views.pulse,
        evidence=evidence,
    )


def public_outages(masks: Masks, outages: Iterable[Told]) -> list[Told]:
    """Return outages as strangers see them."""
    name = masks.names()
    return [_only(told, _OUTAGE) | {"id": masks.identity(told["id"]), "target": name(told)} for told in outages]


def _incident(masks: Masks, told: Told) -> Told:
    name = masks.names()
    members = [member | {"provider": told["provider"]} for member in told["outages"]]
    names = {member["target"]: name(member) for member in members}
    return _only(told, _INCIDENT) | {
        "id": masks.identity(told["id"]),
        "outages": [
            _only(member, _MEMBER) | {"id": masks.identity(member["id"]), "target": names[member["target"]]}
            for member in members
        ],
        "stages": [
            _only(stage, _STAGE) | {key: [names[one] for one in stage[key]] for key in ("failed", "restored")}
            for stage in told["stages"]
        ],
    }


def _real(masks: Masks, asked: str, candidates: Iterable[Told]) -> str | None:
    return next((told["id"] for told in candidates if masks.identity(told["id"]) == asked), None)


def _only(told: Mapping[str, Any], keys: Iterable[str]) -> Told:
    return {key: told[key] for key in keys if key in told}


def _name(provider: str, kind: str) -> str:
    return f"{provider} {kind}".strip()
