"""A real `mailwatch run` over a ledger that was lost: refused, then succeeded, and it says so."""

from __future__ import annotations

from pathlib import Path

from mailwatch.store import Reader
from tests.helpers.ledger_factory import MINUTE, write
from tests.helpers.process import MailWatchProcess
from tests.servers import free_port


def test_a_lost_ledger_is_refused_and_its_successor_says_what_it_goes_on_for(tmp_path: Path) -> None:
    target = {"name": "mail", "kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none"}
    process = MailWatchProcess(tmp_path, [target])
    write(process.data_dir, {"mail": lambda _: "+"}, 0, 5 * MINUTE, durable=False).close()
    old = (process.data_dir / "keys" / "ledger.pub").read_text().partition("+")[0]
    (process.data_dir / "mailwatch.sqlite").unlink()
    refused = process.command("run")
    assert refused.returncode == 1
    assert "is gone, but keys of a ledger are in" in refused.stderr
    assert "`mailwatch run --successor` begins a new ledger, with a new key, as its successor" in refused.stderr
    assert process.command("ledger", "successor").returncode == 0
    with process.running():
        page = process.get("/ledger")
        assert "Ledger before this one" in page
        assert f"{old}, 6 entries signed. Its database was lost." in page
        assert "Its key signed that this ledger follows." in page
        assert f"archive/{old.partition('/')[2]}" in page
    reader = Reader.open(process.data_dir)
    kinds = [entry.kind for entry in reader.entries()]
    reader.close()
    assert kinds[:2] == ["successor", "node"]
    assert kinds[-1] == "node"
