"""The one-time code of the set-up in the browser."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from mailwatch.setup.code import FILE, MAX_TRIES, VALID_MS, CodeResult, create_code, remove_code, try_code

NOW = 1_796_000_000_000
WRONG = "AAAA-AAAA-AAAA"


def test_a_code_is_accepted_once(tmp_path: Path) -> None:
    code = create_code(tmp_path / "data", NOW)
    assert try_code(tmp_path / "data", code, NOW + VALID_MS - 1) is CodeResult.ACCEPTED
    assert try_code(tmp_path / "data", code, NOW) is CodeResult.MISSING


def test_case_blanks_and_hyphens_do_not_matter(tmp_path: Path) -> None:
    code = create_code(tmp_path, NOW)
    assert try_code(tmp_path, f" {code.lower().replace('-', ' ')}\n", NOW) is CodeResult.ACCEPTED


def test_the_file_holds_no_code_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    code = create_code(folder, NOW)
    content = (folder / FILE).read_text()
    assert code not in content
    assert code.replace("-", "") not in content
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / FILE)] == [0o700, 0o600]


def test_a_code_made_by_root_is_for_the_owner_of_the_folder(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(tmp_path, 12345, 12346)
    create_code(tmp_path, NOW)
    owner = (tmp_path / FILE).stat()
    assert (owner.st_uid, owner.st_gid, stat.S_IMODE(owner.st_mode)) == (12345, 12346, 0o600)


def test_a_new_code_replaces_the_one_before(tmp_path: Path) -> None:
    before, after = create_code(tmp_path, NOW), create_code(tmp_path, NOW)
    assert before != after
    assert try_code(tmp_path, before, NOW) is CodeResult.WRONG
    assert try_code(tmp_path, after, NOW) is CodeResult.ACCEPTED


def test_after_too_many_tries_not_even_the_right_code_is_accepted(tmp_path: Path) -> None:
    code = create_code(tmp_path, NOW)
    results = [try_code(tmp_path, WRONG, NOW) for _ in range(MAX_TRIES)]
    assert results == [*[CodeResult.WRONG] * (MAX_TRIES - 1), CodeResult.TOO_MANY]
    assert try_code(tmp_path, code, NOW) is CodeResult.TOO_MANY


def test_tries_at_the_same_time_are_counted_all(tmp_path: Path) -> None:
    code = create_code(tmp_path, NOW)
    with ThreadPoolExecutor(8) as pool, (tmp_path / FILE).open("rb") as held:
        # One waits until the other has written its count.
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(try_code, tmp_path, WRONG, NOW)
        assert wait([waiting], timeout=0.5).done == set()
        assert json.loads((tmp_path / FILE).read_bytes())["tries"] == 0
        fcntl.flock(held, fcntl.LOCK_UN)
        results = [waiting.result(), *pool.map(lambda _: try_code(tmp_path, WRONG, NOW), range(20))]
    assert results.count(CodeResult.WRONG) == MAX_TRIES - 1
    assert try_code(tmp_path, code, NOW) is CodeResult.TOO_MANY


@pytest.mark.parametrize("at", [NOW + VALID_MS, NOW - 1], ids=["late", "clock-set-back"])
def test_a_code_expires(tmp_path: Path, at: int) -> None:
    code = create_code(tmp_path, NOW)
    assert try_code(tmp_path, code, at) is CodeResult.EXPIRED


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"salt": 1}', b"[" * 4000, b"\xff"])
def test_a_damaged_file_is_no_code(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert try_code(tmp_path, WRONG, NOW) is CodeResult.MISSING


def test_without_a_code_nothing_is_accepted(tmp_path: Path) -> None:
    assert try_code(tmp_path, "", NOW) is CodeResult.MISSING
    code = create_code(tmp_path, NOW)
    assert try_code(tmp_path, "", NOW) is CodeResult.WRONG
    remove_code(tmp_path)
    remove_code(tmp_path)
    assert try_code(tmp_path, code, NOW) is CodeResult.MISSING


@pytest.mark.parametrize("text", ["é" * 1000, "\x00", "AAAA" * 1000, "\udcff"])
def test_any_text_can_be_tried(tmp_path: Path, text: str) -> None:
    create_code(tmp_path, NOW)
    assert try_code(tmp_path, text, NOW) is CodeResult.WRONG


def test_a_full_disk_does_not_lose_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = create_code(tmp_path, NOW)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        try_code(tmp_path, code, NOW)
    monkeypatch.undo()
    assert try_code(tmp_path, code, NOW) is CodeResult.ACCEPTED
