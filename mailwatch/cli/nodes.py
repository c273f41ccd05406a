"""mailwatch nodes: which nodes share the ledger, and which of them probes."""

from __future__ import annotations

import argparse
import json

from rich.text import Text
from typing_extensions import TypedDict

from mailwatch.cli.common import add_options, open_config, stdout
from mailwatch.cli.language import tr
from mailwatch.cli.terminal_format import TerminalFormat, add_utc_option, terminal_format
from mailwatch.cli.text_table import Column, TextTable, print_lines
from mailwatch.errors import OperationError
from mailwatch.fleet.eligibility import reasons
from mailwatch.store.lease import Node, config_differences, list_nodes
from mailwatch.store.place import configured_place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.times import rfc3339

_LINES = {"up": "works", "down": "is down", "unknown": "not known", "off": "not checked"}


class NodeJson(TypedDict):
    """A node in the output of `mailwatch nodes --json`. Times are RFC 3339; durations are seconds."""

    node: str
    name: str
    state: str
    """active, standby or gone."""
    lease: float | None
    """How long its lease still lasts; null for a node that is gone."""
    since: str | None
    """Since when it is active."""
    seen: str
    epoch: int
    version: str
    clock_offset: float | None
    """How far its clock is ahead of the database's."""
    clock_bound: float | None
    refusal: str
    """Why it would not take over, "" if it would."""
    config_differs: list[str]
    """In which parts its config differs from the active node's; [] for a node that is gone."""
    shares: int
    """How many of the 256 shares of the targets it probes."""
    probes_last_minute: int | None
    """How many probes it made in the last minute; null where it does not say."""
    line: str | None
    """Its own line: up, down, unknown, or off without a guard; null where it does not say."""
    no_probes: str
    """Why it gets no targets to probe, "" if it does; "" for a node that is gone."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    add_utc_option(verb)
    verb.epilog = "Exit status: 0 a node is active, 1 none is."
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    place = configured_place(config)
    if not isinstance(place, PostgresPlace):
        raise OperationError("the ledger is in SQLite, which one node has for itself")
    found = list_nodes(place.engine(read_only=True))
    if args.json:
        differ = config_differences(found)
        why = reasons(found)
        listed = [node_json(node, differ[node.id], why[node.id]) for node in found]
        print(json.dumps(listed, indent=2, ensure_ascii=False))
    else:
        print_lines(stdout(), _table(found, terminal_format(args, config)))
    return 0 if any(node.active and node.lives for node in found) else 1


def node_json(node: Node, differs: list[str], no_probes: str = "") -> NodeJson:
    """Return a node as JSON. `differs`: in which parts its config differs from the active node's. `no_probes`: why
    it gets no targets to probe.
    """
    return {
        "node": node.id,
        "name": node.name,
        "state": node.state,
        "lease": round(node.left, 3) if node.lives else None,
        "since": rfc3339(node.since) if node.since is not None and node.active else None,
        "seen": rfc3339(node.seen),
        "epoch": node.epoch,
        "version": node.version,
        "clock_offset": None if node.offset is None else node.offset / 1000,
        "clock_bound": None if node.bound is None else node.bound / 1000,
        "refusal": node.refusal,
        "config_differs": differs,
        "shares": node.probe_shares,
        "probes_last_minute": node.probing.get("minute") if node.lives else None,
        "line": node.probing.get("line") if node.lives else None,
        "no_probes": no_probes,
    }


def _table(found: list[Node], form: TerminalFormat) -> TextTable:
    columns = (
        Column(header="node"),
        Column(header="name", shrinks=True),
        Column(header="state"),
        Column(header="seen last"),
        Column(header="version"),
        Column(header="clock", right=True),
        Column(header="line"),
        Column(header="shares", right=True),
        Column(header="probes/min", right=True),
        Column(header="why not", below=True, label=""),
    )
    table = TextTable(columns, form.zone_note())
    differ, why = config_differences(found), reasons(found)
    for node in found:
        parts = ", ".join(differ[node.id])
        notes = [tr("its config differs from the active node's: {parts}", parts=parts)] if parts else []
        if node.refusal:
            notes.append(tr("it would not take over: {why}", why=node.refusal))
        if why[node.id] and not parts and why[node.id] != node.refusal:
            notes.append(tr("it probes nothing: {why}", why=why[node.id]))
        style = {"active": "bold green", "gone": "bold red"}.get(node.state, "")
        clock = "" if node.offset is None else f"{node.offset / 1000:+.1f} s"
        table.add_row(
            node.id[:4],
            node.name,
            Text(tr(node.state), style),
            form.second(node.seen),
            node.version,
            clock,
            tr(_LINES.get(node.probing.get("line", ""), "")) if node.lives else "",
            str(node.probe_shares or ""),
            str(node.probing.get("minute", "")) if node.lives else "",
            "; ".join(notes),
        )
    return table
