"""`mailwatch ack` beside a running monitor: kept over a restart, in the JSON, and not in what is public."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.notifications import unreachable_target
from tests.helpers.process import MailWatchProcess


def test_an_acknowledged_outage_says_so_in_the_json_and_not_in_public(tmp_path: Path) -> None:
    process = MailWatchProcess(tmp_path, [unreachable_target()], detection={"recheck": ["50ms"], "open_after": 2})
    with process.running():
        process.wait_for_state("lab", "down")
        (outage,) = process.api("outages")
        assert "acknowledged" not in outage
        done = process.command("ack", outage["id"][:8], "--note", "canary-note")
        assert (done.returncode, done.stdout) == (0, f"{outage['id']}: acknowledged; no more reminders of it\n")
        assert process.command("ack", "ffffffffffff").returncode == 1
    with process.running():
        (outage,) = process.api("outages")
        assert outage["acknowledged"]["note"] == "canary-note"
        (incident,) = process.api("incidents")
        assert incident["acknowledged"] == outage["acknowledged"]
        assert process.api(f"incidents/{incident['id']}")["acknowledged"] == outage["acknowledged"]
        for verb in ("outages", "incidents"):
            (listed,) = json.loads(process.command(verb, "--json").stdout)
            assert listed["acknowledged"] == outage["acknowledged"]
        assert process.command("ack", incident["id"], "--undo").returncode == 0
        assert "acknowledged" not in process.api("outages")[0]
        assert process.command("ack", incident["id"], "--note", "canary-note").returncode == 0
        assert process.command("ledger", "audit").returncode == 0
    process.settings["web"] |= {"public": True}
    process.write_config()
    with process.running():
        public = process.get("/api/v1/outages") + process.get("/api/v1/incidents") + process.get("/incidents")
    assert "lab" in public
    assert "canary" not in public
    assert "acknowledged" not in public
