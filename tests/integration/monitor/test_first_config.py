"""The first config of a running service that was started on the packaged one, as in the image."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from mailwatch.config import catalogue, load
from mailwatch.metrics import Metrics
from mailwatch.model import Kind
from mailwatch.monitor.management import ServiceManagement
from mailwatch.monitor.service import Service
from mailwatch.monitor.startup import Startup
from mailwatch.setup.code import CodeResult, create_code
from mailwatch.setup.pages import pages_hash
from mailwatch.setup.servers import provider_servers
from mailwatch.times import now
from mailwatch.web.management import MailboxAnswers, ManagementError, PagesAnswers

ADDRESS = "mario.rossi@libero.it"
PACKAGED = {
    "data_dir": "data",
    "guard": "off",
    "clock": {"servers": []},
    "targets": [{"name": "libero-imap", "kind": "imap", "provider": "libero"}],
}


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service on the packaged config, in a working directory without a config; it probes nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAILWATCH_DATA_DIR", str(tmp_path / "data"))
    packaged = tmp_path / "etc" / "config.yaml"
    packaged.parent.mkdir()
    packaged.write_text(json.dumps(PACKAGED))
    async with contextlib.AsyncExitStack() as undo:
        start = Startup(packaged, load(packaged), Metrics(CollectorRegistry()), undo, named=False)
        yield await start.run()


def answers(password: str = "canary-mailbox-password") -> MailboxAnswers:
    """A mailbox of Libero."""
    libero = catalogue.by_key("libero")
    assert libero is not None
    servers = provider_servers(libero, (Kind.IMAP, Kind.SMTP), named=False)
    return MailboxAnswers(
        address=ADDRESS,
        username=ADDRESS,
        password=SecretStr(password),
        servers=servers,
        kinds=(Kind.IMAP,),
        skipped={Kind.SMTP: "refused: no"},
    )


async def test_it_is_written_before_the_packaged_one_and_taken_over(service: Service, tmp_path: Path) -> None:
    management = ServiceManagement(service)
    hashed = pages_hash(SecretStr("correct horse"))
    code = create_code(tmp_path / "data", now())
    assert management.setup_is_open()
    assert management.setup_problem() == ""
    assert await management.try_code(code) is CodeResult.ACCEPTED
    pages = PagesAnswers(password_hash=hashed, timezone="Europe/Rome")
    saved = await management.set_up(pages, answers(), language="it", timestamps=False)

    assert (saved.path, saved.targets, saved.waiting) == (tmp_path / "config.yaml", (f"{ADDRESS}/imap",), ())
    assert service.path == tmp_path / "config.yaml"
    assert [each.name for each in service.built_config.targets] == [f"{ADDRESS}/imap"]
    assert service.built_config.access.requires_login
    assert management.timezone == "Europe/Rome"
    assert hashed in saved.path.read_text()
    assert hashed not in saved.text
    assert "canary" not in saved.path.read_text()
    assert saved.secret is not None
    assert saved.secret.read_text() == "canary-mailbox-password\n"
    assert "# canale escluso: smtp (refused: no)" in saved.text

    assert not management.setup_is_open()
    with pytest.raises(ManagementError, match="closed"):
        await management.set_up(pages, answers(), language="it", timestamps=False)
    assert await management.try_code(code) is CodeResult.MISSING


async def test_a_reload_finds_the_config_that_a_start_would_find(service: Service, tmp_path: Path) -> None:
    own = tmp_path / "config.yaml"
    own.write_text(json.dumps({**PACKAGED, "targets": [{**PACKAGED["targets"][0], "name": "mine"}]}))  # type: ignore[index]
    assert not ServiceManagement(service).setup_is_open()
    result = await service.reload()
    assert (result.error, result.waiting, service.path) == ("", (), own)
    # a faulty one changes nothing
    own.write_text("nonsense: 1")
    assert "nonsense" in (await service.reload()).error
    assert [each.name for each in service.built_config.targets] == ["mine"]


@pytest.mark.parametrize("mistake", ["nonsense: 1\n", "notify: [\n"])
async def test_of_a_config_broken_by_hand_the_page_has_what_runs(
    service: Service, tmp_path: Path, mistake: str
) -> None:
    own = tmp_path / "config.yaml"
    own.write_text(yaml_of(notify=[{"name": "home", "url": "json://127.0.0.1:9"}]))
    assert (await service.reload()).error == ""
    management = ServiceManagement(service)
    entries = await management.entries()
    assert entries.mistakes == ""
    own.write_text(own.read_text() + mistake)
    broken = await management.entries()
    assert "config.yaml" in broken.mistakes
    assert [(each.name, each.scheme) for each in broken.channels] == [("home", "json")]
    assert (broken.channels, broken.mailboxes) == (entries.channels, entries.mailboxes)
    assert broken.digest != entries.digest


def yaml_of(**more: object) -> str:
    """The packaged config as YAML, a key a line."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in {**PACKAGED, **more}.items())


async def test_what_cannot_be_written_leaves_nothing(service: Service, tmp_path: Path) -> None:
    management = ServiceManagement(service)
    pages = PagesAnswers(password_hash="not a hash", timezone="Europe/Rome")
    with pytest.raises(ManagementError, match="argon2id"):
        await management.set_up(pages, answers(), language="en", timestamps=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "etc"]
    assert management.setup_is_open()


async def test_messages_that_do_not_arrive_leave_the_states_known(service: Service) -> None:
    before = service.stale_reasons()
    service.notifier.unreachable_reasons = lambda: ["no notification arrives"]  # type: ignore[method-assign]
    assert "no notification arrives" in service.unready_reasons()
    assert service.stale_reasons() == before
