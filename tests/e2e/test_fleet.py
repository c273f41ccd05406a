"""Several `mailwatch run` of one ledger in PostgreSQL that all probe, while one of them judges and records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.node_pair import Pair, killed_at_the_end
from tests.servers.postgresql import PostgreSql


@pytest.fixture
def pair(tmp_path: Path, postgresql: PostgreSql) -> Iterator[Pair]:
    with postgresql.database() as name, killed_at_the_end(Pair(tmp_path, postgresql.url(name), more=7)) as made:
        yield made


def observations_by_node(pair: Pair) -> dict[str, int]:
    """How many observations are on record by the node that made them, "" for the recording one."""
    counts = dict[str, int]()
    for kind, payload, _ in pair.entries():
        if kind == "observation":
            node = payload.get("node", "")
            counts[node] = counts.get(node, 0) + 1
    return counts


def test_a_node_that_stands_by_probes_its_part_of_the_targets(pair: Pair) -> None:
    a, b = pair.start()
    own = {node["state"]: node["node"] for node in json.loads(a.command("nodes", "--json").stdout)}
    a.wait_until(lambda: observations_by_node(pair).get(own["standby"][:4], 0) > 5, "probes of the other node")
    a.wait_until(lambda: observations_by_node(pair).get("", 0) > 5, "probes of its own")
    for number in range(7):
        a.wait_for_state(f"away-{number}", "down")
    assert b.stop() == 0
    assert a.stop() == 0
    checked = a.command("ledger", "audit")
    assert checked.returncode == 0, checked.stdout + checked.stderr
