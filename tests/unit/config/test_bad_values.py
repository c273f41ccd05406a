"""Two hundred bad configs: `config check` says file, line and fix, and `run` says the same."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

import pytest

from mailwatch import config
from mailwatch.cli import main
from mailwatch.config import ConfigError, check_references, yaml_file
from mailwatch.monitor.build import build_config
from tests.helpers.config_entries import HEAD, TARGET
from tests.helpers.paths import TESTDATA
from tests.servers import Certificates

CASES = [
    line.split("\t", 1) if line[:2] != "W:" or line.count("\t") == 1 else line.rsplit("\t", 1)
    for line in (TESTDATA / "bad-values.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
ACCOUNT = "accounts: [{password_file: secret, %s}]\n"


@pytest.fixture(scope="module")
def folder(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the cases speak of."""
    made = tmp_path_factory.mktemp("config")
    (made / "folder").mkdir()
    (made / "closed").mkdir(mode=0o500)
    (made / "secret").write_text("canary-7f3a\n")
    (made / "secret").chmod(0o600)
    (made / "words").write_text("these are no certificates\n")
    for name in ("file", "empty"):
        (made / name).touch()
    os.mkfifo(made / "pipe")
    (made / "ring").symlink_to("ring")
    (made / "ca.pem").write_bytes(certificates.ca_file.read_bytes())
    with (made / "large").open("wb") as large:
        large.truncate(1 << 40)
    return made


def text_of(case: str, folder: Path) -> str:
    kind, _, what = case.replace("¶", "\n").replace("FOLDER", str(folder)).partition(": ")
    if kind == "R":
        return what
    middle = ACCOUNT % what if kind == "A" else TARGET % (what if kind == "T" else "port: 993")
    return HEAD + middle + (f"{what}\n" if kind == "W" else "")


def test_at_least_two_hundred_bad_values_are_tested() -> None:
    files = list((TESTDATA / "bad-config").glob("*.yaml"))
    assert len(CASES) >= 180
    assert len(CASES) + len(files) >= 243
    assert len({case for case, _ in CASES}) == len(CASES)


def test_check_prints_line_and_advice_and_run_prints_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for case, expected in CASES:
        with subtests.test(case=case.encode("unicode_escape").decode()):
            _assert_both_print(case, expected, folder, capsys)


def _assert_both_print(case: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "config.yaml"
    path.write_text(text_of(case, folder), encoding="utf-8")
    assert main(["config", "check", "--config", str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"{path}:{expected.replace('FOLDER', str(folder))}") for line in lines), lines
    assert all(line.startswith((f"{path}:", "warning: ")) for line in lines), lines
    assert "canary" not in "".join(lines)
    # Only a report is signed; `run` never opens the key.
    if not expected.startswith("3: signing: "):
        with pytest.raises(config.ConfigError) as refused:
            build_config(config.load(path))
        assert set(str(refused.value).splitlines()) <= set(lines)


def test_values_beside_the_bad_ones_are_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "config.yaml"
    for what in (
        "port: 993",
        "ca_file: ca.pem",
        "login: {username: a, password_file: secret}",
        "login: {username: a, password_command: [sh, -c, 'echo ${HOME}x']}",
        'login: {username: "\\ud83d\\ude00", password_file: secret}',
        "login: {username: a$b, password_file: secret}",
    ):
        path.write_text(HEAD + TARGET % what, encoding="utf-8")
        assert main(["config", "check", "--config", str(path)]) == 0, capsys.readouterr().err
    loaded = config.load(path)
    build_config(loaded)


def test_the_halves_of_a_character_are_put_together(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(
        '{"vantage_point": {"name": "\\ud83d\\ude00"}, ' + TARGET.strip().replace("%s", "port: 993") + "}"
    )
    assert config.load(path).vantage_point.name == "😀"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/proc/x", "/proc is in /proc, which is not a disk and keeps no files; name another"),
        ("/sys/x/y", "/sys is in /sys, which is not a disk and keeps no files; name another"),
        ("n" * 300, "the name nnnnnnnnnnnnnnnnnnnn... is longer than 255 bytes, the limit of"),
        ("new/" + "è" * 150 + "/x", "the name " + "è" * 20 + "... is longer than 255 bytes, the"),
        ("/tmp/" + "deep/" * 820, "the path, with the files in it, is longer than 3968 bytes; name another"),
    ],
)  # fmt: skip
def test_a_folder_that_can_never_be_made_is_a_mistake(given: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(HEAD.replace("data_dir: data\n", "") + f"data_dir: {given}\n" + TARGET % "port: 993")
    with pytest.raises(ConfigError) as refused:
        check_references(config.load(path))
    line = path.read_text().splitlines().index(f"data_dir: {given}") + 1
    assert f"{path}:{line}: data_dir: {message}" in str(refused.value)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    child = os.fork()
    if child == 0:
        from mailwatch.config.files import folder_problem

        # Up to the folder of all users, such as /tmp.
        for folder in itertools.takewhile(
            lambda folder: not folder.stat().st_mode & stat.S_ISVTX, tmp_path.parents
        ):
            folder.chmod(0o755)
        tmp_path.chmod(0o755)
        closed.chmod(0o555)
        os.setuid(65534)
        message = folder_problem(closed / "data")
        os._exit(0 if message.startswith(f"MailWatch may not write to {closed}; chown -R 65534:") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ((HEAD + TARGET % "port: 993").encode("utf-16"), "1: is not UTF-8; save the file as UTF-8"),
        ((HEAD + TARGET % "port: 993").encode("utf-16-le"), "1: control character; remove it"),
        (b"a: [" + b"1," * 1000 + b"1]", "1: more than 1000 values; is it the right file?"),
    ],
    ids=["utf-16", "utf-16 without a mark", "many values"],
)
def test_any_text_that_is_no_config_is_refused_in_bounded_time(
    raw: bytes,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yaml_file, "MAX_NODES", 1000)  # Of 400,000, for which YAML needs twenty seconds.
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    assert main(["config", "check", "--config", str(path)]) == 1
    assert capsys.readouterr().err == f"{path}:{words}\n"


def test_lines_that_end_as_on_windows_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes((HEAD + TARGET % "port: 993").replace("\n", "\r\n").encode())
    assert config.load(path).targets[0].port == 993


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "MAILWATCH_DATA_DIR",
            "da\udcffta",
            "MAILWATCH_DATA_DIR is not text; set it to printable UTF-8",
        ),
        ("MAILWATCH_DATA_DIR", "a\nb", "MAILWATCH_DATA_DIR is not text"),
        ("MAILWATCH_DATA_DIR", "/dev/null", "data_dir (from MAILWATCH_DATA_DIR): /dev/null is not a folder"),
        (
            "MAILWATCH_DATA_DIR",
            "~nobodyhere",
            "data_dir (from MAILWATCH_DATA_DIR): names the home of an unknown user",
        ),
        ("MAILWATCH_LISTEN", "8080", "web.listen (from MAILWATCH_LISTEN): is not host:port"),
        (
            "MAILWATCH_LISTEN",
            "203.0.113.7:80",
            "web.listen (from MAILWATCH_LISTEN): 203.0.113.7 is not an address",
        ),
        (
            "MAILWATCH_LISTEN",
            "${HOST}:80",
            "web.listen (from MAILWATCH_LISTEN): MailWatch does not replace variables",
        ),
        (
            "MAILWATCH_TRUST_NETWORK",
            "perhaps",
            "web.trust_network (from MAILWATCH_TRUST_NETWORK): must be true or",
        ),
    ],
)
def test_wrong_environment_variables_are_named(
    name: str,
    value: str,
    words: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = folder / "config.yaml"
    path.write_text(HEAD + TARGET % "port: 993")
    monkeypatch.setenv(name, value)
    assert main(["config", "check", "--config", str(path)]) == 1
    assert f"{path}:1: {words}" in capsys.readouterr().err
