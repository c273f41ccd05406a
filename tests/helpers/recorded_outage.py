"""What several tests of the evidence share: an outage that was lived through, and the bundle of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.evidence.verify import Trust
from mailwatch.store import Reader
from tests.helpers.config_entries import imap
from tests.helpers.process import MailWatchProcess
from tests.servers import BOB, Certificates, Dovecot, server_folder
from tests.servers.authority import Authority

OTHERS_NAME = "bob-private-imap"


@pytest.fixture(scope="session")
def recorded_outage(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[MailWatchProcess, Authority, str]]:
    """A MailWatch that saw an outage of two mailboxes from beginning to end, with outside times; now stopped."""
    folder = tmp_path_factory.mktemp("recorded_outage")
    with contextlib.ExitStack() as stack:
        dovecot = stack.enter_context(Dovecot(stack.enter_context(server_folder()), certificates).running())
        authority = stack.enter_context(Authority(folder / "authority").running())
        first = imap(dovecot, certificates, folder / "secret")
        other = imap(dovecot, certificates, folder / "secret-other")
        (folder / "secret-other").write_text(dovecot.passwords[BOB] + "\n")
        other |= {"name": OTHERS_NAME, "login": other["login"] | {"username": BOB}}
        process = MailWatchProcess(
            folder,
            [first, other],
            detection={"recheck": ["500ms"]},
            timestamps=[{"url": authority.url, "every": "1h", "ca_file": str(authority.chain)}],
        )
        with process.running():
            process.wait_until(lambda: process.state("lab-imap") == "up", "up")
            process.wait_until(lambda: process.metric("mailwatch_ledger_last_token_timestamp_seconds"), "a token")
            process.wait_until(lambda: process.count("lab-imap", "up") >= 3, "good observations after the token")
            dovecot.stop()
            process.wait_until(lambda: len(process.api("outages?open=true")) == 2, "two outages")
            process.wait_until(lambda: process.count("lab-imap", "down") >= 6, "more failed observations")
            dovecot.start()
            process.wait_until(
                lambda: all(o["state"] == "closed" for o in process.api("outages")), "two closed outages"
            )
            closed = next(o for o in process.api("outages") if o["target"] == "lab-imap")
            process.wait_until(lambda: _stamped(process, closed["ledger"]["last"]), "a token over the end")
        yield process, authority, closed["id"]


def _stamped(process: MailWatchProcess, index: int) -> bool:
    reader = Reader.open(process.data_dir)
    try:
        return any(e.payload["checkpoint"] > index + 1 for e in reader.entries(kinds=["token"]))
    finally:
        reader.close()


@pytest.fixture(scope="session")
def bundle(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    process, _, identity = recorded_outage
    path = tmp_path_factory.mktemp("bundle") / "evidence.zip"
    made = process.command("report", identity[:6], "-o", str(path), "--lang", "en")
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture
def trust(recorded_outage: tuple[MailWatchProcess, Authority, str]) -> Trust:
    return Trust.read([recorded_outage[1].chain, recorded_outage[0].data_dir / "keys" / "ledger.pub"])
