"""What anyone may see: states and outages with their bounds, under pseudonyms.

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

from mailwatch.config.recorded_targets import SEE_API, UnknownTargetError
from mailwatch.times import Millis
from mailwatch.web.read_model import EvidenceUnavailableError, PageData, ReadModel

Json = dict[str, Any]
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
class Pseudonyms:
    """Gives the pseudonyms that anonymous clients see. `secret` is the ledger's own, so that ids stay over
    restarts.
    """

    secret: bytes
    targets: Callable[[], list[Json]]
    real_names: Mapping[str, str] = field(default_factory=dict)
    """The true name of each target that was shown last: put in place whole, so that no lock is needed."""

    def pseudonym(self, real: str) -> str:
        """Another id of the same form."""
        return hmac.digest(self.secret, f"public\n{real}".encode(), hashlib.sha256).hex()[:12]

    def names(self) -> Callable[[Mapping[str, Any]], str]:
        """Return what names a target by its provider and channel."""
        known = self.targets()
        several = Counter((target["provider"], target["kind"]) for target in known)
        counted: Counter[tuple[str, str]] = Counter()
        named: dict[str, str] = {}
        for target in known:
            place = target["provider"], target["kind"]
            counted[place] += 1
            named[target["target"]] = _name(*place) + (f" {counted[place]}" if several[place] > 1 else "")
        # What is no longer watched has no number.
        return lambda target: named.get(target["target"]) or _name(target["provider"], target["kind"])


def public_read_model(read_model: ReadModel, pseudonyms: Pseudonyms) -> ReadModel:
    """Return the sources of the public pages and API: what is not shown gives nothing."""

    def targets() -> list[Json]:
        name, found = pseudonyms.names(), read_model.targets()
        pseudonyms.real_names = {name(target): target["target"] for target in found}
        return [
            _only(target, _TARGET)
            | {"target": name(target), "outage": target["outage"] and pseudonyms.pseudonym(target["outage"])}
            for target in found
        ]

    def unknown(asked: str) -> str:
        # Only what is shown may be named.
        name = pseudonyms.names()
        public_names = {name(item) for item in (*read_model.targets(), *read_model.outages(False, None, None))}
        return "" if asked in public_names else str(UnknownTargetError(asked, public_names, where="", see=SEE_API))

    def outages(only_open: bool, start: Millis | None, end: Millis | None) -> list[Json]:
        return public_outages(pseudonyms, read_model.outages(only_open, start, end))

    def incidents(only_open: bool, start: Millis | None, end: Millis | None) -> list[Json]:
        return [_incident(pseudonyms, incident_) for incident_ in read_model.incidents(only_open, start, end)]

    def incident(asked: str) -> Json | None:
        real = _real_id(pseudonyms, asked, read_model.incidents(False, None, None))
        found = real and read_model.incident(real)
        return _incident(pseudonyms, found) if found else None

    return ReadModel(
        targets=targets,
        unknown_reason=unknown,
        outages=outages,
        incidents=incidents,
        incident=incident,
        observations=lambda *_: [],
        offline=lambda *_: [],
        availability=lambda *_: [],
        unready_reasons=list,
        # Whether, not why.
        stale_reasons=lambda: ["ill"] if read_model.stale_reasons() else [],
        metrics=lambda: iter(()),
    )


def public_page_data(page_data: PageData, read_model: ReadModel, pseudonyms: Pseudonyms) -> PageData:
    """Return what the public pages show besides. A glance is asked by a name of `pseudonyms.shown`."""

    def glance(name: str, at: Millis) -> Json:
        card = _only(page_data.target_card(pseudonyms.real_names[name], at), ("ratio", "days", "filling"))
        return card | {"phases": {}, "duration": 0.0}

    def outage(asked: str) -> Json | None:
        real = _real_id(pseudonyms, asked, read_model.outages(False, None, None))
        found = real and page_data.outage(real)
        if not found:
            return None
        guard = found["guard"]
        return _only(found, _PAGE) | {
            "id": asked,
            "target": pseudonyms.names()(found),
            "transitions": [_only(change, ("at", "outcome", "cause", "phase")) | {"detail": ""}
                            for change in found["transitions"]],
            "guard": None if guard is None else {"online": guard["online"], "controls": {}},
        }  # fmt: skip

    async def evidence(_identity: str, _language: str) -> Path:
        raise EvidenceUnavailableError("evidence is not public; log in")

    return PageData(
        vantage_point="",
        place="",
        target_card=glance,
        outages=lambda: public_outages(pseudonyms, page_data.outages()),
        outage=outage,
        ledger=dict,
        change_token=page_data.change_token,
        evidence=evidence,
    )


def public_outages(pseudonyms: Pseudonyms, outages: Iterable[Json]) -> list[Json]:
    """Return outages as anonymous clients see them."""
    name = pseudonyms.names()
    return [
        _only(outage, _OUTAGE) | {"id": pseudonyms.pseudonym(outage["id"]), "target": name(outage)}
        for outage in outages
    ]


def _incident(pseudonyms: Pseudonyms, incident: Json) -> Json:
    name = pseudonyms.names()
    members = [member | {"provider": incident["provider"]} for member in incident["outages"]]
    names = {member["target"]: name(member) for member in members}
    return _only(incident, _INCIDENT) | {
        "id": pseudonyms.pseudonym(incident["id"]),
        "outages": [
            _only(member, _MEMBER) | {"id": pseudonyms.pseudonym(member["id"]), "target": names[member["target"]]}
            for member in members
        ],
        "stages": [
            _only(stage, _STAGE) | {key: [names[one] for one in stage[key]] for key in ("failed", "restored")}
            for stage in incident["stages"]
        ],
    }


def _real_id(pseudonyms: Pseudonyms, public_id: str, candidates: Iterable[Json]) -> str | None:
    return next((item["id"] for item in candidates if pseudonyms.pseudonym(item["id"]) == public_id), None)


def _only(json: Mapping[str, Any], keys: Iterable[str]) -> Json:
    return {key: json[key] for key in keys if key in json}


def _name(provider: str, kind: str) -> str:
    return f"{provider} {kind}".strip()
