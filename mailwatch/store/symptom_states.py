"""The symptoms of a long outage up to an entry, kept beside the ledger (kept_states.py).

The page of an incident shows how its trouble changed. That follows from each failed observation, of which a year
has half a million: the page reads those after the kept state.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from mailwatch.analysis.incidents import UNREACHABLE, SymptomChange, SymptomHistory, trouble_of
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.state_json import state_from, state_json
from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Outcome
from mailwatch.store.audit import Finding
from mailwatch.store.detector_states import entry_at
from mailwatch.store.kept_states import KeptState, leaf_of
from mailwatch.store.reader import Reader

KIND = "symptoms"
STATE_VERSION = 1
"""Raise it with every change of the rules that gives another state for the same observations."""
MANY_OUTAGES = 20_000
"""Outages that are over of which a reader remembers the symptoms."""


@dataclass(slots=True)
class Symptoms:
    """The symptoms of an outage up to entry `index`. `read`: how many observations were read just now."""

    history: SymptomHistory
    index: int
    read: int = 0


def read_symptoms(reader: Reader, outage: OutageRecord, *, use_kept: bool = True) -> Symptoms:
    """Return the symptoms of an outage up to its last failure, from a kept state on where one fits."""
    kept = _kept(reader, outage) if use_kept else None
    return _follow(reader, outage, kept or Symptoms(SymptomHistory(), outage.first_index - 1), outage.last_index)


def symptom_changes_of(reader: Reader, outage: OutageRecord) -> tuple[SymptomChange, ...]:
    """Return each trouble of an outage, with the time since when.

    Its observations are read only if its record counts failures of several troubles, and once where it is over:
    a flapping target has thousands of outages in one incident.
    """
    troubles = {trouble_of(phase) for phase, count in outage.phases.items() if count}
    if sum(outage.phases.values()) < outage.down:
        troubles.add(UNREACHABLE)
    if len(troubles) == 1:
        return ((outage.first_bad, troubles.pop()),)
    known = reader.incidents.symptoms
    key = outage.id, outage.first_index, outage.last_index
    if (found := known.get(key)) is None:
        found = read_symptoms(reader, outage).history.found
        if outage.state != "open":
            if len(known) >= MANY_OUTAGES:
                known.clear()
            known[key] = found
    return found


def symptoms_to_keep(reader: Reader, outage: OutageRecord, symptoms: Symptoms) -> KeptState | None:
    """Return the state to keep, None where nothing new was read."""
    last = entry_at(reader, symptoms.index) if symptoms.read else None
    if last is None:
        return None
    written = {"version": STATE_VERSION, "first": outage.first_index, "history": state_json(symptoms.history)}
    return KeptState(KIND, outage.id, symptoms.index, leaf_of(last.header), canonical(written))


def audit_symptoms(
    reader: Reader, outage: OutageRecord, progress: Callable[[int], None] = lambda _index: None
) -> list[Finding]:
    """Compare the kept symptoms of an outage with those that its observations give.

    `progress` gets the index now and then, and may wait.
    """
    kept = _kept(reader, outage)
    if kept is None:
        return []
    again = _follow(reader, outage, Symptoms(SymptomHistory(), outage.first_index - 1), kept.index, progress)
    if again.history == kept.history:
        return []
    what = f"the symptoms of {outage.id} kept with entry {kept.index} differ from its observations"
    return [Finding(None, what)]


def _follow(
    reader: Reader,
    outage: OutageRecord,
    symptoms: Symptoms,
    last_index: int,
    progress: Callable[[int], None] = lambda _index: None,
) -> Symptoms:
    history, index, read = symptoms.history, symptoms.index, symptoms.read
    found = reader.entries(
        target=outage.target, kinds=["observation"], from_index=index + 1, to_index=last_index + 1
    )
    for entry in found:
        payload, index, read = entry.payload, entry.index, read + 1
        if read % 1000 == 0:
            progress(index)
        if payload["outcome"] == Outcome.DOWN.value:
            history = history.feed(payload["end"], payload.get("failed_phase"))
    return Symptoms(history, index, read)


def _kept(reader: Reader, outage: OutageRecord) -> Symptoms | None:
    state = reader.kept(KIND, outage.id)
    last = None if state is None else entry_at(reader, state.index)
    if state is None or last is None or last.target != outage.target or leaf_of(last.header) != state.leaf:
        return None
    try:
        written = json.loads(state.text)
        if written["version"] != STATE_VERSION or written["first"] != outage.first_index:
            return None
        return Symptoms(state_from(SymptomHistory, written["history"]), state.index)
    except (ValueError, KeyError, TypeError):
        return None
