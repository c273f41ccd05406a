"""A reported outage, with the probes that its four times come from."""

from __future__ import annotations

from dataclasses import dataclass

from mailwatch.analysis.public_json import OutageJson
from tests.campaign.simulated_probes import TrueProbe

ROUNDING = 2
"""Milliseconds by which two cut-off times may differ."""


@dataclass(frozen=True, slots=True)
class ReportedOutage:
    """A reported outage, with the probes that its four times come from."""

    json: OutageJson
    good: TrueProbe | None
    bad: TrueProbe
    last: TrueProbe
    end: TrueProbe | None
    first_index: int
    last_index: int

    @property
    def name(self) -> str:
        """How failures name it."""
        return f"outage {self.json['id']} of {self.json['target']}"
