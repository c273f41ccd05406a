"""A config is changed whole or not at all, by one editor at a time, and keeps what it does not concern."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from mailwatch.config import ConfigError, edit, load
from mailwatch.config.edit import ConfigChangedError, ConfigFile, ConfigReadOnlyError
from mailwatch.config.yaml_file import YamlValue
from mailwatch.setup.mailbox_entries import entries_of, remove_mailbox

TEXT = """\
# The mail of the family.
vantage_point: {name: home}      # do not change

targets:
  # the office
  - name: lab
    kind: imap
    host: imap.example.org        # ours
    # port: 10993

guard: off   # no internet here
"""
ANNA: dict[str, YamlValue] = {"address": "anna@libero.it", "channels": ["imap"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "config.yaml"
    made.write_text(TEXT)
    made.chmod(0o640)
    return made


def refused(change: Callable[[], object], kind: type[ConfigError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        change()
    assert type(caught.value) is kind
    return str(caught.value)


def add_anna(path: Path) -> ConfigFile:
    file = ConfigFile.read(path)
    secret = file.stage_password("anna@libero.it", SecretStr("canary-7f3a"))
    file.add_account({**ANNA, "password_file": secret}, ["left out: pop3"])
    config = file.save()
    assert [account.address for account in config.accounts] == ["anna@libero.it"]
    return file


def test_an_account_is_added_with_its_password_and_removed_without_a_trace(path: Path) -> None:
    add_anna(path)
    assert path.read_text() == TEXT + (
        "\naccounts:\n  - address: anna@libero.it\n    channels: [imap]\n"
        "    password_file: secrets/anna@libero.it\n    # left out: pop3\n"
    )
    secret = path.parent / "secrets" / "anna@libero.it"
    assert secret.read_text() == "canary-7f3a\n"
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, secret, secret.parent)] == [0o640, 0o600, 0o700]
    assert load(path).accounts[0].password_file == secret
    file = ConfigFile.read(path)
    assert remove_mailbox(file, "anna@libero.it") == [secret]
    file.save()
    assert path.read_text() == TEXT
    assert sorted(one.name for one in path.parent.iterdir()) == ["config.yaml", "secrets"]


def test_a_second_account_of_the_same_address_is_refused(path: Path) -> None:
    file = add_anna(path)
    line = path.read_text().splitlines().index("  - address: anna@libero.it") + 1
    assert refused(lambda: file.add_account({**ANNA, "address": "Anna@libero.it", "password_env": "A"})) == (
        f"{path}:{line}: Anna@libero.it is already in the config, on line {line}; nothing to add"
    )
    assert "the config must not contain a password" in refused(
        lambda: file.add_account({"address": "b@libero.it", "password": "canary"})
    )
    assert file.stage_password("anna@libero.it", SecretStr("x")) == "secrets/anna@libero.it-2"
    assert file.stage_password("anna@libero.it", SecretStr("x")) != "secrets/anna@libero.it-2"


def test_a_target_is_paused_and_resumed(path: Path) -> None:
    file = ConfigFile.read(path)
    file.set_paused("lab", True)
    assert file.save().targets[0].paused
    assert path.read_text() == TEXT.replace("# ours\n", "# ours\n    paused: true\n")
    file.set_paused("lab", False)
    file.save()
    assert path.read_text() == TEXT
    path.write_text(TEXT.replace("# ours\n", "# ours\n    paused: true  # until May\n"))
    file = ConfigFile.read(path)
    file.set_paused("lab", False)
    assert "    paused: false  # until May\n" in file.raw.decode()


def test_names_that_are_none_are_refused_with_those_that_are(path: Path) -> None:
    file = add_anna(path)
    assert "there is no 'nobody'; use one of anna@libero.it, lab" in refused(lambda: file.remove("nobody"))
    assert "'anna@libero.it/imap' belongs to the account anna@libero.it; name that" in refused(
        lambda: file.set_paused("anna@libero.it/imap", True)
    )
    assert "there is no channel named 'x'; use one of none" in refused(lambda: file.remove_channel("x"))


def test_channels_are_removed_by_their_names(path: Path) -> None:
    file = ConfigFile.read(path)
    file.add_channel({"name": "telephone", "url": "json://localhost/a"})
    file.add_channel({"url": "json://localhost/b"})
    file.save()
    assert "use one of telephone, json-2" in refused(lambda: file.remove_channel("json-1"))
    file.remove_channel("json-2")
    file.remove_channel("telephone")
    file.save()
    assert path.read_text() == TEXT


def test_values_are_set_and_removed(path: Path) -> None:
    file = ConfigFile.read(path)
    file.set_value(("web", "title"), "Mail of Rossi")
    file.set_value(("web", "announcement"), "One.\n\nTwo.")
    file.set_value(("timezone",), "Europe/Rome")
    config = file.save()
    assert (config.web.title, config.web.announcement, config.timezone) == (
        "Mail of Rossi",
        "One.\n\nTwo.",
        "Europe/Rome",
    )
    for place in (("web", "title"), ("web", "announcement"), ("timezone",), ("web", "url")):
        file.set_value(place, None)
    file.save()
    assert path.read_text() == TEXT


def test_a_mistake_changes_nothing_and_leaves_no_file(path: Path) -> None:
    file = ConfigFile.read(path)
    secret = file.stage_password("mario@example.org", SecretStr("x"))
    file.add_account({"address": "mario@example.org", "password_file": secret})
    assert refused(file.save).endswith(
        "accounts[0].address: no provider is known for example.org; add provider: KEY or use targets with a host"
    )
    file = ConfigFile.read(path)
    secret = file.stage_password("anna@libero.it", SecretStr(""))
    file.add_account({**ANNA, "password_file": secret})
    assert "the first line is empty; it must hold the password" in refused(file.save)
    file = ConfigFile.read(path)
    file.remove("lab")
    assert "there is nothing to monitor" in refused(file.save)
    assert path.read_text() == TEXT
    assert [one.name for one in path.parent.iterdir()] == ["config.yaml"]


def test_a_mistake_that_was_there_before_does_not_matter(path: Path) -> None:
    path.write_text(TEXT.replace("# ours", "\n    login: {username: a, password_env: MAILWATCH_NOT_SET}"))
    add_anna(path)
    assert "anna@libero.it" in path.read_text()


def test_a_removal_that_shifts_an_old_mistake_is_no_new_one(path: Path) -> None:
    """A variable that only the monitor has is missing here, and its account moves up in the list."""
    path.write_text(f"{TEXT}accounts:\n  - {{address: a@libero.it, password_env: NOT_A}}\n"
                    "  - {address: b@libero.it, password_env: NOT_B}\n")  # fmt: skip
    file = ConfigFile.read(path)
    file.remove("a@libero.it")
    assert [account.address for account in file.save().accounts] == ["b@libero.it"]


@pytest.mark.parametrize(
    "other",
    [
        "accounts: [{address: b@libero.it, password_file: secrets/pw}]",
        "web: {password_file: secrets/../secrets/pw}",
        "notify: [{url_file: FOLDER/secrets/pw}]",
    ],
)
def test_a_password_file_that_something_else_names_is_not_given_up(path: Path, other: str) -> None:
    lab = "\n    login: {username: a, password_file: ./secrets/pw}"
    path.write_text(f"{TEXT.replace('# ours', lab)}{other.replace('FOLDER', str(path.parent))}\n")
    assert remove_mailbox(ConfigFile.read(path), "lab") == []
    path.write_text(TEXT.replace("# ours", lab))
    assert remove_mailbox(ConfigFile.read(path), "lab") == [path.parent / "secrets" / "pw"]


def test_a_mailbox_with_servers_of_its_own_is_one(path: Path) -> None:
    """Its targets are named ADDRESS/KIND, and share a password file."""
    login = "login: {username: m, password_file: secrets/pw}"
    path.write_text(TEXT.replace("guard: off", "") + "".join(
        f"  - {{name: m@casa.example/{kind}, kind: {kind}, host: mail.casa.example, {login}}}\n"
        for kind in ("imap", "pop3")
    ))  # fmt: skip
    file = ConfigFile.read(path)
    assert entries_of(file, "m@casa.example") == ["m@casa.example/imap", "m@casa.example/pop3"]
    assert entries_of(file, "lab") == ["lab"]
    assert remove_mailbox(file, "m@casa.example") == [path.parent / "secrets" / "pw"]
    assert [target.name for target in load(path, file.raw).targets] == ["lab"]


def test_what_is_written_while_the_passwords_are_read_is_not_overwritten(path: Path) -> None:
    """The check of a new config runs programs, and an editor of texts takes no lock."""
    program = "[sh, -c, 'echo \"# later\" >> config.yaml; echo canary']"
    path.write_text(TEXT.replace("# ours", f"\n    login: {{username: a, password_command: {program}}}"))
    file = ConfigFile.read(path)
    file.set_value(("web", "title"), "Mail")
    assert "has changed meanwhile" in refused(file.save, ConfigChangedError)
    text = path.read_text()
    assert "# later" in text
    assert "title" not in text


def test_what_another_program_changed_meanwhile_is_not_overwritten(path: Path) -> None:
    first, second = ConfigFile.read(path), ConfigFile.read(path)
    for file, name in ((first, "one"), (second, "two")):
        file.add_target({"name": name, "kind": "imap", "host": "imap.example.org"})
    first.save()
    message = "has changed meanwhile; read it again, and repeat the change"
    assert message in refused(second.save, ConfigChangedError)
    assert "one" in path.read_text()
    assert "two" not in path.read_text()
    assert not (path.parent / "secrets").exists()
    add_anna(path)


def test_two_editors_do_not_write_at_once(path: Path) -> None:
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "is being changed by another program; try again" in refused(
            lambda: add_anna(path), ConfigChangedError
        )
    assert path.read_text() == TEXT
    add_anna(path)


def test_a_locked_data_dir_that_holds_the_config_is_no_editor(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        add_anna(path)
    finally:
        os.close(folder)


def test_a_link_stays_and_its_file_is_replaced(path: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "config.yaml"
    link.symlink_to("../config.yaml")
    add_anna(link)
    assert link.readlink() == Path("../config.yaml")
    assert "anna@libero.it" in path.read_text()
    # Paths in the config are relative to the link.
    assert (tmp_path / "etc" / "secrets" / "anna@libero.it").exists()


def test_a_byte_order_mark_and_line_ends_stay(path: Path) -> None:
    raw = b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()
    path.write_bytes(raw)
    file = add_anna(path)
    assert path.read_bytes().startswith(raw)
    file.remove("anna@libero.it")
    file.save()
    assert path.read_bytes() == raw


def test_a_config_that_cannot_be_read_as_one_is_refused(path: Path) -> None:
    path.write_text("a: 1\na: 2\n")
    assert "key 'a' is already on line 1" in refused(lambda: ConfigFile.read(path))
    path.write_text("{targets: [{name: a, kind: imap, host: h.example}]}\n...\n")
    file = ConfigFile.read(path)
    file.add_account({**ANNA, "password_env": "A"})
    assert "anna" in file.raw.decode()
    path.write_text(TEXT + "...\n")
    by_hand = "is written in a way that MailWatch cannot change; change it by hand"
    assert by_hand in refused(lambda: ConfigFile.read(path).add_account({**ANNA, "password_env": "A"}))


@pytest.fixture
def as_other(path: Path) -> Callable[[Callable[[], None]], str]:
    """Does something as another user; returns the message of the refusal."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    # Up to the folder of all users, such as /tmp.
    for folder in path.parents:
        if folder.stat().st_mode & stat.S_ISVTX:
            break
        folder.chmod(0o755)
    path.chmod(0o644)

    def act(change: Callable[[], None]) -> str:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                change()
                os.write(write, b"done")
            except ConfigReadOnlyError as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            message = answer.read()
        os.waitpid(child, 0)
        return message

    return act


def test_the_reason_is_named_if_the_config_cannot_be_written(
    path: Path, as_other: Callable[[Callable[[], None]], str]
) -> None:
    def change() -> None:
        add_anna(path)

    assert f"{path}:1: cannot be changed: MailWatch may not write to the folder {path.parent}; check" in as_other(
        change
    )
    path.parent.chmod(0o777)
    assert "belongs to another user (uid 0); run the command as that user" in as_other(change)
    os.chown(path, 65534, 65534)
    assert as_other(change) == "done"
    assert (path.stat().st_uid, (path.parent / "secrets" / "anna@libero.it").stat().st_uid) == (65534, 65534)


def test_root_keeps_the_owners(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    (path.parent / "data").mkdir()
    os.chown(path.parent / "data", 10001, 10001)
    os.chown(path, 10002, 10003)
    add_anna(path)
    made = [path, path.parent / "secrets", path.parent / "secrets" / "anna@libero.it"]
    owners = [(one.stat().st_uid, one.stat().st_gid) for one in made]
    assert owners == [(10002, 10003), (10001, 10001), (10001, 10001)]


def test_mounts_that_allow_no_change_are_named(path: Path) -> None:
    """A folder mounted read-only, and a single file mounted, as containers have them."""
    program = (
        "import sys; from pathlib import Path; from mailwatch.config.edit import read_only_reason; "
        "print(read_only_reason(Path(sys.argv[1])))"
    )
    folder, run = path.parent, f"{sys.executable} -c '{program}' {path}"
    single = f"mount --bind {path} {path} && {run}"
    ro = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && {run}"
    reasons = []
    for command in (single, ro):
        words = ["unshare", "--mount", "--map-root-user", "sh", "-c", command]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounts are not allowed here: {done.stderr}")
        reasons.append(done.stdout.strip())
    assert reasons == [
        f"{path} is mounted as a single file; mount its folder instead",
        f"{path} is on a read-only mount; mount its folder writable (without :ro)",
    ]
    assert edit.read_only_reason(path) == ""
