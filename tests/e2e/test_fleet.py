"""Several `mailwatch run` of one ledger in PostgreSQL that all probe, while one of them judges and records."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.node_pair import TARGET, Pair, killed_at_the_end
from tests.helpers.paths import TESTS
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need_program
from tests.servers.postgresql import PostgreSql

NODE = Path("/usr/bin/node")
MORE = 7
"""Targets besides the first: their shares are of both nodes."""


@pytest.fixture
def pair(tmp_path: Path, postgresql: PostgreSql) -> Iterator[Pair]:
    with postgresql.database() as name, killed_at_the_end(Pair(tmp_path, postgresql.url(name), more=MORE)) as made:
        yield made


def observations_by_node(pair: Pair) -> dict[str, int]:
    """How many observations are on record by the node that made them, "" for the recording one."""
    counts = dict[str, int]()
    for kind, payload, _ in pair.entries():
        if kind == "observation":
            node = payload.get("node", "")
            counts[node] = counts.get(node, 0) + 1
    return counts


def listed(node: MailWatchProcess) -> dict[str, dict[str, Any]]:
    """What `mailwatch nodes` says of each node that lives, by its state."""
    found = json.loads(node.command("nodes", "--json").stdout)
    return {one["state"]: one for one in found if one["state"] != "gone"}


def wait_shared(pair: Pair, node: MailWatchProcess, other: str) -> None:
    """Wait until observations of another node, by its id, come on record."""
    node.wait_until(lambda: 0 < (node.metric("mailwatch_node_shares ") or 0) < 256, "its part of the shares")
    before = observations_by_node(pair).get(other[:4], 0)
    node.wait_until(lambda: observations_by_node(pair).get(other[:4], 0) > before, "probes of the other node")


def check_record(pair: Pair, node: MailWatchProcess) -> None:
    """Check that the record is whole, in order, and has no gap without a reason that was made."""
    checked = node.command("ledger", "audit")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    ended = dict[str, int]()
    for kind, payload, _ in pair.entries():
        if kind == "observation":
            assert payload["start"] >= ended.get(payload["target"], 0)
            assert payload["scheduled"] <= payload["start"] <= payload["end"]
            ended[payload["target"]] = payload["end"]


def test_a_node_that_stands_by_probes_its_part_of_the_targets(pair: Pair) -> None:
    a, b = pair.start()
    nodes = listed(a)
    wait_shared(pair, a, nodes["standby"]["node"])
    a.wait_until(lambda: observations_by_node(pair).get("", 0) > 5, "probes of its own")
    for number in range(MORE):
        a.wait_for_state(f"away-{number}", "down")
    a.wait_until(lambda: a.metric("mailwatch_node_shares ") == 85, "the metric of its shares")
    b.wait_until(lambda: b.metric("mailwatch_node_shares ") == 171, "the metric of its shares")
    found = {state: (node["shares"], node["line"], node["no_probes"]) for state, node in listed(b).items()}
    assert found == {"active": (85, "off", ""), "standby": (171, "off", "")}
    assert (b.stop(), a.stop()) == (0, 0)
    check_record(pair, a)


@pytest.mark.nightly
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_node_that_is_lost_costs_no_observation_and_its_targets_are_probed_on(
    pair: Pair, how: signal.Signals
) -> None:
    a, b = pair.start()
    other = listed(a)["standby"]["node"]
    wait_shared(pair, a, other)
    b.signal(how)
    a.wait_until(lambda: a.metric("mailwatch_node_shares ") == 256, "all shares")
    for number in range(MORE):
        name = f"away-{number}"
        a.wait_for_more(name, "down", a.count(name, "down") + 1)
    if how is signal.SIGSTOP:
        b.signal(signal.SIGCONT)
        # It wakes with jobs of an epoch that is over, and helps again in the next.
        wait_shared(pair, a, other)
    assert a.stop() == 0
    check_record(pair, a)
    # What was under way was made again, and no failure of a node counts against the provider.
    assert {payload["cause"] for kind, payload, _ in pair.entries() if kind == "observation"} == {"refused"}


@pytest.mark.nightly
def test_a_judge_that_is_killed_is_replaced_by_a_prober_and_helps_it_when_it_is_back(pair: Pair) -> None:
    a, b = pair.start()
    nodes = listed(a)
    wait_shared(pair, a, nodes["standby"]["node"])
    a.kill()
    pair.wait_active(b)
    b.wait_for_more("away", "down", b.count("away", "down"))
    a.start(ready=False)
    pair.wait_standing_by(a)
    wait_shared(pair, b, nodes["active"]["node"])
    assert (a.stop(), b.stop()) == (0, 0)
    check_record(pair, b)


@pytest.mark.nightly
def test_a_node_of_another_config_probes_nothing_until_it_is_the_same(pair: Pair) -> None:
    a, b = pair.start()
    nodes = listed(a)
    wait_shared(pair, a, nodes["standby"]["node"])
    b.settings["targets"][0]["timeout"] = "1s"
    b.write_config()
    b.signal(signal.SIGHUP)
    a.wait_until(lambda: a.metric("mailwatch_node_shares ") == 256, "all shares")
    assert "intervals" in listed(a)["standby"]["no_probes"]
    assert "gets no targets to probe: its config differs" in a.log.read_text()
    b.settings["targets"][0]["timeout"] = TARGET["timeout"]
    b.write_config()
    b.signal(signal.SIGHUP)
    wait_shared(pair, a, nodes["standby"]["node"])
    assert (b.stop(), a.stop()) == (0, 0)
    check_record(pair, a)


@pytest.mark.nightly
def test_evidence_of_what_another_node_observed_is_valid_for_each_verifier(pair: Pair, tmp_path: Path) -> None:
    a, b = pair.start()
    wait_shared(pair, a, listed(a)["standby"]["node"])
    a.wait_until(lambda: len(a.api("outages?open=true")) == MORE + 1, "outages")
    assert (b.stop(), a.stop()) == (0, 0)
    by_other = {
        payload["target"] for kind, payload, _ in pair.entries() if kind == "observation" and payload.get("node")
    }
    outages = json.loads(a.command("outages", "--json").stdout)
    outage = next(one for one in outages if one["target"] in by_other)
    bundle = tmp_path / "evidence.zip"
    made = a.command("report", outage["id"], "-o", str(bundle))
    assert made.returncode == 0, made.stderr
    verified = a.command("verify", str(bundle))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    need_program(NODE)
    second = subprocess.run(
        [NODE, TESTS / "second_verifier" / "verify.mjs", bundle], capture_output=True, text=True, check=True
    )
    assert [why for why in json.loads(second.stdout)["claims"].values() if why] == []
