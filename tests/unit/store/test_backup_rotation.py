"""A rotation keeps the newest backups of one ledger, and removes nothing that it did not make."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailwatch.cli import main
from mailwatch.store import (
    NewEntry,
    Store,
    StoreDamagedError,
    back_up_and_rotate,
    latest_backup,
    load_keys,
)

DAY = 86_400_000
NOON = 1_796_040_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    data_dir = tmp_path / "data"
    store = Store.open(data_dir)
    store.append_batch([NewEntry(kind="node", time=1, target=None, payload={"event": "start"})])
    store.checkpoint()
    store.close()
    return data_dir


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_nothing_else_is_touched(ledger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    own = load_keys(ledger).origin.rpartition("/")[2]
    others = [
        "mailwatch-2026-11-24.tar.gz",
        "notes.txt",
        "mailwatch-0123456789abcdef-20200101T000000Z.tar.gz",
        f"mailwatch-{own}-20200101T000000Z.tar.gz.part",
        f"mailwatch-{own}-20209901T000000Z.tar.gz",
    ]
    for name in others:
        (folder / name).write_text("kept")
    (folder / f"mailwatch-{own}-20200102T000000Z.tar.gz").symlink_to(folder / "notes.txt")
    (folder / f"mailwatch-{own}-20200103T000000Z.tar.gz").mkdir()
    others += [f"mailwatch-{own}-2020010{day}T000000Z.tar.gz" for day in (2, 3)]
    made = [back_up_and_rotate(ledger, folder, 2, NOON + number * DAY) for number in range(4)]
    assert [len(one.removed) for one in made] == [0, 0, 1, 1]
    assert names(folder) == sorted([*others, made[2].file.name, made[3].file.name])
    assert made[3].file.stat().st_mode & 0o777 == 0o600
    assert latest_backup(ledger, folder, NOON + 10 * DAY) == NOON + 3 * DAY
    assert latest_backup(ledger, folder, NOON + 2 * DAY) == NOON + 2 * DAY


@pytest.mark.sqlite
def test_a_failed_backup_removes_nothing(ledger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    kept = [back_up_and_rotate(ledger, folder, 2, NOON + number * DAY).file for number in range(2)]
    (ledger / "mailwatch.sqlite").write_bytes(b"damage" * 1000)
    with pytest.raises(StoreDamagedError):
        back_up_and_rotate(ledger, folder, 1, NOON + 2 * DAY)
    assert names(folder) == sorted(path.name for path in kept)


def test_a_backup_from_a_wrong_clock_is_not_the_newest_for_ever(ledger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    ahead = back_up_and_rotate(ledger, folder, 2, NOON + 400 * DAY).file
    kept = [back_up_and_rotate(ledger, folder, 2, NOON + number * DAY).file for number in range(3)]
    assert names(folder) == sorted(path.name for path in kept[1:])
    assert not ahead.exists()
    assert latest_backup(ledger, folder, NOON - DAY) is None


def test_the_last_one_stays_when_one_is_kept_and_the_clock_was_set_back(ledger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    back_up_and_rotate(ledger, folder, 1, NOON)
    new = back_up_and_rotate(ledger, folder, 1, NOON - DAY).file
    assert names(folder) == [new.name]


def test_the_command_keeps_what_the_config_says(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    text = "vantage_point: {name: here}\ntargets: [{name: a, kind: imap, host: localhost}]\n"
    config.write_text(text)
    words = ["--config", str(config), "backup"]
    assert main(words) == 2
    assert "name a FILE, or a folder and --keep N, or write backup: into the config" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "by-hand"), "--keep", "3"]) == 0
    config.write_text(f"{text}backup: {{to: nightly, keep: 2}}\n")
    assert main(words) == 0
    (made,) = (tmp_path / "nightly").iterdir()
    assert str(made) in capsys.readouterr().out
    for keep in ("0", "-1", "x", "1001", "9" * 50):
        with pytest.raises(SystemExit):
            main([*words, "--keep", keep])
        assert "must be a whole number from 1 to 1000" in capsys.readouterr().err
