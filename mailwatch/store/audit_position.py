"""Where the audit of a running MailWatch stopped, kept beside the ledger: a year of 1,000 targets takes nights.

It is only used to go on with an audit that a restart interrupted. `mailwatch ledger audit` begins with entry 0.
"""

from __future__ import annotations

import json

from mailwatch.analysis.state_json import state_from, state_json
from mailwatch.ledger.canonical_json import canonical
from mailwatch.store.audit import AuditPosition
from mailwatch.store.detector_states import entry_at
from mailwatch.store.kept_states import KeptState, leaf_of
from mailwatch.store.reader import Reader

KIND = "audit"
STATE_VERSION = 1
"""Raise it with every check that is added to the audit."""


def position_to_keep(reader: Reader, position: AuditPosition | None) -> KeptState | None:
    """Return the state to keep of an audit that goes on; without a position, of one that has ended."""
    size = reader.size() if position is None else position.size
    last = entry_at(reader, size - 1)
    if last is None:
        return None
    written = {"version": STATE_VERSION, "position": None if position is None else state_json(position)}
    return KeptState(KIND, "", last.index, leaf_of(last.header), canonical(written))


def read_position(reader: Reader) -> AuditPosition | None:
    """Return where an audit stopped, None if it has ended, or if what is kept does not fit the ledger."""
    state = reader.kept(KIND, "")
    last = None if state is None else entry_at(reader, state.index)
    if state is None or last is None or leaf_of(last.header) != state.leaf:
        return None
    try:
        written = json.loads(state.text)
        if written["version"] != STATE_VERSION or written["position"] is None:
            return None
        position = state_from(AuditPosition, written["position"])
    except (ValueError, KeyError, TypeError):
        return None
    return position if position.size == state.index + 1 else None
