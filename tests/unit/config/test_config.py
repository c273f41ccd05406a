"""config.yaml is read strictly, speaks clearly about its mistakes and never about its secrets."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mailwatch import config
from mailwatch.cli import main
from mailwatch.config import secrets
from mailwatch.config.errors import FieldError
from mailwatch.config.load import _models
from mailwatch.config.schema import Config
from mailwatch.config.schema_targets import SecretSection
from mailwatch.config.targets import grant_file
from mailwatch.config.yaml_file import MAX_CONFIG_BYTES
from mailwatch.ledger.entry import target_id
from mailwatch.model import Kind, TlsMode
from mailwatch.settings import MxTask
from mailwatch.times import duration_text, parse_duration
from tests.helpers.paths import ROOT, TESTDATA

EXAMPLE = ROOT / "config.example.yaml"
BAD = sorted((TESTDATA / "bad-config").glob("*.yaml"))
CANARY = "canary-7f3a"
HOME = "vantage_point: {name: home}\n"
Write = Callable[..., Path]
"""Writes a text to a file, config.yaml unless another name is given, and returns its path."""
LAB = HOME + "targets:\n  - name: lab\n    kind: imap\n    host: imap.example.org\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def refusal(path: Path) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        config.load(path)
    return str(caught.value).splitlines()


# Mistakes


def test_a_bad_file_is_refused_with_its_line_and_advice(subtests: pytest.Subtests) -> None:
    for path in BAD:
        with subtests.test(path.stem):
            heads = [line for line in path.read_text().splitlines() if line.startswith("#! ")]
            assert heads, "a bad file begins with the lines that it expects: #! LINE: MESSAGE"
            assert refusal(path) == [f"{path}:{head.removeprefix('#! ')}" for head in heads]


def test_no_error_message_repeats_a_secret(subtests: pytest.Subtests) -> None:
    for path in BAD:
        with subtests.test(path.stem):
            with pytest.raises(config.ConfigError) as caught:
                config.load(path)
            printed = "".join(traceback.format_exception(caught.value)) + repr(caught.value.problems)
            assert CANARY not in printed
            assert "canary!7f3a" not in printed


def test_the_bad_files_hold_secrets_that_could_leak() -> None:
    assert sum(CANARY in path.read_text() for path in BAD) >= 5


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a: 1\nb: \xff\n", "2: is not UTF-8; save the file as UTF-8"),
        (b"a: 1\nb: 2\nc: \x07\n", "3: control character; remove it"),
        (b"#" * (MAX_CONFIG_BYTES + 1), f"1: is larger than {MAX_CONFIG_BYTES} bytes; is it the right file?"),
    ],
    ids=["latin-1", "control", "large"],
)
def test_a_config_that_is_not_text_is_refused(tmp_path: Path, raw: bytes, expected: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    assert refusal(path) == [f"{path}:{expected}"]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + LAB.encode())
    assert config.load(path).vantage_point.name == "home"


def test_a_config_that_never_ends_is_not_read(tmp_path: Path) -> None:
    fifo = tmp_path / "config.yaml"
    os.mkfifo(fifo)
    assert refusal(fifo) == [f"{fifo}:1: is not a file; name the YAML file itself"]
    assert refusal(Path("/dev/zero")) == ["/dev/zero:1: is not a file; name the YAML file itself"]


def test_a_missing_file_is_distinguished_from_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigNotFoundError, match=r"nowhere\.yaml:1: cannot be read: No such file"):
        config.load(tmp_path / "nowhere.yaml")


def test_problems_of_secrets_are_all_reported_at_once_at_their_lines(write: Write) -> None:
    path = write(
        HOME
        + "accounts:\n  - address: mario.rossi@libero.it\n    password_file: nowhere\n"
        + "targets:\n  - name: lab\n    kind: imap\n    host: imap.example.org\n"
        + "    login: {username: a, password_env: MAILWATCH_TEST_UNSET}\n"
    )
    with pytest.raises(config.ConfigError) as caught:
        config.build_targets(config.load(path))
    folder = path.parent
    assert str(caught.value).splitlines() == [
        f"{path}:4: accounts[0].password_file: {folder}/nowhere cannot be read: No such file or directory; "
        "create it with the password as its first line",
        f"{path}:9: targets[0].login.password_env: the environment variable MAILWATCH_TEST_UNSET is not set; "
        "set it before the start",
    ]


# Values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("1m", 60), ("2h", 7200), ("1d", 86400), ("1.5s", 1.5), ("0.1s", 0.1)],
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "5 s", "-5s", "+5s", "5S", "5s\n", "٥s", "1e3s", "1_000s", "1m30s", 5, 5.0, True, None],
)
def test_malformed_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|unit"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=86_400_000))
def test_a_written_duration_reads_as_the_same(milliseconds: int) -> None:
    assert parse_duration(duration_text(milliseconds / 1000)) == milliseconds / 1000


def test_unquoted_words_stay_text(write: Write) -> None:
    loaded = config.load(write(LAB.replace("name: home", "name: no, place: 12:30") + "guard: off\n"))
    assert (loaded.vantage_point.name, loaded.vantage_point.place) == ("no", "12:30")
    assert loaded.guard is None


def test_relative_paths_are_relative_to_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    path = write(
        LAB + "    ca_file: ca.pem\n    login: {username: a, password_file: secrets/lab}\ndata_dir: data\n",
        "etc/config.yaml",
    )
    monkeypatch.chdir(tmp_path)
    for given_path in (path, Path("etc/config.yaml")):
        loaded = config.load(given_path)
        target = loaded.targets[0]
        assert loaded.data_dir == tmp_path / "etc" / "data"
        assert target.ca_file == tmp_path / "etc" / "ca.pem"
        assert target.login is not None
        assert target.login.password_file == tmp_path / "etc" / "secrets" / "lab"


def test_without_data_dir_the_data_lies_beside_the_file(write: Write, tmp_path: Path) -> None:
    assert config.load(write(LAB)).data_dir == tmp_path / "data"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "lab.localhost"])
def test_a_login_in_the_clear_is_for_this_machine_only(write: Write, host: str) -> None:
    login = "    tls: none\n    login: {username: a, password_env: A}\n"
    assert config.load(write(LAB.replace("imap.example.org", f'"{host}"') + login)).targets
    for other in ("10.0.0.1", "localhost.example.org", "127.0.0.1.example.org"):
        assert "unencrypted" in refusal(write(LAB.replace("imap.example.org", other) + login))[0]


# The time zone


def test_the_time_zone_of_the_config_comes_before_that_of_the_environment(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = "notify:\n  - {url: 'json://h'}\n  - {url: 'json://h', timezone: Asia/Kolkata}\n"
    monkeypatch.setenv("TZ", "America/Lima")
    by_environment = config.load(write(LAB + channels))
    named = config.load(write(LAB + channels + "timezone: Europe/Rome\n"))
    assert (by_environment.zone().key, named.zone().key) == ("America/Lima", "Europe/Rome")
    assert [channel.timezone for channel in config.build_channels(by_environment)] == [
        "America/Lima",
        "Asia/Kolkata",
    ]
    assert [channel.timezone for channel in config.build_channels(named)] == ["Europe/Rome", "Asia/Kolkata"]
    assert config.effective(named)["timezone"] == "Europe/Rome"


def test_a_wrong_zone_in_the_environment_matters_only_without_one_in_the_config(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "CEST")
    path = write(LAB + "notify: [{url: 'json://h'}]\n")
    with pytest.raises(config.ConfigError, match=r"6: notify\[0\]\.timezone: TZ=CEST is not a time zone; set its"):
        config.build_channels(config.load(path))
    assert "timezone" not in config.effective(config.load(path))["notify"][0]
    named = config.load(write(path.read_text() + "timezone: Europe/Rome\n"))
    assert [channel.timezone for channel in config.build_channels(named)] == ["Europe/Rome"]


def test_without_a_vantage_point_it_is_home(write: Write) -> None:
    assert config.load(write(LAB.replace(HOME, ""))).vantage_point.name == "home"
    assert config.load(write(LAB.replace("name: home", "place: Milano"))).vantage_point.name == "home"


# Servers


@pytest.mark.parametrize(
    ("kind", "written", "port", "tls"),
    [
        (Kind.IMAP, "", 993, TlsMode.IMPLICIT),
        (Kind.IMAP, "port: 143", 143, TlsMode.STARTTLS),
        (Kind.IMAP, "tls: starttls", 143, TlsMode.STARTTLS),
        (Kind.IMAP, "port: 10993", 10993, TlsMode.IMPLICIT),
        (Kind.SMTP, "", 465, TlsMode.IMPLICIT),
        (Kind.SMTP, "port: 465", 465, TlsMode.IMPLICIT),
        (Kind.SMTP, "tls: starttls", 587, TlsMode.STARTTLS),
        (Kind.SMTP, "port: 587", 587, TlsMode.STARTTLS),
        (Kind.SMTP, "port: 25", 25, TlsMode.STARTTLS),
    ],
)
def test_port_and_tls_agree_when_one_is_written(
    write: Write, kind: Kind, written: str, port: int, tls: TlsMode
) -> None:
    loaded = config.load(write(LAB.replace("kind: imap", f"kind: {kind}") + f"    {written}\n"))
    target = config.build_targets(loaded)[0]
    assert (target.port, target.tls) == (port, tls)


def test_port_587_beside_a_catalogue_key_does_not_use_implicit_tls(write: Write) -> None:
    path = write(HOME + "targets: [{name: x, kind: smtp, provider: gandi, port: 587}]\n")
    target = config.build_targets(config.load(path))[0]
    assert (target.host, target.port, target.tls) == ("mail.gandi.net", 587, TlsMode.STARTTLS)


def test_a_provider_fills_host_port_and_tls(write: Write) -> None:
    path = write(HOME + "targets: [{name: alice, kind: imap, provider: alice}]\n")
    target = config.build_targets(config.load(path))[0]
    assert (target.host, target.port, target.tls) == ("in.alice.it", 143, TlsMode.STARTTLS)


def test_an_account_becomes_one_target_a_channel(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBERO", CANARY)
    path = write(HOME + "accounts:\n  - {address: mario.rossi@libero.it, password_env: LIBERO, interval: 5m}\n")
    targets = config.build_targets(config.load(path))
    assert [(t.name, t.kind, t.host, t.port, t.tls, t.provider, t.interval, t.timeout) for t in targets] == [
        (
            "mario.rossi@libero.it/imap",
            Kind.IMAP,
            "imapmail.libero.it",
            993,
            TlsMode.IMPLICIT,
            "libero",
            300,
            30,
        ),
        ("mario.rossi@libero.it/smtp", Kind.SMTP, "smtp.libero.it", 465, TlsMode.IMPLICIT, "libero", 300, 30),
        ("mario.rossi@libero.it/pop3", Kind.POP3, "popmail.libero.it", 995, TlsMode.IMPLICIT, "libero", 300, 30),
    ]
    for target in targets:
        assert target.login is not None
        assert target.login.username == "mario.rossi@libero.it"
        assert target.login.password.get_secret_value() == CANARY


def test_channels_and_provider_of_an_account_are_used(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREE", CANARY)
    path = write(
        HOME + "accounts:\n  - {address: a@example.org, provider: free, channels: [smtp], password_env: FREE}\n"
    )
    (target,) = config.build_targets(config.load(path))
    assert target.login is not None
    assert (target.host, target.login.username) == ("smtp.free.fr", "a")


def test_mx_probes_use_the_postmaster_or_the_configured_recipient(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    text = HOME + (
        "accounts:\n  - {address: a@libero.it, password_env: SECRET, channels: [imap, smtp, mx]}\n"
        "targets:\n  - {name: b, kind: mx, host: example.org, sender: anna@example.net}\n"
        '  - {name: c, kind: mx, host: 192.0.2.1}\n  - {name: d, kind: mx, host: "2001:db8::1", tls: none}\n'
    )
    made = {target.name: target for target in config.build_targets(config.load(write(text)))}
    account = made["a@libero.it/mx"]
    assert (account.host, account.port, account.tls) == ("libero.it", 25, TlsMode.STARTTLS)
    assert (account.login, account.task) == (None, MxTask("a@libero.it"))
    assert made["b"].task == MxTask("postmaster@example.org", "anna@example.net")
    # RFC 5321, section 4.1.3
    assert made["c"].task == MxTask("postmaster@[192.0.2.1]")
    assert made["d"].task == MxTask("postmaster@[IPv6:2001:db8::1]")


def test_defaults_hold_where_nothing_else_is_written(write: Write) -> None:
    more = "    interval: 5s\n  - {name: b, kind: smtp, host: b.example.org}\n"
    a, b = config.build_targets(config.load(write(LAB + more + "defaults: {interval: 10m, timeout: 7s}\n")))
    assert [(t.interval, t.timeout) for t in (a, b)] == [(5, 7), (600, 7)]


def test_the_ehlo_name_is_set_only_for_smtp_and_mx(write: Write) -> None:
    more = "  - {name: b, kind: smtp, host: b.example.org}\n  - {name: c, kind: mx, host: example.org}\n"
    named = "defaults: {helo_name: watch.example.org}\n"
    made = config.build_targets(config.load(write(LAB + more + named)))
    assert [target.helo_name for target in made] == ["", "watch.example.org", "watch.example.org"]
    assert [target.helo_name for target in config.build_targets(config.load(write(LAB + more)))] == ["", "", ""]
    with pytest.raises(config.ConfigError, match="is not a host name"):
        config.load(write(LAB + "defaults: {helo_name: 'a b'}\n"))


# Secrets


def section(**way: object) -> SecretSection:
    return SecretSection.model_validate(way)


@pytest.mark.parametrize(
    "raw", [b"pass word\n", b"pass word", b"pass word\r\nsecond line\n", b"\xef\xbb\xbfpass word\n"]
)
def test_a_password_file_gives_its_first_line(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "secret").write_bytes(raw)
    assert (
        secrets.read_password(section(password_file=tmp_path / "secret"), tmp_path).get_secret_value()
        == "pass word"
    )


def test_a_command_runs_in_the_folder_of_the_config_and_gives_its_first_line(tmp_path: Path) -> None:
    command = ["sh", "-c", "pwd; echo more"]
    assert secrets.read_password(section(password_command=command), tmp_path).get_secret_value() == str(
        tmp_path.resolve()
    )


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        ({"password_file": "empty"}, "the first line is empty; it must hold the password"),
        ({"password_file": "latin"}, "the password is not UTF-8; save it as UTF-8"),
        ({"password_file": "."}, " is not a file; name the file itself"),
        ({"password_env": "MAILWATCH_TEST_UNSET"}, "the environment variable MAILWATCH_TEST_UNSET is not set"),
        (
            {"password_command": ["sh", "-c", "echo canary-7f3a; exit 3"]},
            "ended with status 3; try it by hand",
        ),
        ({"password_command": ["no-such-program-here"]}, "cannot run: No such file or directory"),
        ({"password_command": ["true"]}, "the first line is empty"),
        ({"password_command": ["a\0b"]}, "cannot run: not a command"),
    ],
)
def test_a_secret_that_cannot_be_read_is_reported_with_what_to_do(
    tmp_path: Path, way: dict[str, object], complaint: str
) -> None:
    (tmp_path / "empty").write_text("\nsecond\n")
    (tmp_path / "latin").write_bytes(b"canary-7f3a-\xe8\n")
    if "password_file" in way:
        way = {"password_file": tmp_path / str(way["password_file"])}
    with pytest.raises(FieldError, match=re.escape(complaint)) as caught:
        secrets.read_password(section(**way), tmp_path)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_command_that_never_answers_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    # The grandchild holds the pipe: killing the shell alone would wait for it.
    began = time.monotonic()
    with pytest.raises(FieldError, match=r"printed nothing within 0\.2 s"):
        secrets.read_password(section(password_command=["sh", "-c", "sleep 60 & sleep 60"]), tmp_path, timeout=0.2)
    assert time.monotonic() - began < 10


def test_a_command_that_never_stops_printing_is_not_read_to_the_end(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="does not stop printing"):
        secrets.read_password(section(password_command=["yes"]), tmp_path)


def test_the_command_of_an_account_runs_once_for_all_its_channels(write: Write, tmp_path: Path) -> None:
    command = "[sh, -c, 'echo run >> runs; echo canary-7f3a']"
    path = write(HOME + f"accounts: [{{address: mario.rossi@libero.it, password_command: {command}}}]\n")
    assert len(config.build_targets(config.load(path))) == 3
    assert (tmp_path / "runs").read_text() == "run\n"


@pytest.fixture
def guarded(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A config whose secrets are the canary, in every way that there is."""
    (tmp_path / "secret").write_text(CANARY + "\n")
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("LIBERO", CANARY)
    return config.load(
        write(
            LAB.replace("host: imap.example.org", "host: imap.example.org\n    ca_file: ca.pem")
            + "    login: {username: a@example.org, password_file: secret}\n"
            + "    interval: 90s\n"
            + "  - name: 'off'\n    kind: smtp\n    host: smtp.example.org\n"
            + f"    login: {{username: 'no', password_command: [echo, {CANARY}]}}\n"
            + "accounts: [{address: mario.rossi@libero.it, password_env: LIBERO}]\n"
            + "guard: off\nweb: {listen: '[::1]:0'}\ndetection: {recheck: [500ms, 1.5s]}\n"
        )
    )


def test_no_output_contains_a_secret(guarded: Config, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    targets = config.build_targets(guarded)
    assert all(t.login and t.login.password.get_secret_value() == CANARY for t in targets)
    displayed = [repr(targets), str(targets), config.effective_yaml(guarded), config.digest(guarded)]
    displayed += [json.dumps(config.effective(guarded)), json.dumps(config.schema()), caplog.text]
    for text in displayed:
        assert CANARY not in text


def test_the_config_itself_holds_no_secret(guarded: Config) -> None:
    # Only the arguments of a command stand in the file; what files and variables hold does not.
    assert CANARY not in repr(guarded.accounts) + repr(guarded.targets[0])


# OAuth 2

GMAIL = (
    HOME
    + "accounts:\n  - address: mario.rossi@gmail.com\n    oauth2:\n      provider: google\n      client_id: mine\n"
)


def test_an_account_by_oauth2_has_the_providers_endpoints_and_one_grant(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE", CANARY)
    loaded = config.load(write(GMAIL + "      client_secret_env: GOOGLE\n"))
    targets = config.build_targets(loaded)
    assert [target.kind for target in targets] == [Kind.IMAP, Kind.SMTP, Kind.POP3]
    logins = {target.login for target in targets}
    (login,) = logins
    assert login is not None
    assert login.oauth2 is not None
    assert (login.username, login.password.get_secret_value()) == ("mario.rossi@gmail.com", "")
    assert login.oauth2.token_endpoint == "https://oauth2.googleapis.com/token"
    assert login.oauth2.scope == "https://mail.google.com/"
    assert login.oauth2.client_secret.get_secret_value() == CANARY
    assert login.oauth2.grant_file == tmp_path / "data" / "oauth" / "mario.rossi@gmail.com.json"
    assert CANARY not in repr(targets) + config.effective_yaml(loaded) + config.digest(loaded)


def test_a_client_secret_that_cannot_be_read_is_reported_at_its_line(write: Write, tmp_path: Path) -> None:
    path = write(GMAIL + "      client_secret_file: nowhere\n")
    with pytest.raises(config.ConfigError) as caught:
        config.build_targets(config.load(path))
    assert f"{path}:7: accounts[0].oauth2.client_secret_file: {tmp_path}/nowhere cannot be read" in str(
        caught.value
    )


def test_the_effective_oauth2_section_loads_to_the_same_config(write: Write) -> None:
    loaded = config.load(write(GMAIL))
    again = config.load(write(config.effective_yaml(loaded), "shown.yaml"))
    assert config.build_targets(again) == config.build_targets(loaded)
    assert config.digest(again) == config.digest(loaded)


def test_missing_or_world_readable_grants_are_warned_about(write: Write, tmp_path: Path) -> None:
    loaded = config.load(write(GMAIL + "      client_secret_file: secret\n"))
    secret, grant = tmp_path / "secret", tmp_path / "data" / "oauth" / "mario.rossi@gmail.com.json"
    secret.write_text("x\n")
    secret.chmod(0o600)
    (note,) = config.warnings(loaded)
    assert str(note).endswith("access is not granted yet; run mailwatch login mario.rossi@gmail.com")
    grant.parent.mkdir(parents=True)
    grant.write_text("{}")
    grant.chmod(0o600)
    assert config.warnings(loaded) == ()
    for path in (secret, grant):
        path.chmod(0o644)
        (note,) = config.warnings(loaded)
        assert str(note).endswith(f"can be read by others; run chmod 600 {path}")
        path.chmod(0o600)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "/etc/x", "a\\b"])
def test_no_user_name_leads_out_of_the_folder_of_grants(tmp_path: Path, name: str) -> None:
    assert grant_file(name, tmp_path).resolve().parent == (tmp_path / "oauth").resolve()


# Show


def test_the_effective_config_loads_to_the_same_config(guarded: Config, write: Write) -> None:
    again = config.load(write(config.effective_yaml(guarded), "shown.yaml"))
    assert config.effective(again) == config.effective(guarded)
    assert config.digest(again) == config.digest(guarded)
    assert config.effective_yaml(again) == config.effective_yaml(guarded)


def test_the_effective_config_of_the_example_gives_the_same_targets(write: Write) -> None:
    loaded = config.load(EXAMPLE)
    again = config.load(write(config.effective_yaml(loaded)))
    assert config.build_targets(again) == config.build_targets(loaded)


WORDS = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=30).filter(
    # A lone $NAME is a variable that was not replaced, which the config rejects.
    lambda text: text == text.strip() and not re.search(r"\$\{[^}]*\}|^\$[A-Za-z_][A-Za-z0-9_]*$", text)
)


@given(WORDS, WORDS)
@pytest.mark.slow
def test_any_text_survives_config_show(tmp_path_factory: pytest.TempPathFactory, name: str, place: str) -> None:
    folder = tmp_path_factory.mktemp("words")
    plain = {
        "vantage_point": {"name": name, "place": place},
        "targets": [{"name": name, "kind": "imap", "host": "a"}],
    }
    first = folder / "first.yaml"
    first.write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")
    again = folder / "again.yaml"
    again.write_text(config.effective_yaml(config.load(first)), encoding="utf-8")
    assert config.load(again).vantage_point.model_dump() == plain["vantage_point"]


def test_the_digest_changes_with_a_setting_and_not_with_a_comment(write: Write) -> None:
    first = config.digest(config.load(write(LAB)))
    assert config.digest(config.load(write("# a comment\n" + LAB))) == first
    assert config.digest(config.load(write(LAB + "    interval: 5s\n"))) != first


# The example and the schema


def fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for inner in _models(field.annotation):
            yield from fields(inner)


def test_the_example_loads_without_a_warning_and_needs_no_secret() -> None:
    loaded = config.load(EXAMPLE)
    names = [target.name for target in config.build_targets(loaded)]
    assert names == ["libero-imap", "libero-smtp", "virgilio-imap", "virgilio-smtp"]
    assert config.warnings(loaded) == ()


def test_the_example_mentions_every_field() -> None:
    text = EXAMPLE.read_text()
    missing = {name for name in fields(Config) if not re.search(rf"^[-# ]*[{{ ]*{name}:", text, re.M)}
    assert missing == set()


def test_the_defaults_in_the_example_are_the_real_defaults(write: Write) -> None:
    names = ("limits", "defaults", "detection", "guard")
    text = EXAMPLE.read_text()
    for name in names:
        # Uncomments the section, from its name to the line that is not indented below it.
        text = re.sub(
            rf"^# ({name}:.*\n)((?:#   .*\n)+)",
            lambda found: found[1] + re.sub("^#", "", found[2], flags=re.M),
            text,
            flags=re.M,
        )
    uncommented = config.load(write(text))
    assert set(names) <= uncommented.model_fields_set
    for name in names:
        assert getattr(uncommented, name) == getattr(config.load(EXAMPLE), name)


def test_a_control_is_an_address_or_says_whose_certificate_it_shows(write: Write) -> None:
    own = "{address: 'control.example:8443', name: control.example, ca_file: ca.pem}"
    path = write(LAB + f"guard: {{controls: ['1.1.1.1:443', {own}]}}\n")
    loaded = config.load(path)
    assert loaded.guard is not None
    known, other = loaded.guard.controls
    assert (known.host, known.port, known.name) == ("1.1.1.1", 443, "")
    assert (other.host, other.port, other.name) == ("control.example", 8443, "control.example")
    assert other.ca_file == path.parent / "ca.pem"
    displayed = config.load(write(config.effective_yaml(loaded), "shown.yaml"))
    assert displayed.guard == loaded.guard
    assert config.effective(loaded)["guard"]["controls"][0] == "1.1.1.1:443"


def test_a_guard_that_is_off_is_warned_of(write: Write) -> None:
    (note,) = config.warnings(config.load(write(LAB + "guard: off\n")))
    assert "guard: off" in note.message
    assert note.line == len(LAB.splitlines()) + 1
    assert config.warnings(config.load(write(LAB))) == ()


def test_maintenance_windows_may_overlap(write: Write) -> None:
    rules = """maintenance:
  - {name: x, cron: "0 3 * * 0", duration: 2h, timezone: Europe/Rome}
  - {name: y, start: 2026-10-03T22:00, end: 2026-10-04T04:00, timezone: Europe/Rome}
  - {name: z, start: 2026-10-03T22:00, end: 2026-10-04T04:00, timezone: Europe/Rome}
"""
    assert [rule.name for rule in config.load(write(LAB + rules)).maintenance] == ["x", "y", "z"]


def test_the_maintenance_in_the_example_is_valid(write: Write) -> None:
    displayed = re.search(r"^# maintenance:.*\n(?:#.*\n)+", EXAMPLE.read_text(), re.M)
    assert displayed
    text = EXAMPLE.read_text().replace(displayed[0], re.sub(r"^# ?", "", displayed[0], flags=re.M))
    loaded = config.load(write(text))
    assert [rule.name for rule in loaded.maintenance] == ["nightly backup", "monthly update", "announced move"]
    again = config.load(write(config.effective_yaml(loaded), "shown.yaml"))
    assert again.maintenance == loaded.maintenance
    rules = config.build_maintenance(loaded, b"secret")
    assert [None if rule.targets is None else len(rule.targets) for rule in rules] == [None, 1, 2]
    assert config.build_maintenance(again, b"secret") == rules


def test_rules_go_on_record_without_the_names_of_targets(write: Write) -> None:
    rule = "{name: x, cron: 0 3 * * 0, duration: 2h, timezone: UTC, targets: [lab]}"
    (made,) = config.build_maintenance(config.load(write(LAB + f"maintenance: [{rule}]\n")), b"secret")
    assert made.covers(target_id(b"secret", "lab"))
    assert not made.covers(target_id(b"other", "lab"))
    assert "lab" not in json.dumps(made.payload())


def test_a_digest_does_not_change_with_a_section_that_is_not_written(write: Write) -> None:
    assert "maintenance" not in config.effective(config.load(write(LAB)))


def test_the_schema_describes_every_field() -> None:
    definitions = config.schema()["$defs"]
    for section_name, definition in definitions.items():
        for name, field in definition.get("properties", {}).items():
            assert "description" in field, f"{section_name}.{name}"
    assert {"TargetSection", "AccountSection", "DetectionSection"} <= definitions.keys()


# Warnings


def test_a_timeout_beyond_the_interval_is_warned_about(write: Write) -> None:
    path = write(LAB + "    interval: 5s\n    timeout: 6s\n")
    (note,) = config.warnings(config.load(path))
    assert (
        str(note)
        == f"{path}:7: targets[0]: timeout is longer than interval; checks may be missed, so shorten timeout"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [("..", ". and .."), ("a/./b", ". and .."), ("a/response-times", "another word"), ("...", ""), ("a.b/c", "")],
)
def test_a_name_that_leads_elsewhere_in_an_address_is_warned_about(write: Write, name: str, expected: str) -> None:
    found = [str(one) for one in config.warnings(config.load(write(LAB.replace("name: lab", f"name: {name!r}"))))]
    assert bool(found) is bool(expected)
    assert all(expected in one and f"targets[0]: name {name!r}" in one for one in found)


def test_a_deadline_beyond_the_interval_is_warned_about(write: Write) -> None:
    ends = (
        HOME
        + """targets:
  - {name: out, kind: smtp, host: 127.0.0.1, provider: lab, login: {username: a@b.it, password_env: LAB}}
  - {name: in, kind: imap, host: 127.0.0.1, provider: lab, login: {username: a@b.it, password_env: LAB}}
  - name: trip
    kind: roundtrip
    via: out
    to: in
    interval: 2m
"""
    )
    path = write(ends)
    (note,) = config.warnings(config.load(path))
    assert "targets[2]: deadline is longer than interval" in str(note)
    path = write(ends + "    deadline: 1m\n")
    assert config.warnings(config.load(path)) == ()


def test_a_password_file_readable_by_others_is_warned_about(write: Write, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x\n")
    path = write(LAB + "    login: {username: a, password_file: secret}\n")
    loaded = config.load(path)
    secret.chmod(0o600)
    assert config.warnings(loaded) == ()
    secret.chmod(0o644)
    (note,) = config.warnings(loaded)
    assert str(note).endswith(f"password_file can be read by others; run chmod 600 {secret}")


# Where it is searched


def test_the_environment_variable_precedes_the_folder_and_etc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc = tmp_path / "etc.yaml"
    places = (Path("config.yaml"), etc)
    monkeypatch.delenv("MAILWATCH_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(config.ConfigNotFoundError, match="mailwatch init"):
        config.default_path(places)
    etc.touch()
    assert config.default_path(places) == etc
    (tmp_path / "config.yaml").touch()
    assert config.default_path(places) == Path("config.yaml")
    monkeypatch.setenv("MAILWATCH_CONFIG", "/elsewhere.yaml")
    assert config.default_path(places) == Path("/elsewhere.yaml")


def test_a_config_error_crosses_processes(tmp_path: Path) -> None:
    error = config.ConfigError([config.ConfigProblem(tmp_path, 3, "is wrong")])
    assert str(error) == f"{tmp_path}:3: is wrong"
    assert pickle.loads(pickle.dumps(error.problems)) == error.problems


# The verb


def run(*words: str) -> int:
    return main(["config", *words])


def test_check_is_silent_on_stdout_when_all_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--config", str(EXAMPLE)) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "no mistakes: 4 targets\n")


def test_check_reports_problems_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    bad = next(path for path in BAD if path.stem == "several")
    assert run("check", "--json", "--config", str(bad)) == 1
    output = capsys.readouterr()
    plain = json.loads(output.out)
    assert plain["valid"] is False
    assert [f"{m['file']}:{m['line']}: {m['what']}" for m in plain["mistakes"]] == output.err.splitlines()
    assert len(plain["mistakes"]) == 6


def test_check_without_a_config_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--config", str(tmp_path / "nowhere.yaml")) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_check_reads_the_secrets(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(LAB + "    login: {username: a, password_file: nowhere}\n")
    assert run("check", "--config", str(path)) == 1
    assert f"{path}:6: targets[0].login.password_file:" in capsys.readouterr().err


def test_show_and_schema_print_what_a_program_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out) == config.schema()
    assert run("show", "--config", str(EXAMPLE)) == 0
    assert capsys.readouterr().out == config.effective_yaml(config.load(EXAMPLE))
    assert run("show", "--json", "--config", str(EXAMPLE)) == 0
    assert json.loads(capsys.readouterr().out) == config.effective(config.load(EXAMPLE))
