"""Dialogues of real servers, played over real sockets to one run of the real program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mailwatch.model import Kind
from tests.dialogues import DIALOGUES
from tests.dialogues.dialogue import Dialogue
from tests.dialogues.servers import HEALTHY, served

USER, PASSWORD = "mrossi@example.org", "c4n4ry-Pa55"


def _target(dialogue: Dialogue, port: int) -> dict[str, Any]:
    """A provider for each: no account may be judged by what another one met."""
    target = {
        "name": dialogue.name,
        "kind": dialogue.kind.value,
        "provider": dialogue.name,
        "host": "127.0.0.1",
        "port": port,
        "tls": "none",
        "timeout": f"{dialogue.timeout}s",
    }
    return target if dialogue.kind is Kind.MX else target | {"login": {"username": USER, "password_file": "pw"}}


async def _played(folder: Path) -> dict[str, dict[str, Any]]:
    """Serve all dialogues, and a control: we are online. Return what one run of probe says of each."""
    async with contextlib.AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(served(dialogue)) for dialogue in DIALOGUES]
        control = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        await stack.enter_async_context(control)
        (folder / "pw").write_text(f"{PASSWORD}\n")
        (folder / "pw").chmod(0o600)
        config = {
            "vantage_point": {"name": "lab"},
            "data_dir": "data",
            "guard": {"controls": [f"127.0.0.1:{control.sockets[0].getsockname()[1]}"]},
            "targets": [_target(dialogue, port) for dialogue, port in zip(DIALOGUES, ports, strict=True)],
        }
        (folder / "config.yaml").write_text(json.dumps(config))
        words = ("-m", "mailwatch", "--config", str(folder / "config.yaml"), "probe", "--json")
        made = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await made.communicate()
    assert made.returncode in (1, 3), errors.decode()
    assert PASSWORD not in output.decode() + errors.decode()
    return {seen["target"]: seen for seen in json.loads(output)}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """What one run of the program says of each dialogue."""
    return asyncio.run(_played(tmp_path_factory.mktemp("dialogues")))


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: dialogue.name)
def test_the_dialogue_gets_the_verdict_that_was_written_down(
    seen: Mapping[str, dict[str, Any]], dialogue: Dialogue
) -> None:
    found, right = seen[dialogue.name], dialogue.right
    reply = f"{found['outcome']}/{found['cause']}/{found['failed_phase']}: {found['detail'][:200]}; {dialogue.why}"
    assert found["outcome"] == right.outcome, reply
    assert found["cause"] in right.causes, reply
    assert found["failed_phase"] in right.phases, reply


def test_the_table_is_whole() -> None:
    names = Counter(dialogue.name for dialogue in DIALOGUES)
    assert [name for name, times in names.items() if times > 1] == []
    assert len(DIALOGUES) >= 60
    for dialogue in DIALOGUES:
        assert dialogue.source, dialogue.name
        assert dialogue.why, dialogue.name
        # A step for a command that no server of the kind is asked would never be said.
        asked = {*HEALTHY[dialogue.kind], "LOGIN", "USER", "PASS", "MAIL", "RCPT", "HELO"}
        assert {step.to for step in dialogue.steps} <= asked, dialogue.name
