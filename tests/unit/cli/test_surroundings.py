"""Every verb in hostile surroundings: what happens is said in words, and nothing is done by halves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailwatch.time_zone import TimeZoneError, local_zone
from tests.helpers.command import Program, mailwatch
from tests.helpers.ledger_factory import HOUR, MINUTE, write
from tests.helpers.patience import PATIENCE

START = 1_768_000_020_000
CANARY = "canary-7f3a"
NO_ZONE = "is not a time zone; set its name, for example TZ=Europe/Rome"


@dataclass(frozen=True)
class Installation:
    """A config with a ledger that holds one outage, and its bundle."""

    folder: Path
    outage: str

    def commands(self, out: Path) -> dict[str, list[str]]:
        """Every verb that ends by itself; `out` is where they write."""
        known = ["--config", str(self.folder / "config.yaml")]
        window = ["--from", "2026-01-09", "--to", "2026-01-11"]
        return {
            "providers": ["providers"],
            "schema": ["config", "schema"],
            "hash": ["config", "hash-password"],
            "check": [*known, "config", "check"],
            "show": [*known, "config", "show"],
            "outages": [*known, "outages"],
            "outage": [*known, "outages", "show", self.outage],
            "incidents": [*known, "incidents"],
            "incident": [*known, "incidents", "show", self.outage],
            "offline": [*known, "offline"],
            "availability": [*known, "availability", *window],
            "claim log": [*known, "claim", "log", self.outage],
            "audit": [*known, "ledger", "audit"],
            "probe": [*known, "probe"],
            "notify": [*known, "notify", "test"],
            "login": [*known, "login", "a@example.org"],
            "init": ["--config", str(out / "new.yaml"), "init", "a@example.org"],
            "verify": ["verify", str(self.folder / "evidence.zip")],
            "backup": [*known, "backup", str(out / "backup.tgz")],
            "report": [*known, "report", self.outage, "-o", str(out / "evidence.zip")],
            "window": [*known, "report", *window, "-o", str(out / "window.zip")],
            "claim": [*known, "claim", self.outage, "-o", str(out / "letter")],
            "merge": ["merge", str(self.folder / "evidence.zip"), "-o", str(out / "joint.zip")],
        }


USUAL = {"login": 2, "init": 2, "probe": 1, "notify": 1}
"""How commands end here where nothing is hostile, if not with 0."""
DRAW = ("report", "window", "claim", "merge")
"""Those that make a PDF take longest: they are tried where their own work is concerned."""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("house")
    (folder / "data").mkdir(mode=0o700)
    sky = {"lab": lambda at: "-" if 60 * MINUTE <= at - START < 90 * MINUTE else "+"}
    write(folder / "data", sky, START, START + 4 * HOUR, durable=False).close()
    (folder / "secret").write_text(f"{CANARY}\n")
    (folder / "secret").chmod(0o600)
    settings = {
        "vantage_point": {"name": "here"},
        "data_dir": "data",
        "guard": "off",
        "clock": {"servers": []},
        "targets": [
            {
                "name": "lab", "kind": "imap", "host": "127.0.0.1", "port": 9, "tls": "none",
                "login": {"username": "a@example.org", "password_file": "secret"},
            }
        ],
        "notify": [{"url": "json://127.0.0.1:9/"}],
    }  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps(settings))
    listed = mailwatch("--config", folder / "config.yaml", "outages", "--json")
    outage = json.loads(listed.stdout)[0]["id"]
    made = mailwatch("--config", folder / "config.yaml", "report", outage, "-o", folder / "evidence.zip")
    assert made.returncode == 0, made.stderr
    return Installation(folder, outage)


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    def in_words(self) -> None:
        """No traceback, no number of an error, no signal, no secret; who fails says why."""
        assert self.status in (0, 1, 2, 3, 71), self
        for mark in ("Traceback", "Errno", "Exception ignored", "error in MailWatch", "Warning:", CANARY):
            assert mark not in self.err, self


def run(
    tmp_path: Path,
    words: list[str],
    env: dict[str, str | None] | None = None,
    streams: tuple[str | None, str | None, str | None] = (None, None, None),
    given: str = "pw\n",
    **surroundings: Any,
) -> Ended:
    """Run a command; `streams` are files to be opened instead of the usual three."""
    (tmp_path / "in").write_text(given)
    environment = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    files = []
    for usual, wanted in zip(("in", "out", "err"), streams, strict=True):
        if usual != "in":
            (tmp_path / usual).write_bytes(b"")
        files.append(os.open(wanted or tmp_path / usual, os.O_RDONLY if usual == "in" else os.O_WRONLY))
    try:
        program = Program(
            *words, streams=(files[0], files[1], files[2]), env=environment, surroundings=surroundings
        )
    finally:
        for file in files:
            os.close(file)
    status = program.wait(PATIENCE)
    message = [(tmp_path / name).read_bytes().decode("utf-8", "replace") for name in ("out", "err")]
    return Ended(status, *message)


SURROUNDINGS: dict[str, dict[str, Any]] = {
    "ascii": {"encoding": "ascii"},
    "narrow": {"env": {"COLUMNS": "3", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "nonsense"}},
    "odd numbers": {"env": {"COLUMNS": "abc", "LINES": "-3", "NO_COLOR": "", "PAGER": "/nowhere"}},
    "no home": {"env": {"HOME": None, "USER": None, "LOGNAME": None, "PATH": None, "TMPDIR": "/nowhere"}},
    "odd locale": {"env": {"LANG": "\udcff", "LC_ALL": "tlh_KL.@", "LC_MESSAGES": "it"}},
    "no certificates": {
        "env": {"SSL_CERT_FILE": "/nowhere", "SSL_CERT_DIR": "/nowhere", "HTTPS_PROXY": "socks9://["}
    },
    "no streams": {"closed": [0, 1, 2], "draw": True},
    "umask 777": {"umask": 0o777, "draw": True},
    "stderr full": {"streams": (None, None, "/dev/full")},
    "zone in quotes": {"env": {"TZ": '"Europe/Rome"'}, "draw": True},
}
"""In these everything works as usual."""


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_every_command_works_in_unusual_environments(
    name: str, installation: Installation, tmp_path: Path
) -> None:
    surroundings = dict(SURROUNDINGS[name])
    draw = surroundings.pop("draw", False)
    for verb, words in installation.commands(tmp_path).items():
        if verb in DRAW and not draw:
            continue
        ended = run(tmp_path, words, **surroundings)
        ended.in_words()
        assert ended.status == (2 if verb == "hash" and name == "no streams" else USUAL.get(verb, 0)), (
            verb,
            ended,
        )
    made = [path for path in tmp_path.iterdir() if path.name not in ("in", "out", "err")]
    assert len(made) == (6 if draw else 1)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}


def test_a_current_folder_that_is_gone_is_reported(installation: Installation, tmp_path: Path) -> None:
    for verb, words in installation.commands(tmp_path).items():
        ended = run(tmp_path, words, gone=True)
        ended.in_words()
        if ended.status != USUAL.get(verb, 0):
            assert ended.err == "mailwatch: the current folder no longer exists; change to another\n", verb
            assert ended.status == 2


def test_a_full_disk_under_stdout_fails_every_command_that_prints(
    installation: Installation, tmp_path: Path
) -> None:
    silent = {"check", "offline", "claim log", "init", "login"}
    for verb, words in installation.commands(tmp_path).items():
        if verb in DRAW:
            continue
        ended = run(tmp_path, words, streams=(None, "/dev/full", None))
        ended.in_words()
        assert ("No space left on device; free some space" in ended.err) == (verb not in silent), (verb, ended)
        assert ended.status == (USUAL.get(verb, 0) if verb in silent else 1), (verb, ended)


def test_endless_stdin_is_not_read_to_its_end(installation: Installation, tmp_path: Path) -> None:
    for verb, words in installation.commands(tmp_path).items():
        if verb not in DRAW:
            ended = run(tmp_path, words, streams=("/dev/zero", None, None), limits={"AS": 2 << 30})
            ended.in_words()
            assert ended.status == (2 if verb == "hash" else USUAL.get(verb, 0)), (verb, ended)


# The time zone


@pytest.mark.parametrize(
    ("given", "zone"),
    [
        ('"Europe/Rome"', "Europe/Rome"),
        ("'Europe/Rome'", "Europe/Rome"),
        (" Europe/Rome ", "Europe/Rome"),
        (":Europe/Rome", "Europe/Rome"),
        ("", "UTC"),
        ('""', "UTC"),
        ("UTC", "UTC"),
        ("/usr/share/zoneinfo/Europe/Rome", "Europe/Rome"),
    ],
)
def test_an_oddly_written_zone_is_understood(given: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", given)
    assert local_zone().key == zone


@pytest.mark.parametrize(
    "given",
    ["CEST", "XXX-5:30", "CET-1CEST,M3.5.0,M10.5.0/3", "Europe", "Europe/Roma", "/etc/passwd", "/dev/zero",
     "../UTC", "x" * 5000, "\udcff", "Europe/Rome\n\x1b[2J!", '"', "zone.tab", "tzdata.zi"],
)  # fmt: skip
def test_an_invalid_zone_is_never_mistaken_for_another(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", given)
    with pytest.raises(
        TimeZoneError, match="is not a time zone; set its name, for example TZ=Europe/Rome"
    ) as reported:
        local_zone()
    assert str(reported.value).isprintable()
    assert len(str(reported.value)) < 150


def test_a_wrong_zone_is_refused_by_each_command_that_needs_one(
    installation: Installation, tmp_path: Path
) -> None:
    commands = installation.commands(tmp_path)
    commands["offline"] += ["--from", "2026-01-09"]
    # The times in messages are local, so that the config is wrong too, and the place in it is named.
    needing = {"outages", "outage", "incidents", "incident", "offline", "availability", *DRAW}
    checking = {"check": 1, "notify": 2}
    for verb, words in commands.items():
        ended = run(tmp_path, words, env={"TZ": "CEST"})
        ended.in_words()
        assert ended.status == (2 if verb in needing else checking.get(verb, USUAL.get(verb, 0))), (verb, ended)
        message = "TZ=CEST is not a time zone; set its name, for example TZ=Europe/Rome"
        assert (ended.err == f"mailwatch: {message}\n") == (verb in needing), (verb, ended)
        place = f"{installation.folder}/config.yaml:1: notify[0].timezone: {message}, or write timezone: here\n"
        assert (place in ended.err) == (verb in checking), (verb, ended)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tgz", "err", "in", "out"]


def test_dates_mean_the_zone_in_quotes(installation: Installation, tmp_path: Path) -> None:
    words = installation.commands(tmp_path)["availability"]
    rome, quoted, utc = (
        run(tmp_path, [*words, "--json"], env={"TZ": zone}).out for zone in ("Europe/Rome", '"Europe/Rome"', "UTC")
    )
    assert rome == quoted != utc


def test_the_zone_of_the_config_comes_before_a_wrong_one(installation: Installation, tmp_path: Path) -> None:
    words = [*installation.commands(tmp_path)["availability"], "--json"]
    settings = json.loads((installation.folder / "config.yaml").read_text())
    path = installation.folder / "rome.yaml"
    path.write_text(json.dumps({**settings, "timezone": "Europe/Rome"}))
    named = [str(path) if word.endswith("config.yaml") else word for word in words]
    by_config = run(tmp_path, named, env={"TZ": "CEST"})
    assert by_config.status == 0, by_config
    assert by_config.out == run(tmp_path, words, env={"TZ": "Europe/Rome"}).out


# Files that a verb is given


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Files that are none, and what is said of them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    (tmp_path / "there").write_text("")
    return {
        "zero": (Path("/dev/zero"), "is not a file but a device; name the file itself"),
        "pipe": (tmp_path / "pipe", "is not a file but a pipe; name the file itself"),
        "folder": (tmp_path, "is not a file but a folder; name the file itself"),
        "ring": (tmp_path / "ring", "its links form a loop; name the file itself"),
        "nothing": (tmp_path / "nothing", "does not exist"),
        "below a file": (tmp_path / "there" / "x", "Not a directory; check the spelling"),
        "long": (tmp_path / ("x" * 300), "File name too long; use a shorter name"),
    }


KINDS = ("zero", "pipe", "folder", "ring", "nothing", "below a file", "long")


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(
    kind: str, odd: dict[str, tuple[Path, str]], installation: Installation, tmp_path: Path
) -> None:
    path, words = odd[kind]
    bundle, joint = str(installation.folder / "evidence.zip"), str(tmp_path / "joint.zip")
    for command in (
        ["verify", str(path)],
        ["verify", bundle, "--trust", str(path)],
        ["verify", bundle, "--member", str(path)],
        ["merge", bundle, str(path), "-o", joint],
        ["merge", bundle, "--trust", str(path), "-o", joint],
    ):
        ended = run(tmp_path, command)
        assert (ended.status, ended.out) == (2, ""), ended
        assert (
            ended.err == f"mailwatch: {path} {words}\n"
            or ended.err == f"mailwatch: {path}: {words}\n"
            or (kind == "ring" and words in ended.err)
        ), ended
    assert not Path(joint).exists()


def test_a_file_of_trust_without_end_is_not_read(installation: Installation, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
    ended = run(
        tmp_path, ["verify", str(installation.folder / "evidence.zip"), "--trust", str(tmp_path / "sparse")]
    )
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "has more than 16777216 bytes; is it the right file?" in ended.err
    # A bundle is read from its end, where there is none here.
    assert run(tmp_path, ["verify", str(tmp_path / "sparse")], limits={"AS": 2 << 30}).status == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/", "is not a file name"),
        ("", "is not a file name"),
        ("..", "is not a file name"),
        ("/dev/null", "exists and is not a file; name a new file"),
        ("/dev/full", "exists and is not a file; name a new file"),
        ("pipe", "exists and is not a file; name a new file"),
        ("folder", "exists and is not a file; name a new file"),
        ("nowhere/x.zip", "is not a folder; create it, or name another place"),
        ("there/x.zip", "is not a folder; create it, or name another place"),
    ],
)
def test_only_regular_files_are_overwritten(
    name: str, words: str, installation: Installation, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").write_text("")
    before = sorted(tmp_path.rglob("*"))
    where = str(tmp_path / name) if name and name != ".." else name
    commands = installation.commands(tmp_path)
    for verb in ("report", "window", "merge"):
        ended = run(tmp_path, [*commands[verb][:-1], where])
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), (verb, ended)
        assert words in ended.err, (verb, ended)
    assert Path("/dev/null").is_char_device()
    assert Path("/dev/full").is_char_device()
    assert {path.name for path in set(tmp_path.rglob("*")) - set(before)} == {"in", "out", "err"}


def test_leftovers_of_a_killed_process_are_not_written_through(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "evidence.zip.part").symlink_to(tmp_path / "precious")
    ended = run(tmp_path, installation.commands(tmp_path)["report"])
    assert ended.status == 0, ended
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "evidence.zip.part").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("CEST", f"TZ=CEST {NO_ZONE}; until then times are in UTC"),
        ('"Europe/Rome"', ""),
    ],
)
def test_run_falls_back_to_utc_with_a_warning_and_so_do_its_children(given: str, message: str) -> None:
    program = (
        "from mailwatch.time_zone import normalise_zone, zone_or_utc; normalise_zone(); print(zone_or_utc()); "
        "import os, time; print(os.environ['TZ'], time.localtime(0).tm_hour)"
    )
    env = os.environ | {"TZ": given}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines() == [message, "UTC 0" if message else "Europe/Rome 1"]


def test_a_lack_of_resources_does_not_make_a_bundle_invalid(installation: Installation, tmp_path: Path) -> None:
    words = installation.commands(tmp_path)["verify"]
    verdicts = [run(tmp_path, words, limits={"NOFILE": handles}) for handles in range(3, 9)]
    for ended in verdicts:
        ended.in_words()
        assert ended.status in (0, 71), ended
        assert "NOT valid" not in ended.out
    assert {ended.status for ended in verdicts} == {0, 71}
