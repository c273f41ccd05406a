"""The service levels that providers promise; `sla.yaml` names each source, and whether it was verified.

>>> rule("pec").target, rule("pec").window
(Decimal('99.8'), 'quadrimestre')
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from mailwatch.analysis.sla import (
    Rule,
    read_rule,
)


@cache
def rules() -> Mapping[str, Rule]:
    """Load the promises, once, by their keys."""
    text = resources.files(__package__ or "").joinpath("sla.yaml").read_text(encoding="utf-8")
    return {key: read_rule(key, data) for key, data in yaml.safe_load(text).items()}


def rule(key: str) -> Rule | None:
    """Return the promise with that key, or None."""
    return rules().get(key)
