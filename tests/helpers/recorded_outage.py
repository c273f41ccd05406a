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
        watching = MailWatchProcess(
            folder,
            [first, other],
            detection={"recheck": ["500ms"]},
            timestamps=[{"url": authority.url, "every": "1h", "ca_file": str(authority.chain)}],
        )
        with watching.running():
            watching.wait_until(lambda: watching.state("lab-imap") == "up", "up")
            watching.wait_until(
                lambda: watching.metric("mailwatch_ledger_last_token_timestamp_seconds"), "a token"
            )
            watching.wait_until(lambda: watching.count("lab-imap", "up") >= 3, "good looks after the token")
            dovecot.stop()
            watching.wait_until(lambda: len(watching.api("outages?open=true")) == 2, "two outages")
            watching.wait_until(lambda: watching.count("lab-imap", "down") >= 6, "more bad looks")
            dovecot.start()
            watching.wait_until(
                lambda: all(o["state"] == "closed" for o in watching.api("outages")), "two closed outages"
            )
            closed = next(o for o in watching.api("outages") if o["target"] == "lab-imap")
            watching.wait_until(lambda: _stamped(watching, closed["ledger"]["last"]), "a token over the end")
        yield watching, authority, closed["id"]


def _stamped(watching: MailWatchProcess, index: int) -> bool:
    reader = Reader.open(watching.data_dir)
    try:
        return any(e.payload["checkpoint"] > index + 1 for e in reader.entries(kinds=["token"]))
    finally:
        reader.close()


@pytest.fixture(scope="session")
def bundle(
    recorded_outage: tuple[MailWatchProcess, Authority, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    watching, _, identity = recorded_outage
    path = tmp_path_factory.mktemp("bundle") / "evidence.zip"
    made = watching.command("report", identity[:6], "-o", str(path), "--lang", "en")
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture
def trust(recorded_outage: tuple[MailWatchProcess, Authority, str]) -> Trust:
    return Trust.read([recorded_outage[1].chain, recorded_outage[0].data_dir / "keys" / "ledger.pub"])
