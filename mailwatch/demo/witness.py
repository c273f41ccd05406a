"""What MailWatch says over its HTTP API, beside the truth that the script knows."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mailwatch.models import Millis

LOOKS = 40
"""How many of the last looks are shown of each target."""
_TIMEOUT = 5.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The answers of one moment. `looks` are outcomes, oldest first."""

    targets: list[Json]
    outages: list[Json]
    looks: dict[str, list[str]]

    @property
    def over(self) -> bool:
        """Whether every target had an outage, and every outage has closed."""
        had = {outage["target"] for outage in self.outages}
        return had >= {target["target"] for target in self.targets} and all(
            outage["state"] == "closed" for outage in self.outages
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outage on record beside the truth."""

    outage: Json
    truth: float

    @property
    def bounds(self) -> tuple[float, float | None]:
        """The least and the most that the outage lasted by the record; seconds."""
        duration = self.outage["duration"]
        return duration["min"], duration["max"]

    @property
    def holds(self) -> bool:
        """Whether the true duration lies inside the bounds of a closed outage."""
        least, most = self.bounds
        return self.outage["state"] == "closed" and most is not None and least <= self.truth <= most


class Witness:
    """Reads the API on 127.0.0.1. Every call blocks; raises OSError when there is no answer."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # A proxy of the environment would be asked for 127.0.0.1, and would look at itself.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def is_ready(self) -> bool:
        """Whether MailWatch is probing and writing."""
        try:
            with self._opener.open(f"{self.url}/readyz", timeout=_TIMEOUT):
                return True
        except OSError:
            return False

    def see(self) -> Seen:
        """Ask for the state of all targets, their last looks and all outages."""
        targets = self._get("targets")
        looks = {}
        for target in targets:
            name = target["target"]
            latest = self._get(f"observations?target={name}&limit={LOOKS}")
            looks[name] = [str(look["outcome"]) for look in reversed(latest)]
        return Seen(targets=targets, looks=looks, outages=self._get("outages"))

    def _get(self, what: str) -> list[Json]:
        with self._opener.open(f"{self.url}/api/v1/{what}", timeout=_TIMEOUT) as answer:
            found: list[Json] = json.load(answer)
        return found


def verdicts(seen: Seen, down_time: tuple[Millis, Millis | None] | None) -> list[Verdict]:
    """Lay each outage beside the truth; none while the provider has not been down and up again."""
    if down_time is None or down_time[1] is None:
        return []
    truth = (down_time[1] - down_time[0]) / 1000
    return [Verdict(outage=outage, truth=truth) for outage in seen.outages]


def proven(found: Sequence[Verdict], targets: Sequence[str]) -> bool:
    """Whether each target had exactly one outage, and the truth lies inside the bounds of each."""
    return sorted(v.outage["target"] for v in found) == sorted(targets) and all(v.holds for v in found)
