"""Limits that are too low are reported at the beginning, in numbers, before a library aborts without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mailwatch.web.connections import MAX_HANDLES
from tests.helpers.config_entries import HEAD, TARGET
from tests.helpers.patience import PATIENCE

MAILWATCH = [sys.executable, "-m", "mailwatch"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"{HEAD}guard: off\nclock: {{servers: []}}\n{TARGET % 'port: 993'}")
    return path


def run(*words: str) -> tuple[int, str]:
    """Start it as a process of its own: limits are of its whole life."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    lines = [line for line in done.stderr.splitlines() if " WARNING " not in line]
    return done.returncode, "\n".join(lines)


def test_a_run_with_too_few_file_handles_says_how_many_it_needs(config: Path, tmp_path: Path) -> None:
    status, result = run("prlimit", "--nofile=40:40", *MAILWATCH, "--config", str(config), "run")
    assert (status, result) == (
        71,
        "mailwatch: to run, MailWatch needs at least 122 file handles, but the limit is 40; raise it (ulimit -n, "
        "systemd LimitNOFILE=, docker --ulimit nofile=)",
    )
    assert not (tmp_path / "data").exists()


def room(limit: str, targets: int) -> str:
    program = (
        f"from mailwatch.cli.resource_limits import check_run_resources as check; said = check({targets}, 200); "
        "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), said)"
    )
    return subprocess.run(
        ["prlimit", f"--nofile={limit}", sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout


def test_the_soft_limit_of_file_handles_is_raised_to_the_hard_one() -> None:
    assert room("64:4096", 10_000) == "(4096, 4096) \n"


def test_too_few_file_handles_for_the_targets_are_warned_of_in_numbers() -> None:
    assert "10000 targets and the pages may need 1152 file handles, but the limit is 1100; raise it" in room(
        "64:1100", 10_000
    )
    assert room("64:772", 10) == "(772, 772) \n"


def test_the_pages_are_left_what_the_probes_do_not_need_of_the_file_handles() -> None:
    program = (
        "from mailwatch.cli.resource_limits import page_handles as left; print(left(5, 200), left(1000, 200))"
    )
    found = {
        limit: subprocess.run(
            ["prlimit", f"--nofile={limit}:{limit}", sys.executable, "-c", program],
            capture_output=True, text=True, check=True,
        ).stdout.split()
        for limit in (122, 600, 4096)
    }  # fmt: skip
    assert found == {122: ["24", "24"], 600: ["494", "104"], 4096: [str(MAX_HANDLES), str(MAX_HANDLES)]}


def test_too_few_threads_are_reported_before_the_loop_aborts(config: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user who may still read our files")
    able = "+dac_override,+dac_read_search"
    other = [
        "setpriv", "--reuid=65533", "--clear-groups", f"--inh-caps={able}", f"--ambient-caps={able}",
        f"--bounding-set=-all,{able}",
    ]  # fmt: skip
    status, result = run(*other, "prlimit", "--nproc=5:5", *MAILWATCH, "--config", str(config), "run")
    assert status == 71
    assert result.startswith("mailwatch: to run, MailWatch needs 24 threads, and got ")
    assert "ulimit -u, systemd TasksMax=, docker --pids-limit" in result


@pytest.mark.parametrize(
    "words", [["report", "x", "-o"], ["claim", "x", "-o"], ["run"]], ids=lambda words: words[0]
)
def test_too_small_an_address_space_is_reported_in_numbers(words: list[str], config: Path, tmp_path: Path) -> None:
    more = [str(tmp_path / "made.zip")] if words != ["run"] else []
    limit = f"--as={300 << 20}"
    status, result = run("prlimit", limit, *MAILWATCH, "--config", str(config), *words, *more)
    assert status == 71
    assert "MiB more address space, but the limit leaves " in result
    assert "raise it (ulimit -v), or limit memory instead (systemd MemoryMax=, docker --memory)" in result
    assert result.count("\n") == 0


@pytest.mark.parametrize("mib", [30, 60, 100, 140])
def test_a_command_that_starts_with_too_little_memory_says_so(mib: int) -> None:
    status, result = run("prlimit", f"--as={mib << 20}", *MAILWATCH, "config", "schema")
    assert (status, result) == (0, "") or (status == 71 and result.startswith("mailwatch: memory ran out; raise"))
