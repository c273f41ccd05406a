"""A part of an incident: an answer has a bounded number of its outages and stages, however many there are."""

from __future__ import annotations

import math
from typing import cast

from mailwatch.web.public_shapes import AnyIncidentJson

PART_LENGTH = 200
"""The outages, and the stages, of one part."""


def count_parts(incident: AnyIncidentJson) -> int:
    """Return how many parts an incident has."""
    return max(1, *(math.ceil(len(each) / PART_LENGTH) for each in (incident["outages"], incident["stages"])))


def incident_part(incident: AnyIncidentJson, number: int = 1) -> AnyIncidentJson:
    """Return an incident with the outages and stages of one part, by its number from 1, and how many there are.

    An incident of one part is returned as it is.
    """
    if number == 1 and count_parts(incident) == 1:
        return incident
    chosen = slice((number - 1) * PART_LENGTH, number * PART_LENGTH)
    outages, stages = incident["outages"], incident["stages"]
    cut = {"outages": outages[chosen], "stages": stages[chosen]}
    totals = {"outages_total": len(outages), "stages_total": len(stages)}
    return cast(AnyIncidentJson, {**incident, **cut, **totals})
