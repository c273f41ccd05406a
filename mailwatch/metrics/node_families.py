"""The metric families of a node that shares its ledger with others: what it is, and what it knows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from mailwatch.metrics.exposition import NO_LABELS, Family, Labels, Row

STATES = ("active", "standby", "gone")
LOST = ("lapsed", "refused", "silent", "undelivered")
"""Why a probe at another node gave no observation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node at one time. Seconds; None is unknown. `states`: the number of nodes in each state.

    `handovers`: how often the targets went from one node to another, since the ledger began.
    """

    active: bool
    lease: float
    evictions: int
    offset: float | None
    bound: float | None
    round_trip: float | None
    handovers: int | None
    states: dict[str, int] = field(default_factory=dict)
    shares: int = 0
    """How many of the 256 shares of the targets this node probes."""
    minute: int = 0
    """How many probes it made in the last minute."""
    remote: int | None = None
    """Observations of other nodes that it recorded; None unless it is active. The same for the next two."""
    dropped: int | None = None
    """Messages of other nodes that it refused."""
    lost: Mapping[str, int] = field(default_factory=dict)
    """Probes at other nodes that gave no observation, by reason."""


_SIMPLE: dict[str, tuple[str, str, Callable[[NodeRecord], float | None]]] = {
    "active": ("gauge", "Whether this node judges and records.", lambda node: int(node.active)),
    "lease_seconds": ("gauge", "Time for which this node may still start probes.", lambda node: node.lease),
    "evictions_total": ("counter", "Times that others ended this node's lease.", lambda node: node.evictions),
    "handovers_total": ("counter", "Times that the targets changed nodes.", lambda node: node.handovers),
    "clock_offset_seconds": (
        "gauge",
        "Time by which this clock is ahead of the database's.",
        lambda node: node.offset,
    ),
    "clock_offset_bound_seconds": ("gauge", "The error of that at most.", lambda node: node.bound),
    "shares": (
        "gauge",
        "Shares of the targets that this node probes, of 256.",
        lambda node: node.shares,
    ),
    "probes_last_minute": ("gauge", "Probes that this node made in the last minute.", lambda node: node.minute),
    "remote_probes_total": (
        "counter",
        "Observations of other nodes that this one recorded.",
        lambda node: node.remote,
    ),
    "dropped_messages_total": (
        "counter",
        "Messages of other nodes that were refused.",
        lambda node: node.dropped,
    ),
    "database_seconds": (
        "gauge",
        "Duration of the latest question to the database.",
        lambda node: node.round_trip,
    ),
}


def node_families(record: NodeRecord | None) -> Iterator[Family]:
    """Yield the families; without rows where the ledger is not shared."""
    states = {} if record is None else {state: record.states.get(state, 0) for state in STATES}
    counts: list[Row] = [("", NO_LABELS, Labels.of(state=state), count) for state, count in states.items()]
    yield Family(
        "mailwatch_nodes", "gauge", "Nodes that share the ledger, by state, as this node sees it.", counts
    )
    for name, (kind, text, read) in _SIMPLE.items():
        value = None if record is None else read(record)
        rows: list[Row] = [] if value is None else [("", NO_LABELS, NO_LABELS, value)]
        yield Family(f"mailwatch_node_{name}", kind, text, rows)
    lost: list[Row] = []
    if record is not None and record.remote is not None:
        lost = [("", NO_LABELS, Labels.of(reason=reason), record.lost.get(reason, 0)) for reason in LOST]
    text = "Probes at other nodes that gave no observation, and were made again."
    yield Family("mailwatch_node_lost_probes_total", "counter", text, lost)
