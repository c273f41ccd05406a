"""The edge of every verb: whatever happens is said in a sentence, with a status of its own, and nothing leaks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mailwatch.cli.errors import EXIT_DEFECT, EXIT_RESOURCES, run_command
from mailwatch.errors import OperationError, UsageError

CANARY = "canary-7f3a"


class PanicException(BaseException):
    """As pyo3 raises it when Rust panics."""


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


def os_error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UsageError("config.yaml:3: no"), 2, "config.yaml:3: no"),
        (OperationError("the key is gone"), 1, "mailwatch: the key is gone"),
        (
            os_error(errno.ENOSPC, "/x/y.zip"),
            1,
            "mailwatch: /x/y.zip: No space left on device; free some space there",
        ),
        (
            os_error(errno.ENOENT, "/x"),
            2,
            "mailwatch: /x: No such file or directory; check the spelling",
        ),
        (FileNotFoundError("there is no ledger in /x"), 2, "mailwatch: there is no ledger in /x"),
        (
            os_error(errno.EMFILE),
            EXIT_RESOURCES,
            "this process cannot open more files; raise the limit (ulimit -n",
        ),
        (os_error(errno.ENOMEM), EXIT_RESOURCES, "memory ran out"),
        (os_error(errno.EAGAIN), EXIT_RESOURCES, "the machine allows no more threads or processes"),
        (MemoryError(), EXIT_RESOURCES, "memory ran out"),
        (
            RuntimeError("can't start new thread"),
            EXIT_RESOURCES,
            "no more threads or processes; raise the limit (ulimit -u",
        ),
        (ImportError("x.so: failed to map segment from shared object"), EXIT_RESOURCES, "memory ran out"),
        (KeyError(CANARY), EXIT_DEFECT, "this is an error in MailWatch (KeyError)"),
        (PanicException(CANARY), EXIT_DEFECT, "this is an error in MailWatch (PanicException)"),
        (ExceptionGroup("g", [ValueError(CANARY)]), EXIT_DEFECT, "this is an error in MailWatch (ValueError)"),
        (ExceptionGroup("g", [MemoryError()]), EXIT_RESOURCES, "memory ran out"),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_any_error_of_a_command_is_printed_in_one_line(
    error: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error)) == status
    output = capsys.readouterr().err
    assert words in output
    assert output.count("\n") == (1 if words else 0)
    assert CANARY not in output
    assert "[Errno" not in output


def test_an_internal_error_names_its_place_but_no_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> int:
        from mailwatch.times import rfc3339

        try:
            return len(CANARY) + len(rfc3339(CANARY))  # type: ignore[arg-type]
        except TypeError as error:
            raise LookupError(CANARY) from error

    assert run_command(lambda: command() or 0) == EXIT_DEFECT
    assert "(LookupError" in capsys.readouterr().err
    monkeypatch.setenv("MAILWATCH_TRACEBACK", "1")
    assert run_command(command) == EXIT_DEFECT
    output = capsys.readouterr().err
    assert "times.py" in output
    assert "builtins.TypeError" in output
    assert "builtins.LookupError" in output
    assert CANARY not in output
    assert output.endswith("The record is unchanged.\n")


def test_a_reader_who_goes_away_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m mailwatch providers | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["providers"], ["providers", "--json"], ["config", "schema"]], ids=" ".join)
def test_a_full_disk_under_the_output_is_reported(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mailwatch", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "mailwatch: No space left on device; free some space there, or name another place\n"
    assert done.returncode == 1
