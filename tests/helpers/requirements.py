"""Skips a test without a program or root; fails it where the tests are the gate."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.marks import marked

HOW_TO_INSTALL = "run: sh tests/install_servers.sh"


def need(program: Path, *, root: bool = False) -> None:
    """Skip without the server, but fail where the tests are the gate: there a skip would pass unseen."""
    lacking = None
    if not program.exists():
        lacking = f"{program} is not installed; {HOW_TO_INSTALL}"
    elif root and os.geteuid() != 0:
        lacking = f"{program} runs as root only"
    if lacking is None:
        return
    if os.environ.get("CI") or os.environ.get("MAILWATCH_TESTS_REQUIRE_SERVERS") == "1":
        pytest.fail(lacking)
    pytest.skip(lacking)


def need_program(program: Path) -> None:
    """Skip, or fail where the tests are the gate, without a program or library."""
    need(program)


@marked("root")
def need_root(*programs: str) -> None:
    """Skip, or fail where the tests are the gate, without root or one of the programs."""
    for program in programs:
        need(Path(shutil.which(program) or f"/usr/sbin/{program}"), root=True)
