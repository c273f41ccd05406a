"""Which nodes may probe, and why another one may not. Pure: each node, and each command, says the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from mailwatch.store.lease import MAX_OFFSET_MS, Node

ACTIVE_WEIGHT = 0.5
"""The part of the active node, where that of another one is 1: it judges and records besides."""

LineWord = Literal["up", "down", "unknown", "off"]
"""What a node says of its own line; off: its guard does not ask."""


def line_word(has_guard: bool, online: bool | None) -> LineWord:
    """Return what a node says of its line."""
    if not has_guard:
        return "off"
    return "unknown" if online is None else "up" if online else "down"


def probing_words(line: LineWord, minute: int) -> dict[str, object]:
    """Return what a node says of its probing, for the others: its line, and its probes of the last minute."""
    return {"line": line, "minute": minute}


def why_not(node: Node, active: Node) -> str:
    """Return why a living node gets no targets to probe from the active one, "" if it does."""
    if node.id == active.id:
        return ""
    if node.version != active.version:
        return f"it runs MailWatch {node.version}, and the active node {active.version}"
    if differing := active.differs_in(node):
        return f"its config differs from the active node's: {', '.join(differing)}"
    if node.offset is not None and abs(node.offset) > MAX_OFFSET_MS + (node.bound or 0):
        way = "ahead of" if node.offset > 0 else "behind"
        return f"its clock is {abs(node.offset) / 1000:.1f} s {way} the database's"
    if node.refusal:
        return node.refusal
    if not node.probing:
        return "it does not probe yet"
    if node.probing.get("line") == "down":
        return "its own line is down"
    return ""


def reasons(nodes: Iterable[Node]) -> dict[str, str]:
    """Return why each node probes nothing, by its id: "" if it does, and for one that is gone."""
    known = list(nodes)
    active = next((node for node in known if node.state == "active"), None)
    return {node.id: why_not(node, active) if active is not None and node.lives else "" for node in known}


def weights(nodes: Iterable[Node]) -> Mapping[str, float]:
    """Return the weight of each node that may probe, by its id; without an active node, of none.

    The active node probes nothing while its own line is down and another's is not.
    """
    living = [node for node in nodes if node.lives]
    active = next((node for node in living if node.active), None)
    if active is None:
        return {}
    others = {node.id: 1.0 for node in living if node is not active and not why_not(node, active)}
    is_cut_off = active.probing.get("line") == "down" and others
    return others if is_cut_off else {**others, active.id: ACTIVE_WEIGHT}
