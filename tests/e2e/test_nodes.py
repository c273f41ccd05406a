"""Two `mailwatch run` with one ledger in PostgreSQL: one probes, the other stands by and takes over."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from mailwatch.store.lease import LEASE_SECONDS
from tests.helpers.node_pair import Pair, running_pair
from tests.helpers.patience import tries
from tests.helpers.pdf import text_of
from tests.helpers.process import MailWatchProcess
from tests.servers.postgresql import PostgreSql


@pytest.fixture
def pair(tmp_path: Path, postgresql: PostgreSql) -> Iterator[Pair]:
    with running_pair(tmp_path, postgresql) as made:
        yield made


def test_another_node_takes_over_when_one_stops_and_the_record_goes_on(pair: Pair) -> None:
    a, b = pair.start()
    a.wait_for_state("away", "down")
    b.wait_for_state("away", "down")
    listed = json.loads(a.command("nodes", "--json").stdout)
    assert sorted(node["state"] for node in listed) == ["active", "standby"]
    assert [node["config_differs"] for node in listed] == [[], []]
    assert (a.metric("mailwatch_node_active "), b.metric("mailwatch_node_active ")) == (1, 0)
    assert "is active: it checks the mailboxes" in b.get("/")
    assert "is active: it checks the mailboxes" not in a.get("/")
    assert "stands by" in b.get("/ledger")
    before = b.count("away", "down")
    assert a.stop() == 0
    pair.wait_active(b)
    b.wait_for_more("away", "down", before + 1)
    a.start(ready=False)
    pair.wait_standing_by(a)
    b.kill()
    pair.wait_active(a)
    a.wait_for_more("away", "down", a.count("away", "down"))
    assert a.stop() == 0
    checked = a.command("ledger", "audit")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    entries = pair.entries()
    starts = [payload for kind, payload, _ in entries if kind == "node" and payload["event"] == "start"]
    # On a busy machine there may be more of them.
    assert "node" not in starts[0]
    assert [one["node"]["reason"] for one in starts[1:]][:1] == ["left"]
    assert starts[-1]["node"]["reason"] in ("lapsed", "left")
    boots = [boot for boot, _ in itertools.groupby(boot for _, _, boot in entries)]
    assert len(boots) == len(set(boots)) == len(starts)
    gaps = [payload["reason"] for kind, payload, _ in entries if kind == "gap"]
    assert gaps.count("handover") == len(starts) - 1


@pytest.mark.nightly
def test_evidence_of_an_outage_across_a_hand_over_is_valid_and_says_so(pair: Pair, tmp_path: Path) -> None:
    a, b = pair.start()
    opened = a.wait_until(lambda: a.api("outages?open=true"), "an open outage")[0]
    a.kill()
    pair.wait_active(b)
    b.wait_for_more("away", "down", b.count("away", "down") + 1)
    (outage,) = b.api("outages")
    assert (outage["id"], outage["state"]) == (opened["id"], "open")
    assert b.stop() == 0
    for language, words in (
        ("en", ("another machine took over", "Another machine with the same ledger and key took over")),
        ("it", ("passaggio a un'altra macchina", "Un'altra macchina con lo stesso registro e la stessa chiave")),
    ):
        bundle, folder = tmp_path / f"{language}.zip", tmp_path / language
        made = b.command("report", outage["id"], "-o", str(bundle), "--lang", language)
        assert made.returncode == 0, made.stderr
        verified = b.command("verify", str(bundle))
        assert verified.returncode == 0, verified.stdout + verified.stderr
        shutil.unpack_archive(bundle, folder)
        text = text_of(folder / "report.pdf").replace("’", "'")
        for one in words:
            assert one in text


@pytest.mark.nightly
def test_a_node_that_is_frozen_and_wakes_up_writes_nothing(pair: Pair) -> None:
    frozen, other = pair.start()
    frozen.wait_for_state("away", "down")
    frozen.signal(signal.SIGSTOP)
    pair.wait_active(other)
    other.wait_for_more("away", "down", other.count("away", "down"))
    frozen.signal(signal.SIGCONT)
    pair.wait_standing_by(frozen)
    assert other.stop() == 0
    pair.wait_active(frozen)
    assert frozen.stop() == 0
    boots = [boot for boot, _ in itertools.groupby(boot for _, _, boot in pair.entries())]
    assert len(boots) == len(set(boots))
    assert frozen.command("ledger", "audit").returncode == 0


def differs(node: MailWatchProcess) -> bool:
    """Whether a node says that another one has other intervals."""
    return "differs from this node's: intervals" in node.get("/readyz")


@pytest.mark.nightly
def test_a_time_in_which_no_node_ran_is_no_hand_over_and_another_config_is_named(pair: Pair) -> None:
    a, b = pair.start()
    a.wait_for_state("away", "down")
    assert (b.stop(), a.stop()) == (0, 0)
    with psycopg.connect(pair.url, autocommit=True) as connection:
        query = "SELECT min(clock_timestamp() - seen) > %s * interval '1 second' FROM nodes"
        for _ in tries():
            if connection.execute(query, [LEASE_SECONDS]).fetchone() == (True,):
                break
    b.settings["targets"][0]["interval"] = "2s"
    b.write_config()
    b.start(ready=False)
    pair.wait_active(b)
    b.wait_for_more("away", "down", 0)
    assert [payload["reason"] for kind, payload, _ in pair.entries() if kind == "gap"] == ["not_running"]
    a.start(ready=False)
    pair.wait_standing_by(a)
    for node in (a, b):
        node.wait_until(partial(differs, node), "a note on the config")
    assert "Its config differs from the active node&#39;s: intervals" in a.get("/ledger")
    listed = {node["state"]: node for node in json.loads(a.command("nodes", "--json").stdout)}
    assert listed["standby"]["config_differs"] == ["intervals"]
    assert "its config differs from the active node's: intervals" in a.command("nodes").stdout
    assert (a.stop(), b.stop()) == (0, 0)
