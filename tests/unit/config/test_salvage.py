"""One run of config check lists all mistakes: those of shape, and the files and variables that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailwatch import config
from mailwatch.cli import main

CANARY = "canary-7f3a"


def check(path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Check a config; return the lines printed, without the path of the file."""
    path.write_text(text)
    main(["config", "check", "--config", str(path)])
    lines = capsys.readouterr().err.replace(f"{path}:", "").replace(str(path.parent), "FOLDER").splitlines()
    assert CANARY not in "".join(lines)
    return lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_mistakes_of_shape_hide_no_other_mistake(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """\
zebra: 1
targets:
  - {name: lab, kind: imap, host: h.example, porrt: 9, login: {username: a, password_file: nowhere}}
  - {name: trip, kind: roundtrip, via: lab, to: lab}
  - {name: lab2, kind: imapp, host: h.example}
accounts:
  - {address: a@libero.it, password_env: MAILWATCH_NOT_SET, channels: [imap]}
  - {address: a@libero.it, password_file: nope, interval: 5, channels: [imap]}
web: {listen: 127.0.0.1:99999, token_file: nowhere}
notify: [{url: "json://h", on: [x]}, {url_file: nowhere}, {}]
timestamps: [{url: nope}, {url: "http://tsa.example", ca_file: nowhere}]
maintenance: [{name: x, cron: "* *", duration: 1h, timezone: UTC}]
signing: {key_file: nowhere}
"""
    missing = "FOLDER/nowhere cannot be read: No such file or directory; "
    secret = "create it with the password as its first line"
    lines = check(path, text, capsys)
    assert [line.split(": use one of")[0] for line in lines if not line.startswith("1: zebra")] == [
        f"3: targets[0].login.password_file: {missing}{secret}",
        "3: targets[0].porrt: unknown key; did you mean 'port'?",
        "5: targets[2].kind: is not known; use imap, pop3, smtp, mx, webmail or roundtrip",
        "7: accounts[0].password_env: the environment variable MAILWATCH_NOT_SET is not set; set it before the "
        "start",
        "8: accounts[1].address: a@libero.it is already an account, on line 7; keep one",
        "8: accounts[1].interval: 5 has no unit; write 5s, or ms, m, h, d",
        f"8: accounts[1].password_file: FOLDER/nope{missing.removeprefix('FOLDER/nowhere')}{secret}",
        "9: web.listen: is not host:port; write for example 127.0.0.1:8080",
        f"9: web.token_file: {missing}{secret}",
        "10: notify[0].on[0]: is not known; use open, close, credentials, offline, certificate, disk, ledger, "
        "monitor, incident or confirmed",
        f"10: notify[1].url_file: {missing}{secret}",
        "10: notify[2]: has no address; add url, url_file: PATH or url_env",
        "11: timestamps[0].url: is not the address of an authority; write for example https://tsa.example.org/",
        f"11: timestamps[1].ca_file: {missing}save the authority's certificates there",
        '12: maintenance[0].cron: must have five fields: minute, hour, day, month, weekday; write "0 3 * * 0"',
        f"13: signing.key_file: {missing}put it there, or name another",
    ]


def test_permissions_come_with_the_mistakes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path.parent / "secret").write_text(CANARY)
    (path.parent / "secret").chmod(0o644)
    text = "accounts: [{address: a@libero.it, password_file: secret, zebra: 1}]\nguard: off\n"
    lines = check(path, text, capsys)
    assert "warning: 1: accounts[0]: password_file can be read by others; run chmod 600 FOLDER/secret" in lines
    assert any(line.startswith("warning: 2: guard: off") for line in lines)
    assert any(line.startswith("1: accounts[0].zebra: unknown key") for line in lines)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "targets: 1\n", 'data_dir: "a\\0b"\n', "targets: []\n"])
def test_what_nothing_can_be_read_of_is_refused_as_before(
    path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(path, text, capsys)
    with pytest.raises(config.ConfigError):
        config.load(path)


def test_evidence_without_timestamps_deserves_a_warning(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    account = "accounts: [{address: a@libero.it, password_env: PATH}]\n"
    (line, last) = check(path, account, capsys)
    assert line.startswith("warning: 1: timestamps: no external authority timestamps the record")
    assert last == "no mistakes: 3 targets"
    assert check(path, f"{account}timestamps: [{{url: http://tsa.example}}]\n", capsys) == [last]
    # Without a login there is nothing to claim.
    assert check(path, "targets: [{name: lab, kind: imap, host: h.example}]\n", capsys) == [
        "no mistakes: 1 target"
    ]


@pytest.mark.parametrize(
    ("address", "password", "warned"),
    [
        ("a@gmail.com", CANARY, True),
        ("a@gmail.com", "abcd efgh ijkl mnop", False),
        ("a@gmail.com", "abcdefghijklmnop", False),
        ("a@icloud.com", CANARY, True),
        ("a@icloud.com", "abcd-efgh-ijkl-mnop", False),
        ("a@yahoo.com", "Abcdefghijklmnop", True),
        ("a@libero.it", CANARY, False),
    ],
)
def test_a_password_that_is_no_app_password_deserves_a_warning(
    address: str, password: str, warned: bool, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path.parent / "secret").write_text(f"{password}\n")
    (path.parent / "secret").chmod(0o600)
    text = f"accounts:\n  - {{address: {address}, password_file: secret, channels: [imap]}}\n"
    lines = check(path, f"{text}timestamps: [{{url: http://tsa.example}}]\n", capsys)
    assert any("takes an app password" in line for line in lines) == warned
    assert password not in "".join(lines)
    assert lines[-1] == "no mistakes: 1 target"


def test_a_wrong_zone_of_the_environment_is_a_mistake(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "CEST")
    text = "targets: [{name: lab, kind: imap, host: h.example}]\n"
    (line,) = check(path, text, capsys)
    assert line.startswith(
        "1: timezone: TZ=CEST is not a time zone; set its name, for example TZ=Europe/Rome, or "
    )
    assert check(path, f"{text}timezone: Europe/Rome\n", capsys) == ["no mistakes: 1 target"]
