"""Mailboxes come and go on the command line: import, remove, pause, resume, and the monitor takes them over."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailwatch.config import load
from mailwatch.store import request_reload
from tests.helpers.command import Program, mailwatch
from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.pty import MAILWATCH, Terminal
from tests.servers import ALICE, BOB, Certificates, Dovecot

CANARY = "canary-7f3a"
CONFIG = """\
# Of the office.
targets:
  - {name: lab, kind: imap, host: 127.0.0.1, port: 9, tls: none}   # ours
guard: off
clock: {servers: []}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "config.yaml"
    made.write_text(CONFIG)
    return made


def run(path: Path, *words: object, status: int = 0, env: dict[str, str] | None = None) -> str:
    """Run a verb; return what it printed on stderr."""
    done = mailwatch(
        "--config", path, *words, cwd=path.parent, env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    )
    assert done.returncode == status, done.stderr
    for canary in (CANARY, CANARY.replace("-", "_")):
        assert canary not in done.stderr + done.stdout
    return done.stderr


def table(path: Path, text: str) -> Path:
    made = path.parent / "mailboxes.csv"
    made.write_bytes(text.encode())
    made.chmod(0o600)
    return made


def test_a_table_becomes_accounts_targets_and_password_files(path: Path) -> None:
    rows = table(
        path,
        "\ufeffAddress;Password;Channels;IMAP;SMTP;Name\r\n"
        f'mario@libero.it;" {CANARY};""x ";imap smtp;;;Mario\r\n'
        f"anna@example.org;{CANARY};;imap.example.org;smtp.example.org:587;\r\n"
        ";;;;;\r\n",
    )
    assert run(path, "import", rows, "--dry-run") == f"No mistakes: 2 mailboxes would be added to {path}.\n"
    assert path.read_text() == CONFIG
    assert run(path, "import", rows).splitlines() == [
        f"Added to {path}: 2 mailboxes.",
        f"{rows} still holds the passwords in clear: delete it (shred -u).",
        "No MailWatch runs with this data_dir; the change takes effect at the next start.",
    ]
    config = load(path)
    assert [account.address for account in config.accounts] == ["mario@libero.it"]
    assert [(one.name, one.host, one.port) for one in config.targets[1:]] == [
        ("anna@example.org/imap", "imap.example.org", 993),
        ("anna@example.org/smtp", "smtp.example.org", 587),
    ]
    secret = path.parent / "secrets" / "mario@libero.it"
    assert (secret.read_text(), stat.S_IMODE(secret.stat().st_mode)) == (f' {CANARY};"x \n', 0o600)
    assert "  - address: mario@libero.it  # Mario\n" in path.read_text()
    assert CANARY not in path.read_text()
    refused = run(path, "import", rows, status=1)
    assert (
        f"{rows}:2: mario@libero.it is already in the config; remove the row, or add --skip-existing\n" in refused
    )
    assert run(path, "import", rows, "--skip-existing") == f"There is no new mailbox in {rows}.\n"


def test_all_mistakes_of_a_table_are_listed_and_nothing_is_written(path: Path) -> None:
    rows = table(
        path,
        "address,password,password_file,channels,provider,imap\n"
        f"mario@libero.it,{CANARY},y,imap,,\n"
        f"not an address,{CANARY},,,,\n"
        f"a@example.org,{CANARY},,,,\n"
        "b@libero.it,,,,,\n"
        f'c@libero.it,{CANARY},,"imap,foo",,\n'
        "d@libero.it,,nowhere,,liberoo,\n"
        f"d@libero.it,{CANARY},,,,:993\n"
        f"e@gmail.com,{CANARY},,,,,too,many\n"
        f"f@libero.it,{CANARY},,,,\n",
    )
    assert run(path, "import", rows, status=1).splitlines() == [
        f"{rows}:2: has 2 of password, password_file; keep one of password, password_file, password_env",
        f"{rows}:3: address: is not a mail address; write for example mario.rossi@libero.it",
        f"{rows}:4: address: no provider is known for example.org; add provider: KEY or fill the columns imap, "
        "smtp, pop3",
        f"{rows}:5: has no password; fill one of password, password_file, password_env",
        f"{rows}:6: channels[1]: is not known; use imap, pop3, smtp, mx, webmail or roundtrip",
        f"{rows}:7: password_file: the file cannot be read: No such file or directory; create it "
        "with the password as its first line",
        f"{rows}:7: provider: is not in the catalogue; did you mean 'libero'",
        f"{rows}:8: address: d@libero.it is already in row 7; keep one",
        f"{rows}:8: imap: is not host:port; write for example 127.0.0.1:8080",
        f"{rows}:9: has more cells than the header; check the separators",
        "Nothing was written.",
    ]
    assert path.read_text() == CONFIG
    assert sorted(one.name for one in path.parent.iterdir()) == ["config.yaml", "mailboxes.csv"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "1: the first row must name the columns, with address among them: address, password,"),
        (b"mario@libero.it,canary-7f3a\n", "1: the first row must name the columns"),
        (b"address,canary-7f3a\n", "1: column 2 is not known; use address,"),
        (b"address,fax,fax\n", "1: column 2 is not known; use address,"),
        (b"address,pasword\n", "1: column 2 is not known; did you mean 'password'?"),
        (b"address,address\n", "1: column address is there twice; keep one"),
        (b"address,password\n\n", "1: has no mailbox below its header; add a row for each"),
        (
            b'address,password\na@libero.it,"canary-7f3a\n',
            "1: is not CSV: unexpected end of data; check the quotes",
        ),
        (b"address,password\na@libero.it,canary-7f3a\xe8\n", "1: is not UTF-8; save it as CSV UTF-8"),
        (
            b"address,password\na@libero.it,canary-7f3a\x07\n",
            "2: password: contains a control character; correct it",
        ),
        # A row that is shifted has its password elsewhere; run() checks that no message repeats it.
        (
            b"address,password_file\na@libero.it,canary-7f3a\n",
            "2: password_file: the file cannot be read: No",
        ),
        (b"address,password_env\na@libero.it,canary-7f3a\n", "2: password_env: is not the name of an environment"),
        (
            b"address,password_env,provider\na@libero.it,canary_7f3a,\n",
            "2: password_env: the environment variable",
        ),
        (b"address,password,provider\na@b.example,x,canary-7f3a\n", "2: provider: is not in the catalogue; see"),
        (b"address,password,channels\na@libero.it,x,canary-7f3a\n", "2: channels[0]: is not known; use imap"),
        (b"address,password,interval\na@libero.it,x,canary-7f3a\n", "2: interval: is not a duration; write"),
        (b"address,password\nP@canary-7f3a,x\n", "2: address: no provider is known for its domain; add provider"),
        (b"address,password,imap\na@b.example,x,canary-7f3a:x\n", "2: imap: is not host:port; write"),
        (
            b"address,password,username\na@libero.it,x,y\n",
            "2: username: is only for rows with servers of their own",
        ),
        (
            b"address,password,imap,provider\na@b.example,x,c.example,libero\n",
            "2: has servers of its own, so it takes",
        ),
    ],
)
def test_what_is_no_table_is_refused(path: Path, raw: bytes, message: str) -> None:
    rows = path.parent / "mailboxes.csv"
    rows.write_bytes(raw)
    assert f"{rows}:{message}" in run(path, "import", rows, status=1)
    assert path.read_text() == CONFIG


def test_without_a_config_there_is_nothing_to_add_to(path: Path) -> None:
    path.unlink()
    rows = table(path, f"address,password\nmario@libero.it,{CANARY}\n")
    assert run(path, "import", rows, status=2) == (
        f"mailwatch: {path} cannot be read: No such file or directory; create it (see config.example.yaml), or "
        "name another\n"
    )
    done = mailwatch("import", rows, cwd=path.parent, env={**os.environ, "LC_ALL": "it_IT.UTF-8"})
    assert done.stderr == (
        "mailwatch: config.yaml non esiste, e nemmeno /etc/mailwatch/config.yaml; crealo con mailwatch init, o "
        "usa --config\n"
    )


def test_a_table_that_is_no_file_is_refused(path: Path) -> None:
    assert "cannot be read: No such file" in run(path, "import", path.parent / "nowhere.csv", status=1)
    assert "is not a file; name the file itself" in run(path, "import", "/dev/zero", status=1)
    assert "name the table: mailwatch import FILE.csv" in run(path, "import", status=2)
    done = mailwatch("--config", path, "import", "--template")
    rows = table(path, done.stdout.replace("secret", CANARY))
    assert run(path, "import", rows).startswith(f"Added to {path}: 1 mailboxes.")


def test_a_password_that_a_server_rejects_is_a_mistake(
    path: Path, dovecot: Dovecot, certificates: Certificates
) -> None:
    server = f"localhost:{dovecot.imaps_port}"
    rows = table(
        path,
        f"address,password,username,imap\na@example.org,{dovecot.passwords[ALICE]},{ALICE},{server}\n"
        f"b@example.org,{CANARY},{BOB},{server}\n",
    )
    trusting = {"SSL_CERT_FILE": str(certificates.ca_file)}
    lines = run(path, "import", rows, "--test", status=1, env=trusting).splitlines()
    assert lines[0] == "a@example.org/imap: works"
    assert lines[1].startswith("b@example.org/imap: credentials: ")
    assert lines[2].startswith(f"{rows}:3: b@example.org: the server rejected the login: ")
    assert path.read_text() == CONFIG
    rows.write_text("\n".join(rows.read_text().splitlines()[:2]))
    assert f"Added to {path}: 1 mailboxes.\n" in run(path, "import", rows, "--test", env=trusting)


def test_a_mailbox_with_servers_of_its_own_is_one_for_these_verbs(path: Path) -> None:
    """Its targets are named ADDRESS/KIND; the pages show it as one mailbox too."""
    run(
        path,
        "import",
        table(path, f"address,password,imap,smtp\nm@casa.example,{CANARY},mail.casa.example,mail.casa.example\n"),
    )
    run(path, "pause", "m@casa.example")
    assert [one.paused for one in load(path).targets] == [False, True, True]
    run(path, "resume", "m@casa.example")
    assert f"Removed: {path.parent}/secrets/m@casa.example\n" in run(path, "remove", "m@casa.example")
    assert path.read_text() == CONFIG


def test_a_mailbox_is_paused_resumed_and_removed_with_its_password(path: Path) -> None:
    run(path, "import", table(path, f"address,password\nmario@libero.it,{CANARY}\nanna@libero.it,{CANARY}\n"))
    full = path.read_text()
    assert "Paused: mario@libero.it, lab\n" in run(path, "pause", "mario@libero.it", "lab")
    paused = load(path)
    assert [one.paused for one in paused.accounts] + [one.paused for one in paused.targets] == [True, False, True]
    run(path, "resume", "mario@libero.it", "lab")
    assert path.read_text() == full
    assert "there is no 'nobody'; use one of mario@libero.it, anna@libero.it, lab" in run(
        path, "pause", "lab", "nobody", status=2
    )
    run(path, "remove", "mario@libero.it", "--keep-password")
    assert run(path, "remove", "anna@libero.it").splitlines() == [
        f"Removed from {path}: anna@libero.it. What is on record stays.",
        f"Removed: {path.parent}/secrets/anna@libero.it",
        "No MailWatch runs with this data_dir; the change takes effect at the next start.",
    ]
    assert path.read_text() == CONFIG
    assert [one.name for one in (path.parent / "secrets").iterdir()] == ["mario@libero.it"]
    assert "there is nothing to monitor" in run(path, "remove", "lab", status=2)


def test_all_mistakes_of_one_row_are_listed(path: Path) -> None:
    rows = table(path, "address,password,channels,provider,interval\na@example.org,,foo,liberoo,soon\n")
    printed = run(path, "import", rows, status=1).splitlines()
    assert [line.removeprefix(f"{rows}:2: ").partition(":")[0].partition(";")[0] for line in printed[:-1]] == [
        "channels[0]",
        "has no password",
        "interval",
        "provider",
    ]


def test_changes_made_at_the_same_time_are_all_made(path: Path) -> None:
    names = [f"a{number}@libero.it" for number in range(6)]
    run(path, "import", table(path, "address,password\n" + "".join(f"{name},{CANARY}\n" for name in names)))
    with ThreadPoolExecutor(len(names)) as at_once:
        list(at_once.map(lambda name: run(path, "pause", name), names))
    assert [one.paused for one in load(path).accounts] == [True] * len(names)


def test_a_terminal_is_asked_before_a_mailbox_is_removed(path: Path) -> None:
    run(path, "import", table(path, f"address,password\nmario@libero.it,{CANARY}\n"))
    secret = path.parent / "secrets" / "mario@libero.it"
    for answer, is_there in (("", True), ("y", False)):
        words = [MAILWATCH, "--config", str(path), "remove", "mario@libero.it"]
        with Terminal.running(words, cwd=path.parent, env={**os.environ, "LC_ALL": "C.UTF-8"}) as terminal:
            terminal.wait_for("Remove mario@libero.it from the config, and delete")
            terminal.type(answer)
            assert terminal.end() == (1 if is_there else 0)
        assert (secret.exists(), "mario" in path.read_text()) == (is_there, is_there)


@pytest.mark.e2e
def test_the_running_monitor_takes_a_change_over(tmp_path: Path) -> None:
    target = {"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": 9, "tls": "none", "interval": "1h"}
    monitor = MailWatchProcess(tmp_path, [target])
    path = monitor.config
    assert "No MailWatch runs with this data_dir" in run(path, "reload", status=1)
    with monitor.running():
        message = f"The running monitor (process {monitor.pid}) reads the config again; its log has the result."
        assert run(path, "reload") == f"{message}\n"
        row = "address,password_env,imap\na@example.org,PATH,127.0.0.1:9\n"
        assert message in run(path, "import", table(path, row))
        monitor.wait_until(
            lambda: {one["target"] for one in monitor.api("targets")} == {"lab", "a@example.org/imap"},
            "taken over",
        )
        assert message in run(path, "remove", "a@example.org/imap")
        monitor.wait_until(lambda: {one["target"] for one in monitor.api("targets")} == {"lab"}, "left")
        assert message in run(path, "pause", "lab")
        monitor.wait_until(lambda: monitor.api("targets")[0]["state"] == "paused", "paused")
        assert message in run(path, "resume", "lab")
        monitor.wait_until(lambda: monitor.api("targets")[0]["state"] != "paused", "resumed")
        path.write_text(path.read_text().replace('"1h"', '"1x"'))
        assert "is not a duration" in run(path, "reload", status=2)
    assert run(path.with_name("none.yaml"), "reload", status=2)


def test_only_the_holder_of_the_lock_gets_a_signal(tmp_path: Path) -> None:
    """The lock may name a process of another container; here that number is another process's, such as ours."""
    assert request_reload(tmp_path) is None
    (tmp_path / "lock").write_text(str(os.getpid()))
    assert request_reload(tmp_path) is None
    held = os.open(tmp_path / "lock", os.O_RDWR)
    try:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        assert request_reload(tmp_path) == 0
        for wrong in ("1", "", "x", "999999999"):
            (tmp_path / "lock").write_text(wrong)
            assert request_reload(tmp_path) == 0
    finally:
        os.close(held)


def test_the_example_takes_a_table_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes((ROOT / "config.example.yaml").read_bytes())
    run(path, "import", table(path, f"address,password\nmario@libero.it,{CANARY}\n"))
    run(path, "remove", "mario@libero.it")
    assert path.read_bytes() == (ROOT / "config.example.yaml").read_bytes()


def test_a_mailbox_is_added_as_init_sets_one_up(path: Path, dovecot: Dovecot, certificates: Certificates) -> None:
    """At a terminal: the password is asked for again after a rejection, and is in no file but its own."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", "SSL_CERT_FILE": str(certificates.ca_file)}
    servers = ("--server", f"imap=localhost:{dovecot.imaps_port}", "--username", ALICE)
    with Terminal.running([MAILWATCH, "add", *servers], cwd=path.parent, env=env) as terminal:
        terminal.wait_for(f"This adds a mailbox to {path.name}")
        terminal.wait_for("mail address: ")
        terminal.type(ALICE)
        for password, answer in ((CANARY, "rejected the login"), (dovecot.passwords[ALICE], "login works")):
            terminal.wait_for("Password")
            terminal.type(password)
            terminal.wait_for(answer)
        terminal.wait_for(f"Added to {path.name}: {ALICE}")
        terminal.wait_for("No MailWatch runs with this data_dir")
        assert terminal.end() == 0
        assert CANARY not in terminal.output
    secret = path.parent / "secrets" / ALICE
    assert secret.read_text() == f"{dovecot.passwords[ALICE]}\n"
    assert path.read_text() == CONFIG.replace(
        "guard: off",
        f"  - name: {ALICE}/imap\n    kind: imap\n    provider: {ALICE.partition('@')[2]}\n    host: localhost\n"
        f"    port: {dovecot.imaps_port}\n    tls: implicit\n    login:\n      username: {ALICE}\n"
        f"      password_file: secrets/{ALICE}\nguard: off",
    )
    again = ("add", ALICE, "--yes", *servers)
    assert f"{ALICE} is already in the config; nothing to add" in run(path, *again, status=2)


def test_add_without_a_terminal_uses_the_password_file_where_it_is(
    path: Path, dovecot: Dovecot, certificates: Certificates
) -> None:
    (path.parent / "secret").write_text(dovecot.passwords[ALICE])
    (path.parent / "secret").chmod(0o600)
    words = ["add", ALICE, "--server", f"imap=localhost:{dovecot.imaps_port}", "--password-file", "secret"]
    assert "there is no terminal for questions; add --yes" in run(path, *words, status=2)
    trusting = {"SSL_CERT_FILE": str(certificates.ca_file), "LC_ALL": "it_IT.UTF-8"}
    lines = run(path, *words, "--yes", "--username", ALICE, env=trusting)
    assert f"Aggiunto a {path}: {ALICE}" in lines
    assert load(path).targets[1].name == f"{ALICE}/imap"
    assert not (path.parent / "secrets").exists()


def test_commands_at_once_lose_nothing(path: Path) -> None:
    """Each of them adds its mailbox, or says that another program is at it."""
    streams, programs = [], []
    for number in range(4):
        rows = path.parent / f"{number}.csv"
        rows.write_text(f"address,password\nuser{number}@libero.it,{CANARY}\n")
        out = (path.parent / f"{number}.out").open("w+")
        words = ("--config", str(path), "import", str(rows))
        programs.append(Program(*words, streams=(out.fileno(), out.fileno(), out.fileno()), cwd=path.parent))
        streams.append(out)
    done = [program.wait(PATIENCE) for program in programs]
    assert set(done) <= {0, 2}
    assert 0 in done
    there = {account.address for account in load(path).accounts}
    assert there == {f"user{number}@libero.it" for number, status in enumerate(done) if status == 0}
    assert {one.name for one in (path.parent / "secrets").iterdir()} == there
    for status, out in zip(done, streams, strict=True):
        out.seek(0)
        refused = "is being changed by another program" in (text := out.read()) or "has changed meanwhile" in text
        assert refused == (status == 2), text
        out.close()
    assert [one.name for one in path.parent.glob(".*")] == []
