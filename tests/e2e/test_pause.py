"""A paused target is known, not probed, and on record as announced; its open outage stays open."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from mailwatch.model import Gap, TargetChange
from mailwatch.store import Reader
from tests.helpers.notifications import notifying_process, unreachable_target
from tests.helpers.process import MailWatchProcess
from tests.helpers.webhook import Webhook


def reload(process: MailWatchProcess, **changes: Any) -> None:
    """Change the first target, and reload."""
    before = process.log.read_text().count("config reloaded")
    process.settings["targets"][0] |= changes
    process.write_config()
    process.signal(signal.SIGHUP)
    process.wait_until(lambda: process.log.read_text().count("config reloaded") > before, "reloaded")


def changes_and_gaps(folder: Path) -> list[str]:
    """The target's changes by their reasons, and its gaps, in the order of the record."""
    reader = Reader.open(folder)
    try:
        facts = [entry.fact for entry in reader.entries(target="lab", kinds=["watch", "gap"])]
    finally:
        reader.close()
    return [
        fact.reason if isinstance(fact, TargetChange) else "gap"
        for fact in facts
        if isinstance(fact, TargetChange | Gap)
    ]


def test_a_pause_is_on_record_and_an_open_outage_stays_open(tmp_path: Path) -> None:
    process = MailWatchProcess(tmp_path, [unreachable_target()], detection={"recheck": ["50ms"], "open_after": 2})
    with process.running():
        process.wait_for_state("lab", "down")
        reload(process, paused=True)
        assert process.state("lab") == "paused"
        assert process.metric("mailwatch_target_paused") == 1
        assert (
            process.metric('mailwatch_target_state{target="lab",provider="lab",kind="imap",state="paused"}') == 1
        )
        assert process.metric("mailwatch_probe_success") is None
        observed = process.count("lab", "down")
        (still_open,) = process.api("outages?open=true")
        for language, state in (("it", "in pausa"), ("en", "paused")):
            (row,) = process.get(f"/?lang={language}").split('<tr role="row" class="paused">')[1:]
            assert f"<span>{state}</span>" in row.partition("</tr>")[0]
        assert process.get("/readyz") == "ok\n"
    # It stays paused over a restart, and is probed again when the config says so.
    with process.running():
        assert process.state("lab") == "paused"
        assert process.count("lab", "down") == observed
        (open_after,) = process.api("outages?open=true")
        assert (open_after["id"], open_after["last_bad"]) == (still_open["id"], still_open["last_bad"])
        reload(process, paused=False)
        process.wait_for_more("lab", "down", observed)
        (again,) = process.api("outages?open=true")
        assert again["id"] == still_open["id"]
        assert again["unobserved"] > 0
    (figures,) = json.loads(process.command("availability", "--json").stdout)
    assert 0 < figures["paused"] < figures["unobserved"]
    assert "paused" in process.command("availability").stdout
    assert changes_and_gaps(process.data_dir)[:5] == ["start", "paused", "paused", "gap", "resumed"]
    assert process.command("ledger", "audit").returncode == 0


def test_a_pause_is_a_gap_on_record_and_unobserved_time_however_short_it_is(tmp_path: Path) -> None:
    process = MailWatchProcess(tmp_path, [unreachable_target() | {"interval": "1h"}])
    with process.running():
        process.wait_until(lambda: process.count("lab", "down"), "an observation")
        reload(process, paused=True)
        reload(process, paused=False)
        process.wait_for_more("lab", "down", 1)
    kinds = [line for line in changes_and_gaps(process.data_dir) if line != "start"]
    assert kinds[:3] == ["paused", "gap", "resumed"]
    (figures,) = json.loads(process.command("availability", "--json").stdout)
    assert 0 < figures["paused"] <= figures["unobserved"]


def test_a_paused_target_is_not_counted_in_messages_nor_down(tmp_path: Path) -> None:
    webhook = Webhook().open()
    process = notifying_process(tmp_path, webhook.url, names=("lab", "other"))
    process.settings["targets"][0]["paused"] = True
    process.write_config()
    try:
        with process.running():
            process.wait_until(lambda: webhook.received, "notified")
            listed = json.loads(process.command("outages", "--json").stdout)
    finally:
        webhook.close()
    assert webhook.titles == ["MailWatch: other is down"]
    assert [outage["target"] for outage in listed] == ["other"]


def test_a_failure_before_a_pause_and_one_after_it_are_no_outage(tmp_path: Path) -> None:
    target = unreachable_target() | {"interval": "1h"}
    process = MailWatchProcess(tmp_path, [target], detection={"recheck": [], "open_after": 2})
    with process.running():
        process.wait_for_more("lab", "down", 0)
        reload(process, paused=True)
        reload(process, paused=False)
        process.wait_for_more("lab", "down", 1)
        process.wait_for_state("lab", "suspect")
        reload(process, paused=True)
    # The pause ends while MailWatch does not run.
    process.settings["targets"][0]["paused"] = False
    process.write_config()
    with process.running():
        process.wait_for_more("lab", "down", 2)
        process.wait_for_state("lab", "suspect")
        assert process.api("outages") == []
    changes = [line for line in changes_and_gaps(process.data_dir) if line != "gap"]
    assert changes == ["start", "paused", "resumed", "resumed", "paused", "resumed", "resumed"]
    assert process.command("ledger", "audit").returncode == 0
